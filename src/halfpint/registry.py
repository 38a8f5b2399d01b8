"""Rooms and their variants: the file's name is the registered name; other packages join by entry points."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from halfpint.errors import HalfpintError, nearest

_HERE = Path(__file__).parent


@cache
def variants(room: str) -> dict[str, str]:
    """Names in `room` (such as "tasks"), each with the module that holds it; private files do not count."""
    found = {
        info.name: f"halfpint.{room}.{info.name}"
        for info in pkgutil.iter_modules([str(_HERE / room)])
        if not info.name.startswith("_")
    }
    for point in entry_points(group=f"halfpint.{room}"):
        found.setdefault(point.name, point.value)
    return dict(sorted(found.items()))


def load(room: str, name: str, place: str | None = None) -> ModuleType:
    """The module of variant `name` in `room`.

    Raises:
        HalfpintError: there is no such variant; `place` says where the name was written.
    """
    modules = variants(room)
    if name not in modules:
        raise HalfpintError(
            place or room,
            wanted=f"a name in {room}",
            got=repr(name),
            todo=nearest(name, modules),
            said=f"{place or room}: there is no {name!r}.",
        )
    return importlib.import_module(modules[name])
