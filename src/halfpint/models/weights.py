"""What kinds of numbers a bundle's weights are, without reading them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.bundle import Bundle, safetensors_header
from halfpint.errors import HalfpintError, need

WEIGHTS_FILE = "model.safetensors"
_NAMED = 3  # names of tensors in an error
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


def open_whole(kind: Any, folder: Path) -> Any:
    """The model in `folder` by an Auto class `kind`, in evaluation mode, fp32, on the CPU, with every weight read.

    transformers fills what a file lacks with random numbers, and only says so.

    Raises:
        HalfpintError: weights are missing, or have other shapes than config.json says; some of them are named.
    """
    logging = need("transformers", "a model").utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, found = kind.from_pretrained(
            folder, dtype="float32", local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        logging.set_verbosity(level)
    shapes = {
        str(name): f"{tuple(held)} in place of {tuple(wanted)}" for name, held, wanted in found["mismatched_keys"]
    }
    missing = sorted(set(map(str, found["missing_keys"])) - set(shapes))
    # A head or buffer that this model has not may lie beside it; a layer more is a sign of another configuration.
    forms = {re.sub(r"\d+", "0", name) for name in model.state_dict()}
    unknown = sorted(map(str, found["unexpected_keys"]))
    if not missing and not shapes and not any(re.sub(r"\d+", "0", name) in forms for name in unknown):
        return model.eval()
    said = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
    said += [f"{len(shapes)} of another shape ({_some([f'{name}: {one}' for name, one in shapes.items()])})"] * bool(
        shapes
    )
    said += [f"{len(unknown)} that it does not have ({_some(unknown)})"] * bool(unknown)
    raise HalfpintError(
        str(folder), wanted=f"the weights of a {model.config.model_type} as its config.json describes it",
        got=", ".join(said), todo="Copy or make the model again: its weights and its config.json are of two models.",
    )  # fmt: skip


def _some(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def as_held(bundle: Bundle, model: Any) -> Any:
    """`model`, a module of PyTorch, in the type that most of the bundle's weights have, so that it takes no more bytes
    for having been trained; as it is where they are of no such type."""
    if not (bundle.path / WEIGHTS_FILE).is_file():
        return model
    held = weight_types(bundle)
    name = DTYPES.get(max(held, key=lambda name: held[name]))
    return model.to(getattr(need("torch", "writing weights"), name)) if name else model
