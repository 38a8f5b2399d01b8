"""How sure a metric is: percentile bootstrap intervals, of one classifier and of the difference of two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError
from halfpint.metrics import Float64Array, IntArray, check_metric, from_counts, metric

_CELLS_AT_ONCE = 4_000_000


def bootstrap_interval(
    true: IntArray,
    predicted: IntArray,
    name: str,
    *,
    n_classes: int,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Low and high end of the percentile bootstrap interval of the metric `name`, over resampled rows.

    Args:
        true: class indices, shape (rows,).
        predicted: class indices, shape (rows,).
        name: one of `halfpint.metrics.METRICS`.
        n_classes: classes of the model; indices are below it.
        resamples: how many resamples are drawn.
        seed: the same seed gives the same interval.
        level: the share of resamples inside.

    Raises:
        HalfpintError: no such metric, no row, or a level outside 0 to 1.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3. Rows that share true and
    predicted class are drawn together, with multinomial counts: the same distribution as row by row, and much faster.
    """
    _check(name, true, level)
    draws = [from_counts(name, *counts) for _, counts in _resampled(true, [predicted], n_classes, resamples, seed)]
    return _ends(np.concatenate(draws), level)


def paired_difference(
    true: IntArray,
    a: IntArray,
    b: IntArray,
    name: str,
    *,
    n_classes: int,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The metric of `a` less that of `b` on the same rows, and the ends of its interval over the same resamples.

    Arguments, errors and source as of `bootstrap_interval`; an interval that leaves out 0 tells `a` and `b` apart.
    """
    _check(name, true, level)
    parts: tuple[list[Float64Array], list[Float64Array]] = ([], [])
    for which, counts in _resampled(true, [a, b], n_classes, resamples, seed):
        parts[which].append(from_counts(name, *counts))
    low, high = _ends(np.concatenate(parts[0]) - np.concatenate(parts[1]), level)
    return metric(name, true, a, n_classes) - metric(name, true, b, n_classes), low, high


def _resampled(
    true: IntArray, predictions: list[IntArray], n_classes: int, resamples: int, seed: int
) -> Iterator[tuple[int, tuple[Float64Array, Float64Array, Float64Array]]]:
    """For resamples in turn, and on them for each of `predictions`: its index and its `class_counts` in each.

    Rows with the same true class and the same predictions are one cell; a resample is a count for each cell.
    """
    columns = np.stack([true, *predictions], axis=1)
    cells, frequency = np.unique(columns, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    support_of = _one_hot(cells[:, 0], n_classes)
    guesses_of = [_one_hot(cells[:, 1 + which], n_classes) for which in range(len(predictions))]
    at_once = max(1, _CELLS_AT_ONCE // len(cells))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.multinomial(len(true), frequency / len(true), size=size).astype(np.float64)
        support = drawn @ support_of
        for which, guesses in enumerate(guesses_of):
            right = cells[:, 0] == cells[:, 1 + which]
            yield which, (drawn[:, right] @ support_of[right], support, drawn @ guesses)


def _one_hot(classes: IntArray, n_classes: int) -> Float64Array:
    found = np.zeros((len(classes), n_classes))
    found[np.arange(len(classes)), classes] = 1.0
    return found


def _ends(values: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(name: str, true: IntArray, level: float) -> None:
    check_metric(name)
    if not len(true):
        raise HalfpintError("interval", wanted="at least one row", got="none", todo="Give data with labelled rows.")
    if not 0 < level < 1:
        raise HalfpintError("level", wanted="a share between 0 and 1", got=str(level), todo="Give 0.95, for example.")
