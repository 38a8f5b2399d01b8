"""The engine of blends: an encoder and a TF-IDF classifier in one bundle, their log-probabilities averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint import registry
from halfpint.bundle import Bundle
from halfpint.engines import Engine, Probabilities
from halfpint.engines.linear import LinearEngine
from halfpint.outputs import joined

LINEAR = "linear"
"""The folder inside a blend that holds the TF-IDF classifier."""
_LEAST = 1e-9


def blended(encoder: Probabilities, linear: Probabilities, share: float) -> Probabilities:
    """The geometric mean of two models' probabilities, `share` of it from `linear`: float32 (texts, labels)."""
    first, second = (values.astype(np.float64) + _LEAST for values in (encoder, linear))  # keeps the smallest lead
    mean = np.exp((1 - share) * np.log(first) + share * np.log(second))
    result: Probabilities = (mean / mean.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result


class BlendEngine:
    """An encoder's engine and a linear one."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels = bundle.labels
        settings = bundle.config["blend"]
        self._share = float(settings["share"])
        module = registry.load("engines", settings["engine"], place=f"{bundle.path}/config.json: blend.engine")
        self._encoder: Engine = module.load(bundle, threads)
        self._linear = LinearEngine(Bundle(bundle.path / LINEAR))

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Blended class probabilities of `texts`."""
        encoder = joined(self._encoder.probabilities(texts), len(self.labels))
        return blended(encoder, self._linear.probabilities(texts), self._share)


def load(bundle: Bundle, threads: int | None = None) -> BlendEngine:
    """Load a blend."""
    return BlendEngine(bundle, threads)
