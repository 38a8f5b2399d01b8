"""The engine of GGUF exports: llama.cpp on the processor, with the tokenizer that the file holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines._llama_library import Model
from halfpint.engines._scored import ScoredText
from halfpint.engines._writing import Writer
from halfpint.machine import cores

GGUF_FILE = "model.gguf"
_MOST_CONTEXT = 8192  # tokens: what models were made for may be more than memory holds


class LlamaCppEngine(Writer):
    """A language model in a GGUF file.

    Attributes:
        objective: always "causal".
        context: tokens that it sees at once.
        model: the loaded file, with its tokenizer and logits.
    """

    objective = "causal"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.model = Model(path, threads or cores(), most_context=_MOST_CONTEXT)
        self.context, self.ends = self.model.context, self.model.ends

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Each text's log-probabilities, token by token, each given all before it and the start of a document.

        A text longer than the context is read in windows that overlap by half, as the engine of PyTorch does it.
        """
        found = []
        for text in texts:
            logs = self.score_ids([*self._before(), *self.model.encode(text)])
            found.append(ScoredText.of(text, logs))
        return found

    def score_ids(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Log-probabilities (nats) of each of `ids` but the first: float32 of shape (len(ids) - 1,)."""
        out = np.zeros(max(len(ids) - 1, 0), dtype=np.float32)
        stride = max(1, self.context // 2)
        end, first = min(self.context, len(ids)), 1
        while first < end:
            start = max(0, end - self.context)
            # A part at a time, going on from what is in memory: logits of a whole context may not fit in it.
            for low in range(first, end, self.model.batch):
                high = min(low + self.model.batch, end)
                logits = self.model.logits(ids[start : high - 1], low - 1 - start)
                most = logits.max(axis=1, keepdims=True)
                sums = np.log(np.exp(logits - most).sum(axis=1)) + most[:, 0]
                out[low - 1 : high - 1] = logits[np.arange(high - low), ids[low:high]] - sums
            end, first = min(end + stride, len(ids)), end
        return out

    def _before(self) -> list[int]:
        return [] if self.model.start is None else [self.model.start]

    def start(self, text: str) -> list[int]:
        """The ids to go on from after `text`."""
        return [*self._before(), *self.model.encode(text)][-self.context :] or [0]

    def after(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of the token after `ids`."""
        last: npt.NDArray[np.float32] = self.model.logits(ids, len(ids) - 1)[0]
        return last

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        return self.model.decode(ids)


def load(bundle: Bundle, threads: int | None = None) -> LlamaCppEngine:
    """Load a language model from its GGUF file."""
    return LlamaCppEngine(bundle.path / GGUF_FILE, threads)
