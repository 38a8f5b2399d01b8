"""Counts of n-grams as sorted columns of integers, order by order, in memory or block by block on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError
from halfpint.models._ngram_columns import Column, Held, Storage
from halfpint.models._ngram_text import BOS, EOS, UNKNOWN

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MOST_NUMBERS = 2**31 - 1
"""N-grams of one order that can be told apart: their numbers are int32."""


@dataclass(frozen=True)
class Block:
    """N-grams that follow each other in a level: all those of some contexts.

    Args:
        start, stop: the numbers of the first and, plus one, of the last.
        first, contexts: the number of the first context, and how many; some may have no n-grams.
        keys: int64 (n-grams,): context * words + word.
        context: int64 (n-grams,), ascending: the number of the context less `first`.
    """

    start: int
    stop: int
    first: int
    contexts: int
    keys: Ints
    context: Ints


@dataclass(frozen=True)
class Level:
    """All n-grams of one order that the text has; an n-gram's number is its place here.

    They are in the order of their words, the first word first. Of single words there are counts alone.

    Args:
        order: words in an n-gram.
        words: size of the vocabulary.
        threshold: the count up to which n-grams are dropped from the model.
        keys: int64 (n-grams,), ascending: the number, one order below, of the n-gram without its last word, times the
            number of words, plus the last word.
        counts: int64 (n-grams,): how often it occurs.
        shorter: int32 (n-grams,): the number, one order below, of the n-gram without its first word.
        starts: the numbers of those that start with <s>: the first, and the last plus one.
        kept: how many occur more often than `threshold`.
    """

    order: int
    words: int
    threshold: int
    keys: Column
    counts: Column
    shorter: Column
    starts: tuple[int, int]
    kept: int

    def __len__(self) -> int:
        return len(self.counts)

    def keeps(self, start: int, stop: int) -> Mask:
        """Which of the n-grams `start` to `stop` are kept; the special words always are."""
        if not self.threshold:
            return np.ones(stop - start, dtype=bool)
        kept: Mask = self.counts[start:stop] > self.threshold
        if self.order == 1:
            kept[[word - start for word in (UNKNOWN, BOS, EOS) if start <= word < stop]] = True
        return kept

    def blocks(self, contexts: int, size: int) -> Iterator[Block]:
        """All n-grams, and all `contexts`, about `size` at a time; more only where one context has more."""
        first = start = 0
        while first < contexts:
            keys = self.keys[start : start + size]
            end, wide = contexts, size
            while start + len(keys) < len(self):
                end = int(keys[-1]) // self.words  # its n-grams may go on
                if end > int(keys[0]) // self.words:
                    break
                end, wide = contexts, 2 * wide
                keys = self.keys[start : start + wide]
            end = min(end, first + size)
            if end < contexts:
                keys = keys[: np.searchsorted(keys, end * self.words)]
            yield Block(start, start + len(keys), first, end - first, keys, keys // self.words - first)
            first, start = end, start + len(keys)


@dataclass(frozen=True)
class _Part:
    """What one chunk of the text has of one order: unique sorted keys, how often, and where."""

    keys: Column  # int64: context * words + word
    counts: Column  # int32
    shorter: Column  # int32
    ending: Column  # int32: for each token the place in `keys` of the n-gram that ends there, -1 where there is none
    numbers: Column  # int32: for each of `keys` its number in all of the text


def count(
    text: Sequence[Column],
    order: int,
    words: int,
    storage: Storage,
    thresholds: Sequence[int],
    done: Callable[[], None] = lambda: None,
) -> list[Level]:
    """The n-grams of orders 1 to `order`, none of them across the start of a line.

    An n-gram is a pair of its context's number and its last word, packed into one int64: sorting these gives the next
    order's numbers. Each chunk is sorted by itself, and what the chunks found is merged, range by range of the keys.
    So the largest thing sorted at once is a chunk, and the largest merged at once a block; in a storage on disk nothing
    else is in memory. Between the orders 8 bytes a token are kept.

    Args:
        text: a chunk each, int32 numbers of words as `encode` gives them; they are used up.
        order: the longest n-grams.
        words: size of the vocabulary.
        storage: where columns are kept.
        thresholds: for each order the count up to which n-grams will be dropped.
        done: called after each order.

    Raises:
        HalfpintError: more n-grams of an order than there are numbers, or a model that will not fit into memory.
    """
    level = _single_words(text, words, thresholds[0])
    levels, endings = [level], list(text)
    done()
    for number, threshold in enumerate(thresholds[1:order], start=2):
        last = number == order
        parts = []
        for place, chunk in enumerate(text):
            parts.append(_part(chunk, endings[place], words, storage, last=last))
            if number > 2:  # the first ones are the text
                endings[place].drop()
        level = _merged(parts, level, threshold, storage, last=last)
        if not last:
            endings = [_endings(part, storage, alone=len(parts) == 1) for part in parts]
        levels.append(level)
        storage.need_memory(sum(level.kept for level in levels))
        done()
    for chunk in text:
        chunk.drop()
    return levels


def _single_words(text: Sequence[Column], words: int, threshold: int) -> Level:
    """The level of order 1. It is as large as the vocabulary, which is in memory anyway."""
    totals = np.zeros(words, dtype=np.int64)
    for chunk in text:
        totals += np.bincount(chunk[:], minlength=words)
    counts = Held(np.int64)
    counts.append(totals)
    level = Level(1, words, threshold, Held(np.int64), counts, Held(np.int32), (BOS, BOS + 1), 0)
    return replace(level, kept=int(level.keeps(0, words).sum()))


def _part(text: Column, endings: Column, words: int, storage: Storage, *, last: bool) -> _Part:
    """The n-grams one longer than those of `endings`, for one chunk; of the `last` order nothing goes on."""
    tokens, ending = text[:], endings[:]
    at = np.flatnonzero((ending[:-1] >= 0) & (tokens[1:] != BOS)) + 1
    keys = ending[at - 1].astype(np.int64) * words + tokens[at]
    keys, sorting = sort_with_places(keys)
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    first = np.flatnonzero(new)
    part = _Part(storage.column(np.int64), *(storage.column(np.int32) for _ in range(4)))
    part.keys.append(keys[first])
    part.counts.append(np.diff(np.append(first, len(keys))))
    part.shorter.append(ending[at[sorting[first]]])
    if not last:
        ending_now = np.full(len(tokens), -1, dtype=np.int32)
        ending_now[at[sorting]] = np.cumsum(new, dtype=np.int32) - 1
        part.ending.append(ending_now)
    return part


def _merged(parts: Sequence[_Part], below: Level, threshold: int, storage: Storage, *, last: bool) -> Level:
    """All n-grams of the parts; each part learns their numbers, unless they are the `last` or it is the only part."""
    level = Level(
        below.order + 1, below.words, threshold, storage.column(np.int64), storage.column(np.int64),
        storage.column(np.int32), (0, 0), 0,
    )  # fmt: skip
    borders = np.array(below.starts, dtype=np.int64) * below.words
    starts, kept = np.zeros(2, dtype=np.int64), 0
    for found in _ranges(parts, storage.block):
        keys = _union([own for _, _, own in found])
        counts = np.zeros(len(keys), dtype=np.int64)
        shorter = np.zeros(len(keys), dtype=np.int32)
        if len(level) + len(keys) > MOST_NUMBERS:
            raise HalfpintError(
                "the text", wanted=f"at most {MOST_NUMBERS:,} different sequences of {level.order}", got="more",
                todo="Give less text or a smaller order.",
            )  # fmt: skip
        for part, start, own in found:
            places = np.arange(len(keys)) if len(found) == 1 else np.searchsorted(keys, own)
            counts[places] += part.counts[start : start + len(own)]
            shorter[places] = part.shorter[start : start + len(own)]
            if not last and len(parts) > 1:
                part.numbers.append(places + len(level))
        level.keys.append(keys)
        level.shorter.append(shorter)
        level.counts.append(counts)
        starts += np.searchsorted(keys, borders)
        kept += int((counts > threshold).sum())
    for part in parts:
        for column in (part.keys, part.counts, part.shorter):
            column.drop()
    return replace(level, starts=(int(starts[0]), int(starts[1])), kept=kept)


def _ranges(parts: Sequence[_Part], size: int) -> Iterator[list[tuple[_Part, int, Ints]]]:
    """Ranges of keys, ascending, that hold about `size` keys of all parts together, or fewer.

    Of each part that has keys in the range: the part, the place of the first of them, and the keys. A range ends where
    the first of the parts' blocks ends, for what comes after it is not known yet.
    """
    size = max(size // len(parts), 1)
    places = [0] * len(parts)
    held: list[Ints] = [np.empty(0, dtype=np.int64)] * len(parts)
    while True:
        for number, part in enumerate(parts):
            if not len(held[number]):
                held[number] = part.keys[places[number] : places[number] + size]
        ends = [
            own[-1]
            for part, place, own in zip(parts, places, held, strict=True)
            if len(own) and place + len(own) < len(part.keys)
        ]
        found = []
        for number, (part, own) in enumerate(zip(parts, held, strict=True)):
            stop = int(np.searchsorted(own, min(ends), side="right")) if ends else len(own)
            if stop:
                found.append((part, places[number], own[:stop]))
                places[number] += stop
                held[number] = own[stop:]
        if not found:
            return
        yield found


def _endings(part: _Part, storage: Storage, *, alone: bool) -> Column:
    """For each token of a part the number of the n-gram that ends there, in all of the text; -1 where there is none."""
    if alone:
        return part.ending  # it has the numbers of all of the text
    endings = storage.column(np.int32)
    # The last entry is what -1 points at.
    endings.append(np.append(part.numbers[:], np.int32(-1))[part.ending[:]])
    part.ending.drop()
    part.numbers.drop()
    return endings


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
