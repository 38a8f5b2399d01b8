"""The engine of GGUF exports: llama.cpp on the processor, with the tokenizer that the file holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.data.documents import count_words
from halfpint.engines._llama_library import Model
from halfpint.engines._sampling import Sampling
from halfpint.engines._writing import likely_words, write_on
from halfpint.machine import cores

GGUF_FILE = "model.gguf"
_MOST_CONTEXT = 8192  # tokens: what models were made for may be more than memory holds


@dataclass(frozen=True)
class ScoredText:
    """A text's scores: one log-probability a token (nats), and what to divide by."""

    log_probabilities: npt.NDArray[np.float32]
    tokens: int
    words: int
    bytes: int


class LlamaCppEngine:
    """A language model in a GGUF file.

    Attributes:
        objective: always "causal".
        context: tokens that it sees at once.
        model: the loaded file, with its tokenizer and logits.
    """

    objective = "causal"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.model = Model(path, threads or cores(), most_context=_MOST_CONTEXT)
        self.context = self.model.context

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Each text's log-probabilities, token by token, each given all before it and the start of a document.

        A text longer than the context is read in windows that overlap by half, as the engine of PyTorch does it.
        """
        found = []
        for text in texts:
            logs = self.score_ids([*self._before(), *self.model.encode(text)])
            found.append(ScoredText(logs, len(logs), count_words(text), len(text.encode("utf-8", "surrogatepass"))))
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

    def next_words(self, context: str, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest next words after `context`, each with its probability, likeliest first."""
        start = self._start(context)
        return likely_words(
            start, self._after, self.model.decode, ends=self.model.ends, context=self.context, top=top
        )  # fmt: skip

    def generate(
        self,
        prompt: str,
        max_tokens: int = 128,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """What the model writes after `prompt`, piece by piece as it comes; it ends at a document's or a turn's end.

        Args:
            prompt: the text to go on from; empty starts a document.
            max_tokens: most tokens written.
            temperature, top_k, top_p, min_p, repetition_penalty: as in `_sampling.Sampling`.
            seed: the same seed writes the same text.
            stop: texts at which it ends; they are not given.

        Once the context is full, the older half of it is forgotten.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        return write_on(
            self._start(prompt), self._after, self.model.decode, ends=self.model.ends, context=self.context,
            max_tokens=max_tokens, sampling=sampling, seed=seed, stop=tuple(stop),
        )  # fmt: skip

    def _before(self) -> list[int]:
        return [] if self.model.start is None else [self.model.start]

    def _start(self, text: str) -> list[int]:
        return [*self._before(), *self.model.encode(text)][-self.context :] or [0]

    def _after(self, ids: list[int]) -> npt.NDArray[np.float32]:
        last: npt.NDArray[np.float32] = self.model.logits(ids, len(ids) - 1)[0]
        return last


def load(bundle: Bundle, threads: int | None = None) -> LlamaCppEngine:
    """Load a language model from its GGUF file."""
    return LlamaCppEngine(bundle.path / GGUF_FILE, threads)
