"""Architectures that transformers does not have: each is a file in `models` that says which one it adds.

Such a file has a line `ARCHITECTURE = "name"` with the `model_type` of its configuration, and registers its classes
with the Auto classes of transformers when it is imported. The files are found by that line; there is no list of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from halfpint import registry
from halfpint.errors import HalfpintError, need

_LINE = re.compile(rb'^ARCHITECTURE = "(\w+)"', re.MULTILINE)


@cache
def own() -> dict[str, str]:
    """The `model_type` of each architecture that halfpint, or a package that joined it, adds; with its module."""
    found = {}
    for module in registry.variants("models").values():
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec else None
        line = _LINE.search(Path(origin).read_bytes()) if origin and Path(origin).is_file() else None
        if line:
            found[line[1].decode()] = module
    return found


@cache
def register() -> None:
    """Make the Auto classes of transformers know all of `own()`; PyTorch and transformers are imported."""
    for module in own().values():
        importlib.import_module(module)


def need_transformers(what: str) -> Any:
    """The package transformers, which knows the architectures of `own()` too.

    Args:
        what: what needs it, for the error where it is not installed.

    Raises:
        MissingError: PyTorch or transformers is not installed.
    """
    need("torch", what)
    transformers = need("transformers", what)
    # It tells of kernels for graphics processors that are not installed, as if something were wrong.
    logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    register()
    return transformers


def refuse_foreign(config: Mapping[str, Any], place: str) -> None:
    """Refuse a model that brings the program of its architecture along and is of none that is known here.

    Raises:
        HalfpintError: such a one. Of a known architecture the weights are opened without that program.
    """
    if "auto_map" not in config:
        return
    name = str(config.get("model_type"))
    if name not in need_transformers("a model that brings code").models.auto.configuration_auto.CONFIG_MAPPING:
        raise HalfpintError(
            place, wanted="an architecture that transformers or halfpint knows", got=f"{name!r}, with code of its own",
            said=f"{place}: the architecture {name!r} is known only to the code in the model's folder, and halfpint "
            "runs no code from a model's folder: it could do anything. Take a model of a known architecture; a package "
            "that you trust can add one (see CONTRIBUTING.md).",
        )  # fmt: skip
