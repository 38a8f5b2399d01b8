"""From counts of n-grams to probabilities and back-off weights: modified Kneser-Ney, or plain relative frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfpint.models._ngram_counts import Ints, Level
from halfpint.models._ngram_text import BOS, EOS, UNKNOWN

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

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
    log10: tuple[npt.NDArray[np.float32], ...]
    backoff: tuple[npt.NDArray[np.float32], ...]
    discounts: tuple[tuple[float, float, float], ...]
    fallback: tuple[int, ...]


def kneser_ney(levels: Sequence[Level], prune: Sequence[int]) -> Estimate:
    """Interpolated modified Kneser-Ney.

    Each order discounts its adjusted counts by D1, D2 or D3+ and gives what that leaves to the next lower order; the
    lowest gives it to all words alike, the unknown one among them and <s> not.

    Args:
        levels: the counts.
        prune: for each order the count up to which an n-gram is dropped; it still counts in every statistic, and its
            share goes to the lower order.

    Source:
        Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", sections 2.7 and 3
        (equations 2.48 for D, page 20 for gamma); Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model
        Estimation", section 3, whose lmplz this agrees with: n-grams that start a line keep their own counts, <unk> is
        a word seen no times, pruning as there.
    """
    kept = _kept(levels, prune)
    adjusted = _adjusted(levels)
    discounts, fallback = [], []
    for number, counts in enumerate(adjusted, start=1):
        found = _discounts(counts)
        discounts.append(found or FALLBACK)
        fallback += [] if found else [number]
    amount = _amounts(adjusted[0], discounts[0])
    total = adjusted[0].sum()
    free = np.where(kept[0], amount, adjusted[0]).sum() / total
    probability = (adjusted[0] - amount) / total + free / (kept[0].sum() - 1)
    probability[BOS] = 1.0  # it is never asked for; lmplz writes so
    log10, backoff = [_log10(probability)], []
    for level, counts, three in zip(levels[1:], adjusted[1:], discounts[1:], strict=True):
        contexts = len(probability)
        totals = _sums(level.context, counts, contexts)
        amount = _amounts(counts, three)
        pruned = ~kept[len(log10)]
        left = _sums(level.context, np.where(pruned, counts, amount), contexts)
        seen = totals > 0
        gamma = np.divide(left, totals, out=np.ones(contexts), where=seen)
        backoff.append(_log10(gamma))
        lower = probability[level.shorter]
        probability = (counts - amount) / totals[level.context] + gamma[level.context] * lower
        log10.append(_log10(probability))
    return _without_pruned(levels, kept, log10, backoff, tuple(discounts), tuple(fallback))


def relative_frequencies(levels: Sequence[Level], prune: Sequence[int]) -> Estimate:
    """Shares of counts, without smoothing.

    A word has its share of the counts after the longest context that was seen, and none when it was never seen there.
    Pruned n-grams count as never seen.
    """
    kept = _kept(levels, prune)
    log10: list[npt.NDArray[np.float32]] = []
    backoff: list[npt.NDArray[np.float32]] = []
    for number, (level, keep) in enumerate(zip(levels, kept, strict=True)):
        counts = np.where(keep, level.counts, 0)
        if number:
            totals = _sums(level.context, counts, len(levels[number - 1].counts))
            backoff.append(np.where(totals > 0, -np.inf, 0).astype(np.float32))
            share = counts / np.maximum(totals, 1)[level.context]
        else:
            counts[BOS] = 0
            share = counts / counts.sum()
            share[BOS] = 1.0
        log10.append(_log10(share))
    return _without_pruned(levels, kept, log10, backoff, (), ())


def _kept(levels: Sequence[Level], prune: Sequence[int]) -> list[Mask]:
    """Which n-grams occur more often than the threshold of their order; the special words stay."""
    kept = [level.counts > threshold if threshold else np.ones(len(level.counts), dtype=bool)
            for level, threshold in zip(levels, prune, strict=True)]  # fmt: skip
    kept[0][[UNKNOWN, BOS, EOS]] = True
    return kept


def _adjusted(levels: Sequence[Level]) -> list[Ints]:
    """For each order how many different words come before an n-gram (<s> being one).

    The longest n-grams, and those that start with <s>, have nothing before them: they keep their counts.
    """
    adjusted = []
    starts: Mask = np.arange(len(levels[0].counts)) == BOS
    for number, level in enumerate(levels):
        if number:
            starts = starts[level.context]
        counts = level.counts
        if number + 1 < len(levels):
            before = np.bincount(levels[number + 1].shorter, minlength=len(counts))
            counts = np.where(starts, counts, before)
        if not number:
            counts = np.where(starts, 0, counts)
        adjusted.append(counts)
    return adjusted


def _discounts(counts: Ints) -> tuple[float, float, float] | None:
    """D1, D2 and D3+ by the counts of counts, or None where these give nothing usable."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    if not n[1:4].all():
        return None
    share = n[1] / (n[1] + 2 * n[2])
    found = [float(j - (j + 1) * share * n[j + 1] / n[j]) for j in (1, 2, 3)]
    if any(not 0 <= amount <= j for j, amount in enumerate(found, start=1)):
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


def _without_pruned(
    levels: Sequence[Level],
    kept: Sequence[Mask],
    log10: Sequence[npt.NDArray[np.float32]],
    backoff: Sequence[npt.NDArray[np.float32]],
    discounts: tuple[tuple[float, float, float], ...],
    fallback: tuple[int, ...],
) -> Estimate:
    """What is kept, renumbered. An n-gram occurs no more often than its parts, so that what is left hangs together."""
    words = int(kept[0].sum())
    word_numbers = numbers = np.cumsum(kept[0]) - 1
    keys = []
    for level, keep in zip(levels[1:], kept[1:], strict=True):
        keys.append(numbers[level.context[keep]] * words + word_numbers[level.word[keep]])
        numbers = np.cumsum(keep) - 1
    return Estimate(
        kept_words=kept[0],
        keys=tuple(keys),
        log10=tuple(values[keep] for values, keep in zip(log10, kept, strict=True)),
        backoff=tuple(values[keep] for values, keep in zip(backoff, kept[:-1], strict=True)),
        discounts=discounts,
        fallback=fallback,
    )
