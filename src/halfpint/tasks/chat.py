"""Answers in a conversation: a language model goes on with what a user said, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfpint.data.conversations import ChatData

NAME = "chat"
COLUMNS = ("messages",)
HEAD = "language-modelling"
METRICS = "perplexity"
"""The file in evaluate/ that scores this task; it lists its metrics as METRICS."""
DATA = ChatData
"""What the [data] table of a recipe holds."""


def labels_of(examples: Sequence[Any]) -> tuple[str, ...]:
    """No label: what the assistant says is the target."""
    return ()


def primary_metric(examples: Sequence[Any]) -> str:
    """The metric that choices are made on: perplexity of the assistant's tokens, for models that share a tokenizer."""
    return "perplexity_per_token"
