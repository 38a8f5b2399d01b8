"""The file of codes beside a quantised model's weights: its matrices in llama.cpp's blocks, as a GGUF file has them.

A quantised bundle holds both: model.safetensors has the values that the codes stand for, so that any engine runs it and
an export can be held against it; codes.safetensors has the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, need

CODES_FILE = "codes.safetensors"
_TYPES = "types"


class Blocks(NamedTuple):
    """A matrix in blocks.

    Attributes:
        type: llama.cpp's name of the type, in small letters.
        bytes: uint8 of shape (outputs, bytes of a row), inputs along the row, whatever way round the model holds it.
    """

    type: str
    bytes: npt.NDArray[np.uint8]


def write_codes(folder: Path, matrices: Mapping[str, Blocks]) -> None:
    """Write the file of codes into `folder`; `matrices` by the names of the model's weights."""
    save_file = need("safetensors.numpy", "quantising").save_file
    types = json.dumps({name: matrices[name].type for name in sorted(matrices)})
    save_file({name: np.ascontiguousarray(one.bytes) for name, one in matrices.items()}, folder / CODES_FILE,
              metadata={_TYPES: types})  # fmt: skip


def read_types(folder: Path) -> dict[str, str]:
    """The type of each matrix in `folder`'s file of codes; empty where there is no such file.

    Raises:
        HalfpintError: the file is damaged.
    """
    path = folder / CODES_FILE
    if not path.is_file():
        return {}
    try:
        with need("safetensors", "reading codes").safe_open(path, framework="numpy") as held:
            found: dict[str, str] = json.loads(held.metadata()[_TYPES])
    except Exception as error:
        raise HalfpintError(
            str(path), wanted="a file of codes", got=str(error)[:200], todo="Quantise the model again."
        ) from error
    return found


def read_blocks(folder: Path, name: str) -> Any:
    """The bytes of one matrix: uint8 of shape (outputs, bytes of a row)."""
    with need("safetensors", "reading codes").safe_open(folder / CODES_FILE, framework="numpy") as held:
        return held.get_tensor(name)
