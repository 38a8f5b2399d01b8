"""GGUF files in fewer bytes, bit for bit the same when they are read: Huffman codes for each kind of byte.

The bytes of a block type are of several kinds (the two of an fp16 scale, those of an offset, codes), each with a
distribution of its own; beside each other they look like noise. Here each kind of each tensor is a stream, coded by
DEFLATE's Huffman codes alone (matches there are none); what is around the tensors is compressed plainly. Where the
scales of a row are one step and that times a few factors, as `compress/quantize` makes them for this, they take next to
nothing; rows of codes of one spread are then told together.

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

_MAGIC = b"halfpint packed GGUF 2\n"
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
_FIVE_BITS = ("Q5_0", "Q5_1")
_CODED_FIVE = 20  # bytes of a block of five bits that are codes
_STEADY = ("Q4_0", "Q5_0", "Q8_0")
FACTORS_OF_TWO = 4
FACTORS = np.exp2(np.arange(48) / FACTORS_OF_TWO).astype(np.float32)
"""What the scale of a block may be times the least of its row, so that it takes next to nothing here."""
_OTHER = 255  # a scale that is no such product
_OTHERS = 0.05  # of the scales at most: else they are told one by one
_SPREADS = 6  # of codes, in which it doubles
_NIBBLES = np.abs(np.arange(16) - 8).astype(np.float32)
_AWAY = {  # how far the codes of a byte are from zero
    "Q4_0": (_NIBBLES[:, None] + _NIBBLES).reshape(-1),
    "Q5_0": np.abs(np.arange(256, dtype=np.float32) - 16),
    "Q8_0": np.abs(np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)),
}
_HUFFMAN, _PLAIN = zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY
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
                parts.append(_put(out, {}, [_coded(held[place:start], _PLAIN)], start - place))
            name = tensor.tensor_type.name
            row = size // max(1, int(np.prod(tensor.shape[1:])))  # bytes
            row = row if size % sum(_FIELDS.get(name, (1,))) == 0 else 1
            step = max(1, _PIECE // row) * row
            for low in range(start, start + size, step):
                rows = held[low : min(low + step, start + size)].reshape(-1, row)
                parts.append(_put(out, *_shortest(name if row > 1 else "", rows), len(rows) * row))
            place = start + size
        if place < len(held):
            parts.append(_put(out, {}, [_coded(held[place:], _PLAIN)], len(held) - place))
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
    except (OSError, ValueError, LookupError, ArithmeticError, TypeError, zlib.error) as error:
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


def coded_bytes(name: str, blocks: Bytes) -> int:
    """Bytes that the blocks of a tensor take when they are packed.

    Args:
        name: of their type, such as q4_0; blocks: uint8 of shape (rows, bytes of a row).
    """
    return sum(len(coded) for coded, _ in _shortest(name.upper(), blocks)[1])


Stream = tuple[bytes, bool]


def _shortest(name: str, rows: Bytes) -> tuple[dict[str, Any], list[Stream]]:
    """How rows of blocks are told in the fewest bytes, and the streams, each coded or as it is."""
    size = sum(_FIELDS.get(name, (1,)))
    told: dict[str, Any] = {"type": name}
    ways = [(told, [_coded(one, _HUFFMAN) for one in _divided(name, rows.reshape(-1, size))])]
    steady = _steady(name, rows.reshape(len(rows), -1, size)) if name in _STEADY else None
    if steady:
        ways.append(
            (
                told | {"rows": len(rows)},
                [*(_coded(one, _HUFFMAN, _PLAIN) for one in steady[:-1]), _coded(steady[-1], _HUFFMAN)],
            )
        )
    return min(ways, key=lambda way: sum(len(coded) for coded, _ in way[1]))


def _put(out: BinaryIO, told: dict[str, Any], streams: list[Stream], size: int) -> dict[str, Any]:
    """Write streams; gives where, what they are, and for each its length and whether it is coded."""
    at = out.tell()
    for coded, _ in streams:
        out.write(coded)
    return {**told, "at": at, "size": size, "streams": [[len(coded), is_coded] for coded, is_coded in streams]}


def _coded(values: Bytes, *strategies: int) -> Stream:
    """Bytes in DEFLATE by the best strategy; as they are where that is shorter."""
    raw, best = values.tobytes(), b""
    for strategy in strategies:
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        coded = coder.compress(raw) + coder.flush()
        best = coded if not best or len(coded) < len(best) else best
    return (best, True) if len(best) < len(raw) else (raw, False)


def _divided(name: str, blocks: Bytes) -> list[Bytes]:
    """The bytes of blocks (blocks, bytes), each kind by itself."""
    fields = _FIELDS.get(name, (1,))
    if name in _FIVE_BITS:
        fields, blocks = (*fields[:-2], 32), np.concatenate([blocks[:, :-_CODED_FIVE], _five(blocks)], axis=1)
    ends = np.cumsum(fields)
    return [np.ascontiguousarray(blocks[:, end - size : end]) for end, size in zip(ends, fields, strict=True)]


def _five(blocks: Bytes) -> Bytes:
    """The codes of blocks whose last bytes are the fifth bits of 32 weights and the others, two in a byte: a code is
    told as a whole, since its halves say much of each other."""
    held = blocks[:, -_CODED_FIVE:]
    fifth = np.unpackbits(held[:, :4], axis=1, bitorder="little") << 4
    found: Bytes = fifth | np.concatenate([held[:, 4:] & 15, held[:, 4:] >> 4], axis=1)
    return found


def _five_back(codes: Bytes) -> Bytes:
    fifth = np.packbits(codes >> 4, axis=1, bitorder="little")
    return np.concatenate([fifth, codes[:, :16] & 15 | codes[:, 16:] << 4], axis=1)


def _steady(name: str, blocks: Bytes) -> list[Bytes] | None:
    """Rows of blocks (rows, blocks, bytes) as each row's least scale, the factor of each block's, the scales that are
    no such product, the spread of each row's codes, and the codes by spread; None where few scales are products."""
    scale = np.ascontiguousarray(blocks[:, :, :2]).view("<f2")[:, :, 0]
    if not (np.isfinite(scale) & (scale > 0)).all():
        return None
    least = scale.min(axis=1)
    ratio = scale.astype(np.float32) / least[:, None]
    factor = np.clip(np.rint(FACTORS_OF_TWO * np.log2(ratio)), 0, len(FACTORS) - 1).astype(np.uint8)
    other = times(least[:, None], factor) != scale
    if other.mean() > _OTHERS:
        return None
    factor[other] = _OTHER
    codes = blocks[:, :, 2:].reshape(-1, blocks.shape[2] - 2)
    codes = (_five(codes) if name in _FIVE_BITS else codes).reshape(len(blocks), -1)
    spread = np.log2(_AWAY[name][codes].mean(axis=1, dtype=np.float32) + np.float32(1e-3))
    spread = np.clip(np.rint(_SPREADS * (spread - np.median(spread))) + 32, 0, 63).astype(np.uint8)
    in_order = np.ascontiguousarray(codes[np.argsort(spread, kind="stable")])
    return [_as_bytes(least), factor, _as_bytes(scale[other]), spread, in_order]


def times(scale: npt.NDArray[np.float16], factor: Bytes) -> npt.NDArray[np.float16]:
    """A scale and one of the factors multiplied, as fp16 holds it."""
    found: npt.NDArray[np.float16] = (scale.astype(np.float32) * FACTORS[factor]).astype("<f2")
    return found


def _as_bytes(values: npt.NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(values.astype("<f2")).reshape(-1).view(np.uint8)


def _joined(coded: bytes, part: dict[str, Any]) -> bytes:
    name, size, place = str(part.get("type", "")), int(part["size"]), 0
    streams = list(part["streams"])

    def following(length: int) -> Bytes:
        nonlocal place
        taken, is_coded = streams.pop(0)
        raw = coded[place : place + taken]
        place += taken
        # No more than there is room for: a bomb is refused.
        raw = zlib.decompressobj(-15).decompress(raw, length + 1) if is_coded else raw
        if len(raw) != length:
            raise ValueError(f"{len(raw)} bytes for {length}")
        return np.frombuffer(raw, dtype=np.uint8)

    fields = _FIELDS.get(name, (1,))
    count, codes_width = size // sum(fields), 32 if name in _FIVE_BITS else fields[-1]
    if "rows" not in part:
        head = fields[:-2] if name in _FIVE_BITS else fields[:-1]
        found = [following(count * width).reshape(count, width) for width in (*head, codes_width)]
        if name in _FIVE_BITS:
            found[-1] = _five_back(found[-1])
        return np.concatenate(found, axis=1).tobytes()
    rows = int(part["rows"])
    least = following(2 * rows).view("<f2")
    factor = following(count).reshape(rows, -1)
    other = factor == _OTHER
    scale = times(least[:, None], np.where(other, 0, factor))
    scale[other] = following(2 * int(other.sum())).view("<f2")
    order = np.argsort(following(rows), kind="stable")
    codes = np.empty((rows, count // rows * codes_width), dtype=np.uint8)
    codes[order] = following(codes.size).reshape(rows, -1)
    codes = codes.reshape(count, -1)
    codes = _five_back(codes) if name in _FIVE_BITS else codes
    return np.concatenate([_as_bytes(scale).reshape(-1, 2), codes], axis=1).tobytes()


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
