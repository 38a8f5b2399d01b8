"""Tasks by their names, by what a bundle does, by what data looks like."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from halfpint import registry
from halfpint.bundle import CARD, Bundle
from halfpint.command import command_class, command_names, settings_of
from halfpint.errors import HalfpintError
from halfpint.progress import Log
from halfpint.task import Task

_SURE = 0.5  # of what data is


def open_task(name: str, place: str = "task") -> Task[Any]:
    """The task `name`.

    Raises:
        HalfpintError: there is none; the message has the nearest name.
    """
    task: Task[Any] = registry.load("tasks", name, place).TASK
    return task


def tasks() -> list[Task[Any]]:
    """All tasks."""
    return [open_task(name) for name in registry.variants("tasks")]


@cache
def text_task() -> Task[Any]:
    """The task of a model that has learned running text and nothing else."""
    return next(task for task in tasks() if task.of_text)


def default_task() -> Task[Any]:
    """The task of recipes that name none."""
    return next(task for task in tasks() if task.default)


def task_of(bundle: Bundle) -> Task[Any]:
    """The task that a bundle does.

    Raises:
        HalfpintError: it does none, or one that is not known here.
    """
    name = bundle.card.get("task")
    if not name:
        raise HalfpintError(
            str(bundle.path), wanted="a bundle that does a task",
            got=f"one of the kind '{bundle.kind}', which does none",
            todo="Train it first: a stage of a recipe, or halfpint fit.",
            said=f"{bundle.path} does no task yet: it is of the kind {str(bundle.kind)!r}.",
        )  # fmt: skip
    return open_task(str(name), f"{bundle.path}/card.json: task")


def guess_task(source: str, names: Sequence[str] = ()) -> Task[Any]:
    """The task that the data at `source` looks like; among `names`, or all.

    Raises:
        HalfpintError: it looks like none of them.
    """
    known = [task for task in tasks() if not names or task.name in names]
    scores = [(task.recognises(source), task) for task in known]
    best, task = max(scores, key=lambda one: one[0])
    if best <= 0:
        said = "; ".join(f"{one.name}: {one.about}" for one in known)
        raise HalfpintError(
            source,
            wanted=f"data of a task ({said})",
            got="data that looks like none of them",
            said=f"It is not clear what {source} is for; it looks like none of these: {said}.",
        )
    return task


def find_task(source: str, name: str, command: str, log: Log) -> Task[Any]:
    """The task `name`; without a name the one that the data at `source` looks like, which is said.

    Raises:
        HalfpintError: there is none, or `halfpint COMMAND` makes no sense for it.
    """
    task = open_task(name, "--task") if name else guess_task(source)
    if command not in task.commands:
        others = ", ".join(_commands_for(task, ("DATA", "TEXT..."), required=True))
        raise HalfpintError(
            source, wanted=f"data that `halfpint {command}` takes",
            got=f"data that looks like the task {task.name!r} ({task.about})" if not name else f"--task {name}",
            todo=f"These commands take it: {others}." + ("" if name else " Name another task with --task."),
            said=f"{f'--task {name}' if name else source} is for the task {task.name!r} ({task.about}), "
            f"which `halfpint {command}` does not do.",
        )  # fmt: skip
    if not name and not task.default:
        log.say(f"{source}: task {task.name!r} ({task.about}), by its content; --task names another", kind="task")
    return task


def need_routes(bundle: Bundle, module: str) -> Task[Any]:
    """The bundle's task, which the file of serve/ with the name `module` serves.

    Raises:
        HalfpintError: another one serves it.
    """
    task = task_of(bundle)
    routes = module.rpartition(".")[2]
    if task.routes != routes:
        raise HalfpintError(
            str(bundle.path), wanted=f"a bundle that serve/{routes} serves", got=f"one of the task {task.name!r}",
            todo=f"serve/{task.routes} serves it.",
        )  # fmt: skip
    return task


def refuse_other(name: str, command: str) -> None:
    """Refuse the folder of a bundle that `halfpint COMMAND` makes no sense for; other names are not looked at.

    Raises:
        HalfpintError: with the commands that do.
    """
    if (Path(name) / CARD).is_file() and (bundle := Bundle(Path(name))).card.get("task"):
        need_command(bundle, command)


def need_command(bundle: Bundle, command: str) -> Task[Any]:
    """The bundle's task, which the command `command` makes sense for.

    Raises:
        HalfpintError: it does not; the message has the commands that do.
    """
    task = task_of(bundle)
    if command not in task.commands:
        others = ", ".join(_commands_for(task, ("BUNDLE", "BASE", "TEACHER", "OUT")))
        raise HalfpintError(
            str(bundle.path), wanted=f"a bundle that `halfpint {command}` takes",
            got=f"one of the task {task.name!r} ({task.about})", todo=f"These commands take it: {others}.",
            said=f"{bundle.path} is a model for the task {task.name!r} ({task.about}), which `halfpint {command}` "
            "does not do.",
        )  # fmt: skip
    return task


def _commands_for(task: Task[Any], places: Sequence[str], *, required: bool = False) -> list[str]:
    """The task's commands that take one of these by its place, or need it."""
    known = set(task.commands) & set(command_names())
    return sorted(
        name for name in known
        for one in settings_of(command_class(name))
        if one.metavar in places and (one.required if required else one.positional)
    )  # fmt: skip


def command_for(source: str) -> str:
    """The line to type for a file or a folder: by the card of a bundle, else by what the data looks like."""
    typed = shlex.quote(source)
    if (Path(source) / CARD).is_file():
        return f"halfpint predict {typed} TEXT"
    scores = [(one.recognises(source), one) for one in tasks()]
    # A text file may be a table without a name for its form: what is of text comes first, unless something is sure.
    task = max(scores, key=lambda one: (one[0] >= _SURE, one[1].of_text and one[0] > 0, one[0]))[1]
    if task.answers:
        return f"halfpint finetune smollm2-135m-instruct {typed}"
    return f"halfpint pretrain {typed}" if task.of_text else f"halfpint fit {typed}"
