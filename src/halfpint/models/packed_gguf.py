"""GGUF files in fewer bytes, bit for bit the same when they are read: Huffman codes for each kind of byte.

The bytes of a block type are of several kinds (the two of an fp16 scale, those of an offset, codes), each with a
distribution of its own; beside each other they look like noise. Here each kind of each tensor is a stream, coded by
DEFLATE's Huffman codes alone (matches there are none); what is around the tensors is compressed plainly.

Source: Huffman 1952; RFC 1951 (DEFLATE). The layout of the blocks is llama.cpp's (ggml-common.h).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, need

GGUF_FILE = "model.gguf"
PACKED_FILE = "model.gguf.packed"

Bytes = npt.NDArray[np.uint8]

_MAGIC = b"halfpint packed GGUF 1\n"
# Bytes of a block, by the type's name, and how they divide: lengths of the parts, each byte of a part of two apart.
_FIELDS: dict[str, tuple[int, ...]] = {
    "F32": (1, 1, 1, 1),
    "F16": (1, 1),
    "BF16": (1, 1),
    "Q8_0": (1, 1, 32),
    "Q4_0": (1, 1, 16),
    "Q4_1": (1, 1, 1, 1, 16),
    "Q5_0": (1, 1, 4, 16),
    "Q5_1": (1, 1, 1, 1, 4, 16),
    "IQ4_NL": (1, 1, 16),
    "MXFP4": (1, 16),
    "Q6_K": (128, 64, 16, 1, 1),
    "Q3_K": (32, 64, 12, 1, 1),
    "Q2_K": (16, 64, 1, 1, 1, 1),
    "IQ4_XS": (1, 1, 2, 4, 128),
}
_PIECE = 1 << 24  # bytes of a tensor that are coded at once
_LARGEST_HEADER = 1 << 26


def pack(source: Path, target: Path) -> tuple[int, int]:
    """Write the GGUF file `source` to `target` in fewer bytes; gives the bytes of both.

    Raises:
        HalfpintError: `source` is no GGUF file.
    """
    gguf = need("gguf", "packing a GGUF file")
    try:
        reader = gguf.GGUFReader(source)
    except (OSError, ValueError) as error:
        raise HalfpintError(str(source), wanted="a GGUF file", got=str(error)[:200]) from error
    held: Bytes = np.memmap(source, dtype=np.uint8, mode="r")
    parts: list[dict[str, Any]] = []
    place = 0
    with target.open("wb") as out:
        out.write(_MAGIC + bytes(16))  # where the header is, and how long, comes here
        for tensor in sorted(reader.tensors, key=lambda one: int(one.data_offset)):
            start, size = int(tensor.data_offset), int(tensor.n_bytes)
            if start > place:
                parts.append(_put(out, held[place:start], (1,), plain=True))
            fields = _FIELDS.get(tensor.tensor_type.name, (1,))
            step = max(1, _PIECE // sum(fields)) * sum(fields)
            fields = fields if size % sum(fields) == 0 else (1,)
            for low in range(start, start + size, step):
                parts.append(_put(out, held[low : min(low + step, start + size)], fields, plain=False))
            place = start + size
        if place < len(held):
            parts.append(_put(out, held[place:], (1,), plain=True))
        header = json.dumps({"size": len(held), "sha256": _sha256(source), "parts": parts}).encode()
        at = out.tell()
        out.write(zlib.compress(header, 9))
        end = out.tell()
        out.seek(len(_MAGIC))
        out.write(at.to_bytes(8, "little") + (end - at).to_bytes(8, "little"))
    return len(held), end


def unpack(source: Path, out: BinaryIO) -> None:
    """Write the GGUF file that `source` was made from to `out`, and check its hash.

    Raises:
        HalfpintError: `source` is damaged, or no such file.
    """
    digest = hashlib.sha256()
    try:
        with source.open("rb") as held:
            header = _header(held)
            for part in header["parts"]:
                held.seek(int(part["at"]))
                whole = _joined(held.read(sum(int(length) for length, _ in part["streams"])), part)
                digest.update(whole)
                out.write(whole)
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise _damaged(source, f"{type(error).__name__}: {error}") from error
    if digest.hexdigest() != header["sha256"]:
        raise _damaged(source, "another content than was packed")


@contextmanager
def opened_gguf(folder: Path) -> Iterator[Path]:
    """The path of the GGUF file in a bundle's folder, as long as it takes to load it: the file itself, or the content
    of a packed one, in memory where the system has files there.

    Raises:
        HalfpintError: a packed file is damaged.
    """
    if not (folder / PACKED_FILE).is_file():
        yield folder / GGUF_FILE
        return
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create(GGUF_FILE), "wb") as out:
            unpack(folder / PACKED_FILE, out)
            out.flush()
            yield Path(f"/proc/self/fd/{out.fileno()}")
        return
    with tempfile.TemporaryDirectory(prefix="halfpint-") as name:
        with (Path(name) / GGUF_FILE).open("wb") as out:
            unpack(folder / PACKED_FILE, out)
        yield Path(name) / GGUF_FILE


def _put(out: BinaryIO, values: Bytes, fields: tuple[int, ...], *, plain: bool) -> dict[str, Any]:
    """Write bytes as one stream a field of their blocks; gives where, and for each stream its length and whether it is
    coded."""
    at, streams = out.tell(), []
    for stream in _divided(values, fields):
        raw = stream.tobytes()
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY if plain else zlib.Z_HUFFMAN_ONLY)
        coded = coder.compress(raw) + coder.flush()
        is_coded = len(coded) < len(raw)
        out.write(coded if is_coded else raw)
        streams.append([len(coded) if is_coded else len(raw), is_coded])
    return {"at": at, "size": len(values), "fields": list(fields), "streams": streams}


def _divided(values: Bytes, fields: tuple[int, ...]) -> list[Bytes]:
    blocks = values.reshape(-1, sum(fields))
    ends = np.cumsum(fields)
    return [np.ascontiguousarray(blocks[:, end - size : end]) for end, size in zip(ends, fields, strict=True)]


def _joined(coded: bytes, part: dict[str, Any]) -> bytes:
    fields = [int(size) for size in part["fields"]]
    size = int(part["size"])
    blocks = np.empty((size // sum(fields), sum(fields)), dtype=np.uint8)
    place = low = 0
    for (length, is_coded), field in zip(part["streams"], fields, strict=True):
        raw = coded[place : place + length]
        # No more than there is room for: a bomb is refused.
        raw = zlib.decompressobj(-15).decompress(raw, len(blocks) * field + 1) if is_coded else raw
        blocks[:, low : low + field] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, field)
        place, low = place + length, low + field
    return blocks.tobytes()


def _header(held: BinaryIO) -> dict[str, Any]:
    if held.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("another kind of file")
    at, size = int.from_bytes(held.read(8), "little"), int.from_bytes(held.read(8), "little")
    held.seek(at)
    found = zlib.decompressobj().decompress(held.read(min(size, _LARGEST_HEADER)), _LARGEST_HEADER)
    header: dict[str, Any] = json.loads(found)
    return header


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(source: Path, got: str) -> HalfpintError:
    return HalfpintError(str(source), wanted="a whole packed GGUF file", got=got[:200], todo="Make the bundle again.")
