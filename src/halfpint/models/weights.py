"""What kinds of numbers a bundle's weights are, without reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfpint.bundle import Bundle, safetensors_header
from halfpint.errors import need

WEIGHTS_FILE = "model.safetensors"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""Floating-point types by safetensors' names, as PyTorch calls them."""


def header_of(path: Path) -> dict[str, Any]:
    """The header of a safetensors file without its metadata: by tensor its dtype, shape and data_offsets."""
    header = safetensors_header(path)
    header.pop("__metadata__", None)
    return header


def weight_types(bundle: Bundle) -> dict[str, int]:
    """Bytes of each type of number in model.safetensors, floating-point or not, by safetensors' names."""
    found: dict[str, int] = {}
    for entry in header_of(bundle.path / WEIGHTS_FILE).values():
        start, stop = entry["data_offsets"]
        found[entry["dtype"]] = found.get(entry["dtype"], 0) + stop - start
    found.pop("I64", None)  # numbers of positions
    found.pop("BOOL", None)
    return found


def as_held(bundle: Bundle, model: Any) -> Any:
    """`model`, a module of PyTorch, in the type that most of the bundle's weights have, so that it takes no more bytes
    for having been trained; as it is where they are of no such type."""
    if not (bundle.path / WEIGHTS_FILE).is_file():
        return model
    held = weight_types(bundle)
    name = DTYPES.get(max(held, key=lambda name: held[name]))
    return model.to(getattr(need("torch", "writing weights"), name)) if name else model
