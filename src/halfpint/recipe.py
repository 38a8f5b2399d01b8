"""Recipe: a TOML file that says what data, what task and which stages. All faults are told at once, before any work."""

from __future__ import annotations

import json
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from halfpint import registry
from halfpint.command import LARGEST_SEED
from halfpint.errors import HalfpintError, SettingError, nearest, no_path
from halfpint.files import write_text
from halfpint.lookup import default_task, open_task
from halfpint.pipeline import faults_in_order
from halfpint.stage import Stage, stage_class
from halfpint.task import LabelTask, Task
from halfpint.terminal import amount

_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_PARTS: dict[str, type] = {"data": dict, "task": dict, "stage": list}
_TASK_KEYS = ("name", "metric", "all_rows")
_Settings = TypeVar("_Settings")
_Stage = TypeVar("_Stage", bound=Stage)


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says, checked: data, the task, the metric ("" lets the data choose), stages.

    Attributes:
        data: of the type that the task names.
        all_rows: whether the validation rows are learned from too; only the test says how good the result is then.
    """

    data: Any
    task: Task[Any]
    metric: str
    stages: tuple[Stage, ...]
    all_rows: bool = False

    def toml(self) -> str:
        """The recipe with every setting spelled out."""
        return "\n".join([*self.head(), *self.stages_as("stage")]) + "\n"

    def stages_as(self, part: str) -> list[str]:
        """The lines of its stages, each a table of the array `part`."""
        lines = []
        for stage in self.stages:
            lines += ["", f"[[{part}]]", f'use = "{stage.use}"', *_assignments(stage.settings())]
        return lines

    def head(self) -> list[str]:
        """The lines of all but the stages."""
        lines = ["[data]", *_assignments({item.name: getattr(self.data, item.name) for item in fields(self.data)})]
        all_rows = {"all_rows": True} if self.all_rows else {}
        return [*lines, "", "[task]", *_assignments({"name": self.task.name, "metric": self.metric, **all_rows})]

    def write(self, path: Path) -> None:
        """Write the TOML text."""
        write_text(path, self.toml())


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path`, with `overrides` such as "data.seed=1" or "stage.2.epochs=3" (stages count from 1) applied.

    Raises:
        HalfpintError: the file cannot be read, or the recipe has faults (all of them in one message).
    """
    return check_recipe(read_content(path, overrides), str(path))


def read_content(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the file `path` says, as TOML has it, with `overrides` applied; nothing is checked yet.

    Raises:
        HalfpintError: the file cannot be read, is not TOML, or has no such place as an override names.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise no_path(str(path), "a recipe (a TOML file)", "`halfpint init DATA` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise HalfpintError(
            str(path),
            wanted="a recipe (a TOML file)",
            got=str(error),
            said=f"The recipe {path} cannot be read: {error}.",
        ) from None
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: a number may have too many digits
        raise HalfpintError(
            str(path),
            wanted="valid TOML",
            got=str(error),
            todo="`halfpint init DATA` writes a good one.",
            said=f"{path} is not valid TOML: {error}.",
        ) from None
    for override in overrides:
        override_in(content, override)
    return content


def check_recipe(content: Mapping[str, Any], place: str) -> Recipe:
    """The recipe that `content` (parsed TOML) describes.

    Raises:
        HalfpintError: with every fault in it.
    """
    recipe, faults = checked(content)
    if recipe is None:
        raise with_faults(place, faults)
    return recipe


def with_faults(place: str, faults: Sequence[str]) -> HalfpintError:
    """The error that tells all faults of a recipe."""
    shown = "\n".join(f"  - {fault}" for fault in faults)
    return HalfpintError(
        place,
        wanted="a recipe without faults",
        got=f"{len(faults)}:\n{shown}\n",
        said=f"{place} has {amount(len(faults), 'fault')}:\n{shown}",
    )


def checked(content: Mapping[str, Any]) -> tuple[Recipe | None, list[str]]:
    """The recipe that `content` describes, or None and every fault in it."""
    faults = [f"[{key}]: no such part. {nearest(key, _PARTS)}" for key in content if key not in _PARTS]
    given, task_part, written_stages = (_part(content, name, kind, faults) for name, kind in _PARTS.items())
    faults += [f"task.{key}: no such key. {nearest(key, _TASK_KEYS)}" for key in task_part if key not in _TASK_KEYS]
    name, metric = task_part.get("name", default_task().name), task_part.get("metric", "")
    tasks = registry.variants("tasks")
    if not isinstance(name, str) or name not in tasks:
        faults.append(f"task.name must be a task, not {name!r}. {nearest(str(name), tasks)}")
        name = default_task().name
    task = open_task(name)
    metrics = task.metrics
    if not isinstance(metric, str) or (metric and metric not in metrics):
        faults.append(f"task.metric must be a metric, not {metric!r}. {nearest(str(metric), metrics)}")
    all_rows = task_part.get("all_rows", False)
    if not isinstance(all_rows, bool) or (all_rows and not isinstance(task, LabelTask)):
        wanted = "true or false" if isinstance(task, LabelTask) else f"false for the task {task.name!r}"
        faults.append(f"task.all_rows must be {wanted}, not {all_rows!r}")
    data = _build(task.data, given, "data", faults) if isinstance(content.get("data", {}), dict) else None
    stages, places = [], []
    for number, written in enumerate(written_stages, start=1):
        here = f"stage {number}"
        if not isinstance(written, dict):
            faults.append(f"{here} must be a table ([[stage]]), not {written!r}")
            continue
        settings = dict(written)
        use = str(settings.pop("use", ""))
        try:
            stage = _build(stage_class(use, here), settings, f"{here} ({use})", faults)
        except HalfpintError as error:
            faults.append(str(error))
            continue
        if stage is not None:
            stages.append(stage)
            places.append(here)
    if not faults:
        faults += faults_in_order(stages, places)
    if faults or data is None:
        return None, faults
    return Recipe(data, task, metric, tuple(stages), all_rows), []


def changed(stage: _Stage, overrides: Sequence[str]) -> _Stage:
    """`stage` with the settings that `overrides` ("name=value") give.

    Raises:
        HalfpintError: with every fault in them.
    """
    given = stage.settings()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise SettingError(f"--set {override}", wanted="NAME=VALUE, such as batch_tokens=1024", got=repr(override))
        given[key.strip()] = _value(text)
    faults: list[str] = []
    made = _build(type(stage), given, stage.use, faults)
    if made is None:
        raise HalfpintError(
            "--set", wanted=f"settings of {stage.use}", got="; ".join(faults), said="--set: " + "; ".join(faults)
        )
    return made


def _part(content: Mapping[str, Any], name: str, kind: type, faults: list[str]) -> Any:
    """A part of the recipe, or an empty one and a fault when it is no table (or no list of tables)."""
    found = content.get(name, kind())
    if isinstance(found, kind):
        return found
    faults.append(f"{name} must be {f'[[{name}]]' if kind is list else f'[{name}]'}, not {found!r:.60}")
    return kind()


def _build(kind: type[_Settings], given: Mapping[str, Any], place: str, faults: list[str]) -> _Settings | None:
    """An instance of settings dataclass `kind`; what is wrong with `given` is added to `faults`."""
    types = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    before = len(faults)
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            faults.append(f"{place}: unknown key {key!r}. {nearest(key, known)}")
            continue
        wanted = types[key]
        if typing.get_origin(wanted) is tuple:
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                faults.append(f"{place}: {key} must be a list of texts, not {value!r:.60}")
            values[key] = tuple(value) if isinstance(value, list | tuple) else ()
            continue
        if _is_beyond(value):
            faults.append(f"{place}: {key} must be a number that a computer holds, not {_shown(value)}")
            continue
        if key == "seed" and isinstance(value, int) and not 0 <= value <= LARGEST_SEED:
            faults.append(f"{place}: {key} must be a number from 0 to {LARGEST_SEED}, not {value}")
            continue
        fitting = float(value) if wanted is float and type(value) is int else value
        if not isinstance(fitting, wanted) or (wanted is int and isinstance(value, bool)):
            faults.append(f"{place}: {key} must be {_KINDS.get(wanted, wanted.__name__)}, not {value!r}")
            continue
        values[key] = fitting
    for key, item in known.items():
        if item.default is MISSING and key not in given:
            faults.append(
                f"{place}: {key} is missing; it is {_KINDS.get(types[key], types[key].__name__)}, and has no default"
            )
    if len(faults) > before:
        return None
    try:
        return kind(**values)
    except HalfpintError as error:
        faults.append(f"{place}: {error}")
        return None


def _is_beyond(value: Any) -> bool:
    """Whether a number is none that arithmetic with it could end well: infinite, not a number, over 64 bits."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _shown(value: float) -> str:
    return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else str(value)


def override_in(content: dict[str, Any], override: str) -> None:
    """Change `content` as an override such as "stage.2.epochs=3" says.

    Raises:
        HalfpintError: it is none, or there is no such stage.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2:
        raise SettingError(f"--set {override}", wanted="PART.KEY=VALUE, such as stage.2.epochs=3", got=repr(override))
    value = _value(text)
    target: Any = content.setdefault(keys[0], {})
    if keys[0] == "stage":
        number = int(keys[1]) if len(keys) == 3 and keys[1].isdecimal() else 0
        stages = len(target) if isinstance(target, list) else 0
        if not 1 <= number <= stages:
            raise HalfpintError(
                f"--set {override}", wanted=f"stage.NUMBER.KEY=VALUE with a number from 1 to {stages}", got=path
            )
        target = target[number - 1]
    elif len(keys) != 2:
        raise HalfpintError(f"--set {override}", wanted="PART.KEY=VALUE, such as data.seed=1", got=path)
    if not isinstance(target, dict):
        raise HalfpintError(
            f"--set {override}",
            wanted=f"a table [{keys[0]}] in the recipe",
            got=repr(target),
            said=f"--set {override}: the recipe has no table [{keys[0]}].",
        )
    target[keys[-1]] = value


def _value(text: str) -> Any:
    """The value of an override: TOML's, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text.strip()


def _assignments(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in values.items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # TOML's escapes are those of JSON, but for the one control character that JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
