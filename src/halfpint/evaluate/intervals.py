"""How sure a metric is: percentile bootstrap intervals over units, of one model and of the difference of two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from halfpint.counts import LEVEL, Counts, Float64Array, Metric
from halfpint.errors import HalfpintError

_RESAMPLES = 1000
_CELLS_AT_ONCE = 4_000_000


def interval(
    counts: Counts, metric: Metric, *, resamples: int = _RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Low and high end of the percentile bootstrap interval of `metric`, over resampled units.

    Args:
        counts: one row per unit.
        resamples: how many resamples are drawn.
        seed: the same seed gives the same interval.
        level: the share of resamples inside.

    Raises:
        HalfpintError: no unit, or a level outside 0 to 1.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3. Units with the same counts are
    drawn together, with multinomial counts: the same distribution as unit by unit, and much faster.
    """
    return intervals(counts, [metric], resamples=resamples, seed=seed, level=level)[0]


def intervals(
    counts: Counts, metrics: Sequence[Metric], *, resamples: int = _RESAMPLES, seed: int = 0, level: float = LEVEL
) -> list[tuple[float, float]]:
    """`interval` of several metrics over the same resamples."""
    _check(counts, level)
    drawn = np.concatenate([sums for _, sums in _resampled([counts], resamples, seed)])
    return [_ends(metric.of(drawn), level, metric.bounded) for metric in metrics]


def difference(
    a: Counts,
    b: Counts,
    metric: Metric,
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float, float]:
    """The metric of `a` less that of `b` on the same units, and the ends of its interval over the same resamples.

    Arguments, errors and source as of `interval`; an interval that leaves out 0 tells `a` and `b` apart.
    """
    _check(a, level)
    if len(a) != len(b):
        raise HalfpintError("difference", wanted="the same units", got=f"{len(a)} and {len(b)}")
    parts: tuple[list[Float64Array], list[Float64Array]] = ([], [])
    for which, sums in _resampled([a, b], resamples, seed):
        parts[which].append(metric.of(sums))
    low, high = _ends(np.concatenate(parts[0]) - np.concatenate(parts[1]), level, metric.bounded)
    return metric(a) - metric(b), low, high


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


def _ends(values: Float64Array, level: float, bounded: bool) -> tuple[float, float]:
    if bounded:
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
    ordered = np.sort(values)
    # Not interpolated: between a number and infinity there is nothing.
    low = ordered[math.floor((1 - level) / 2 * (len(ordered) - 1))]
    high = ordered[math.ceil((1 + level) / 2 * (len(ordered) - 1))]
    return float(low), float(high)


def _check(counts: Counts, level: float) -> None:
    if not len(counts):
        raise HalfpintError("interval", wanted="at least one row", got="none", todo="Give data with labelled rows.")
    if not 0 < level < 1:
        raise HalfpintError("level", wanted="a share between 0 and 1", got=str(level), todo="Give 0.95, for example.")
