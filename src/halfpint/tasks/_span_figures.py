"""Metrics of labelled spans, from counts: strict (start, end and label) by label, and what is nearly right.

Source of the schemes: Segura-Bedmar et al. 2013, SemEval-2013 task 9.1 (strict, exact, partial, type), counted as
`nervaluate` 1.2 does; strict figures are those of `seqeval` in its strict mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from halfpint.counts import Counts, Float64Array, Metric, ratio
from halfpint.data.spans import Span

_EXTRA = 3  # exact, partial, type
Spans = tuple[Span, ...]


def span_counts(gold: Sequence[Spans], found: Sequence[Spans], labels: Sequence[str]) -> Counts:
    """One row per text: right, found and gold spans of each label, then points of the schemes exact, partial and type.

    Args:
        gold, found: the spans of each text, in order; those of one text do not overlap.
    """
    at = {label: number for number, label in enumerate(labels)}
    size = len(labels)
    table = np.zeros((len(gold), 3 * size + _EXTRA))
    for row, wanted, given in zip(table, gold, found, strict=True):
        right = set(wanted) & set(given)
        for place, spans in enumerate((right, given, wanted)):
            for span in spans:
                row[place * size + at[span.label]] += 1
        row[3 * size :] = len(right) if wanted == given else _points(wanted, given)
    return Counts.of(table)


def _points(gold: Spans, found: Spans) -> tuple[float, float, float]:
    """Points for right borders, for those and overlaps (a half each), and for overlaps with the right label."""
    exact = len({span[:2] for span in gold} & {span[:2] for span in found})
    return float(exact), _matched(gold, found, _border_points), _matched(gold, found, _label_points)


def _matched(gold: Spans, found: Spans, points: Callable[[Span, Span], tuple[float, int]]) -> float:
    """Points of found spans, each with the best gold span that it overlaps and that none before it took."""
    free = list(gold)
    total = 0.0
    for span in found:
        near = [one for one in free if one.start < span.end and span.start < one.end]
        if near:
            best = max(near, key=lambda one: points(span, one))
            total += points(span, best)[0]
            free.remove(best)
    return total


def _border_points(one: Span, other: Span) -> tuple[float, int]:
    return (1.0, 0) if one[:2] == other[:2] else (0.5, 0)


def _label_points(one: Span, other: Span) -> tuple[float, int]:
    """Of several with the right label the one with the nearest borders is taken."""
    distance = abs(one.start - other.start) + abs(one.end - other.end)
    return (1.0, -distance) if one.label == other.label else (0.0, 0)


def _parts(sums: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Right, found and gold spans of each label: shape (..., labels) each."""
    labels = (sums.shape[-1] - _EXTRA) // 3
    parts = sums[..., : 3 * labels].reshape(*sums.shape[:-1], 3, labels)
    return parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]


def _value(scheme: int | None, kind: str) -> Callable[[Float64Array], Float64Array]:
    """Precision, recall or F1 over all labels, by the points of a scheme (None: strict)."""

    def of(sums: Float64Array) -> Float64Array:
        right, found, gold = (part.sum(-1) for part in _parts(sums))
        if scheme is not None:
            right = sums[..., scheme - _EXTRA]
        if kind == "precision":
            return ratio(right, found)
        return ratio(right, gold) if kind == "recall" else ratio(2 * right, found + gold)

    return of


def _macro(sums: Float64Array) -> Float64Array:
    """The mean of strict F1 over the labels that are in the gold or the found spans."""
    right, found, gold = _parts(sums)
    there = (found + gold) > 0
    return ratio(ratio(2 * right, found + gold).sum(-1), there.sum(-1).astype(np.float64))


def _extremes(rows: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Rows of `span_counts` as they would be with every gold span found, and with a wrong one in the place of each."""
    gold = _parts(rows)[2]
    spans = gold.sum(-1)
    points = np.repeat(spans[..., None], _EXTRA, axis=-1)
    right = np.concatenate([gold, gold, gold, points], axis=-1)
    return right, np.concatenate([np.zeros_like(gold), gold, gold, np.zeros_like(points)], axis=-1), spans


METRICS: Mapping[str, Metric] = {
    name: Metric(of, extremes=_extremes)
    for name, of in {
        "f1_strict": _value(None, "f1"),
        "precision_strict": _value(None, "precision"),
        "recall_strict": _value(None, "recall"),
        "f1_macro": _macro,
        "f1_exact": _value(0, "f1"),
        "f1_partial": _value(1, "f1"),
        "precision_partial": _value(1, "precision"),
        "recall_partial": _value(1, "recall"),
        "f1_type": _value(2, "f1"),
    }.items()
}
"""Strict: start, end and label. Exact: start and end. Partial: half a point for an overlap, whatever the label. Type:
an overlap with the right label. Macro: the mean over labels of the strict one. Dividing by zero gives 0."""


def per_type(counts: Counts, labels: Sequence[str]) -> list[dict[str, Any]]:
    """label, precision, recall, f1 and support (gold spans) of each label, in their order."""
    right, found, gold = _parts(counts.total())
    precision, recall, f1 = ratio(right, found), ratio(right, gold), ratio(2 * right, found + gold)
    return [
        {
            "label": label, "precision": float(precision[at]), "recall": float(recall[at]), "f1": float(f1[at]),
            "support": int(gold[at]),
        }
        for at, label in enumerate(labels)
    ]  # fmt: skip
