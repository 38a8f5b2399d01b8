"""The engine of n-gram language models: numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from halfpint.bundle import Bundle
from halfpint.engines._scored import ScoredText
from halfpint.errors import HalfpintError
from halfpint.models.ngram import NgramModel

_CHUNK = 20_000  # texts scored at once
_NOT_HERE = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


class NgramEngine:
    """Scores texts, tells the likeliest next words, goes on with a line."""

    def __init__(self, bundle: Bundle) -> None:
        self.model = NgramModel.load(bundle.path)

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """The probability of every token of each text, whose lines are sentences."""
        found = []
        for start in range(0, len(texts), _CHUNK):
            part = texts[start : start + _CHUNK]
            scores = self.model.score(part)
            lines = [text.count("\n") + (not text.endswith("\n")) for text in part]
            ends = np.cumsum(scores.lengths)[np.cumsum(lines) - 1]
            logs = np.split(scores.log10.astype(np.float64) * np.log(10), ends[:-1])
            unknown = np.split(scores.unknown, ends[:-1])
            for text, own, strange in zip(part, logs, unknown, strict=True):
                found.append(ScoredText.of(text, own, strange))
        return found

    def next_words(self, context: str, top: int = 10) -> list[tuple[str, float]]:
        """The `top` likeliest words to go on with after `context`, with their probabilities."""
        return self.model.next_words(context, top)

    def generate(
        self,
        prompt: str = "",
        max_tokens: int = 100,
        temperature: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        **settings: Any,
    ) -> Iterator[str]:
        """Words to go on with after `prompt`, one at a time, to the end of the line or `max_tokens` of them.

        Raises:
            HalfpintError: a setting of `_NOT_HERE` that counts have no use for.
        """
        for name, value in settings.items():
            if value != _NOT_HERE.get(name):
                flag = f"--{name.replace('_', '-')}"
                raise HalfpintError(flag, wanted="a language model of another kind", got="one of counted n-grams")
        words = self.model.sample(prompt, seed=seed, tokens=max_tokens, temperature=temperature)
        return _pieces(words, spaced=bool(prompt) and not prompt[-1].isspace(), stop=tuple(stop))


def _pieces(words: Iterator[str], *, spaced: bool, stop: tuple[str, ...]) -> Iterator[str]:
    """The words with spaces between them, up to one that holds a text of `stop`."""
    for word in words:
        if any(end in word for end in stop):
            return
        yield f" {word}" if spaced else word
        spaced = True


def load(bundle: Bundle, threads: int | None = None) -> NgramEngine:
    """Load an n-gram model; it needs no more than one thread."""
    return NgramEngine(bundle)
