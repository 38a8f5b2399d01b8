"""Bytes in about their entropy: asymmetric numeral systems, rows that are alike told by one table.

A table holds how often each value is, as a byte an entry: eighths of a power of two, all in whole numbers, so that it
is the same on every machine. Rows of values (those of a matrix of codes) are told in kinds; which row is of which is
found by turns, as in k-means: tables from rows, rows to the table that tells them in the fewest bits.

Source: J. Duda, "Asymmetric numeral systems", 2013; the coder is that of the package constriction (R. Bamler,
"Understanding entropy coding with asymmetric numeral systems", 2022).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import need

Bytes = npt.NDArray[np.uint8]

_EIGHTHS = np.array([256, 279, 304, 332, 362, 395, 431, 470], dtype=np.int64)  # 256 times powers of 2 ** (1/8)
_WEIGHTS = np.concatenate([[0], (_EIGHTHS << np.arange(31)[:, None]).reshape(-1)])
"""How often a value is, by its byte in the table."""
MOST_TABLES = 256
_ROUNDS = 4
_HEAD = 5  # bytes: the least value, how many there are less one, how many tables less one, how long those are
_LONGEST_TABLES = 1 << 16
_AT_ONCE = 1 << 22


def encoded(rows: Bytes, kinds: Bytes) -> bytes:
    """Rows of values in few bytes.

    Args:
        rows: shape (rows, values); kinds: of each row, shape (rows,), counted from 0, none of them left out.

    Raises:
        HalfpintError: the package constriction is not there.
    """
    low, high = int(rows.min()), int(rows.max())
    size = max(2, high - low + 1)  # values that a table tells; one alone is no distribution
    head = told(_sums(_histograms(rows, low, size), kinds), low)
    stack, models = coder(), Told(head).models
    for kind in reversed(range(len(models))):
        stack.encode_reverse(rows[kinds == kind].reshape(-1).astype(np.int32) - low, models[kind])
    words: bytes = stack.get_compressed().astype("<u4").tobytes()
    return head + words


def decoded(coded: bytes, width: int, kinds: Bytes) -> Bytes:
    """The rows that `encoded` was given, of `width` values each.

    Raises:
        ValueError, zlib.error: these are other bytes.
        HalfpintError: the package constriction is not there.
    """
    tables = Told(coded)
    if int(kinds.max(initial=0)) >= len(tables.models):
        raise ValueError("other tables")
    stack = coder(tables.words)
    found = np.empty((len(kinds), width), dtype=np.uint8)
    for kind, model in enumerate(tables.models):
        ours = kinds == kind
        values = stack.decode(model, int(ours.sum()) * width)
        found[ours] = (values + tables.low).astype(np.uint8).reshape(-1, width)
    return found


def told(sums: npt.NDArray[np.float64], low: int) -> bytes:
    """Tables as they are written.

    Args:
        sums: how often each value is in each kind, shape (kinds, values), of each kind one at the least; low: the least
            value.
    """
    tables = zlib.compress(_eighths(sums).tobytes(), 9)
    return bytes([low, sums.shape[1] - 1, len(sums) - 1]) + len(tables).to_bytes(2, "little") + tables


class Told:
    """Tables as they are read.

    Attributes:
        low: the least value.
        models: constriction's, one a table; value `low` is its 0.
        words: what follows.

    Raises:
        ValueError, zlib.error: these are other bytes.
    """

    def __init__(self, coded: bytes) -> None:
        if len(coded) < _HEAD:
            raise ValueError("no table")
        self.low, size, count = coded[0], coded[1] + 1, coded[2] + 1
        end = _HEAD + int.from_bytes(coded[3:_HEAD], "little")
        held = zlib.decompressobj().decompress(coded[_HEAD:end], _LONGEST_TABLES)
        tables = np.frombuffer(held, dtype=np.uint8).reshape(count, size)
        if self.low + size > 257 or not tables.any(axis=1).all() or int(tables.max()) >= len(_WEIGHTS):
            raise ValueError("other tables")
        self.models = [_model(table) for table in tables]
        self.words = coded[end:]


def coder(words: bytes = b"") -> Any:
    """constriction's, of words that it wrote."""
    stack = _stream().stack
    return stack.AnsCoder(np.frombuffer(words, dtype="<u4").astype(np.uint32)) if words else stack.AnsCoder()


def kinds_of(rows: Bytes, first: npt.NDArray[np.int64]) -> Bytes:
    """A kind for each row, so that all together take few bytes.

    Args:
        rows: shape (rows, values); first: kinds to begin with, whole numbers within 255 of each other, shape (rows,).
    """
    low = int(rows.min())
    histograms = _histograms(rows, low, max(2, int(rows.max()) - low + 1))
    counts = histograms.astype(np.float32)
    best, fewest = np.zeros(len(rows), dtype=np.uint8), np.inf
    for coarse in (1, 2, 4, 1 << 30):  # fewer tables where rows are few
        kinds = np.unique(first // coarse, return_inverse=True)[1].astype(np.uint8)
        for _ in range(_ROUNDS):
            nats = -np.log2(np.maximum(_shares(_tables(histograms, kinds)), 2.0**-24))
            costs = counts @ nats.T.astype(np.float32)
            kinds = np.unique(costs.argmin(axis=1), return_inverse=True)[1].astype(np.uint8)
        tables = _tables(histograms, kinds)
        nats = -np.log2(np.maximum(_shares(tables), 2.0**-24))
        count = np.bincount(kinds) / len(kinds)
        bits = (histograms * nats[kinds]).sum() - len(kinds) * (count * np.log2(count)).sum()
        bits += 8 * len(zlib.compress(tables.tobytes(), 9))
        if bits < fewest:
            best, fewest = kinds, bits
    return best


def _histograms(rows: Bytes, low: int, size: int) -> npt.NDArray[np.float64]:
    """How often each value is in each row: shape (rows, size)."""
    found = np.empty((len(rows), size))
    step = max(1, _AT_ONCE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        places = some.astype(np.int64) - low + size * np.arange(len(some))[:, None]
        found[start : start + step] = np.bincount(places.reshape(-1), minlength=size * len(some)).reshape(-1, size)
    return found


def _tables(histograms: npt.NDArray[np.float64], kinds: Bytes) -> Bytes:
    """A byte a value for each kind: 0 for what is not there, else 1 and eighths of a power of two."""
    return _eighths(_sums(histograms, kinds))


def _sums(histograms: npt.NDArray[np.float64], kinds: Bytes) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = (np.arange(int(kinds.max()) + 1)[:, None] == kinds) @ histograms
    return found


def _eighths(sums: npt.NDArray[np.float64]) -> Bytes:
    found: Bytes = np.where(sums > 0, 1 + np.rint(8 * np.log2(np.maximum(sums, 1))), 0).astype(np.uint8)
    return found


def _shares(tables: Bytes) -> npt.NDArray[np.float64]:
    weights = _WEIGHTS[tables].astype(np.float64)
    found: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return found


def _model(table: Bytes) -> Any:
    return _stream().model.Categorical(_WEIGHTS[table].astype(np.float64), lazy=False, perfect=False)


def _stream() -> Any:
    return need("constriction", "packed codes").stream
