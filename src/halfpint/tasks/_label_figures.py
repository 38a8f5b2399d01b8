"""Metrics of one label per text, from counts (averages as scikit-learn takes them by default), and the mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.counts import Counts, Float64Array, IntArray, Metric, ratio

FloatArray = npt.NDArray[np.floating[Any]]

_CALIBRATION_BINS = 15
_SHOWN_TEXT = 300
_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
_COVERED, _ANSWERED = 100, 30  # texts, and those answered: with fewer an accuracy says little


def label_counts(true: IntArray, predicted: IntArray, labels: int) -> Counts:
    """Counts of single labels: one column per label for hits, then for what is true, then for what was predicted.

    Args:
        true, predicted: label indices, shape (texts,).
        labels: number of labels.
    """
    pairs, which = np.unique(true.astype(np.int64) * labels + predicted, return_inverse=True)
    rows = np.zeros((len(pairs), 3, labels))
    at, first, second = np.arange(len(pairs)), pairs // labels, pairs % labels
    right = first == second
    rows[at[right], 0, first[right]] = rows[at, 1, first] = rows[at, 2, second] = 1.0
    return Counts(which.reshape(-1), rows.reshape(len(pairs), 3 * labels))


def _value(name: str, sums: Float64Array) -> Float64Array:
    """The metric `name` from sums of `label_counts`, shape (..., 3 * labels); shape (...)."""
    hits, support, guesses = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    kind, _, average = name.partition("_")
    if kind == "accuracy" or average == "micro":
        # With one label per text, micro precision, recall and F1 are all the accuracy.
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


_NAMES = (
    "accuracy",
    *(f"{kind}_{average}" for average in ("macro", "micro", "weighted") for kind in ("precision", "recall", "f1")),
)


def _extremes(rows: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Rows of `label_counts` as they would be if each text was answered right, and wrong; one answer each."""
    support = np.split(rows, 3, axis=-1)[1]
    wrong = np.concatenate([np.zeros_like(support), support, support], axis=-1)
    return np.concatenate([support] * 3, axis=-1), wrong, np.ones(len(rows))


METRICS: Mapping[str, Metric] = {name: Metric(partial(_value, name), extremes=_extremes) for name in _NAMES}
"""Macro averages are over the labels that occur in the truth or in the predictions; a division by zero gives 0."""


def calibration_error(true: IntArray, probabilities: FloatArray) -> float:
    """Expected calibration error: |accuracy - mean confidence| over 15 bins of equal width, weighted by their rows.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 5; a bin is open below, closed above.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == true
    bins = np.clip(np.ceil(confidence * _CALIBRATION_BINS).astype(np.int64) - 1, 0, _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(true))


def coverage(true: IntArray, probabilities: FloatArray) -> list[dict[str, Any]]:
    """At some thresholds of the best probability: "threshold", "answered" (share of the texts at or above it),
    "accuracy" among these. Empty with too few texts, and without the thresholds that too few texts reach."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    if len(true) < _COVERED:
        return []
    found = []
    for threshold in _THRESHOLDS:
        answered = confidence >= threshold
        if int(answered.sum()) >= _ANSWERED:
            share, accuracy = float(answered.mean()), float(right[answered].mean())
            found.append({"threshold": threshold, "answered": share, "accuracy": accuracy})
    return found


def log_loss(true: IntArray, probabilities: FloatArray) -> float:
    """Mean of -ln of the true label's probability, kept one machine epsilon of its type away from 0 and 1."""
    epsilon = np.finfo(probabilities.dtype).eps
    given = probabilities[np.arange(len(true)), true].astype(np.float64)
    return float(-np.log(np.clip(given, epsilon, 1 - epsilon)).mean())


def per_class(counts: Counts, labels: Sequence[str]) -> list[dict[str, Any]]:
    """label, precision, recall, f1 and support (rows of that label) of each label, in their order."""
    hits, support, guesses = counts.total().reshape(3, len(labels))
    precision, recall, f1 = ratio(hits, guesses), ratio(hits, support), ratio(2 * hits, support + guesses)
    return [
        {
            "label": label,
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "support": int(support[index]),
        }
        for index, label in enumerate(labels)
    ]


def confusion(true: IntArray, predicted: IntArray, n: int) -> npt.NDArray[np.int64]:
    """Rows of true label i predicted as label j at [i, j]; int64 of shape (n, n)."""
    return np.bincount(true.astype(np.int64) * n + predicted, minlength=n * n).astype(np.int64).reshape(n, n)


def worst_errors(
    true: IntArray,
    probabilities: FloatArray,
    texts: Sequence[str],
    rows: Sequence[int],
    labels: Sequence[str],
    n: int = 20,
) -> list[dict[str, Any]]:
    """The `n` most confident mistakes: text (at most 300 characters), label, predicted, its probability, and row."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != true)
    return [
        {
            "text": texts[at] if len(texts[at]) <= _SHOWN_TEXT else texts[at][: _SHOWN_TEXT - 1] + "…",
            "label": labels[true[at]],
            "predicted": labels[predicted[at]],
            "probability": float(confidence[at]),
            "row": int(rows[at]),
        }
        for at in wrong[np.argsort(-confidence[wrong], kind="stable")][:n]
    ]
