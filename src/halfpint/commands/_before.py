"""What commands that train say, and refuse, before they download anything or start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfpint.data.corpus_read import PYTHON_STDLIB
from halfpint.errors import HalfpintError
from halfpint.models.known_shape import Sized, known_shape
from halfpint.models.shape import Shape, shape_of
from halfpint.models.sizes import default_vocabulary, new_model, parse_parameters, resolve, size_dial
from halfpint.models.sources import cache_folder
from halfpint.progress import Log
from halfpint.search import planner
from halfpint.stage import Stage
from halfpint.train.adapt import MOST_CONTEXT
from halfpint.train.pretrain import Pretrain

_CONTEXT = 512  # tokens of a sequence of conversations, where the data says later
_STDLIB_BYTES = 25_000_000
_FORWARD = 1.0  # of a student's training, that a teacher takes which is as large: it has no backward pass


def refuse_unfit(name: str, use: str) -> Sized | None:
    """As `planner.refuse_unfit`, for this machine; None too where no name is given.

    Raises:
        HalfpintError: the model would have to be downloaded and does not fit.
    """
    return planner.refuse_unfit(name, planner.room_here(cache_folder()), use) if name else None


def say_training(base: str, stages: Sequence[Stage], sources: Sequence[str], log: Log) -> None:
    """Refuse a base that does not fit, and say what the training among `stages` takes.

    Args:
        base: the model that it goes on from; "" for a new one.
        sources: of the data.

    Raises:
        HalfpintError: the base does not fit, or not even a step does.
    """
    stage: Any = next((one for one in stages if hasattr(one, "batch_tokens")), None)
    if stage is None:
        return
    lora = bool(getattr(stage, "lora", False))
    known = refuse_unfit(base, "lora" if lora else "train")
    if base and known is None:
        return
    if known is not None:
        name, shape = f"{'adapters on ' if lora else ''}{base}", known.shape
    elif isinstance(stage, Pretrain):
        name, shape = f"a new {stage.arch} of {stage.size}", new_shape(stage.arch, stage.size, stage)
    else:
        return
    context = int(stage.context or min(shape.context or _CONTEXT, _CONTEXT if base else MOST_CONTEXT))
    size = source_bytes(sources)
    tokens = float(stage.tokens) if getattr(stage, "tokens", 0) else 0.0
    tokens = tokens or planner.tokens_of_bytes(size, shape.vocabulary) * max(1, int(stage.epochs))
    planner.say_before(
        name, shape, log, tokens=tokens, minutes=0.0 if getattr(stage, "tokens", 0) else float(stage.minutes),
        context=context, step_tokens=max(context, int(stage.batch_tokens)) * int(stage.accumulate),
        optimizer=str(stage.optimizer), precision=str(stage.precision), lora=lora,
    )  # fmt: skip


def say_teaching(teachers: Sequence[str], student: str, minutes: float, tokens: int, source: str, log: Log) -> None:
    """Say what teaching a student of a language model takes: it is trained beside its teachers.

    Args:
        student: layers=…, size=…, a folder or a name, as `halfpint distil` takes it.

    Raises:
        HalfpintError: not even a step fits into the minutes.
    """
    taught = _quietly(student if "=" not in student else "")
    shapes = [one.shape for one in map(_quietly, teachers) if one is not None]
    if not shapes:
        return
    shape = taught.shape if taught else _student(shapes[0], student)
    if shape is None:
        return
    context = min(shape.context or MOST_CONTEXT, MOST_CONTEXT)
    beside = sum(one.body + one.head for one in shapes) / (3 * max(1, shape.body + shape.head)) * _FORWARD
    read = float(tokens) or planner.tokens_of_bytes(source_bytes([source]), shape.vocabulary)
    planner.say_before(
        f"a student of {shape.parameters / 1e6:,.1f}M parameters beside its teacher", shape, log, tokens=read,
        minutes=minutes, context=context, step_tokens=max(context, 4096), optimizer="adamw", precision="auto",
        more_bytes=4 * sum(one.parameters for one in shapes), more_s=beside,
    )  # fmt: skip


def new_shape(arch: str, size: str, stage: Pretrain) -> Shape:
    """The shape of a new model, as its training will make it."""
    parameters = parse_parameters(size)
    model_type, _ = resolve(arch, stage.objective)
    vocabulary = stage.vocabulary or default_vocabulary(parameters)
    settings, _ = size_dial(arch, parameters, vocabulary, stage.context)
    return shape_of(new_model(model_type, settings, meta=True))


def source_bytes(sources: Sequence[str]) -> int:
    """Bytes of the files that data is read from, times three for compressed ones; what is not here counts nothing."""
    whole = 0
    for name in sources:
        place = Path(name).expanduser()
        if name == PYTHON_STDLIB:
            whole += _STDLIB_BYTES
            continue
        try:
            files = [one for one in place.rglob("*") if one.is_file()] if place.is_dir() else [place]
            whole += sum(one.stat().st_size * (3 if one.suffix in (".gz", ".parquet") else 1) for one in files)
        except OSError:
            continue
    return whole


def _student(teacher: Shape, student: str) -> Shape | None:
    """A student of so many layers of the teacher, or of so many parameters and the teacher's vocabulary."""
    kind, _, value = student.partition("=")
    if kind == "layers" and value:
        layers = min(teacher.layers, int(value) if value.isdigit() else value.count(",") + 1)
        share = layers / max(1, teacher.layers)
        matrices = tuple((max(1, round(number * share)), rows, columns) for number, rows, columns in teacher.matrices)
        body = sum(number * rows * columns for number, rows, columns in matrices)
        return replace(
            teacher, layers=layers, parameters=teacher.parameters - teacher.body + body, matrices=matrices
        )  # fmt: skip
    if kind == "size":
        parameters = parse_parameters(value)
        narrower = math.sqrt(min(1.0, parameters / max(1, teacher.parameters)))

        def less(number: int) -> int:
            return max(1, int(narrower * number))

        return replace(
            teacher, parameters=parameters, width=less(teacher.width), inner=less(teacher.inner),
            matrices=tuple((number, less(rows), less(columns)) for number, rows, columns in teacher.matrices),
        )  # fmt: skip
    return None


def _quietly(name: str) -> Sized | None:
    """What is known of a model that is here; None of others, which whoever opens them says more of."""
    try:
        found = known_shape(name) if name and (Path(name).is_dir() or "/" not in name) else None
    except HalfpintError:
        return None
    return found
