"""Metrics of predicted text, from counts: nats, tokens, words and bytes of each document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from halfpint.counts import Float64Array, Metric

# The sums are those of nats, tokens, words and bytes, in this order.


def _perplexity(column: int, sums: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        values: Float64Array = np.exp(sums[..., 0] / sums[..., column])
    return values


def _bits_per_byte(sums: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        values: Float64Array = sums[..., 0] / sums[..., 3] / math.log(2)
    return values


METRICS: Mapping[str, Metric] = {
    "perplexity_per_token": Metric(partial(_perplexity, 1), lower_is_better=True, bounded=False),
    "perplexity_per_word": Metric(partial(_perplexity, 2), lower_is_better=True, bounded=False),
    "bits_per_byte": Metric(_bits_per_byte, lower_is_better=True, bounded=False),
}
