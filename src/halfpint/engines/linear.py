"""The engine of TF-IDF classifiers as they left training: numpy. The reference that their export is held to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines import Probabilities, softmax
from halfpint.errors import need
from halfpint.models.tfidf import read_features


class LinearEngine:
    """Feature weights times a matrix (float, or int8 codes with one scale a feature), plus a bias."""

    def __init__(self, bundle: Bundle) -> None:
        self.labels = bundle.labels
        tensors = need("safetensors.numpy", "reading a TF-IDF bundle").load_file(bundle.path / "model.safetensors")
        self._weight = tensors["codes"] if "codes" in tensors else tensors["weight"]
        self._scale, self._bias = tensors.get("scale"), tensors["bias"]
        self._features = read_features(bundle, tensors["idf"])
        if self._weight.shape != (len(tensors["idf"]), len(self._bias)):
            raise ValueError(f"{len(tensors['idf'])} features, {self._weight.shape} weights, {len(self._bias)} biases")

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of `texts`."""
        logits = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        for row, text in enumerate(texts):
            numbers, values = self._features.row(text)
            if self._scale is not None:
                values = values * self._scale[numbers]
            logits[row] = values @ self._weight[numbers] + self._bias
        return softmax(logits)


def load(bundle: Bundle, threads: int | None = None) -> LinearEngine:
    """Load a TF-IDF classifier."""
    return LinearEngine(bundle)
