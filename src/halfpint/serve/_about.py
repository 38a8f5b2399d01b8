"""What the page of a server says of its model: a name that means something, and the report of the run that made it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

from halfpint.serve import _http

_CHOSEN, _REPORT = "best", "report.html"  # as a run names what it chose, and what it says of it


def title_of(bundle: Path) -> str:
    """The name of a model for people: its folder's, or that of the run whose best one it is."""
    path = bundle.resolve()
    return path.parent.name or path.name if path.name == _CHOSEN else path.name


def add_report(app: FastAPI, bundle: Path, *, is_local: bool) -> bool:
    """Give the report of the run at /report, to this machine alone: it shows texts that the model learned from."""
    path = bundle.resolve().parent / _REPORT
    if not is_local or bundle.resolve().name != _CHOSEN or path.is_symlink() or not path.is_file():
        return False

    @app.get("/report", include_in_schema=False)
    async def report() -> Response:
        return _http.page_response(path.read_text(encoding="utf-8"), style_attributes=True)

    return True
