"""The engine of exported encoders with a head: `tokenizers` and ONNX Runtime, no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines import softmax
from halfpint.engines._onnx import Sessions
from halfpint.lookup import task_of
from halfpint.outputs import Outputs, per_text
from halfpint.task import label_task
from halfpint.tokenizers.batching import collate, length_batches
from halfpint.tokenizers.load import open_tokenizer

_BATCH_TOKENS = 1024


class OnnxEncoderEngine:
    """An encoder with the head of a task in model.onnx."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels = bundle.labels
        self._task = label_task(task_of(bundle), str(bundle.path))
        self._max_tokens = int(bundle.config["max_tokens"])
        self._tokenizer = open_tokenizer(bundle.path, max_tokens=self._max_tokens)
        self._pad_id = int(bundle.config.get("pad_token_id", 0))
        self._sessions = Sessions(bundle.path / "model.onnx", threads)

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """Probabilities of the labels; texts are batched by length, so that little is spent on padding."""
        encoded = self._task.encode(texts, self._tokenizer, self._max_tokens)
        out = np.zeros((encoded.n_units, len(self.labels)), dtype=np.float32)
        batches = length_batches(encoded.lengths, _BATCH_TOKENS)[::-1]  # the longest first: threads end alike
        inputs = [collate([encoded.rows[index] for index in batch], self._pad_id) for batch in batches]
        for batch, logits in zip(batches, self._sessions.run(inputs), strict=True):
            rows = np.array(batch)
            places = encoded.places_of(rows)
            out[encoded.units_of(rows)] = softmax(logits if places is None else logits[places])
        return per_text(out, encoded.per_text)


def load(bundle: Bundle, threads: int | None = None) -> OnnxEncoderEngine:
    """Load an exported encoder."""
    return OnnxEncoderEngine(bundle, threads)
