"""What tells two runs apart: the settings that they were given."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LATER = {"later": True}
"""Metadata of a field that came after there were runs without it: at its default it tells no run from an older one."""


def identity(given: DataclassInstance) -> dict[str, Any]:
    """The fields with their values; of those that came later only what differs from the default."""
    found = {item.name: getattr(given, item.name) for item in fields(given)}
    later = {item.name: item.default for item in fields(given) if item.metadata.get("later")}
    return {name: value for name, value in found.items() if name not in later or value != later[name]}
