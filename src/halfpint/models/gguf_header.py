"""What llama.cpp takes for granted in a GGUF file, checked before it is loaded: it ends the whole process otherwise.

Source: ggml-org/ggml, docs/gguf.md: a magic, a version, two counts, then pairs of names and values.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from halfpint.errors import HalfpintError

_TOKENS = b"tokenizer.ggml.tokens"
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
_TEXT, _LIST = 8, 9
_MOST_PAIRS = 1 << 16


class _Faulty(Exception):
    """The file is not as it has to be."""


def check_gguf(path: Path) -> None:
    """Refuse a file whose tokens have zeros in them, or whose beginning is damaged.

    Raises:
        HalfpintError: it is one.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            _check(held)
    except (OSError, ValueError, struct.error, _Faulty) as error:
        got = str(error) if isinstance(error, _Faulty | OSError) else "one whose beginning is damaged"
        raise HalfpintError(
            str(path), wanted="a GGUF file that llama.cpp reads", got=got, todo="Export it again."
        ) from None  # fmt: skip


def _check(held: mmap.mmap) -> None:
    if held[:4] != b"GGUF":
        raise _Faulty("one without its magic")
    _, pairs = struct.unpack_from("<QQ", held, 8)
    if pairs > _MOST_PAIRS:
        raise _Faulty("one whose beginning is damaged")
    place = 24
    for _ in range(pairs):
        name, place = _text(held, place)
        (kind,) = struct.unpack_from("<I", held, place)
        place = _past(held, place + 4, kind, is_token=name == _TOKENS)


def _past(held: mmap.mmap, place: int, kind: int, *, is_token: bool) -> int:
    """The place after a value."""
    if kind == _TEXT:
        text, place = _text(held, place)
        if is_token and b"\0" in text:
            raise _Faulty(f"one with a zero in the token {text[:40]!r}")
        return place
    if kind != _LIST:
        return place + _size(kind)
    inner, count = struct.unpack_from("<IQ", held, place)
    place += 12
    if inner not in (_TEXT, _LIST):
        place += count * _size(inner)
        if place > len(held):
            raise _Faulty("one that ends early")
        return place
    for _ in range(count):
        place = _past(held, place, inner, is_token=is_token)
    return place


def _size(kind: int) -> int:
    if kind not in _SIZES:
        raise _Faulty(f"one with a value of the unknown type {kind}")
    return _SIZES[kind]


def _text(held: mmap.mmap, place: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from("<Q", held, place)
    end = place + 8 + size
    if end > len(held):
        raise _Faulty("one that ends early")
    return held[place + 8 : end], end
