"""Write docs/cli.md, stages.md, models.md, src/halfpint/__init__.pyi and the results in README.md; --check compares.

Commands and settings of stages are declared once, in src/halfpint: what is made from them cannot drift.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import figures
import models_page

from halfpint import cli, errors, registry
from halfpint.command import (
    Command,
    Group,
    Setting,
    about,
    arguments,
    command_class,
    command_names,
    settings_of,
    summary,
)
from halfpint.errors import HalfpintError
from halfpint.functions import document, in_python
from halfpint.lookup import tasks
from halfpint.stage import stage_class

HERE = Path(__file__).resolve().parent
STUB = HERE.parent / "src" / "halfpint" / "__init__.pyi"
PUBLIC = (
    ("halfpint.errors", "HalfpintError"), ("halfpint.model", "Answer"), ("halfpint.model", "Model"),
    ("halfpint.model", "Score"), ("halfpint.model", "load"),
)  # fmt: skip
PATHS = ("BASE", "BUNDLE", "DATA", "FILE", "FOLDER", "MODEL", "OUT", "STUDENT", "TEACHER")
ROOMS = ("models", "train", "compress", "distil", "export")
NOTE = "<!-- Made by docs/generate.py from the code: change the code, then run it again. -->"

RESUMES = ", ".join(f"`{name}`" for name in command_names() if command_class(name).resumes)
CODES = {
    0: "done",
    1: "`check`: the data has errors",
    errors.EXIT_BAD_INPUT: "bad input: one message that starts with `error:`; nothing was written",
    errors.EXIT_INFEASIBLE: "`fit`: no candidate meets the limits; everything that was tried is kept. `compress`: the "
    "result is larger than `--target`, or keeps less than `--keep`. `models`: none passes the filters",
    errors.EXIT_FAULT: "a fault in halfpint itself: the message says in which file its traceback is",
    errors.EXIT_INTERRUPTED: f"interrupted (Ctrl-C); these go on where they stopped when typed again: {RESUMES}",
}


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def shown_default(one: Setting) -> str:
    """A default as a person types it; nothing for what is empty or not set."""
    if one.required:
        return "*required*"
    empty = one.default is None or one.default is False or one.default in ("", ())
    return "" if empty else f"`{one.default}`"


def cli_page() -> str:
    """docs/cli.md."""
    lines = [NOTE, "", "# The command line", "", cli.ABOUT, ""]
    lines += table(("exit code", "meaning"), [(str(code), meaning) for code, meaning in CODES.items()])
    kinds = [command_class(name) for name in command_names()]
    for group in Group:
        lines += ["", f"## {group.value}", ""]
        lines += [
            f"- [`halfpint {kind.word()}`](#halfpint-{kind.word()}): {summary(kind)}"
            for kind in kinds
            if kind.group == group
        ]
        for kind in kinds:
            lines += ["", *command_section(kind)] if kind.group == group else []
    return "\n".join(lines) + "\n"


def command_section(kind: type[Command]) -> Iterator[str]:
    """The part of cli.md on one command."""
    places = [one for one in settings_of(kind) if one.positional]
    options = [one for one in settings_of(kind) if not one.positional]
    words = ["halfpint", kind.word(), *(one.metavar if one.required else f"[{one.metavar}]" for one in places)]
    words += [f"{one.flag} {one.metavar}" for one in options if one.required]
    words += ["[OPTIONS]"] if any(not one.required for one in options) else []
    yield from (f"### halfpint {kind.word()}", "", about(kind), "", "```sh", " ".join(words), "```", "")
    yield from (f"- `{one.metavar}`: {one.help}" for one in places)
    rows = []
    for one in options:
        by_env = f" The environment variable {one.env} sets it too." if one.env else ""
        kinds = f"{type_name(one.kind)}, repeatable" if one.many else type_name(one.kind)
        rows.append((f"`{one.flags}`", kinds, shown_default(one), one.help + by_env))
    if rows:
        yield from ("", *table(("option", "type", "default", "meaning"), rows))


def stub() -> str:
    """src/halfpint/__init__.pyi: every command as a typed function."""
    functions, sources = [], dict[str, set[str]]()
    for name in registry.variants("commands"):
        kind = command_class(name.rstrip("_"))
        given = typing.get_type_hints(kind.run)["return"]
        results = typing.get_args(given) or (given,)
        for result in results:
            sources.setdefault(result.__module__, set()).add(result.__name__)
        lines = [f"def {name}("]
        for number, one in enumerate(in_python(kind)):
            lines += (
                ["    *,"] if not one.positional and (number == 0 or in_python(kind)[number - 1].positional) else []
            )
            default = one.default.as_posix() if isinstance(one.default, Path) else one.default
            lines.append(f"    {one.name}: {stub_type(one)}{'' if one.required else f' = {python(default)}'},")
        lines += [] if any(not one.positional for one in in_python(kind)) else ["    *,"]
        lines += ["    quiet: bool = False,", f") -> {' | '.join(result.__name__ for result in results)}:"]
        lines += textwrap.indent(f'"""{document(kind)}\n"""', "    ").splitlines()
        functions.append("\n".join(lines))
    lines = [f"# {NOTE[5:-4]}", "", "from collections.abc import Mapping, Sequence", "from os import PathLike", ""]
    lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(sources.items())]
    lines += [f"from {module} import {name} as {name}" for module, name in PUBLIC]
    lines += ["", "_Path = str | PathLike[str]", "_Texts = str | Sequence[str]", "", "__version__: str", ""]
    return "\n".join(lines) + "\n" + "\n\n".join(functions) + "\n"


def stub_type(one: Setting) -> str:
    """The type of an argument in Python, which takes more than the field has."""
    if one.many:
        return "_Texts | Mapping[str, object]" if "=" in one.metavar else "_Texts"
    is_path = one.kind is Path or (one.kind is str and one.metavar in PATHS)
    name = "_Path" if is_path else one.kind.__name__
    return f"{name} | None" if one.optional else name


def python(value: Any) -> str:
    """A value as ruff writes it."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def type_name(kind: Any) -> str:
    """A type in words: "text", "number", "flag"."""
    if typing.get_origin(kind) is tuple:
        return "list of texts"
    return {str: "text", int: "whole number", float: "number", bool: "flag", Path: "path"}[kind]


def stages_page() -> str:
    """docs/stages.md."""
    lines = [NOTE, "", "# Recipes: the parts and their settings", ""]
    lines += [
        "A recipe is a TOML file: `[data]`, `[task]`, then one `[[stage]]` after the other, in the order in which they",
        "run. `halfpint init DATA` writes one, `halfpint run RECIPE` runs it, `--set stage.2.epochs=3` changes a",
        "setting (stages count from 1). An unknown key, a wrong type or an order that does not fit is told before any",
        "work. Each stage takes a bundle of a kind that it *needs* and *gives* a new one; `same` leaves the kind as it",
        "was.",
    ]  # fmt: skip
    for task in sorted(tasks(), key=lambda one: (not one.default, one.name)):
        lines += ["", f'## `[data]` with `name = "{task.name}"` in `[task]`: {task.about}', ""]
        lines += settings_section(task.data)
    names = ", ".join(f"`{name}`" for name in registry.variants("tasks"))
    metric = "what choices are made on; empty lets the data choose"
    rows = [("`name`", "text", "`classify`", f"the task: {names}"), ("`metric`", "text", "empty", metric)]
    lines += ["", "## `[task]`", "", *table(("setting", "type", "default", "meaning"), rows)]
    for room in ROOMS:
        for name in registry.variants(room):
            try:
                kind = stage_class(f"{room}/{name}", "docs")
            except HalfpintError:  # a file of the room that is no stage
                continue
            needs = " or ".join(f"`{one}`" for one in kind.needs)
            lines += ["", f'## `use = "{room}/{name}"`', "", f"Needs {needs}, gives `{kind.gives}`.", ""]
            lines += settings_section(kind)
    return "\n".join(lines) + "\n"


def settings_section(kind: type[Any]) -> Iterator[str]:
    """What a settings dataclass is, and its fields."""
    yield about(kind)
    help_texts: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        help_texts |= arguments(one.__dict__.get("__doc__") or "")
    hints = typing.get_type_hints(kind)
    rows = [
        (f"`{item.name}`", "true or false" if hints[item.name] is bool else type_name(hints[item.name]),
         toml_default(item.default), help_texts[item.name])
        for item in dataclasses.fields(kind)
    ]  # fmt: skip
    if rows:
        yield from ("", *table(("setting", "type", "default", "meaning"), rows))
    else:
        yield from ("", "No settings.")


def toml_default(value: Any) -> str:
    """A default as TOML spells it."""
    if value is dataclasses.MISSING:
        return "*required*"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else "empty"


README = HERE.parent / "README.md"


def readme() -> str:
    """README.md with the results that it shows."""
    return figures.filled(README.read_text(encoding="utf-8"))


def models_md() -> str:
    """docs/models.md."""
    return "\n".join([NOTE, "", *models_page.lines(table)]) + "\n"


PAGES = {
    HERE / "cli.md": cli_page, HERE / "stages.md": stages_page, HERE / "models.md": models_md, STUB: stub,
    README: readme,
}  # fmt: skip


def main() -> int:
    """Write the pages, or compare them; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is not up to date")
    check = parser.parse_args().check
    stale = []
    for path, make in PAGES.items():
        name, text = path.name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'not up to date, run python docs/generate.py:' if check else 'wrote'} {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
