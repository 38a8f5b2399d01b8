"""How sure a metric is, over independent units: intervals of one model, of the difference of two, and of many at once.

A metric that is a share has the interval of a binomial share of as many answers as it is worth. What may be infinite
is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

from halfpint.counts import LEVEL, Counts, Float64Array, IntArray, Metric
from halfpint.errors import HalfpintError
from halfpint.evaluate._beta import beta_quantile

_RESAMPLES = 1000
_CELLS_AT_ONCE = 4_000_000
_STEP = 1e-3  # of a unit, for derivatives
_MORE_PAIRS = 2  # that differ, are added: with one, the upper end misses in one of eight where five differ, all one way


def interval(
    counts: Counts, metric: Metric, *, resamples: int = _RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Low and high end of the interval of `metric`.

    Args:
        counts: one row per unit; units of one group count together.
        resamples: how many resamples are drawn, of a metric that is no share.
        seed: of them: the same seed gives the same interval.
        level: how often such intervals hold the true value.

    Raises:
        HalfpintError: no unit, or a level outside 0 to 1.

    Source: shares: the equal-tailed Jeffreys interval, Brown, Cai & DasGupta 2001, "Interval Estimation for a Binomial
    Proportion", section 4.3, with the effective number of answers of Korn & Graubard 1998, "Confidence intervals for
    proportions with small expected number of positive counts", from the infinitesimal jackknife. Others: percentile
    bootstrap, Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    return intervals(counts, [metric], resamples=resamples, seed=seed, level=level)[0]


def intervals(
    counts: Counts, metrics: Sequence[Metric], *, resamples: int = _RESAMPLES, seed: int = 0, level: float = LEVEL
) -> list[tuple[float, float]]:
    """`interval` of several metrics."""
    _check(counts, level)
    drawn: Float64Array | None = None
    found = []
    for metric in metrics:
        if metric.bounded:
            found.append(_share(metric(counts), effective_answers(counts, metric), level))
            continue
        if drawn is None:
            drawn = np.concatenate([sums for _, sums in _resampled([counts.by_group()], resamples, seed)])
        found.append(_ends(metric.of(drawn), level))
    return found


def difference(
    a: Counts,
    b: Counts,
    metric: Metric,
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float, float]:
    """The metric of `a` less that of `b` on the same units, and the ends of its interval.

    Arguments and errors as of `interval`; an interval that leaves out 0 tells `a` and `b` apart. Two that answered
    everything alike are no more equal than as many units can show: the interval of a share is never without width.

    Source: for shares the normal interval of paired units, with two more pairs that differ; Agresti & Min 2005, "Simple
    improved confidence intervals for comparing matched proportions", add one.
    """
    _check(a, level)
    if len(a) != len(b):
        raise HalfpintError("difference", wanted="the same units", got=f"{len(a)} and {len(b)}")
    found = metric(a) - metric(b)
    if metric.bounded:
        half = NormalDist().inv_cdf((1 + level) / 2) * paired_error(a, b, metric)
        return found, max(-1.0, found - half), min(1.0, found + half)
    parts: tuple[list[Float64Array], list[Float64Array]] = ([], [])
    for which, sums in _resampled([a.by_group(), b.by_group()], resamples, seed):
        parts[which].append(metric.of(sums))
    low, high = _ends(np.concatenate(parts[0]) - np.concatenate(parts[1]), level)
    return found, low, high


def influence(counts: Counts, metric: Metric) -> Float64Array:
    """What each unit adds to a share, by its derivative: float64 of shape (units,); the sum is 0.

    The classes that an average is over are those of all units, whichever are weighed.
    """
    total = counts.total()
    up, down = metric.of(total + _STEP * counts.rows), metric.of(total - _STEP * counts.rows)
    slopes: Float64Array = (up - down) / (2 * _STEP)
    return slopes[counts.which]


def effective_answers(counts: Counts, metric: Metric) -> float:
    """How many answers, each right or wrong by itself, would make a share as sure as these do.

    Averages over labels rest on the rare ones, and groups of like units count for less than their size.
    """
    value = metric(counts)
    variance = _variance(influence(counts, metric), counts.groups)
    if variance <= 1e-18:
        return _answers(counts, metric, grouped=True)
    return min(value * (1 - value) / variance, _answers(counts, metric, grouped=False))


def paired_error(a: Counts, b: Counts, metric: Metric) -> float:
    """The standard error of the difference of a share between two models on the same units."""
    variance = _variance(influence(a, metric) - influence(b, metric), a.groups)
    return math.sqrt(variance + _MORE_PAIRS * _answers(a, metric, grouped=False) ** -2)


def lower_bounds(
    differences: Float64Array, influences: Float64Array, errors: Float64Array, groups: IntArray,
    *, level: float = LEVEL, resamples: int = _RESAMPLES, seed: int = 0,
) -> Float64Array:  # fmt: skip
    """One-sided lower ends of several differences that all hold together with probability `level`: float64 (models,).

    Args:
        differences, errors: of each model to the one that it is compared with: shape (models,).
        influences: of each unit on them: shape (units, models).
        groups: the group of each unit.

    Source: the Gaussian multiplier bootstrap of the greatest of many means, Chernozhukov, Chetverikov & Kato 2013,
    "Gaussian approximations and multiplier bootstrap for maxima of sums of high-dimensional random vectors".
    """
    if not len(differences):
        return np.zeros(0)
    names, place = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), len(differences)))
    np.add.at(sums, place.reshape(-1), influences)
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(names))
    greatest = []
    for start in range(0, resamples, at_once):
        drawn = generator.standard_normal((min(at_once, resamples - start), len(names))) @ sums
        greatest.append((drawn / errors).max(axis=1))
    reach = max(float(np.quantile(np.concatenate(greatest), level)), NormalDist().inv_cdf(level))
    bounds: Float64Array = differences - reach * errors
    return bounds


def _share(value: float, answers: float, level: float) -> tuple[float, float]:
    """The interval of a share of so many answers; of none or all right, the mid-P end."""
    tail = (1 - level) / 2
    value = min(max(value, 0.0), 1.0)
    a, b = value * answers, (1 - value) * answers
    end = (2 * tail) ** (1 / max(answers, 1e-9))
    low = 0.0 if a < 1e-9 else end if b < 1e-9 else beta_quantile(tail, a + 0.5, b + 0.5)
    high = 1.0 if b < 1e-9 else 1 - end if a < 1e-9 else beta_quantile(1 - tail, a + 0.5, b + 0.5)
    return min(low, value), max(high, value)


def _variance(influences: Float64Array, groups: object) -> float:
    """Of the sum of what independent groups add."""
    if groups is None:
        return float((influences**2).sum())
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(place.reshape(-1), weights=influences, minlength=len(names))
    return float((sums**2).sum()) * len(names) / max(len(names) - 1, 1)


def _answers(counts: Counts, metric: Metric, *, grouped: bool) -> float:
    """How many answers a share hangs on, by how much of it hangs on each."""
    units = len(counts)
    if metric.extremes is None:
        return float(units)
    right, wrong, answers = metric.extremes(counts.rows)
    rest = counts.total() - counts.rows
    weights = np.abs(metric.of(rest + right) - metric.of(rest + wrong))[counts.which]
    if weights.sum() <= 0:
        return float(units)
    if grouped and counts.groups is not None:
        _, place = np.unique(counts.groups, return_inverse=True)
        sums = np.bincount(place.reshape(-1), weights=weights)
        return float(weights.sum() ** 2 / (sums**2).sum())
    return float(weights.sum() ** 2 / (weights**2 / np.maximum(answers[counts.which], 1)).sum())


def _resampled(given: Sequence[Counts], resamples: int, seed: int) -> Iterator[tuple[int, Float64Array]]:
    """For resamples in turn, and on them for each of `given`: its number and its sums, shape (resamples, columns).

    Units that have the same rows in all of them are one cell; a resample is a count for each cell.
    """
    cells, frequency = np.unique(np.stack([counts.which for counts in given], axis=1), axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    rows = [np.where(np.isfinite(counts.rows), counts.rows, 0.0) for counts in given]
    endless = [~np.isfinite(counts.rows) for counts in given]
    units = len(given[0])
    at_once = max(1, _CELLS_AT_ONCE // len(cells))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.multinomial(units, frequency / units, size=size).astype(np.float64)
        for number, table in enumerate(rows):
            sums = drawn @ table[cells[:, number]]
            if endless[number].any():  # 0 times infinity is nothing
                sums[(drawn @ endless[number][cells[:, number]].astype(np.float64)) > 0] = np.inf
            yield number, sums


def _ends(values: Float64Array, level: float) -> tuple[float, float]:
    """Not interpolated: between a number and infinity there is nothing."""
    ordered = np.sort(values)
    low = ordered[math.floor((1 - level) / 2 * (len(ordered) - 1))]
    high = ordered[math.ceil((1 + level) / 2 * (len(ordered) - 1))]
    return float(low), float(high)


def _check(counts: Counts, level: float) -> None:
    if not len(counts):
        raise HalfpintError("interval", wanted="at least one row", got="none", todo="Give data with labelled rows.")
    if not 0 < level < 1:
        raise HalfpintError("level", wanted="a share between 0 and 1", got=str(level), todo="Give 0.95, for example.")
