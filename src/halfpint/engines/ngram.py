"""The engine of n-gram language models: numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines._constraint import Grammars
from halfpint.engines._generation import Generation, Piece
from halfpint.engines._scored import Done, ScoredText, unsaid
from halfpint.engines._writing import Writer
from halfpint.errors import HalfpintError
from halfpint.models.ngram import NgramModel

_CHUNK = 20_000  # texts scored at once
_UNKNOWN, _START, _END = range(3)  # the first words of every vocabulary (`models.ngram.NgramModel.tables.words`)


class NgramEngine(Writer):
    """Scores texts, tells the likeliest next words, goes on with a line. Its tokens are words.

    Attributes:
        context: words that are kept of a line; the model looks at fewer.
    """

    context = 1 << 16
    ends = frozenset({_END})

    def __init__(self, bundle: Bundle) -> None:
        self.model = NgramModel.load(bundle.path)

    def score(self, texts: Sequence[str], done: Done = unsaid) -> list[ScoredText]:
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
            done(len(part) / len(texts))
        return found

    def next_words(self, context: str, top: int = 10) -> list[tuple[str, float]]:
        """The `top` likeliest words to go on with after `context`, with their probabilities."""
        return self.model.next_words(context, top)

    def start(self, text: str) -> list[int]:
        """The numbers of the words of the last line of `text`, after that of its start."""
        return [_START, *self.encode(text.rpartition("\n")[2])]

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The numbers of the words of `text`; there are no special ones among them."""
        return [self.model.tables.numbers[word] for word in text.encode("utf-8", "replace").split()]

    def after(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Log-probabilities of the word after `ids`; the unknown word, being none, has none."""
        chances = self.model.tables.after(ids[-max(1, self.model.tables.order - 1) :])
        chances[_UNKNOWN] = 0
        if not chances.any():  # counts alone, and nothing ever came after these words: the line ends
            chances[_END] = 1
        with np.errstate(divide="ignore"):
            found: npt.NDArray[np.float32] = np.log(chances).astype(np.float32)
        return found

    def decode(self, ids: list[int]) -> str:
        """The words, a space before each."""
        return "".join(f" {self.model.tables.words[number]}" for number in ids if number > _END)

    def token(self, number: int) -> bytes:
        """The bytes of a word."""
        return self.model.tables.words[number].encode("utf-8")

    def grammars(self) -> Grammars:
        """There are none."""
        raise HalfpintError("schema", wanted="a language model of another kind", got="one that writes whole words")

    def write(self, prompt: str | Sequence[int], settings: Generation) -> Iterator[Piece]:
        """Words to go on with after `prompt`, to the end of the line; the first after a space where it needs one."""
        pieces = super().write(prompt, settings)
        spaced = isinstance(prompt, str) and bool(prompt) and not prompt[-1].isspace()
        return pieces if spaced else _without_first_space(pieces)

    def generate(self, prompt: str | Sequence[int] = "", max_tokens: int = 100, **settings: Any) -> Iterator[str]:
        """The text alone of `write`, piece by piece, by the model's own chances unless a temperature is given."""
        return super().generate(prompt, max_tokens, **{"temperature": 1.0, **settings})


def _without_first_space(pieces: Iterator[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        yield replace(piece, text=piece.text[1:])
        if piece.text:
            break
    yield from pieces


def load(bundle: Bundle, threads: int | None = None) -> NgramEngine:
    """Load an n-gram model; it needs no more than one thread."""
    return NgramEngine(bundle)
