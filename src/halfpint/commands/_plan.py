"""What `halfpint plan` works out: the model's shape, the data's tokens, the machine's speed, and what follows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.data.corpus_read import find_source
from halfpint.errors import HalfpintError, SettingError
from halfpint.evaluate.llama_speed import llama_here
from halfpint.lookup import open_task, tasks, text_task
from halfpint.machine import cores, cpu_model
from halfpint.machine_speed import MachineSpeed, speed_here
from halfpint.models.known_shape import Sized, known_shape, usual
from halfpint.models.serving_cost import LlamaSpeed
from halfpint.models.serving_cost import as_json as speeds_as_json
from halfpint.models.shape import Shape, llama_like, shape_of
from halfpint.models.sizes import (
    MASKED,
    default_vocabulary,
    new_model,
    parse_parameters,
    resolve,
    size_dial,
)
from halfpint.models.sources import cache_folder
from halfpint.progress import Log
from halfpint.search import planner
from halfpint.search.planner import Asked
from halfpint.task import LabelTask, Task
from halfpint.train.adapt import MOST_CONTEXT, Adapt
from halfpint.train.chat import Chat
from halfpint.train.loop import use_bf16
from halfpint.train.pretrain import Pretrain

if TYPE_CHECKING:
    from halfpint.commands.plan import Plan

_PER_PARAMETER = 20  # tokens: Hoffmann et al. 2022, where a new model's data is not named
_EXAMPLE_TOKENS = 1_000_000  # where the data of another model is not named
_SERVED = 2048  # tokens that keys and values are kept for, where the model has as many
_CHAT_CONTEXT = 512
_SIZES = ("5M", "30M", "135M", "360M", "600M", "1.7B", "4B")
_ENCODER_EPOCHS, _ENCODER_CONTEXT = 4, 128


def planned(asked: Plan, log: Log) -> dict[str, Any]:
    """The plan for one model.

    Raises:
        HalfpintError: no such model, task or data.
    """
    task = _task(asked)
    known = _new(asked) if asked.size else known_shape(asked.model)
    _refuse_objective(known.shape, task, asked)
    tokens, data = _tokens(asked, known.shape)
    wanted = _settings(asked, known.shape, task, tokens)
    machine, llama = _measured(asked, log, serves=known.shape.objective != MASKED)
    room = planner.room_here(cache_folder())
    most = known.shape.context or _SERVED
    plan = planner.plan_of(
        known, wanted, planner.rows_at_once(wanted.step_tokens, wanted.context), machine, llama, room,
        trains=bool(asked.size), serving_context=min(most, _SERVED),
    )  # fmt: skip
    unfit = planner.fit_of(plan)
    whole = [one for one in (*plan["training"], *plan["serving"]) if one["fits"]]
    return {
        **plan, "task": task.name, "data": data, "epochs": wanted.passes, "minutes": asked.minutes,
        "context": wanted.context, "unfit": list(unfit), "fits": bool(whole) and plan["download"]["fits_disk"],
        **_about(machine, llama),
    }  # fmt: skip


def overview(asked: Plan, log: Log) -> dict[str, Any]:
    """What this machine can do with models of some sizes, shaped as a usual Llama is."""
    machine, llama = _measured(asked, log, serves=True)
    room = planner.room_here(cache_folder())
    rows: list[dict[str, Any]] = []
    for name in _SIZES:
        parameters = parse_parameters(name)
        layers, width, vocabulary = usual(parameters)
        shape = llama_like("llama", parameters=parameters, layers=layers, width=width, vocabulary=vocabulary)
        wanted = _settings(asked, shape, text_task(), _EXAMPLE_TOKENS)
        at_once = planner.rows_at_once(wanted.step_tokens, wanted.context)
        full, lora = (
            planner.training(shape, wanted, at_once, machine, room, lora=adapters) for adapters in (False, True)
        )
        kind = "q4_0"
        served = planner.serving(shape, kind, wanted, llama.get(kind), _SERVED, room)
        rows.append({"size": name, "full": full, "lora": lora, "serving": served})
    able = [row for row in rows if row["full"]["fits"] or row["serving"]["fits"]]
    return {
        "sizes": rows, "room": vars(room), "error": planner.ERROR, "fits": bool(able), "serving_context": _SERVED,
        **_about(machine, llama),
    }  # fmt: skip


def _about(machine: MachineSpeed, llama: dict[str, LlamaSpeed]) -> dict[str, Any]:
    return {
        "machine": {"cpu": cpu_model(), "cores": cores(), **machine.as_json(), "age_s": time.time() - machine.taken},
        "llama_cpp": speeds_as_json(llama),
        "energy": "modelled",
    }


def _measured(asked: Plan, log: Log, *, serves: bool) -> tuple[MachineSpeed, dict[str, LlamaSpeed]]:
    log.say("measuring this machine …", kind="plan")
    machine = speed_here(cache_folder(), again=asked.again)
    return machine, llama_here(cache_folder(), machine, again=asked.again) if serves else {}


def _task(asked: Plan) -> Task[Any]:
    if asked.task:
        return open_task(asked.task, "--task")
    if asked.data and Path(asked.data).exists():
        scores = [(one.recognises(asked.data), one) for one in tasks() if one.of_text or one.answers]
        best, found = max(scores, key=lambda one: one[0])
        return found if best > 0 else text_task()
    return text_task()


def _refuse_objective(shape: Shape, task: Task[Any], asked: Plan) -> None:
    """An encoder writes nothing."""
    if shape.objective == MASKED and task.answers:
        labelled = ", ".join(one.name for one in tasks() if isinstance(one, LabelTask))
        raise HalfpintError(
            "--task", wanted=f"a task of an encoder ({labelled})", got=task.name,
            said=f"{asked.model or asked.arch} is an encoder: it writes nothing, so it cannot be for the task "
            f"{task.name!r}.",
            todo=f"Take another model, or one of the tasks {labelled}.",
        )  # fmt: skip


def _new(asked: Plan) -> Sized:
    """A model of the size dial."""
    parameters = parse_parameters(asked.size, "--size")
    model_type, _ = resolve(asked.arch)
    context = asked.context or Pretrain.context
    settings, _ = size_dial(asked.arch, parameters, default_vocabulary(parameters), context)
    shape = shape_of(new_model(model_type, settings, meta=True))
    return Sized(f"a new {asked.arch} of {asked.size}", shape, Path(), 0, "the size dial")


def _tokens(asked: Plan, shape: Shape) -> tuple[float, dict[str, Any]]:
    """Tokens of one pass, and where the number is from."""
    if asked.tokens:
        return float(parse_parameters(asked.tokens, "--tokens")), {"tokens": asked.tokens, "from": "--tokens"}
    if not asked.data:
        tokens = float(_PER_PARAMETER * shape.parameters if asked.size else _EXAMPLE_TOKENS)
        why = f"{_PER_PARAMETER} per parameter" if asked.size else "an example: give --data"
        return tokens, {"tokens": tokens, "from": why}
    place = Path(asked.data).expanduser()
    if not place.exists() and asked.data.count("/") == 1:
        raise SettingError(
            "--data", wanted="a file or a folder here", got=asked.data,
            todo="Data of the Hub is not looked up, as it would be downloaded: give --tokens.",
        )  # fmt: skip
    size = find_source(asked.data).size_bytes
    tokens = planner.tokens_of_bytes(size, shape.vocabulary)
    return tokens, {"source": asked.data, "bytes": size, "tokens": tokens, "from": "estimated from its bytes"}


def _settings(asked: Plan, shape: Shape, task: Task[Any], tokens: float) -> Asked:
    """How the training command of this task would train, by its defaults."""
    most = shape.context or MOST_CONTEXT
    if asked.context > most and not asked.size:
        raise SettingError("--context", wanted=f"at most the model's {most:,} tokens", got=f"{asked.context:,}")
    if asked.size:
        kind: Any = Pretrain
        context = asked.context or Pretrain.context
    elif shape.objective == MASKED:
        kind, context = Adapt, asked.context or min(most, _ENCODER_CONTEXT)
    else:
        kind = Chat if task.answers else Adapt
        context = asked.context or min(most, _CHAT_CONTEXT if task.answers else MOST_CONTEXT)
    epochs = asked.epochs or (_ENCODER_EPOCHS if isinstance(task, LabelTask) else kind.epochs)
    return Asked(
        tokens=tokens, passes=float(epochs), minutes=asked.minutes, context=context,
        step_tokens=max(kind.batch_tokens, context), optimizer=kind.optimizer, bf16=use_bf16("auto"),
        evaluations=kind.evaluations or epochs, evaluation_tokens=int(min(kind.evaluation_tokens, tokens)),
        prompt=min(most, 512), threads=cores(),
    )  # fmt: skip
