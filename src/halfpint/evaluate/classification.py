"""Metrics of a classifier, from class indices and probabilities; every average as scikit-learn takes it by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.metrics import METRICS, class_counts, from_counts, need_rows, ratio

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]

_CALIBRATION_BINS = 15
_SHOWN_TEXT = 300


def scores(true: IntArray, probabilities: FloatArray) -> dict[str, float]:
    """Every metric of `METRICS`, then calibration_error and log_loss (natural logarithm).

    Macro averages are over the classes that occur in `true` or in the predictions; a division by zero gives 0.

    Args:
        true: class indices, shape (rows,).
        probabilities: shape (rows, classes), each row summing to 1.

    Raises:
        HalfpintError: there is no row.
    """
    need_rows(true)
    counts = class_counts(true, probabilities.argmax(axis=1), probabilities.shape[1])
    found = {name: float(from_counts(name, *counts)) for name in METRICS}
    return {
        **found,
        "calibration_error": calibration_error(true, probabilities),
        "log_loss": log_loss(true, probabilities),
    }


def calibration_error(true: IntArray, probabilities: FloatArray) -> float:
    """Expected calibration error: |accuracy - mean confidence| over 15 bins of equal width, weighted by their rows.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 5; a bin is open below, closed above.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == true
    bins = np.clip(np.ceil(confidence * _CALIBRATION_BINS).astype(np.int64) - 1, 0, _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(true))


def log_loss(true: IntArray, probabilities: FloatArray) -> float:
    """Mean of -ln of the true class' probability, kept one machine epsilon of its type away from 0 and 1."""
    epsilon = np.finfo(probabilities.dtype).eps
    given = probabilities[np.arange(len(true)), true].astype(np.float64)
    return float(-np.log(np.clip(given, epsilon, 1 - epsilon)).mean())


def per_class(true: IntArray, predicted: IntArray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """label, precision, recall, f1 and support (rows of that label) of each class, in the order of `labels`."""
    hits, support, guesses = class_counts(true, predicted, len(labels))
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
    """Rows of true class i predicted as class j at [i, j]; int64 of shape (n, n)."""
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
