"""The engine of blends: two models in one bundle, their log-probabilities averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint import registry
from halfpint.bundle import Bundle
from halfpint.engines import Engine
from halfpint.outputs import Floats, Outputs, joined, per_text

OTHER = "linear"
"""The folder inside a blend that holds the second model, named after the first kind that there was."""
_LEAST = 1e-9


def blended(first: Floats, second: Floats, share: float) -> Floats:
    """The geometric mean of two models' probabilities, `share` of it from `second`: float32 of the same shape."""
    one, other = (values.astype(np.float64) + _LEAST for values in (first, second))  # keeps the smallest lead
    mean = np.exp((1 - share) * np.log(one) + share * np.log(other))
    result: Floats = (mean / mean.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result


class BlendEngine:
    """The engines of both models."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels = bundle.labels
        settings = bundle.config["blend"]
        self._share = float(settings["share"])

        def opened(part: Bundle, key: str) -> Engine:
            module = registry.load("engines", settings.get(key, "linear"), place=f"{bundle.path}: blend.{key}")
            engine: Engine = module.load(part, threads)
            return engine

        self._first, self._second = opened(bundle, "engine"), opened(Bundle(bundle.path / OTHER), "other")

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """Blended probabilities of `texts`, of each text or of each word of it, as the first model gives them."""
        first, labels = self._first.probabilities(texts), len(self.labels)
        mean = blended(joined(first, labels), joined(self._second.probabilities(texts), labels), self._share)
        if isinstance(first, np.ndarray):
            return mean
        return per_text(mean, np.array([len(one) for one in first], dtype=np.int64))


def load(bundle: Bundle, threads: int | None = None) -> BlendEngine:
    """Load a blend."""
    return BlendEngine(bundle, threads)
