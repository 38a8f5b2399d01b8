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

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.labels, self._threads = bundle.labels, threads
        tensors = need("safetensors.numpy", "reading a TF-IDF bundle").load_file(bundle.path / "model.safetensors")
        self._weight = tensors["codes"] if "codes" in tensors else tensors["weight"]
        self._scale, self._bias = tensors.get("scale"), tensors["bias"]
        self._features = read_features(bundle, tensors["idf"])
        if self._weight.shape != (len(tensors["idf"]), len(self._bias)):
            raise ValueError(f"{len(tensors['idf'])} features, {self._weight.shape} weights, {len(self._bias)} biases")

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of `texts`."""
        rows = self._features.rows(texts, self._threads)
        values = rows.weights if self._scale is None else rows.weights * self._scale[rows.numbers]
        logits = np.tile(self._bias.astype(np.float32), (len(texts), 1))
        full = np.flatnonzero(np.diff(rows.starts))
        for label in range(len(self.labels) if len(full) else 0):
            products = values * self._weight[rows.numbers, label]
            logits[full, label] += np.add.reduceat(products, rows.starts[full])
        return softmax(logits)


def load(bundle: Bundle, threads: int | None = None) -> LinearEngine:
    """Load a TF-IDF classifier."""
    return LinearEngine(bundle, threads)
