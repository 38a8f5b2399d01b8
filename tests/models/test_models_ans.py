"""Rows of bytes come back as they were, in about their entropy, or are refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

pytest.importorskip("constriction")

from halfpint.models._ans import decoded, encoded, kinds_of


@given(
    some.integers(0, 255).flatmap(
        lambda low: some.lists(some.lists(some.integers(low, 255), min_size=3, max_size=3), min_size=1, max_size=9)
    ),
    some.integers(1, 4),
)
def test_rows_come_back(rows: list[list[int]], kinds: int) -> None:
    values = np.array(rows, dtype=np.uint8)
    which = np.unique(np.arange(len(values)) % kinds, return_inverse=True)[1].astype(np.uint8)
    np.testing.assert_array_equal(decoded(encoded(values, which), 3, which), values)


@pytest.mark.parametrize("spread", [0.4, 1.0, 4.0])
def test_bytes_are_those_of_the_entropy(spread: float) -> None:
    """Also below a bit a value, where Huffman codes cannot go."""
    values = np.rint(np.random.default_rng(0).normal(0, spread, (500, 400))).astype(np.int64) + 32
    shares = np.bincount(values.reshape(-1)) / values.size
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()
    told = encoded(values.astype(np.uint8), np.zeros(500, dtype=np.uint8))
    assert 8 * len(told) / values.size == pytest.approx(entropy, abs=0.003)


def test_rows_that_are_alike_are_found() -> None:
    """Rows of three spreads, mixed: three tables tell them in about the mean of their entropies."""
    random = np.random.default_rng(1)
    spread = random.choice([0.3, 1.0, 5.0], size=(900, 1))
    values = (np.rint(random.normal(0, spread, (900, 300))) + 32).astype(np.uint8)
    kinds = kinds_of(values, np.rint(6 * np.log2(values.std(axis=1) + 1e-3)).astype(np.int64))
    one = np.zeros(900, dtype=np.uint8)
    assert len(encoded(values, kinds)) < 0.8 * len(encoded(values, one))
    entropy = 0.0
    for each in (0.3, 1.0, 5.0):
        shares = np.bincount(values[spread[:, 0] == each].reshape(-1))
        shares = shares[shares > 0] / shares.sum()
        entropy += float((spread == each).mean() * -(shares * np.log2(shares)).sum())
    assert 8 * len(encoded(values, kinds)) / values.size == pytest.approx(entropy, abs=0.02)


def test_few_rows_get_few_tables() -> None:
    random = np.random.default_rng(2)
    values = (np.rint(random.normal(0, random.uniform(1, 3, (12, 1)), (12, 32))) + 32).astype(np.uint8)
    kinds = kinds_of(values, np.arange(12))
    each = np.arange(12).astype(np.uint8)
    assert len(encoded(values, kinds)) < len(encoded(values, each))


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"\0\1\0\1\0x",
        bytes([250, 9, 0]) + len(zlib.compress(b"\1" * 10)).to_bytes(2, "little") + zlib.compress(b"\1" * 10),
        bytes([0, 1, 0]) + len(zlib.compress(b"\0\0")).to_bytes(2, "little") + zlib.compress(b"\0\0"),
        encoded(np.arange(8, dtype=np.uint8).reshape(2, 4), np.zeros(2, dtype=np.uint8))[:-1],
    ],
)  # fmt: skip
def test_other_bytes_are_refused(told: bytes) -> None:
    with pytest.raises((ValueError, zlib.error)):
        decoded(told, 4, np.zeros(2, dtype=np.uint8))


def test_a_kind_without_a_table_is_refused() -> None:
    told = encoded(np.arange(8, dtype=np.uint8).reshape(2, 4), np.zeros(2, dtype=np.uint8))
    with pytest.raises(ValueError, match="other tables"):
        decoded(told, 4, np.array([0, 1], dtype=np.uint8))


def test_the_format_is_what_it_was() -> None:
    """Files that were packed are read for good: these bytes are those rows, whatever the coder's version."""
    rows = np.array([[7, 8, 8, 9, 7, 8], [0, 20, 3, 12, 5, 9]], dtype=np.uint8)
    kinds = np.array([0, 1], dtype=np.uint8)
    told = bytes.fromhex("001401180078da636000034e3e4606046004214618032a060003af001fe54d051a841d0000")
    np.testing.assert_array_equal(decoded(told, 6, kinds), rows)
