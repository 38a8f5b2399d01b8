"""What a metric of classification is, from counts; every average as scikit-learn takes it by default."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, nearest

IntArray = npt.NDArray[np.integer[Any]]
Float64Array = npt.NDArray[np.float64]

METRICS = (
    "accuracy",
    *(f"{kind}_{average}" for average in ("macro", "micro", "weighted") for kind in ("precision", "recall", "f1")),
)


def metric(name: str, true: IntArray, predicted: IntArray, n_classes: int) -> float:
    """One metric of `METRICS`.

    Raises:
        HalfpintError: there is no such metric, or no row.
    """
    check_metric(name)
    need_rows(true)
    return float(from_counts(name, *class_counts(true, predicted, n_classes)))


def check_metric(name: str, place: str = "metric") -> None:
    """Raise HalfpintError, with the nearest name, when `name` is none of `METRICS`; `place` is where it was written."""
    if name not in METRICS:
        raise HalfpintError(place, wanted="the name of a metric", got=repr(name), todo=nearest(name, METRICS))


def class_counts(
    true: IntArray, predicted: IntArray, n_classes: int
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """How often each class was predicted rightly, is true, and was predicted: three arrays of shape (classes,)."""
    hits, support, guesses = (
        np.bincount(rows, minlength=n_classes).astype(np.float64) for rows in (true[true == predicted], true, predicted)
    )
    return hits, support, guesses


def from_counts(name: str, hits: Float64Array, support: Float64Array, guesses: Float64Array) -> Float64Array:
    """The metric `name` from arrays of shape (..., classes) as `class_counts` gives them; shape (...)."""
    kind, _, average = name.partition("_")
    if kind == "accuracy" or average == "micro":
        # With one label a row, micro precision, recall and F1 are all the accuracy.
        return ratio(hits.sum(-1), support.sum(-1))
    if kind == "precision":
        values = ratio(hits, guesses)
    elif kind == "recall":
        values = ratio(hits, support)
    else:
        values = ratio(2 * hits, support + guesses)
    if average == "weighted":
        return ratio((values * support).sum(-1), support.sum(-1))
    return ratio(values.sum(-1), ((support + guesses) > 0).sum(-1).astype(np.float64))


def ratio(above: Float64Array, below: Float64Array) -> Float64Array:
    """`above` / `below`, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below != 0)


def need_rows(true: IntArray) -> None:
    """Refuse an empty array."""
    if not len(true):
        raise HalfpintError("evaluation", wanted="at least one row", got="none", todo="Give data with labelled rows.")
