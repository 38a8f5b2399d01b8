"""The report of a run as one page without outside parts, and as JSON beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from halfpint.errors import HalfpintError
from halfpint.files import write_text
from halfpint.report import comparison_page, details, language_page, sections, units
from halfpint.report.language import KIND
from halfpint.report.learning import learning
from halfpint.report.sections import Part

# Their keys come from the data or the machine, not from the layout of a report: sorted, two reports compare well.
_SORTED = ("labels", "metrics", "packages", "test")
_ORDER = (
    sections.verdict,
    sections.commands,
    sections.picture,
    learning,
    sections.candidates,
    sections.results,
    details.confused,
    details.classes,
    details.own_tables,
    details.worst,
    details.data_found,
    details.energy,
    details.machine,
    details.recipe,
)


def plain(value: object, key: str = "") -> Any:
    """`value` as JSON takes it: NaN and infinity become None, NumPy figures plain ones, paths text.

    Raises:
        HalfpintError: a value of a kind that JSON has no word for.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return units.number(value)
    if isinstance(value, dict):
        keys = sorted(value, key=str) if key in _SORTED else list(value)
        return {str(name): plain(value[name], str(name)) for name in keys}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist(), key)
    raise HalfpintError(
        f"the report, at {key or 'its top'}",
        wanted="text, a number, a list or a mapping",
        got=f"{type(value).__module__}.{type(value).__qualname__}",
        todo="Turn it into one of those before writing the report.",
    )


def as_json(report: dict[str, Any]) -> str:
    """The report as indented JSON; it never holds NaN or infinity."""
    return json.dumps(plain(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _layout(
    report: dict[str, Any],
) -> tuple[Callable[[dict[str, Any]], str], tuple[Callable[[dict[str, Any]], Part], ...]]:
    """What the title and the parts of the page are made by: of a language model, of several that are compared, or of a
    choice among candidates."""
    if report.get("kind") == KIND:
        return language_page.headline, language_page.ORDER
    if report.get("kind") == comparison_page.KIND:
        return comparison_page.headline, comparison_page.ORDER
    return sections.headline, _ORDER


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def render(report: dict[str, Any]) -> str:
    """The page: one HTML document with its style, script and picture inside, which asks nothing of the network.

    Args:
        report: the report of a run; missing keys leave their part out, unknown ones are ignored.
    """
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Even a text that slipped through unescaped could neither run nor load anything.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    headline, order = _layout(report)
    parts = [part for part in (build(report) for build in order) if part.html]
    links = "".join(f'<li><a href="#{part.key}">{part.short}</a></li>' for part in parts if part.short)
    task = units.text(report.get("task") or "run")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{units.text(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{headline(report)} · halfpint {task}</title>'
        f"<style>{_file('page.css')}</style></head><body>"
        '<a class="skip" href="#main">Skip to the report</a>'
        '<header class="top"><p class="mark">halfpint</p>'
        f'<nav aria-label="Parts of the report"><ul>{links}</ul></nav></header>'
        f'<main id="main">{"".join(part.html for part in parts)}</main>'
        f"<footer>{details.colophon(report)}</footer><script>{script}</script></body></html>\n"
    )


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """Write `report.json` and `report.html` into `folder`, made if missing, and give the path of the page.

    Raises:
        HalfpintError: `folder` is a file or cannot be written, or the report holds what JSON has no word for.
    """
    folder = Path(folder)
    words = as_json(report)
    page = render(report)
    try:
        write_text(folder / "report.json", words)
        write_text(folder / "report.html", page.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise HalfpintError(
            shlex.quote(str(folder)),
            wanted="a folder that can be written",
            got=str(error.strerror or error),
            todo="Name another folder, or free this one.",
        ) from error
    return folder / "report.html"
