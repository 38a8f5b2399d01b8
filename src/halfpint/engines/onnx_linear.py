"""The engine of exported TF-IDF classifiers: features in numpy, the linear part in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines import Probabilities, softmax
from halfpint.engines._onnx import open_session
from halfpint.models.tfidf import read_features

_TEXTS_A_BATCH = 64


class OnnxLinearEngine:
    """Indices and weights of features in, logits out."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels, self._threads = bundle.labels, threads
        self._features = read_features(bundle, np.load(bundle.path / "idf.npy", allow_pickle=False).astype(np.float32))
        self._session = open_session(bundle.path / "model.onnx", threads)

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of `texts`."""
        rows = self._features.rows(texts, self._threads)
        parts = [np.zeros((0, len(self.labels)), np.float32)] if not texts else []
        order = np.argsort(np.diff(rows.starts), kind="stable")  # texts of a batch are filled up to its longest
        for start in range(0, len(texts), _TEXTS_A_BATCH):
            some = order[start : start + _TEXTS_A_BATCH]
            indices, values = rows.of(some).padded()
            parts.append(self._session.run(None, {"indices": indices, "values": values})[0])
        return softmax(np.concatenate(parts)[np.argsort(order, kind="stable")])


def load(bundle: Bundle, threads: int | None = None) -> OnnxLinearEngine:
    """Load an exported TF-IDF classifier."""
    return OnnxLinearEngine(bundle, threads)
