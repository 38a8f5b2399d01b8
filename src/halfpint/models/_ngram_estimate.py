"""From counts of n-grams to probabilities and back-off weights: modified Kneser-Ney, or plain relative frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from halfpint.models._ngram_columns import Column, Storage
from halfpint.models._ngram_counts import Block, Ints, Level, Mask, sort_with_places
from halfpint.models._ngram_text import BOS

Floats = npt.NDArray[np.float64]
Log10 = npt.NDArray[np.float32]

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of an order whose counts of counts give none (small or odd text): lmplz's --discount_fallback."""


@dataclass(frozen=True)
class Estimate:
    """What a model is made of, the pruned n-grams already gone.

    Args:
        kept_words: bool (words,): the words that stay, to renumber the vocabulary by.
        keys: for each order from 2: int64 (n-grams,), ascending: context's number * words + word.
        log10: for each order: float32 (n-grams,): log10 of the probability of the last word after the others.
        backoff: for each order but the last: float32 (n-grams,): log10 of what a word unseen after it is multiplied by.
        discounts: for each order D1, D2 and D3+; empty without smoothing.
        fallback: the orders whose discounts are `FALLBACK`.
    """

    kept_words: Mask
    keys: tuple[Ints, ...]
    log10: tuple[Log10, ...]
    backoff: tuple[Log10, ...]
    discounts: tuple[tuple[float, float, float], ...]
    fallback: tuple[int, ...]


class _Made:
    """The arrays of a model, filled block by block with what is kept, in new numbers.

    An n-gram occurs no more often than its parts, so that what is left hangs together.
    """

    def __init__(self, levels: Sequence[Level], log10: Log10) -> None:
        """`log10`: of the probabilities of all single words."""
        self.levels = levels
        self.kept_words = levels[0].keeps(0, len(levels[0]))
        self.words = int(self.kept_words.sum())
        self.numbers = np.cumsum(self.kept_words) - 1
        self.keys = [np.empty(level.kept, dtype=np.int64) for level in levels[1:]]
        self.log10 = [np.empty(level.kept, dtype=np.float32) for level in levels[1:]]
        self.backoff = [np.empty(level.kept, dtype=np.float32) for level in levels[:-1]]
        self.first = log10[self.kept_words]
        self.at = [0] * len(levels)  # n-grams of each order that are done
        self.above = [0] * len(levels)  # contexts of each order that are done

    def add(self, block: Block, keep: Mask, log10: Log10, backoff: Log10, order: int) -> None:
        """The n-grams of a block of `order` (2 or more), and the back-off weights of its contexts."""
        level, number = self.levels[order - 1], order - 2
        keys, start, context = block.keys, self.at[number], self.above[number]
        if level.threshold:  # else nothing of this order or of a lower one is dropped, and all keep their numbers
            below = self.levels[number].keeps(block.first, block.first + block.contexts)
            words = keys - (block.context + block.first) * level.words
            contexts = np.cumsum(below) + (context - 1)
            keys = contexts[block.context[keep]] * self.words + self.numbers[words[keep]]
            log10, backoff = log10[keep], backoff[below]
        self.keys[number][start : start + len(keys)] = keys
        self.log10[number][start : start + len(keys)] = log10
        self.backoff[number][context : context + len(backoff)] = backoff
        self.at[number] += len(keys)
        self.above[number] += len(backoff)

    def estimate(self, discounts: Sequence[tuple[float, float, float]] = (), fallback: Sequence[int] = ()) -> Estimate:
        """All of it."""
        return Estimate(
            kept_words=self.kept_words,
            keys=tuple(self.keys),
            log10=(self.first, *self.log10),
            backoff=tuple(self.backoff),
            discounts=tuple(discounts),
            fallback=tuple(fallback),
        )


def kneser_ney(levels: Sequence[Level], storage: Storage) -> Estimate:
    """Interpolated modified Kneser-Ney.

    Each order discounts its adjusted counts by D1, D2 or D3+ and gives what that leaves to the next lower order; the
    lowest gives it to all words alike, the unknown one among them and <s> not. An n-gram that is dropped still counts
    in every statistic, and its share goes to the lower order.

    Args:
        levels: the counts; they are used up.
        storage: where columns are kept.

    Source:
        Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", sections 2.7 and 3
        (equations 2.48 for D, page 20 for gamma); Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model
        Estimation", section 3, whose lmplz this agrees with: n-grams that start a line keep their own counts, <unk> is
        a word seen no times, pruning as there.
    """
    adjusted = _adjusted(levels, storage)
    discounts, fallback = [], []
    for number, column in enumerate(adjusted, start=1):
        found = _discounts(column, storage.block)
        discounts.append(found or FALLBACK)
        fallback += [] if found else [number]
    counts = adjusted[0][:]
    kept = levels[0].keeps(0, len(counts))
    amount = _amounts(counts, discounts[0])
    total = counts.sum()
    free = np.where(kept, amount, counts).sum() / total
    probability = (counts - amount) / total + free / (kept.sum() - 1)
    probability[BOS] = 1.0  # it is never asked for; lmplz writes so
    made = _Made(levels, _log10(probability))
    lower = storage.column(np.float64)
    lower.append(probability)
    for below, level, column, three in zip(levels, levels[1:], adjusted[1:], discounts[1:], strict=False):
        higher = storage.column(np.float64)
        for block in level.blocks(len(below), storage.block):
            places = slice(block.start, block.stop)
            counts, keep = column[places], level.keeps(block.start, block.stop)
            totals = _sums(block.context, counts, block.contexts)
            amount = _amounts(counts, three)
            left = _sums(block.context, np.where(keep, amount, counts), block.contexts)
            gamma = np.divide(left, totals, out=np.ones(block.contexts), where=totals > 0)
            share = gamma[block.context] * _taken(lower, level.shorter[places], storage.block)
            probability = (counts - amount) / totals[block.context] + share
            made.add(block, keep, _log10(probability), _log10(gamma), level.order)
            if level.order < len(levels):
                higher.append(probability)
        for used in (lower, column, level.keys, level.shorter, below.counts):
            used.drop()
        lower = higher
    return made.estimate(discounts, fallback)


def relative_frequencies(levels: Sequence[Level], storage: Storage) -> Estimate:
    """Shares of counts, without smoothing.

    A word has its share of the counts after the longest context that was seen, and none when it was never seen there.
    Pruned n-grams count as never seen.

    Args:
        levels: the counts; they are used up.
        storage: where columns are kept.
    """
    counts = np.where(levels[0].keeps(0, len(levels[0])), levels[0].counts[:], 0)
    counts[BOS] = 0
    share = counts / counts.sum()
    share[BOS] = 1.0
    made = _Made(levels, _log10(share))
    for below, level in pairwise(levels):
        level.shorter.drop()
        for block in level.blocks(len(below), storage.block):
            keep = level.keeps(block.start, block.stop)
            counts = np.where(keep, level.counts[block.start : block.stop], 0)
            totals = _sums(block.context, counts, block.contexts)
            backoff = np.where(totals > 0, -np.inf, 0).astype(np.float32)
            share = counts / np.maximum(totals, 1)[block.context]
            made.add(block, keep, _log10(share), backoff, level.order)
        for used in (level.keys, below.counts):
            used.drop()
    return made.estimate()


def _adjusted(levels: Sequence[Level], storage: Storage) -> list[Column]:
    """For each order how many different words come before an n-gram (<s> being one).

    The longest n-grams, and those that start with <s>, have nothing before them: they keep their counts. <s> itself,
    which nothing ever goes on with, has none.
    """
    adjusted = []
    for level, above in pairwise(levels):
        column = storage.column(np.int64)
        first, last = level.starts
        for start, own in level.counts.blocks(storage.block):
            counts = np.zeros(len(own), dtype=np.int64)
            for _, places in above.shorter.blocks(storage.block):
                here = places
                if len(own) < len(level):
                    here = places[(places >= start) & (places < start + len(own))] - start
                counts += np.bincount(here, minlength=len(own))
            begun = slice(max(first - start, 0), max(last - start, 0))
            counts[begun] = own[begun] if level.order > 1 else 0
            column.append(counts)
        adjusted.append(column)
    if len(levels) > 1:
        return [*adjusted, levels[-1].counts]
    alone, counts = storage.column(np.int64), levels[0].counts[:].copy()
    counts[BOS] = 0
    alone.append(counts)
    return [alone]


def _taken(column: Column, places: npt.NDArray[np.int32], size: int) -> Floats:
    """The numbers at `places` of a column that is read once, `size` numbers at a time."""
    if len(column) <= size:
        found: Floats = column[:][places]
        return found
    ordered, asked = sort_with_places(places.astype(np.int64))
    found = np.empty(len(places), dtype=np.float64)
    for start, values in column.blocks(size):
        first, last = np.searchsorted(ordered, [start, start + size])
        found[asked[first:last]] = values[ordered[first:last] - start]
    return found


def _discounts(column: Column, size: int) -> tuple[float, float, float] | None:
    """D1, D2 and D3+ by the counts of counts, or None where these give nothing usable."""
    n = np.zeros(6)
    for _, counts in column.blocks(size):
        n += np.bincount(np.minimum(counts, 5), minlength=6)
    if not n[1:4].all():
        return None
    share = n[1] / (n[1] + 2 * n[2])
    found = [float(j - (j + 1) * share * n[j + 1] / n[j]) for j in (1, 2, 3)]
    # One of 0 would leave nothing for words that were not seen: their probability would be 0, any perplexity infinite.
    if any(not 0 < amount <= j for j, amount in enumerate(found, start=1)):
        return None
    return found[0], found[1], found[2]


def _amounts(counts: Ints, discounts: tuple[float, float, float]) -> Floats:
    """The discount of each count."""
    amounts: Floats = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    return amounts


def _sums(groups: Ints, values: npt.NDArray[np.generic], size: int) -> Floats:
    """The sum of `values` in each of `size` groups."""
    sums: Floats = np.bincount(groups, weights=values, minlength=size).astype(np.float64, copy=False)
    return sums


def _log10(values: Floats) -> npt.NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.minimum(np.log10(values), 0).astype(np.float32)
