"""What kinds of numbers a bundle's weights are, without reading them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
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


def open_whole(kind: Any, folder: Path, **more: Any) -> Any:
    """The model in `folder` by an Auto class `kind`, in evaluation mode, fp32, on the CPU, with every weight read.

    transformers fills what a file lacks with random numbers, and only says so.

    Args:
        more: what else `from_pretrained` is given.

    Raises:
        HalfpintError: weights are missing, or have other shapes than config.json says; some of them are named.
    """
    logging = need("transformers", "a model").utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, found = kind.from_pretrained(
            folder,
            dtype="float32",
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **more,
        )
    finally:
        logging.set_verbosity(level)
    shapes = {str(name): _in_place(held, wanted) for name, held, wanted in found["mismatched_keys"]}
    missing = set(map(str, found["missing_keys"])) - set(shapes)
    # A head or a buffer that this model has not may lie beside it; weights of parts that it has are another model's.
    parts = {re.sub(r"\d+", "0", name) for name, _ in model.named_modules() if name}
    buffers = {name for name, _ in model.named_buffers()}
    unknown = set(map(str, found["unexpected_keys"])) - buffers
    if not missing and not shapes:
        unknown = {name for name in unknown if re.sub(r"\d+", "0", name.rpartition(".")[0]) in parts}
    refuse_other(str(folder), model.config.model_type, missing, shapes, unknown)
    return model.eval()


def refuse_other(
    place: str, what: str, missing: Collection[str], shapes: Mapping[str, str], unknown: Collection[str] = ()
) -> None:
    """Refuse weights that are not those of a model's configuration; some of them are named.

    Args:
        what: the architecture; missing: names that are not there.
        shapes: names with the shape that is there and the one that should be; unknown: names that it has no place for.

    Raises:
        HalfpintError: there are any.
    """
    said = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
    if shapes:
        said.append(f"{len(shapes)} of another shape ({_some([f'{name}: {one}' for name, one in shapes.items()])})")
    if unknown:
        said.append(f"{len(unknown)} that it does not have ({_some(unknown)})")
    if said:
        raise HalfpintError(
            place, wanted=f"the weights of a {what} as its config.json describes it", got=", ".join(said),
            todo="Copy or make the model again: its weights and its config.json are of two models.",
        )  # fmt: skip


def other_shapes(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Of tensors that both have, those whose shapes differ, with both shapes in words."""
    both = [name for name in wanted if name in held]
    return {
        name: _in_place(held[name].shape, wanted[name].shape) for name in both if held[name].shape != wanted[name].shape
    }


def _in_place(held: Sequence[int], wanted: Sequence[int]) -> str:
    return f"{tuple(held)} in place of {tuple(wanted)}"


def _some(found: Collection[str]) -> str:
    """The first of some names."""
    names = sorted(found)
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def as_held(bundle: Bundle, model: Any) -> Any:
    """`model`, a module of PyTorch, in the type that most of the bundle's weights have, so that it takes no more bytes
    for having been trained; as it is where they are of no such type."""
    if not (bundle.path / WEIGHTS_FILE).is_file():
        return model
    held = weight_types(bundle)
    name = DTYPES.get(max(held, key=lambda name: held[name]))
    return model.to(getattr(need("torch", "writing weights"), name)) if name else model
