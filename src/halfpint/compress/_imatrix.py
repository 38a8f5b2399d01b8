"""Importance matrices in llama.cpp's form: how large what comes into each column of each matrix is.

llama-quantize --imatrix reads what is written here, and what llama-imatrix wrote is read here.
Source: llama.cpp, tools/imatrix/imatrix.cpp (the GGUF form: for each matrix a tensor NAME.in_sum2 of sums of squares
and one, NAME.counts, of how many they are of).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from halfpint.errors import HalfpintError, need, no_path

if TYPE_CHECKING:
    import torch

IMATRIX_FILE = "imatrix.gguf"
_SUMS, _COUNTS = ".in_sum2", ".counts"


def write_imatrix(path: Path, config: Any, importance: Mapping[str, torch.Tensor], tokens: int, row: int) -> None:
    """Write mean squares of the inputs of matrices.

    Args:
        config: the model's, for llama.cpp's names.
        importance: by the name of the weight in the model, float32 of shape (inputs,).
        tokens: that they are a mean over.
        row: tokens of a row of text.
    """
    gguf = need("gguf", "an importance matrix")
    names = _names(config)
    writer = gguf.GGUFWriter(path, "llama")
    try:
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", ["calibration"])
        writer.add_uint32("imatrix.chunk_count", max(1, tokens // row))
        writer.add_uint32("imatrix.chunk_size", row)
        for name, values in importance.items():
            found = names(name)
            if found is not None:
                writer.add_tensor(f"{found}{_SUMS}", (values.numpy() * np.float32(tokens)).reshape(1, -1))
                writer.add_tensor(f"{found}{_COUNTS}", np.full((1, 1), tokens, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def importance_of(path: str, model: Any, matrices: Iterable[Any]) -> dict[str, torch.Tensor]:
    """As `read_imatrix` for the matrices of `model`; nothing where no file is named."""
    wanted = {matrix.name: matrix.columns for matrix in matrices}
    return read_imatrix(Path(path), model.config, wanted) if path else {}


def read_imatrix(path: Path, config: Any, wanted: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Mean squares of the inputs of matrices, those of them that the file has.

    Args:
        wanted: by the name of the weight in the model, how many inputs it has.

    Raises:
        HalfpintError: no such file, not an importance matrix, or one of another model.
    """
    gguf, torch = need("gguf", "an importance matrix"), need("torch", "quantising")
    if not path.is_file():
        raise no_path(str(path), "an importance matrix")
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError) as error:
        raise HalfpintError(
            str(path), wanted="an importance matrix as GGUF", got=str(error)[:200],
            todo="Make it anew with a llama-imatrix of 2025 or later: older ones write another form.",
        ) from error  # fmt: skip
    held = {tensor.name: np.array(tensor.data, dtype=np.float32).ravel() for tensor in reader.tensors}
    names, found = _names(config), {}
    for name, columns in wanted.items():
        key = names(name)
        sums, counts = held.get(f"{key}{_SUMS}"), held.get(f"{key}{_COUNTS}")
        if sums is None or counts is None:
            continue
        if len(sums) != columns or not counts[0] > 0 or not np.isfinite(sums).all():
            raise HalfpintError(
                f"{path}: {key}", wanted=f"{columns} sums of squares and a count", got=f"{len(sums)} of {counts[0]:g}",
                todo="Give the importance matrix of this model.",
            )  # fmt: skip
        mean = sums / counts[0]
        # What never came in still counts a little, or its weights would be anything.
        found[name] = torch.from_numpy(np.maximum(mean, 1e-4 * max(float(mean.mean()), 1e-20)))
    if not found:
        raise HalfpintError(str(path), wanted="an importance matrix of this model", got="none of its matrices in it")
    return found


def _names(config: Any) -> Any:
    """What gives llama.cpp's name of a weight, or None."""
    gguf = need("gguf", "an importance matrix")
    wanted = str(config.model_type).removesuffix("_text").replace("mistral", "llama")  # which are one there
    number = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == wanted), None)
    if number is None:
        return lambda name: None
    held = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    return lambda name: held.get_name(name, try_suffixes=(".weight",))
