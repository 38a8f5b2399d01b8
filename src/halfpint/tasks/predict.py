"""The next word: a language model scores running text and goes on with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfpint.data.corpus import CorpusData

NAME = "predict"
COLUMNS = ("text",)
HEAD = "language-modelling"
METRICS = "perplexity"
"""The file in evaluate/ that scores this task; it lists its metrics as METRICS."""
DATA = CorpusData
"""What the [data] table of a recipe holds."""


def labels_of(examples: Sequence[Any]) -> tuple[str, ...]:
    """No label: the text is its own target."""
    return ()


def primary_metric(examples: Sequence[Any]) -> str:
    """The metric that choices are made on: bits per byte, which models with other vocabularies share."""
    return "bits_per_byte"
