"""GGUF files in fewer bytes, bit for bit the same when they are read: each part of a block by its own entropy.

The bytes of a block type are of several kinds (the two of an fp16 scale, those of an offset, codes), each with a
distribution of its own; beside each other they look like noise. Here each kind of each tensor is a stream, coded in
about its entropy (`_ans`), rows of codes that are alike by one table; what is around the tensors is compressed plainly.
Where the scales of a row are one step and that times a few factors, as `compress/quantize` makes them for this, they
take next to nothing; and where codes depend on those before them (`trellis`), they are told in that order.

Source: as in `_ans` and `trellis`; RFC 1951 (DEFLATE). The layout of the blocks is llama.cpp's (ggml-common.h).
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
from halfpint.models import trellis
from halfpint.models._ans import MOST_TABLES, decoded, encoded, kinds_of
from halfpint.models.gguf_header import check_gguf

GGUF_FILE = "model.gguf"
PACKED_FILE = "model.gguf.packed"

Bytes = npt.NDArray[np.uint8]

_MAGIC = b"halfpint packed GGUF 4\n"
_READ = (_MAGIC, b"halfpint packed GGUF 3\n")  # which had no dependent codes
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
_FOUR_BITS = ("Q4_0", "Q4_1", "IQ4_NL")
_FIVE_BITS = ("Q5_0", "Q5_1")
_EIGHT_BITS = ("Q8_0",)
_BY_ROWS = (*_FOUR_BITS, *_FIVE_BITS, *_EIGHT_BITS)  # types whose codes are told by rows that are alike
_STEADY = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128}  # types of whole numbers times a scale, and the code of 0
_LARGEST_HEAD = 512  # rows that llama.cpp has in another order
_ROWS_AT_ONCE = (3840, 1920, 960, trellis.RUN, 1)
"""As many times the first of these as there is room for are coded as one: whole runs, and whole heads of most sizes."""
_FOUR, _FIFTEEN, _SIGN = np.uint8(4), np.uint8(15), np.uint8(128)
FACTORS_OF_TWO = 4
FACTORS = np.exp2(np.arange(48) / FACTORS_OF_TWO).astype(np.float32)
"""What the scale of a block may be times the least of its row, so that it takes next to nothing here."""
_OTHER = 255  # a scale that is no such product
_OTHERS = 0.05  # of the scales at most: else they are told one by one
_SPREADS = 6  # of codes, in which it doubles
_RAW, _DEFLATED, _ENTROPY = 0, 1, 2  # how a stream is told
_PIECE = 1 << 24  # bytes of a tensor that are coded at once
_LARGEST_HEADER = 1 << 26
_MOST_TIMES = 1024  # the bytes of a packed file may come to, about as for DEFLATE
_FAULTS = (
    OSError, ValueError, LookupError, ArithmeticError, TypeError, MemoryError, RecursionError, AttributeError,
    zlib.error,
)  # fmt: skip
"""What reading a file that lies raises."""


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
            if not size:
                continue
            parts += _between(out, held[place:start])
            name = tensor.tensor_type.name
            row = size // max(1, int(np.prod(tensor.shape[1:])))  # bytes
            row = row if size % sum(_FIELDS.get(name, (1,))) == 0 and row <= _PIECE else 1
            step = _rows_at_once(row) * row
            for low in range(start, start + size, step):
                rows = held[low : min(low + step, start + size)].reshape(-1, row)
                parts.append(_put(out, *_shortest(name if row > 1 else "", rows), len(rows) * row))
            place = start + size
        parts += _between(out, held[place:])
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
    digest, done = hashlib.sha256(), 0
    try:
        with source.open("rb") as held:
            header, whole = _header(held), source.stat().st_size
            if sum(int(part["size"]) for part in header["parts"]) != int(header["size"]):
                raise ValueError("parts of another size than the whole")
            for part in header["parts"]:
                lengths = [int(length) for length, _ in part["streams"]]
                # A stream tells how much it makes of next to nothing: no more than `pack` asks of one is made.
                if not 0 < int(part["size"]) <= _PIECE or min(lengths) < 0 or sum(lengths) > whole:
                    raise ValueError(f"a part of {part['size']} bytes")
                if (done := done + int(part["size"])) > _MOST_TIMES * whole:
                    raise ValueError(f"{done:,} bytes out of {whole:,}")
                held.seek(int(part["at"]))
                joined = _joined(held.read(sum(lengths)), part)
                digest.update(joined)
                out.write(joined)
            if digest.hexdigest() != header["sha256"]:
                raise ValueError("another content than was packed")
    except _FAULTS as error:
        raise _damaged(source, f"{type(error).__name__}: {error}") from error


@contextmanager
def opened_gguf(folder: Path) -> Iterator[Path]:
    """The path of the GGUF file in a bundle's folder, as long as it takes to load it: the file itself, or the content
    of a packed one, in memory where the system has files there.

    Raises:
        HalfpintError: a packed file is damaged, or llama.cpp would end the process over the file.
    """
    with _opened_gguf(folder) as path:
        check_gguf(path)
        yield path


@contextmanager
def _opened_gguf(folder: Path) -> Iterator[Path]:
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


def _between(out: BinaryIO, held: Bytes) -> list[dict[str, Any]]:
    """Write what is around the tensors."""
    pieces = [held[low : low + _PIECE] for low in range(0, len(held), _PIECE)]
    return [_put(out, {}, [_coded(piece)], len(piece)) for piece in pieces]


def coded_bytes(name: str, blocks: Bytes) -> int:
    """Bytes that the blocks of a tensor take when they are packed.

    Args:
        name: of their type, such as q4_0; blocks: uint8 of shape (rows, bytes of a row).
    """
    step = _rows_at_once(blocks.shape[1])
    return sum(_length(_shortest(name.upper(), blocks[low : low + step])[1]) for low in range(0, len(blocks), step))


def _rows_at_once(size: int) -> int:
    """How many rows of so many bytes are coded as one."""
    most = max(1, _PIECE // size)
    whole = next(rows for rows in _ROWS_AT_ONCE if rows <= most)
    return most // whole * whole


Stream = tuple[bytes, int]


def _shortest(name: str, rows: Bytes) -> tuple[dict[str, Any], list[Stream]]:
    """How rows of blocks are told in the fewest bytes, and the streams with how each is told."""
    size = sum(_FIELDS.get(name, (1,)))
    told: dict[str, Any] = {"type": name, "rows": len(rows)}
    blocks = rows.reshape(-1, size)
    ends = np.cumsum(_head(name))
    parts = [np.ascontiguousarray(blocks[:, end - size : end]) for end, size in zip(ends, _head(name), strict=True)]
    head = [_coded(one) for one in parts]
    steady = _steady(rows.reshape(len(rows), -1, size)) if name in _STEADY else None
    if steady and _length(short := [_coded(one) for one in steady]) < _length(head):
        head, told = short, told | {"steady": True}
    codes = _codes(name, blocks).reshape(len(rows), -1)
    if name not in _BY_ROWS:
        return told, [*head, _coded(codes)]
    spread = np.log2(np.abs(codes - codes.mean(dtype=np.float32)).mean(axis=1, dtype=np.float32) + np.float32(1e-3))
    kinds = kinds_of(codes, np.rint(_SPREADS * spread).astype(np.int64))
    path = _path(name, codes) if 2 * (int(kinds.max()) + 1) <= MOST_TABLES else None
    if path is None:
        return told, [*head, _coded(kinds), (encoded(codes, kinds), _ENTROPY)]
    size, order, numbers = path
    return told | {"heads": size}, [*head, _coded(kinds), (trellis.encoded(numbers, kinds[order]), _ENTROPY)]


def _path(name: str, codes: Bytes) -> tuple[int, npt.NDArray[np.int64], tuple[trellis.Numbers, Bytes]] | None:
    """Codes that depend on those before them: the size of heads that llama.cpp has in another order (0 for none), rows
    in the order of the path, and what `trellis.encoded` takes. None where they are no such codes."""
    if name not in _STEADY:
        return None
    values = codes.astype(np.int16) - np.int16(_STEADY[name])
    for size in (0, *range(4, min(len(codes), _LARGEST_HEAD) + 1, 2)):
        if size and len(codes) % size:
            continue
        order = _order(len(codes), size)
        if (found := trellis.places(values, order)) is not None:
            return size, order, found
    return None


def _order(rows: int, head: int) -> npt.NDArray[np.int64]:
    """Rows as transformers has them, of heads of so many rows each: llama.cpp takes those of their halves by turns."""
    order = np.arange(rows)
    return order.reshape(-1, head // 2, 2).transpose(0, 2, 1).reshape(-1) if head else order


def _length(streams: list[Stream]) -> int:
    return sum(len(coded) for coded, _ in streams)


def _put(out: BinaryIO, told: dict[str, Any], streams: list[Stream], size: int) -> dict[str, Any]:
    """Write streams; gives where, what they are, and for each its length and how it is told."""
    at = out.tell()
    for coded, _ in streams:
        out.write(coded)
    return {**told, "at": at, "size": size, "streams": [[len(coded), how] for coded, how in streams]}


def _coded(values: Bytes) -> Stream:
    """Bytes in the shortest way."""
    raw = values.tobytes()
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    ways = [(raw, _RAW), (coder.compress(raw) + coder.flush(), _DEFLATED)]
    if raw:
        ways.append((encoded(values.reshape(1, -1), np.zeros(1, dtype=np.uint8)), _ENTROPY))
    return min(ways, key=lambda way: len(way[0]))


def _head(name: str) -> tuple[int, ...]:
    """How the bytes of a block before its codes divide."""
    return _FIELDS.get(name, (1,))[: -2 if name in _FIVE_BITS else -1]


def _codes(name: str, blocks: Bytes) -> Bytes:
    """The codes of blocks (blocks, bytes), one a value. Of five bits a block's last bytes are the fifth bits of 32
    weights and the others, two in a byte."""
    found: Bytes = blocks[:, sum(_head(name)) :]
    if name in _FIVE_BITS:
        found = np.unpackbits(found[:, :4], axis=1, bitorder="little") << _FOUR | _halves(found[:, 4:])
    elif name in _FOUR_BITS:
        found = _halves(found)
    elif name in _EIGHT_BITS:
        found = found ^ _SIGN  # in the order of the weights
    return found


def _halves(held: Bytes) -> Bytes:
    return np.concatenate([held & _FIFTEEN, held >> _FOUR], axis=1)


def _codes_back(name: str, codes: Bytes) -> Bytes:
    found: Bytes = codes
    if name in (*_FIVE_BITS, *_FOUR_BITS):
        found = codes[:, :16] & _FIFTEEN | codes[:, 16:] << _FOUR
    if name in _FIVE_BITS:
        found = np.concatenate([np.packbits(codes >> _FOUR, axis=1, bitorder="little"), found], axis=1)
    return found ^ _SIGN if name in _EIGHT_BITS else found


def _steady(blocks: Bytes) -> list[Bytes] | None:
    """Scales of rows of blocks (rows, blocks, bytes) as each row's least, the factor of each block's, and the scales
    that are no such product; None where few are."""
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
    return [_as_bytes(least), factor, _as_bytes(scale[other])]


def times(scale: npt.NDArray[np.float16], factor: Bytes) -> npt.NDArray[np.float16]:
    """A scale and one of the factors multiplied, as fp16 holds it."""
    found: npt.NDArray[np.float16] = (scale.astype(np.float32) * FACTORS[factor]).astype("<f2")
    return found


def _as_bytes(values: npt.NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(values.astype("<f2")).reshape(-1).view(np.uint8)


def _joined(coded: bytes, part: dict[str, Any]) -> bytes:
    name, size, place = str(part.get("type", "")), int(part["size"]), 0
    streams = list(part["streams"])

    def following(shape: tuple[int, ...], kinds: Bytes | None = None) -> Bytes:
        nonlocal place
        length, how = streams.pop(0)
        raw = coded[place : place + length]
        place += length
        count = int(np.prod(shape))
        if how == _ENTROPY:
            kinds = np.zeros(1, dtype=np.uint8) if kinds is None else kinds
            return decoded(raw, count // max(1, len(kinds)), kinds).reshape(shape)
        # No more than there is room for: a bomb is refused.
        raw = zlib.decompressobj(-15).decompress(raw, count + 1) if how == _DEFLATED else raw
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape)

    if "type" not in part:
        return following((size,)).tobytes()
    rows, count = int(part["rows"]), size // sum(_FIELDS.get(name, (1,)))
    if rows < 1 or size % (rows * sum(_FIELDS.get(name, (1,)))):
        raise ValueError(f"{rows} rows")
    if part.get("steady"):
        least = following((2 * rows,)).view("<f2")
        factor = following((rows, count // rows))
        other = factor == _OTHER
        scale = times(least[:, None], np.where(other, 0, factor))
        scale[other] = following((2 * int(other.sum()),)).view("<f2")
        head = [_as_bytes(scale).reshape(-1, 2)]
    else:
        head = [following((count, width)) for width in _head(name)]
    width = 32 if name in (*_FOUR_BITS, *_FIVE_BITS) else _FIELDS.get(name, (1,))[-1]
    kinds = following((rows,)) if name in _BY_ROWS else None
    if kinds is None or "heads" not in part:
        codes = following((count, width), kinds)
    else:
        (length, _), head_size = streams.pop(0), int(part["heads"])
        if name not in _STEADY or not 0 <= head_size <= _LARGEST_HEAD or head_size % 2:
            raise ValueError(f"heads of {head_size} rows")
        order = _order(rows, head_size)
        found = trellis.decoded(coded[place : place + length], count * width // rows, kinds[order])
        values = np.empty_like(found)
        values[order] = found + _STEADY[name]
        if values.min() < 0 or values.max() >= 2 * _STEADY[name]:
            raise ValueError("codes that the type has not")
        codes = values.astype(np.uint8).reshape(count, width)
    return np.concatenate([*head, _codes_back(name, codes)], axis=1).tobytes()


def _header(held: BinaryIO) -> dict[str, Any]:
    if held.read(len(_MAGIC)) not in _READ:
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
