"""Write docs/cli.md and docs/stages.md from the code; with --check say whether they are what the code gives.

The command line and the settings of the stages are declared once, in src/halfpint: these pages can therefore not drift.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from halfpint import cli, errors, registry
from halfpint.data.corpus import CorpusData
from halfpint.data.prepare import Data
from halfpint.errors import HalfpintError
from halfpint.pipeline import stage_class

HERE = Path(__file__).resolve().parent
ROOMS = ("models", "train", "compress", "distil", "export")
NOTE = "<!-- Made by docs/generate.py from the code: change the code, then run it again. -->"

CODES = {
    0: "done",
    1: "`check` found errors in the data",
    errors.EXIT_BAD_INPUT: "bad input: one message that starts with `error:`, nothing written",
    errors.EXIT_INFEASIBLE: "`fit` found no candidate that meets the limits; everything tried is kept. Or what "
    "`compress` wrote has more bytes than `--target`, or keeps less than `--keep`",
    errors.EXIT_INTERRUPTED: "interrupted (Ctrl-C); the same `fit` or `run` again goes on where it stopped",
}


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def shown_default(value: Any) -> str:
    """A default as a person types it; nothing for what is empty or not set."""
    if value is None or value is False or value == "" or value is inspect.Parameter.empty:
        return ""
    return f"`{value}`"


def cli_page() -> str:
    """docs/cli.md."""
    lines = [NOTE, "", "# The command line", "", str(cli.app.info.help), ""]
    lines += table(("exit code", "meaning"), [(str(code), meaning) for code, meaning in CODES.items()])
    for command in cli.app.registered_commands:
        assert command.callback is not None
        lines += ["", *command_section(command.callback)]
    return "\n".join(lines) + "\n"


def command_section(function: Callable[..., Any]) -> Iterator[str]:
    """The part of cli.md on one command."""
    name = function.__name__.rstrip("_")
    hints = typing.get_type_hints(function, include_extras=True)
    arguments, options = [], []
    for parameter in inspect.signature(function).parameters.values():
        kind, info = typing.get_args(hints[parameter.name])[:2]
        required = parameter.default is inspect.Parameter.empty
        if type(info).__name__ == "ArgumentInfo":
            metavar = info.metavar or parameter.name.upper()
            arguments.append((metavar if required else f"[{metavar}]", info.help))
            continue
        flags = [word for word in (info.default, *info.param_decls) if isinstance(word, str)]
        flag = ", ".join(f"`{word}`" for word in flags or [f"--{parameter.name.replace('_', '-')}"])
        told = info.help + (f" The environment's {info.envvar} gives it too." if info.envvar else "")
        options.append((flag, type_name(kind), shown_default(parameter.default), told))
    words = " ".join(["halfpint", name, *(metavar for metavar, _ in arguments), *(["[OPTIONS]"] if options else [])])
    yield from (f"## halfpint {name}", "", inspect.getdoc(function) or "", "", "```sh", words, "```", "")
    yield from (f"- `{metavar.strip('[]')}`: {told}" for metavar, told in arguments)
    if options:
        yield from ("", *table(("option", "type", "default", "meaning"), options))


def type_name(kind: Any) -> str:
    """A type in words: "text", "number", "flag"."""
    parts = [part for part in typing.get_args(kind) if part is not type(None)] if _is_optional(kind) else [kind]
    plain = parts[0]
    if typing.get_origin(plain) is tuple:
        return "list of texts"
    if typing.get_origin(plain) is list:
        return f"{type_name(typing.get_args(plain)[0])}, repeatable"
    return {str: "text", int: "whole number", float: "number", bool: "flag", Path: "path"}[plain]


def _is_optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


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
    lines += ["", "## `[data]`: labelled texts", "", *settings_section(Data)]
    lines += ["", '## `[data]`: running text (with `name = "predict"` in `[task]`)', "", *settings_section(CorpusData)]
    tasks = ", ".join(f"`{name}`" for name in registry.variants("tasks"))
    metric = "what choices are made on; empty lets the data choose"
    rows = [("`name`", "text", "`classify`", f"the task: {tasks}"), ("`metric`", "text", "empty", metric)]
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
    told: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        told |= explained(inspect.cleandoc(one.__dict__.get("__doc__") or ""))
    hints = typing.get_type_hints(kind)
    rows = [
        (f"`{item.name}`", "true or false" if hints[item.name] is bool else type_name(hints[item.name]),
         toml_default(item.default), told[item.name])
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


def about(kind: type[Any]) -> str:
    """A docstring without its section Args, one paragraph a line."""
    text = re.sub(r"\nArgs:\n(?: .*\n?|\n(?= ))*", "\n", inspect.cleandoc(kind.__doc__ or ""))
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def explained(doc: str) -> dict[str, str]:
    """Setting -> its text in the section Args of a docstring; "a, b: text" explains both."""
    found = re.search(r"(?:^|\n)Args:\n((?: .*(?:\n|$)|\n(?= ))*)", doc)
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


PAGES = {"cli.md": cli_page, "stages.md": stages_page}


def main() -> int:
    """Write the pages, or compare them; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is not up to date")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        path, text = HERE / name, make()
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
