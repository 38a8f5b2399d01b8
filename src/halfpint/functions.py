"""The commands as functions: the fields that are given by place and the flags become arguments, `run` does the rest."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from halfpint.command import Command, Result, Setting, about, command_class, settings_of
from halfpint.errors import SettingError, nearest
from halfpint.progress import Log

SHOWN_BY_RESULT = ("json", "quiet")
"""Fields that say how the command line shows things: a result has `as_json`, and every function takes `quiet`."""
_WIDTH = 100


def in_python(kind: type[Command]) -> list[Setting]:
    """The fields of a command that are arguments of its function."""
    return [one for one in settings_of(kind) if one.name not in SHOWN_BY_RESULT]


def explained(text: str) -> str:
    """Help that names arguments, not flags: max_size for --max-size."""
    words = text.split("--")
    return words[0] + "".join(_renamed(word) for word in words[1:])


def document(kind: type[Command]) -> str:
    """The docstring of a command's function."""
    first, *others = explained(about(kind)).split("\n\n")
    lines = [first]
    for paragraph in others:
        lines += ["", *textwrap.wrap(paragraph, _WIDTH)]
    lines += ["", "Args:"]
    for one in in_python(kind):
        lines += textwrap.wrap(
            f"{one.name}: {explained(one.help)}", _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8
        )
    lines += ["    quiet: Hide progress.", "", "Raises:"]
    return "\n".join([*lines, "    HalfpintError: something that was given is wrong; the message says what to do."])


@cache
def function(name: str) -> Callable[..., Result]:
    """The function of the command in `commands/NAME.py`."""
    kind = command_class(name.rstrip("_"))
    settings = in_python(kind)
    parameters = [
        Parameter(
            one.name, Parameter.POSITIONAL_OR_KEYWORD if one.positional else Parameter.KEYWORD_ONLY,
            default=Parameter.empty if one.required else one.default,
        )
        for one in settings
    ]  # fmt: skip
    signature = Signature([*parameters, Parameter("quiet", Parameter.KEYWORD_ONLY, default=False)])

    def call(*args: Any, **keywords: Any) -> Result:
        try:
            given = signature.bind(*args, **keywords).arguments
        except TypeError as error:
            unknown = [word for word in keywords if word not in signature.parameters]
            near = f" {nearest(unknown[0], signature.parameters)}" if unknown else ""
            raise TypeError(f"{name}(): {error}.{near}") from None
        log = Log(quiet=bool(given.pop("quiet", False)))
        values = {one.name: _value(one, given[one.name]) for one in settings if one.name in given}
        for one in settings:
            if one.env and one.name not in values and os.environ.get(one.env):
                values[one.name] = os.environ[one.env]
        return kind(given=frozenset(values), **values).execute(log)

    call.__name__ = call.__qualname__ = name
    call.__module__ = "halfpint"
    call.__doc__ = document(kind)
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _renamed(word: str) -> str:
    flag = word.split(" ", maxsplit=1)[0].rstrip(".,;:)")
    return flag.replace("-", "_") + word[len(flag) :]


def _value(one: Setting, value: Any) -> Any:
    """An argument as the field takes it.

    Raises:
        HalfpintError: it is of another type, or out of range.
    """
    if one.many:
        if isinstance(value, Mapping):
            return tuple(f"{key}={_as_text(item)}" for key, item in value.items())
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        return tuple(_single(one, item) for item in several)
    if value is None and (one.optional or one.default is None):
        return None
    return _single(one, value)


def _single(one: Setting, value: Any) -> Any:
    wanted = {str: "a text", int: "a whole number", float: "a number", bool: "True or False", Path: "a path"}[one.kind]
    if isinstance(value, os.PathLike) and one.kind in (str, Path):
        value = os.fspath(value)
    if one.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    is_right = isinstance(value, str if one.kind is Path else one.kind)
    if not is_right or (one.kind is int and isinstance(value, bool)):
        raise SettingError(one.name, wanted=wanted, got=repr(value)[:80])
    if (one.least is not None and value < one.least) or (one.most is not None and value > one.most):
        least, most = (f" {word} {bound:g}" if bound is not None else "" for word, bound in
                       (("from", one.least), ("to", one.most)))  # fmt: skip
        raise SettingError(one.name, wanted=f"a number{least}{most}", got=repr(value))
    return Path(value) if one.kind is Path else value


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
