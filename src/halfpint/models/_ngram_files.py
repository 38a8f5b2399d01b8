"""The tables of an n-gram model as model.safetensors holds them: written block by block, in few bytes an n-gram."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.models._ngram_counts import Ints
from halfpint.models._ngram_tables import Tables

_BLOCK = 1 << 20  # n-grams turned at once
_NAMES = {"<f4": "F32", "|u1": "U8", "<u2": "U16", "<u4": "U32", "<u8": "U64"}


def write_tables(tables: Tables, path: Path) -> None:
    """Write `log10.N`, `backoff.N`, `word.N` and `children.N` of each order (see `NgramModel.save`) to `path`.

    The file is what `safetensors` writes, which first makes a copy of everything: this takes a block at a time, and a
    few bytes for each n-gram that has longer ones.

    Source: safetensors' description of its format: the header's length (8 bytes), the header (JSON, padded to 8 bytes),
    then the tensors, those with the widest numbers first.
    """
    size = len(tables.words)
    word = np.min_scalar_type(size)
    arrays: dict[str, npt.NDArray[Any]] = {}
    types: dict[str, tuple[np.dtype[Any], int]] = {}
    for order, values in enumerate(tables.log10, start=1):
        arrays[f"log10.{order}"] = values
    for order, values in enumerate(tables.backoff, start=1):
        arrays[f"backoff.{order}"] = values
    for order, keys in enumerate(tables.keys, start=2):
        arrays[f"children.{order - 1}"] = _children(keys, size, tables.ngrams[order - 2])
        types[f"word.{order}"] = word, len(keys)
    types |= {name: (values.dtype, len(values)) for name, values in arrays.items()}
    header, stop = {}, 0
    for name in sorted(types, key=lambda name: (-types[name][0].itemsize, types[name][0].kind, name)):
        dtype, length = types[name]
        start, stop = stop, stop + length * dtype.itemsize
        little = dtype.newbyteorder("<").str
        header[name] = {"dtype": _NAMES[little], "shape": [length], "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            dtype = types[name][0].newbyteorder("<")
            blocks = _blocks(arrays[name]) if name in arrays else _words(tables.keys[int(name.split(".")[1]) - 2], size)
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype=dtype).data)


def read_tables(words: list[str], tensors: dict[str, Any], order: int) -> Tables:
    """The tables in the tensors of model.safetensors."""
    keys = []
    for number in range(2, order + 1):
        children, last = tensors[f"children.{number - 1}"], tensors[f"word.{number}"]
        contexts = np.repeat(np.arange(len(children), dtype=np.int64), children)
        keys.append(contexts * len(words) + last)
    log10 = tuple(tensors[f"log10.{number}"] for number in range(1, order + 1))
    backoff = tuple(tensors[f"backoff.{number}"] for number in range(1, order))
    return Tables(words, tuple(keys), log10, backoff)


def _blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(values), _BLOCK):
        yield values[start : start + _BLOCK]


def _words(keys: Ints, size: int) -> Iterator[npt.NDArray[Any]]:
    """The last words of n-grams, by their keys."""
    for block in _blocks(keys):
        yield block - block // size * size


def _children(keys: Ints, size: int, contexts: int) -> npt.NDArray[Any]:
    """How many n-grams go on from each context, in the smallest unsigned integers that hold them."""
    children = np.zeros(contexts, dtype=np.int32)
    for block in _blocks(keys):
        above = block // size
        first = np.flatnonzero(np.diff(above, prepend=-1))
        children[above[first]] += np.diff(np.append(first, len(above))).astype(np.int32)
    return children.astype(np.min_scalar_type(int(children.max(initial=0))))
