"""The engine of taggers of words: ONNX Runtime for the network, NumPy for word vectors and the random field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines._onnx import Sessions
from halfpint.models.crf import marginals
from halfpint.models.word_inputs import WordInputs, read_table
from halfpint.outputs import Outputs
from halfpint.tokenizers.batching import length_batches

_BATCH_WORDS = 4096


class OnnxWordsEngine:
    """Probabilities of the tags of each word: marginals of the conditional random field on the network's scores."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels = bundle.labels
        self._table, self._transitions = read_table(bundle.path)
        self._sessions = Sessions(bundle.path / "model.onnx", threads)

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """For each text the probabilities of its words' tags; texts are batched by length."""
        inputs = WordInputs.of(texts, self._table.rows)
        full = np.flatnonzero(inputs.sizes)
        batches = [full[batch] for batch in length_batches(inputs.sizes[full].tolist(), _BATCH_WORDS)]
        batches = batches[::-1]  # the longest first: threads end alike
        given = []
        for batch in batches:
            one = inputs.batch(batch)
            one["vectors"] = self._table.vectors(one.pop("rows"))
            given.append(one)
        scores: list[npt.NDArray[Any]] = [self._transitions[:0]] * len(texts)
        for batch, found in zip(batches, self._sessions.run(given), strict=True):
            for number, row in zip(batch.tolist(), found, strict=True):
                scores[number] = row[: inputs.sizes[number]]
        return marginals(scores, self._transitions)


def load(bundle: Bundle, threads: int | None = None) -> OnnxWordsEngine:
    """Load a tagger of words."""
    return OnnxWordsEngine(bundle, threads)
