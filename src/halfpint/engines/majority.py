"""The engine that always answers with the shares of the labels in the training data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines import Probabilities


class MajorityEngine:
    """Label shares for every text."""

    def __init__(self, bundle: Bundle) -> None:
        self.labels = bundle.labels
        self._shares = np.asarray(bundle.config["shares"], dtype=np.float32)

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """The same row for each text."""
        return np.tile(self._shares, (len(texts), 1))


def load(bundle: Bundle, threads: int | None = None) -> MajorityEngine:
    """Load a bundle of the majority class."""
    return MajorityEngine(bundle)
