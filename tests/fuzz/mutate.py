"""Damaged and hostile inputs, made from good ones: the same for the same seed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

ODD_TEXTS = (
    "", " ", "\0", "\ufeff", "\u2028", "\x1b[31m", "\x1b]0;title\x07", "é", "e\u0301", "\u00a0", "文字", "🙂", "\ud800",
    "a" * 70_000,
    "=cmd|'/C calc'!A0", "<script>alert(1)</script>", "../../etc/passwd", "/dev/full", "{{ 7 * 7 }}", "NaN", "null",
    "-1", "1e999", "9" * 5000, "[" * 3000, "{}", "\r", "\r\n", '"', '""', "'", "\\", ",", ";", "\t", "__label__a b",
)  # fmt: skip
ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, 1e-300, 0.5, float("nan"), float("inf"))
ODD_BYTES = (b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\x1f\x8b", b"PAR1", b"GGUF", b"\n" * 3, b"\r")


def damaged(data: bytes, random: Random) -> bytes:
    """Some bytes of `data` changed, taken away, said twice, or put in; now and then all of it gzipped, or cut."""
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        data = random.choice(_CHANGES)(data, random)
    if random.random() < 0.03:
        data = gzip.compress(data)
        data = data[: random.randrange(len(data))] if random.random() < 0.5 else data
    return data


def hostile(value: Any, random: Random) -> Any:
    """A JSON value with one place in it changed to something odd, taken away, put in or moved far inside."""
    places = list(_places(value))
    path = random.choice(places)
    return _with(value, path, lambda old: _odd(old, random), random)


def as_json(value: Any) -> bytes:
    """The value as JSON, with what JSON does not allow written as Python does; half a pair of surrogates stays."""
    return json.dumps(value).encode("utf-8")


def _swap(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, random: Random) -> bytes:
    start, end = _part(data, random)
    return data[:start] + data[end:]


def _end(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _twice(data: bytes, random: Random) -> bytes:
    start, end = _part(data, random)
    return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    odd = (
        random.choice(ODD_TEXTS).encode("utf-8", "surrogatepass") if random.random() < 0.6 else random.choice(ODD_BYTES)
    )
    return data[:at] + odd + data[at:]


def _number(data: bytes, random: Random) -> bytes:
    """Four or eight bytes as a number that is far too large, or as nothing: a size or an offset, if it was one."""
    width = random.choice((4, 8))
    at = random.randrange(max(1, len(data) - width))
    return data[:at] + random.choice((b"\xff" * width, b"\0" * width, b"\x7f" * width)) + data[at + width :]


def _lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    random.shuffle(lines)
    return b"\n".join(lines[: random.randrange(len(lines)) + 1])


_CHANGES: Sequence[Callable[[bytes, Random], bytes]] = (_swap, _cut, _end, _twice, _insert, _insert, _number, _lines)


def _part(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 2, 8, 64, 1000)))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _places(inner, (*path, at))


def _with(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any], random: Random) -> Any:
    if not path:
        return change(value)
    head, rest = path[0], path[1:]
    if isinstance(value, dict):
        made = {key: _with(inner, rest, change, random) if key == head else inner for key, inner in value.items()}
        if not rest and random.random() < 0.2:
            del made[head]
        elif not rest and random.random() < 0.2:
            made = {f"{head}s" if key == head else key: inner for key, inner in made.items()}
        return made
    return [_with(inner, rest, change, random) if at == head else inner for at, inner in enumerate(value)]


def _odd(old: Any, random: Random) -> Any:
    pick = random.random()
    if pick < 0.3:
        return random.choice(ODD_TEXTS)
    if pick < 0.5:
        return random.choice(ODD_NUMBERS)
    if pick < 0.6:
        return random.choice((None, True, False, [], {}, [[]], [None], {"": None}))
    if pick < 0.7:
        return [old] * random.choice((0, 2, 300))
    if pick < 0.8:
        return {str(number): old for number in range(random.choice((1, 3, 500)))}
    deep = old
    for _ in range(random.choice((3, 90, 300))):
        deep = [deep] if random.random() < 0.5 else {"a": deep}
    return deep if pick < 0.9 else {"$ref": "#", "text": old}
