"""What training a language model costs: memory, floating-point work a token, and the steps that fit into a time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from halfpint.bundle import read_json, write_json
from halfpint.errors import HalfpintError
from halfpint.machine import memory_bytes
from halfpint.models.shape import embeddings_of, shape_of
from halfpint.models.sizes import CAUSAL, MASKED, shown_parameters
from halfpint.progress import Log, passes_shown
from halfpint.stage import Work
from halfpint.terminal import amount
from halfpint.train import checkpoint, forecast, ranks
from halfpint.train.loop import device, use_bf16
from halfpint.train.plan import Plan
from halfpint.train.rows import Part

_PROBE = 1024  # rows and columns of the matrices that the peak is measured with
_PROBE_S = 0.3
_SPARE = 0.9  # of the memory that is free: the rest is for what else the process holds
_TRIED_S, _TRIED_SHARE = 2.0, 0.01  # time the speed is measured for, and of the whole at most; two parts at least
_SLOW_SHARE = 0.05  # of the time: a step that takes more is not measured whole
_PLAN = "plan.json"
_FEW_STEPS = 20  # with fewer it is said what time would be enough for so many
_EVALUATIONS = 8  # of a run that goes by time
_LOOKING_SHARE = 0.2  # of the time, for evaluations
_STEPS_SHARE = 0.98  # of the time, for these and the steps: checkpoints take the rest
_OF_PEAK = 0.3  # that training reaches, as it was with small models on two cores


class _Timed(Protocol):
    """What `planned` asks of a stage's settings."""

    @property
    def minutes(self) -> float: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def precision(self) -> str: ...


class _Rows(Protocol):
    """What `planned` asks of the rows that are trained on."""

    @property
    def tokens_a_step(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def step(self, step: int) -> tuple[int, Sequence[Part]]: ...
    def size(self, part: Part) -> tuple[int, int]: ...


def work_on(
    model: Any, rows: int, context: int, *, chunked: bool = True, checkpointing: bool = False, bf16: bool = False,
    optimizer: str = "adamw", share: float = 1.0,
) -> forecast.Work:  # fmt: skip
    """How `model` is trained, as forecasts take it: which of its weights are is read off them."""
    shape = shape_of(model)
    trained = {id(one): one for one in model.parameters() if one.requires_grad}
    whole = sum(one.numel() for one in trained.values())
    embedded, head = embeddings_of(model)
    outside = {id(one) for one in (embedded, head) if one is not None}
    matrices = sum(one.numel() for key, one in trained.items() if one.ndim >= 2 and key not in outside)
    adapters = [one for name, one in model.named_modules() if name.rpartition(".")[0].endswith("lora_A")]
    return forecast.Work(
        rows=rows, context=context, trained=None if whole == shape.parameters else whole, trained_matrices=matrices,
        head_trained=head is None or id(head) in trained, adapted=sum(int(one.in_features) for one in adapters),
        optimizer=optimizer, bf16=bf16, chunked=chunked, checkpointing=checkpointing, share=share,
    )  # fmt: skip


def flops_per_token(model: Any, objective: str, context: int, share: float) -> float:
    """Floating-point operations that training takes per token (`forecast.flops_per_token`).

    Args:
        share: of the tokens that a masked objective hides.
    """
    work = work_on(model, 1, context, share=share if objective == MASKED else 1.0)
    return forecast.flops_per_token(shape_of(model), work)


def speed_told(
    model: Any, objective: str, context: int, precision: str, log: Log, share: float = 1.0
) -> Callable[[float], str]:  # fmt: skip
    """What tells a speed in tokens a second beside the machine's peak; the event "speed" keeps what that goes by."""
    cost = flops_per_token(model, objective, context, share)
    peak = measured_peak(device(), use_bf16(precision)) * ranks.join()[1]
    log.event("speed", flops_per_token=cost, peak_flops_per_s=peak)
    return lambda speed: f"{speed:,.0f} tokens/s  {speed * cost / peak:.0%} of peak"


def measured_peak(device: Any, bf16: bool) -> float:
    """Floating-point operations a second of a large matrix product here: the most that training could use."""
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32
    size = _PROBE * (8 if device.type == "cuda" else 1)
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(left)
    best, until = math.inf, time.monotonic() + _PROBE_S
    while not math.isfinite(best) or time.monotonic() < until:
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def tokens_in(model: Any, context: int, precision: str, seconds: float) -> float:
    """About the tokens that training goes through in so many seconds, at the share of the peak that is usual."""
    peak = measured_peak(device(), use_bf16(precision)) * ranks.join()[1]
    return seconds * _OF_PEAK * peak / flops_per_token(model, CAUSAL, context, 1.0)


def memory_needed(
    model: Any, rows: int, context: int, *, chunked: bool, checkpointing: bool, bf16: bool, optimizer: str = "adamw"
) -> int:  # fmt: skip
    """Bytes that training takes at its peak, about, besides what the process has (`forecast.training_bytes`)."""
    work = work_on(
        model, rows, context, chunked=chunked, checkpointing=checkpointing, bf16=bf16, optimizer=optimizer
    )  # fmt: skip
    return forecast.training_bytes(shape_of(model), work)


def check_memory(needed: int, device: Any, place: str) -> None:
    """Raise a HalfpintError where the device has not so many bytes free for each process that torchrun started."""
    needed *= ranks.processes_here() if device.type == "cpu" else 1
    free = free_memory_bytes(device)
    if free and needed > _SPARE * free:
        raise HalfpintError(
            f"{place}: memory", wanted=f"about {needed / 2**30:.1f} GiB for this size and these batches",
            got=f"{free / 2**30:.1f} GiB free",
            todo="Lower batch_tokens and raise accumulate as much (--set batch_tokens=1024), set "
            "gradient_checkpointing, or lower the size.",
        )  # fmt: skip


def free_memory_bytes(device: Any) -> int:
    """Bytes that a training here may still take; 0 where nothing tells."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limit = memory_bytes()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        available = []
    return min([limit, *available]) if limit else 0


def planned(
    stage: _Timed, rows: _Rows, model: Any, batch_loss: Callable[[Part], Any], work: Work, started: float, *,
    steps: int, evaluation_tokens: int, what: str, told: Callable[[float], str],
) -> Plan:  # fmt: skip
    """How many steps there are, kept in scratch: an interrupted run goes on with its own plan.

    Where it goes by time, a fifth of it at most is for evaluations, of which there is at least one.

    Args:
        started: `time.monotonic()` at which the stage began, which its minutes count from.
        steps: how many; 0 takes what fits into the stage's minutes.
        evaluation_tokens: what one evaluation goes through.
        what: what is learned from, in words.
        told: the speed as it stands in the progress line, from tokens a second.
    """
    path = work.scratch / _PLAN
    often = stage.evaluations or (_EVALUATIONS if not steps else 0)
    enough = ""
    if path.is_file():
        found = read_json(path)
    elif steps:
        found = {"total": steps, "seconds": None, "evaluations": often}
    else:
        pace = seconds_a_step(stage, rows, model, batch_loss, seconds_left(stage, work, started))
        seconds = seconds_left(stage, work, started)
        looking = pace * forecast.FORWARD * evaluation_tokens / max(rows.tokens_a_step, 1)
        often = max(1, min(often, int(_LOOKING_SHARE * seconds / max(looking, 1e-9))))
        total = max(1, int((_STEPS_SHARE * seconds - often * looking) / pace))
        found = {"total": total, "seconds": seconds, "evaluations": often}
        if total < min(_FEW_STEPS, rows.steps_per_epoch):
            least = min(_FEW_STEPS, rows.steps_per_epoch) * pace / (_STEPS_SHARE - _LOOKING_SHARE)
            enough = f"; {math.ceil(10 * (seconds_spent(stage, work, started) + least) / 60) / 10:g} minutes would be "
            enough += f"enough for {min(_FEW_STEPS, rows.steps_per_epoch)} steps"
    found = ranks.decided(found)
    if ranks.is_first():
        write_json(path, found)
    total, often = int(found["total"]), int(found["evaluations"])
    seconds = math.inf if found["seconds"] is None else float(found["seconds"])
    length = f"in {seconds / 60:.1f} minutes" if math.isfinite(seconds) else "in all"
    passes = total / rows.steps_per_epoch
    work.log.say(
        f"plan: {amount(total, 'step')} of about {rows.tokens_a_step:,} tokens {length}, {passes_shown(passes)} over "
        f"{what}{enough}",
        kind="plan", **found, passes=passes,
    )  # fmt: skip
    return Plan(
        total=total, step=rows.step, size=rows.size, evaluate_every=max(1, total // often) if often else 0,
        seconds=seconds, told=told,
    )  # fmt: skip


def seconds_left(stage: _Timed, work: Work, started: float) -> float:
    """Seconds that a stage may still take, by its own minutes (0: all there is) and by the deadline."""
    own = stage.minutes * 60 - (time.monotonic() - started) if stage.minutes else math.inf
    return max(min(own, work.seconds_left()), 0.0)


def seconds_spent(stage: _Timed, work: Work, started: float) -> float:
    """Seconds of a stage's minutes, or of those of its command, that are over or kept for the end."""
    whole = 60 * stage.minutes if stage.minutes else 0.0
    return max(time.monotonic() - started, whole - seconds_left(stage, work, started))


def seconds_a_step(
    stage: _Timed, rows: _Rows, model: Any, batch_loss: Callable[[Part], Any], seconds: float
) -> float:  # fmt: skip
    """Seconds of a training step, measured with a learning rate of 0: the weights stay as they are.

    As little is done as tells it. One sequence comes first: where even that takes long beside the `seconds` of all of
    training, it has to do; else memory is got and kernels are chosen in it, and parts of steps are measured after it.
    """
    import torch

    where = device()
    model.train()
    weights = list(checkpoint.trainable(model).values())
    optimiser = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.0, fused=True)

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        _wait(where)
        return time.perf_counter() - started

    def learn(part: Part) -> None:
        with torch.autocast(where.type, torch.bfloat16, enabled=use_bf16(stage.precision)):
            loss = batch_loss(part)
        loss.backward()

    def close() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    parts = rows.step(0)[1]
    sequences = sum(len(part.arrays["input_ids"]) for part in parts)
    one = Part({name: array[:1] for name, array in parts[0].arrays.items()}, parts[0].share)
    first = timed(lambda: learn(one))
    closing = timed(close)
    if first * sequences > _SLOW_SHARE * seconds:
        return first * sequences + closing
    taken: list[float] = []
    until = time.perf_counter() + min(_TRIED_S, _TRIED_SHARE * seconds)
    number = 0
    while len(taken) < 2 or time.perf_counter() < until:
        for part in rows.step(number)[1]:
            taken.append(timed(lambda part=part: learn(part)))  # type: ignore[misc]
            if len(taken) >= 2 and time.perf_counter() >= until:
                break
        closing = min(closing, timed(close))
        number += 1
    return statistics.median(taken) * len(parts) + closing


def shown_shape(model: Any) -> str:
    """A model in a few words: "llama of 9.9M parameters: 10 layers of 256 with 8 heads"."""
    config = model.config
    number = shown_parameters(sum(tensor.numel() for tensor in model.parameters()))
    heads = getattr(config, "num_attention_heads", None)
    return (
        f"{config.model_type} of {number} parameters: {config.num_hidden_layers} layers of {config.hidden_size}"
        + (f" with {heads} heads" if heads else "")
        + f", {config.vocab_size:,} tokens in the vocabulary"
    )


def _wait(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
