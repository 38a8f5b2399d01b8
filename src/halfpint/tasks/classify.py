"""One label for a text: sentiment, topic, intent, spam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.data.examples import Example
from halfpint.data.prepare import Data
from halfpint.errors import HalfpintError

NAME = "classify"
COLUMNS = ("text", "label")
HEAD = "sequence-classification"
METRICS = "classification"
"""The file in evaluate/ that scores this task; it lists its metrics as METRICS."""
DATA = Data
"""What the [data] table of a recipe holds."""

_IMBALANCED = 1.5


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The label names in sorted order (numbers by value)."""
    names = {example.label for example in examples}
    if all(name.lstrip("-").isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def targets(examples: Sequence[Example], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """The index of each example's label: int64 of shape (examples,)."""
    index = {name: number for number, name in enumerate(labels)}
    try:
        return np.array([index[example.label] for example in examples], dtype=np.int64)
    except KeyError as error:
        raise HalfpintError(
            "label column", wanted="labels that the training data has", got=f"the label {error.args[0]!r}",
            todo="Check the label column, or train on data that has it.",
        ) from None  # fmt: skip


def primary_metric(examples: Sequence[Example]) -> str:
    """The metric that choices are made on: accuracy, or macro F1 where one label has over 1.5 times its fair share."""
    counts = Counter(example.label for example in examples)
    fair = len(examples) / max(len(counts), 1)
    return "f1_macro" if max(counts.values(), default=0) > _IMBALANCED * fair else "accuracy"


def outputs(rows: npt.NDArray[np.float32], labels: Sequence[str], top: int = 1) -> list[dict[str, Any]]:
    """How answers read: for each row of probabilities its label, probability and the `top` scores, best first.

    Args:
        rows: float32 of shape (texts, labels).
        labels: names of the labels.
        top: scores for each text, at most.
    """
    best = np.argsort(-rows, axis=1, kind="stable")[:, :top]
    found = []
    for row, order in zip(rows, best, strict=True):
        scores = [{"label": labels[index], "probability": round(float(row[index]), 6)} for index in order]
        found.append({**scores[0], "scores": scores})
    return found
