"""The engine of exported encoders: `tokenizers` and ONNX Runtime, no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines import Probabilities, softmax
from halfpint.engines._onnx import Sessions
from halfpint.tokenizers.batching import length_batches, pad
from halfpint.tokenizers.load import open_tokenizer

_BATCH_TOKENS = 1024


class OnnxEncoderEngine:
    """An encoder with a classification head in model.onnx."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.labels = bundle.labels
        self._tokenizer = open_tokenizer(bundle.path, max_tokens=int(bundle.config["max_tokens"]))
        self._pad_id = int(bundle.config.get("pad_token_id", 0))
        self._sessions = Sessions(bundle.path / "model.onnx", threads)

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities; texts are batched by length, so that little is spent on padding."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        out = np.zeros((len(ids), len(self.labels)), dtype=np.float32)
        batches = length_batches([len(row) for row in ids], _BATCH_TOKENS)[::-1]  # the longest first: threads end alike
        inputs = []
        for batch in batches:
            input_ids, mask = pad([ids[index] for index in batch], self._pad_id)
            inputs.append({"input_ids": input_ids, "attention_mask": mask})
        for batch, logits in zip(batches, self._sessions.run(inputs), strict=True):
            out[batch] = softmax(logits)
        return out


def load(bundle: Bundle, threads: int | None = None) -> OnnxEncoderEngine:
    """Load an exported encoder."""
    return OnnxEncoderEngine(bundle, threads)
