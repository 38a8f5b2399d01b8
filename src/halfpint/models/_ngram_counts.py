"""Counts of n-grams as sorted arrays of integers, order by order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError
from halfpint.machine import memory_bytes
from halfpint.models._ngram_text import BOS, Ids

Ints = npt.NDArray[np.int64]

_BYTES_A_TOKEN = 60  # and order, at the peak of counting: more than any text takes (LOG.md)


@dataclass(frozen=True)
class Level:
    """All n-grams of one order that the text has; an n-gram's number is its place here.

    Args:
        context: int64 (n-grams,), ascending: the number, one order below, of the n-gram without its last word.
        word: int64 (n-grams,): the last word, ascending within a context.
        counts: int64 (n-grams,): how often it occurs.
        shorter: int64 (n-grams,): the number, one order below, of the n-gram without its first word.
    """

    context: Ints
    word: Ints
    counts: Ints
    shorter: Ints


@dataclass(frozen=True)
class _Part:
    """What one chunk of the text has of one order: unique sorted keys (context * words + word), and where."""

    keys: Ints
    counts: Ints
    shorter: npt.NDArray[np.int32]
    ending: Ids  # for each token the place in `keys` of the n-gram that ends there, -1 where a line is too short


def count(chunks: Sequence[Ids], order: int, words: int, done: Callable[[], None] = lambda: None) -> list[Level]:
    """The n-grams of orders 1 to `order`, none of them across the start of a line.

    An n-gram is a pair of its context's number and its last word, packed into one int64: sorting these gives the next
    order's numbers. Each chunk is sorted by itself, and what the chunks found is merged, so that the largest thing
    sorted at once is a chunk; between the orders 8 bytes a token are kept.

    Args:
        chunks: numbers of words as `encode` gives them.
        order: the longest n-grams.
        words: size of the vocabulary.
        done: called after each order.
    """
    nothing = np.zeros(words, dtype=np.int64)
    totals = nothing.copy()
    for chunk in chunks:
        totals += np.bincount(chunk, minlength=words)
    levels = [Level(nothing, np.arange(words), totals, nothing)]
    endings = list(chunks)
    done()
    for _ in range(order - 1):
        parts = [_part(chunk, ending, words) for chunk, ending in zip(chunks, endings, strict=True)]
        keys = _union([part.keys for part in parts])
        counts = np.zeros(len(keys), dtype=np.int64)
        shorter = np.zeros(len(keys), dtype=np.int64)
        for index, part in enumerate(parts):
            places = np.arange(len(keys)) if len(parts) == 1 else np.searchsorted(keys, part.keys)
            counts[places] += part.counts
            shorter[places] = part.shorter
            # The last entry is what -1 points at.
            endings[index] = part.ending if len(parts) == 1 else np.append(places, -1).astype(np.int32)[part.ending]
        del parts
        context = keys // words
        levels.append(Level(context, keys - context * words, counts, shorter))
        done()
    return levels


def _part(tokens: Ids, ending: Ids, words: int) -> _Part:
    """The n-grams one longer than those of `ending`, for one chunk."""
    at = np.flatnonzero((ending[:-1] >= 0) & (tokens[1:] != BOS)) + 1
    keys = ending[at - 1].astype(np.int64) * words + tokens[at]
    keys, sorting = sort_with_places(keys)
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    first = np.flatnonzero(new)
    ending_now = np.full(len(tokens), -1, dtype=np.int32)
    ending_now[at[sorting]] = np.cumsum(new, dtype=np.int32) - 1
    return _Part(
        keys=keys[first],
        counts=np.diff(np.append(first, len(keys))),
        shorter=ending[at[sorting[first]]],
        ending=ending_now,
    )


def sort_with_places(keys: Ints) -> tuple[Ints, Ints]:
    """`keys` (none negative) in ascending order, and the place that each had; equal ones keep their order.

    Where key and place fit into 63 bits together they are sorted as one number, eight times as fast as by `argsort`.
    """
    bits = len(keys).bit_length()
    if len(keys) and int(keys.max()) >= 1 << (63 - bits):
        places = np.argsort(keys, kind="stable")
        return keys[places], places
    packed = np.sort((keys << bits) | np.arange(len(keys)))
    return packed >> bits, packed & ((1 << bits) - 1)


def _union(runs: Sequence[Ints]) -> Ints:
    """The distinct keys of sorted arrays, sorted; like lengths are merged first, so that each is read little."""
    held: list[Ints] = []
    for run in runs:
        held.append(run)
        while len(held) > 1 and len(held[-2]) < 2 * len(held[-1]):
            held[-2:] = [_both(*held[-2:])]
    while len(held) > 1:
        held[-2:] = [_both(*held[-2:])]
    return held[0]


def _both(one: Ints, other: Ints) -> Ints:
    """As `np.union1d`, whose `np.unique` fills a hash table first: sorting alone is much faster."""
    keys = np.concatenate([one, other])
    keys.sort()
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    return keys[new]


def need_memory(tokens: int, order: int) -> None:
    """Refuse a text whose sequences this machine has no memory for.

    Raises:
        HalfpintError: with how much is wanted.
    """
    needed, room = tokens * _BYTES_A_TOKEN * order, memory_bytes()
    if room and needed > room:
        raise HalfpintError(
            "the text", wanted=f"memory for {tokens:,} tokens by sequences of {order}: {needed / 2**30:.1f} GiB",
            got=f"{room / 2**30:.1f} GiB", todo="Give less text, a smaller order, or a machine with more memory.",
        )  # fmt: skip
