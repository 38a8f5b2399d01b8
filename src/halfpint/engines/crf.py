"""The engine of conditional random fields: numpy."""

from __future__ import annotations

from collections.abc import Sequence

from halfpint.bundle import Bundle
from halfpint.models.crf import read_crf
from halfpint.outputs import Outputs


class CrfEngine:
    """Marginal probabilities of the tags of each word."""

    def __init__(self, bundle: Bundle) -> None:
        self.labels = bundle.labels
        self._field = read_crf(bundle.path)

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """For each text the probabilities of its words' tags."""
        return self._field.marginals(texts)


def load(bundle: Bundle, threads: int | None = None) -> CrfEngine:
    """Load a conditional random field."""
    return CrfEngine(bundle)
