"""The pages to try a model, each with the one style of all pages in it."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def style() -> str:
    """The CSS of all pages."""
    return (_HERE / "style.css").read_text(encoding="utf-8")


def page_of(name: str) -> str:
    """The page NAME.html with the style in it, and with ask.js where it names that: so it needs nothing else."""
    html = (_HERE / f"{name}.html").read_text(encoding="utf-8")
    html = html.replace("/* ask.js */", (_HERE / "ask.js").read_text(encoding="utf-8"))
    return html.replace("<style></style>", f"<style>\n{style()}</style>")
