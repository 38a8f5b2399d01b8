"""The planner: what training, adapting and serving a model takes on this machine, before anything is downloaded.

Everything here is a function of a shape, of the machine's measured rates and of what it has of memory and disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.energy import modelled
from halfpint.errors import HalfpintError
from halfpint.export.gguf import is_written
from halfpint.machine import available_disk_bytes, cores, memory_bytes
from halfpint.machine_speed import MachineSpeed, measured, speed_kept
from halfpint.models import serving_cost
from halfpint.models.architectures import own
from halfpint.models.known_shape import Sized, known_shape, too_large
from halfpint.models.serving_cost import LlamaSpeed
from halfpint.models.shape import Shape
from halfpint.models.sizes import MASKED
from halfpint.models.sources import cache_folder
from halfpint.progress import Log
from halfpint.report import units
from halfpint.train import forecast
from halfpint.train.budget import free_memory_bytes
from halfpint.train.forecast import Work
from halfpint.train.loop import device, use_bf16
from halfpint.train.rows import part_rows

ERROR = {"memory": 0.25, "time": 0.35}
"""How far forecasts should be from what is measured then, at most: benchmarks/planner.py compares them."""
SPARE = 0.9
"""Share of the memory that is free which training may take: the rest is for what else the process holds."""
RANK = 16
START_S = 8.0
"""Seconds that a process takes to start, and to write what it made."""
_BITS_OF_TEXT = 0.275  # bytes of text that a token stands for, per bit of the vocabulary's size
_LOOKING_SHARE = 0.2  # of a time limit that evaluations take at most
_MASKED = 0.15  # of the tokens that a masked objective hides
_SMALLEST = Work(rows=1, context=128, step_tokens=1024, checkpointing=True, bf16=False)
"""What training can be brought down to where memory is short."""
QUICK = 0.15
"""Share of the usual time that the machine is measured for before a command's own work."""
_TOLERANCE = 1.5  # times as long as foretold something may take before it is refused: other programs want the machine
_FEWEST_STEPS = 20  # that a training of some use has
_ENCODER_TOKENS = 2048  # of a batch of a search's trainings, about
_LOADED = 1.25  # times its weights in fp32 that a model takes which is loaded, converted and written again


@dataclass(frozen=True)
class Room:
    """What the machine has to give, in bytes; 0 where nothing tells.

    Attributes:
        memory: in all, that this process may use.
        free: of it now.
        disk: that is free.
    """

    memory: int
    free: int
    disk: int


@dataclass(frozen=True)
class Asked:
    """What a plan is for.

    Attributes:
        tokens: that are trained on in one pass; passes: over them.
        minutes: that training may take; 0: as long as the passes take.
        context: tokens of a sequence.
        step_tokens: of an optimiser's step.
        optimizer: adamw or muon.
        bf16: whether products are in bf16.
        evaluations: how often validation is looked at; evaluation_tokens: what each looks at.
        prompt: tokens of a prompt that is read while serving.
        threads: of the processor.
    """

    tokens: float
    passes: float
    minutes: float
    context: int
    step_tokens: int
    optimizer: str
    bf16: bool
    evaluations: int
    evaluation_tokens: int
    prompt: int
    threads: int


def tokens_of_bytes(size: float, vocabulary: int) -> float:
    """About the tokens of so many bytes of text: a larger vocabulary has longer ones (3.3 bytes at 4,096, 4.7 at
    151,936)."""
    return size / max(1.0, _BITS_OF_TEXT * math.log2(max(vocabulary, 2)))


def work_of(shape: Shape, asked: Asked, rows: int, *, lora: bool) -> Work:
    """How the model is trained: all of it, or adapters on it."""
    share = _MASKED if shape.objective == MASKED else 1.0
    work = Work(
        rows=rows, context=asked.context, step_tokens=asked.step_tokens, optimizer=asked.optimizer, bf16=asked.bf16,
        share=share,
    )  # fmt: skip
    return forecast.with_adapters(work, shape, RANK) if lora else work


def training(shape: Shape, asked: Asked, rows: int, speed: MachineSpeed, room: Room, *, lora: bool) -> dict[str, Any]:
    """What training takes: memory, tokens per second, seconds, Wh, disk, and whether it fits.

    Args:
        rows: sequences whose gradients are got at once.
        lora: adapters on the model instead of all its weights.
    """
    work = work_of(shape, asked, rows, lora=lora)
    needed = forecast.process_bytes(shape, work)
    token_s = forecast.training_seconds(shape, work, speed)
    looking = asked.evaluations * asked.evaluation_tokens * forecast.FORWARD
    looking *= token_s - forecast.step_seconds(shape, work, speed)
    whole = asked.tokens * asked.passes * token_s + looking + START_S
    seconds = min(whole, asked.minutes * 60) if asked.minutes else whole
    able = None
    if whole > seconds:
        left = max(0.0, seconds - START_S)
        able = max(0.0, left - min(looking, _LOOKING_SHARE * left))
    trained = shape.parameters if work.trained is None else work.trained
    disk = 4 * shape.parameters + 16 * trained
    energy = modelled(seconds, needed, asked.threads)
    return {
        "kind": "lora" if lora else "full",
        "trained_parameters": trained,
        "memory_bytes": needed,
        "tokens_per_s": 1 / token_s,
        "seconds": seconds,
        "tokens": (asked.tokens * asked.passes if able is None else able / token_s),
        "minutes_for_all": whole / 60,
        "wh": energy.wh,
        "co2e_g": energy.co2e_g,
        "disk_bytes": disk,
        "fits": fits(needed, room.free),
        "fits_disk": not room.disk or disk < room.disk,
    }


def serving(
    shape: Shape, kind: str, asked: Asked, speed: LlamaSpeed | None, context: int, room: Room
) -> dict[str, Any]:  # fmt: skip
    """What serving with weights of one type takes: bytes of the file and of memory, tokens per second, whether it fits.

    Args:
        speed: of llama.cpp with that type; None where it was not measured.
        context: tokens that keys and values are kept for.
    """
    needed = serving_cost.serving_bytes(shape, kind, context)
    found: dict[str, Any] = {
        "type": kind,
        "file_bytes": serving_cost.weight_bytes(shape, kind),
        "memory_bytes": needed,
        "fits": fits(needed, room.free),
    }
    if speed is not None:
        found["decode_tokens_per_s"] = 1 / serving_cost.decode_seconds(shape, kind, speed, context // 2)
        found["prefill_tokens_per_s"] = 1 / serving_cost.prefill_seconds(shape, speed, asked.prompt)
    return found


def reading(shape: Shape, asked: Asked, speed: MachineSpeed, room: Room) -> list[dict[str, Any]]:
    """What an encoder takes to read texts, by type: it writes nothing."""
    found = []
    for kind, value, rate in (("fp32", 4, speed.fp32_flops), ("int8", 1, max(speed.int8_ops, speed.fp32_flops))):
        needed = value * shape.parameters + serving_cost.PROCESS_BYTES
        values = shape.layers * forecast.layer_values(shape, asked.context) / speed.values_per_s
        token_s = 2 * shape.body / rate + values / 3
        row = {"type": kind, "file_bytes": value * shape.parameters, "memory_bytes": needed}
        found.append({**row, "fits": fits(needed, room.free), "prefill_tokens_per_s": 1 / token_s})
    return found


def fits(needed: float, free: int) -> bool:
    """Whether so many bytes are there, with something to spare; where nothing tells it is taken for true."""
    return not free or needed <= SPARE * free


def plan_of(
    known: Sized, asked: Asked, rows: int, speed: MachineSpeed, llama: Mapping[str, LlamaSpeed], room: Room, *,
    trains: bool, serving_context: int,
) -> dict[str, Any]:  # fmt: skip
    """The whole plan, as JSON can hold it.

    Args:
        rows: sequences whose gradients are got at once.
        trains: whether new weights are trained, so that there are no adapters to speak of.
        serving_context: tokens that keys and values are kept for.
    """
    shape = known.shape
    runs_there = shape.name not in own() or is_written(shape.name)  # llama.cpp has not all of halfpint's own
    trained = [training(shape, asked, rows, speed, room, lora=lora) for lora in ((False,) if trains else (False, True))]
    if shape.objective == MASKED:
        served = reading(shape, asked, speed, room)
    else:
        kinds = serving_cost.TYPES if runs_there else serving_cost.TYPES[:1]
        found = llama if runs_there else {}
        served = [serving(shape, kind, asked, found.get(kind), serving_context, room) for kind in kinds]
    disk = 2 * known.download_bytes + 4 * shape.parameters * (not known.is_here)
    return {
        "model": {
            "name": known.name, "architecture": shape.name, "objective": shape.objective,
            "parameters": shape.parameters, "layers": shape.layers, "width": shape.width, "heads": shape.heads,
            "kv_heads": shape.kv_heads, "vocabulary": shape.vocabulary, "context": shape.context,
            "in_llama_cpp": runs_there, "source": known.source,
            "is_rough": shape.is_rough, "is_here": known.is_here, "is_new": trains,
        },
        "download": {
            "bytes": known.download_bytes, "disk_bytes": disk, "fits_disk": not room.disk or disk < room.disk
        },
        "training": trained,
        "serving": served,
        "serving_context": serving_context,
        "room": vars(room),
        "error": ERROR,
    }  # fmt: skip


def room_here(folder: Path) -> Room:
    """Memory that a training here may take, and the free disk that holds `folder`."""
    return Room(memory=memory_bytes(), free=free_memory_bytes(device()), disk=available_disk_bytes(folder))


def rows_at_once(step_tokens: int, context: int) -> int:
    """Sequences whose gradients are got at once, of a step of so many tokens."""
    return part_rows(max(1, step_tokens // context), context)


def say_before(
    name: str, shape: Shape, log: Log, *, tokens: float, minutes: float, context: int, step_tokens: int,
    optimizer: str, precision: str, lora: bool = False, more_bytes: int = 0, more_s: float = 0.0,
) -> None:  # fmt: skip
    """Say, before work starts, what it takes: time, memory and energy; by a measurement of today, or a short one.

    Args:
        name: what is trained, in words.
        tokens: of all passes; minutes: that it may take, 0: as long as it takes.
        more_bytes: memory of what is there besides, such as a teacher.
        more_s: seconds per token besides, as a share of the model's own.

    Raises:
        HalfpintError: not even a step fits into the minutes, with those that would do.
    """
    share = _MASKED if shape.objective == MASKED else 1.0
    work = Work(
        rows=rows_at_once(step_tokens, context), context=context, step_tokens=step_tokens, optimizer=optimizer,
        bf16=use_bf16(precision), share=share,
    )  # fmt: skip
    work = forecast.with_adapters(work, shape, RANK) if lora else work
    speed = speed_kept(cache_folder()) or measured(cache_folder(), share=QUICK, disk=False)
    token_s = forecast.training_seconds(shape, work, speed) * (1 + more_s)
    least = START_S + step_tokens * token_s
    if minutes and least > max(60.0, _TOLERANCE * 60 * minutes):
        enough = enough_minutes(START_S + _FEWEST_STEPS * step_tokens * token_s)
        raise HalfpintError(
            "--minutes", wanted=f"about {enough} for {name} on this machine as busy as it is now", got=f"{minutes:g}",
            todo=f"Give --minutes {enough}, or a smaller model.",
            said=f"--minutes {minutes:g} is too short for {name}: a single step takes about "
            f"{units.seconds(step_tokens * token_s)} on this machine as busy as it is now.".replace("\u00a0", " "),
        )  # fmt: skip
    whole = tokens * token_s + START_S
    seconds = min(whole, 60 * minutes) if minutes else whole
    needed = forecast.process_bytes(shape, work) + more_bytes
    energy = modelled(seconds, needed, cores())
    passes = ""
    if seconds < whole:
        read = max(0.0, seconds - START_S) / token_s
        some = f"{read / max(tokens, 1):.1%} of the tokens" if read >= step_tokens else "a single step"
        passes = f" for {some}; all of the tokens take about {units.seconds(whole)}"
    said = (
        f"forecast: {name}: {1 / token_s:,.0f} tokens/s, about {units.seconds(seconds)}{passes}; about "
        f"{units.size(needed)} of memory and {units.watt_hours(energy.wh)} ({energy.source})"
    )
    log.say(
        said.replace("\u00a0", " "), kind="forecast", seconds=seconds, tokens_per_s=1 / token_s, memory_bytes=needed,
        wh=energy.wh,
    )  # fmt: skip


def say_encoder(base: str, texts: Sequence[str], minutes: float, log: Log) -> None:
    """Refuse an encoder that would have to be downloaded and does not fit, and say what training it on texts takes.

    Args:
        minutes: that the whole search may take: what an epoch takes is said beside them.

    Raises:
        HalfpintError: the encoder does not fit.
    """
    known = refuse_unfit(base, room_here(cache_folder()), "train")
    if known is None or known.shape.objective != MASKED:
        return
    speed = speed_kept(cache_folder()) or measured(cache_folder(), share=QUICK, disk=False)
    epoch, needed = encoder_forecast(known.shape, texts, speed)
    log.say(
        f"forecast: training {base} takes about {units.seconds(epoch)} per pass over {len(texts):,} texts and "
        f"{units.size(needed)} of memory; the search ends within {minutes:g} minutes".replace("\u00a0", " "),
        kind="forecast", seconds=epoch, memory_bytes=needed,
    )  # fmt: skip


def encoder_forecast(shape: Shape, texts: Sequence[str], speed: MachineSpeed) -> tuple[float, int]:
    """Seconds of one pass over texts while an encoder is trained on them, and the bytes that the process takes."""
    tokens = tokens_of_bytes(sum(map(len, texts)), shape.vocabulary) + 2 * len(texts)  # of each its first and last
    context = int(min(max(8, tokens / max(1, len(texts))), shape.context or 256, 256))
    work = Work(
        rows=max(1, _ENCODER_TOKENS // context), context=context, step_tokens=_ENCODER_TOKENS, bf16=use_bf16("auto"),
        share=0.0,
    )  # fmt: skip
    needed = forecast.PROCESS_BYTES + forecast.training_bytes(shape, work)
    return tokens * forecast.training_seconds(shape, work, speed), needed


def enough_minutes(seconds: float) -> int:
    """Whole minutes that so many seconds fit into, with something to spare."""
    return math.ceil(_TOLERANCE * seconds / 60)


def refuse_unfit(name: str, room: Room, use: str) -> Sized | None:
    """Refuse a model that would have to be downloaded and does not fit: nothing of it is fetched.

    Gives what is known of it; None where nothing is, which whoever downloads it says better.

    Args:
        use: train (all weights), lora, load (to convert or compress it) or serve.

    Raises:
        HalfpintError: it takes more memory at the least than there is, or more disk.
    """
    try:
        known = known_shape(name)
    except HalfpintError:
        return None
    if known.is_here:
        return known
    needed, what, todo = _least(known.shape, use)
    if not fits(needed, room.free):
        raise too_large(known, needed, room.free, what, todo)
    disk = 2 * known.download_bytes + 4 * known.shape.parameters
    if room.disk and disk > room.disk:
        raise HalfpintError(
            name, wanted=f"{disk / 1e9:.1f} GB of disk for it", got=f"{room.disk / 1e9:.1f} GB free",
            todo="Free some, or set HALFPINT_CACHE to a folder on a larger disk.",
            said=f"{name} does not fit this disk: it takes about {disk / 1e9:.1f} GB, and {room.disk / 1e9:.1f} GB are "
            "free. Nothing was downloaded.",
        )  # fmt: skip
    return known


def _least(shape: Shape, use: str) -> tuple[int, str, str]:
    """Bytes that a use takes at the least, what that is in words, and what to do where they are not there."""
    smaller = "Take a smaller model: halfpint plan NAME says what one takes."
    if use == "lora":
        work = forecast.with_adapters(_SMALLEST, shape, RANK)
        return forecast.training_bytes(shape, work), "training adapters (LoRA)", smaller
    if use == "train":
        return forecast.training_bytes(shape, _SMALLEST), "training all weights", f"Give --lora. {smaller}"
    if use == "serve":
        return serving_cost.serving_bytes(shape, "q4_0", 512), "serving in 4 bits", smaller
    return loaded_bytes(shape), "loading it in fp32", smaller


def loaded_bytes(shape: Shape) -> int:
    """Bytes that a model takes which is loaded in fp32 and changed, the process included."""
    return int(_LOADED * 4 * shape.parameters) + forecast.PROCESS_BYTES


def fit_of(plan: Mapping[str, Any]) -> Sequence[str]:
    """What of a plan does not fit this machine, in words; empty where all does."""
    found = []
    for one in plan["training"]:
        if not one["fits"]:
            found.append("training adapters (LoRA)" if one["kind"] == "lora" else "training all weights")
    found += [f"serving in {one['type']}" for one in plan["serving"] if not one["fits"]]
    if not plan["download"]["fits_disk"]:
        found.append("the download")
    return found
