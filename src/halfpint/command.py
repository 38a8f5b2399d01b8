"""Command: what a person types or calls from Python; its fields are the flags and keywords, its result prints itself.

A command is declared once, as a frozen dataclass in `commands/`. The command line, the functions of `import halfpint`,
`docs/cli.md` and the type stub are made from its fields and from the section "Args" of its docstring.
"""

from __future__ import annotations

import html
import inspect
import json
import math
import os
import re
import shlex
import textwrap
import typing
from contextlib import ExitStack
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from halfpint import registry
from halfpint.errors import HalfpintError, SettingError
from halfpint.files import at_home
from halfpint.progress import Log

ROOM = "commands"
_WRITTEN = ("out", "work")  # fields that say where a command writes
LARGEST_SEED = 2**32 - 1
"""What every package that draws numbers takes; the least is 0."""
_METAVARS = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}
_PLACES = ("BUNDLE", "MODEL", "BASE", "TEACHER", "STUDENT", "DATA", "FILE")
"""How fields are called that take a path or a name."""


class Group(StrEnum):
    """Where a command stands in the list of commands, in this order."""

    CLASSIFY = "Classify texts"
    LANGUAGE = "Make a language model"
    USE = "Use a model"
    SMALLER = "Make a model smaller"
    MOVE = "Import, export and download models"
    RUNS = "Recipes and reports"


def positional(default: Any = MISSING, *, metavar: str) -> Any:
    """A field that is given by its place; as a tuple it takes all words that are left."""
    return field(default=default, metadata={"positional": True, "metavar": metavar})


def option(
    default: Any = MISSING, *, metavar: str = "", least: float | None = None, most: float | None = None, env: str = ""
) -> Any:
    """A field that is a flag; a plain default does for those that need none of this.

    Args:
        default: without one the flag is required.
        metavar: what stands for the value in the help.
        least, most: the range of a number.
        env: an environment variable that gives the value too.
    """
    return field(default=default, metadata={"metavar": metavar, "least": least, "most": most, "env": env})


class Result:
    """What a command gives: a frozen dataclass of plain values that prints itself."""

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        return 0

    @property
    def is_styled(self) -> bool:
        """Whether its text has colours of its own, and no control character besides."""
        return False

    @property
    def is_shown(self) -> bool:
        """Whether all of it was shown while the command ran: the command line prints nothing more."""
        return False

    def as_json(self) -> str:
        """What `--json` prints."""
        return json.dumps({"text": str(self)}, ensure_ascii=False)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<pre>{html.escape(str(self).strip())}</pre>"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Base of all commands; a subclass is a frozen keyword-only dataclass, one in a file of `commands/`.

    A field's type says what it takes: a tuple may be given several times, `bool | None` is neither yes nor no by
    default. Flags are named as the fields are. `given` names the fields that the caller set; None: those that differ
    from their defaults.
    """

    group: ClassVar[Group]
    resumes: ClassVar[bool] = False
    """Whether the same command goes on where an interrupted one stopped."""
    starts_over: ClassVar[bool] = False
    """Whether `force` takes away what an interrupted command left."""
    is_quiet_with_json: ClassVar[bool] = True
    synonyms: ClassVar[tuple[str, ...]] = ()
    """Words that people type for it: they are answered with its own."""

    given: frozenset[str] | None = field(default=None, repr=False, compare=False, metadata={"hidden": True})

    def __post_init__(self) -> None:
        """Take ~ in paths and names of models for the home folder, also where no shell did.

        Raises:
            HalfpintError: a number that is infinite, or none.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingError(f"--{item.name.replace('_', '-')}", wanted="a finite number", got=str(value))
            if isinstance(value, Path):
                object.__setattr__(self, item.name, Path(at_home(str(value))))
            elif isinstance(value, str) and item.metadata.get("metavar") in _PLACES and "~" in value:
                parts = [at_home(part) for part in value.split(",")]  # several teachers
                object.__setattr__(self, item.name, ",".join(parts))

    def run(self, log: Log) -> Result:
        """Do it; progress goes to `log`.

        Raises:
            HalfpintError: a fault that the caller can act on.
        """
        raise TypeError(f"{type(self).__name__} does not say how it runs")

    def writes(self) -> tuple[Path, ...]:
        """The files and folders that it leaves where the caller said so: no other run may work on them meanwhile."""
        places = (getattr(self, name, None) for name in _WRITTEN)
        return tuple(place for place in places if isinstance(place, Path) and str(place) != "-")

    def execute(self, log: Log) -> Result:
        """`run`, while no other process runs a command that writes to the same places.

        Raises:
            HalfpintError: as `run`; or another process does.
        """
        from halfpint.files import locked

        with ExitStack() as stack:
            for place in self.writes() if os.environ.get("RANK", "0") == "0" else ():  # of torchrun's the first writes
                stack.enter_context(locked(place))
            return self.run(log)

    @classmethod
    def word(cls) -> str:
        """The word that is typed: the file's name, without the underscore that keeps it from being a keyword."""
        return cls.__module__.rpartition(".")[2].rstrip("_")

    @property
    def is_quiet(self) -> bool:
        """Whether progress is hidden."""
        as_json = self.is_quiet_with_json and getattr(self, "json", False)
        return bool(getattr(self, "quiet", False) or as_json)

    def has(self, name: str) -> bool:
        """Whether the caller set the field `name`."""
        if self.given is not None:
            return name in self.given
        return any(getattr(self, name) != one.default for one in settings_of(type(self)) if one.name == name)

    def refuse(self, *names: str, wanted: str, got: str, todo: str = "") -> None:
        """Refuse fields that the caller set, the first of them by its flag: it needs `wanted`, not `got`.

        Raises:
            HalfpintError: one of `names` is set.
        """
        for one in settings_of(type(self)):
            if one.name in names and self.has(one.name):
                flag = f"--no-{one.flag[2:]}" if getattr(self, one.name) is False else one.flag
                said = f"{flag} needs {wanted}{f', not {got}' if got else ''}."
                raise HalfpintError(flag, wanted=f"{wanted} for it", got=got or "none", todo=todo, said=said)

    def line(self) -> str:
        """The line to type to repeat it."""
        words = ["halfpint", self.word()]
        for one in settings_of(type(self)):
            value = getattr(self, one.name)
            if one.positional:
                words += [str(word) for word in (value if one.many else (value,)) if self.has(one.name)]
            elif self.has(one.name) and one.kind is bool:
                words += [] if value is None else [one.flag if value else f"--no-{one.flag[2:]}"]
            elif self.has(one.name):
                words += [word for item in (value if one.many else (value,)) for word in (one.flag, _typed(item))]
        return shlex.join(words)


@dataclass(frozen=True)
class Setting:
    """A field of a command as the command line, Python and the docs show it.

    Attributes:
        kind: str, int, float, bool or Path: the type of one value.
        many: whether it is a tuple of them.
        optional: whether it may be None.
        default: dataclasses.MISSING where it is required.
        help: its text in the section "Args".
        own: whether the command's own class declares it, not one that it shares with others.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    default: Any
    help: str
    positional: bool
    metavar: str
    least: float | None
    most: float | None
    env: str
    own: bool

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    @property
    def flag(self) -> str:
        """The flag, such as --max-size."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def flags(self) -> str:
        """The flag, with the one for "no" where there are both."""
        both = self.kind is bool and self.default is not False
        return f"{self.flag}/--no-{self.flag[2:]}" if both else self.flag


def command_names() -> list[str]:
    """The commands of all files in `commands/`, as they are typed."""
    return [name.rstrip("_") for name in registry.variants(ROOM)]


@cache
def command_class(name: str) -> type[Command]:
    """The command that is typed as `name`.

    Raises:
        HalfpintError: there is none.
    """
    known = {one.rstrip("_"): one for one in registry.variants(ROOM)}
    module: ModuleType = registry.load(ROOM, known.get(name, name), place="halfpint")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Command) and value.__module__ == module.__name__:
            return value
    raise HalfpintError(module.__name__, wanted="a command in that file", got="none")


def settings_of(kind: type[Command]) -> tuple[Setting, ...]:
    """The fields of a command: those given by place first, then its own flags, then flags that it shares."""
    key: Any = kind  # a class can be hashed, though its objects say that they cannot
    return _settings(key)


@cache
def _settings(kind: Any) -> tuple[Setting, ...]:
    explained: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        explained |= arguments(one.__dict__.get("__doc__") or "")
    hints = typing.get_type_hints(kind)
    own = vars(kind).get("__annotations__", {})
    found = []
    for item in fields(kind):
        if item.metadata.get("hidden"):
            continue
        hint = hints[item.name]
        parts = [part for part in typing.get_args(hint) if part not in (type(None), Ellipsis)]
        many = typing.get_origin(hint) is tuple
        base = parts[0] if parts else hint
        more: Any = item.metadata
        if item.name == "seed":
            more = {**more, "least": 0, "most": LARGEST_SEED}
        found.append(
            Setting(
                name=item.name, kind=base, many=many, optional=type(None) in typing.get_args(hint),
                default=item.default, help=explained[item.name], positional=more.get("positional", False),
                metavar=more.get("metavar") or _METAVARS.get(base, ""),
                least=more.get("least"), most=more.get("most"), env=more.get("env", ""), own=item.name in own,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda one: (not one.positional, not one.positional and not one.own)))


def about(kind: type[Any]) -> str:
    """A docstring without its section "Args", one paragraph a line; the first sentence says what the class does."""
    text = re.sub(r"\nArgs:\n(?: .*\n?|\n(?= ))*", "\n", inspect.cleandoc(kind.__doc__ or ""))
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def summary(kind: type[Any]) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=[.!?])\s", about(kind), maxsplit=1)[0]


def arguments(doc: str) -> dict[str, str]:
    """Name -> its text in the section "Args" of a docstring; "a, b: text" explains both."""
    found = re.search(r"(?:^|\n)Args:\n((?: .*(?:\n|$)|\n(?= ))*)", inspect.cleandoc(doc))
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(found[1]).splitlines() if found else ():
        start = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            entries |= dict.fromkeys(names, start[2])
        else:
            entries |= {name: f"{entries[name]} {line.strip()}".strip() for name in names}
    return entries


def stem_of(source: str) -> str:
    """The name of a file or a folder without its endings: what output folders are named after."""
    return Path(source).absolute().name.lstrip(".").split(".")[0] or "data"


def named_after(model: str, what: str) -> Path:
    """The folder that a command writes where none is named: after the model, or the run whose best one it is."""
    place = Path(model)
    return Path(f"{place.parent.name if place.name == 'best' and place.parent.name else place.name}-{what}")


def _typed(value: object) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
