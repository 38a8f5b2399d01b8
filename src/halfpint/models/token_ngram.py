"""Counts over a tokenizer's own tokens: predicts the same tokens as a trained model, so that the two can be mixed.

A model of whole words gives every word that it does not know the one probability of <unk>, however many bytes it has.
Over the same tokens both predict the same text, token by token. Tokens that were never counted share the probability
of the unknown one, so that all probabilities sum to one; the end of a document is predicted by neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfpint.models._ngram_text import BOS, EOS, SPECIALS, UNKNOWN
from halfpint.models.ngram import NgramModel
from halfpint.progress import SILENT, Log

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenNgram:
    """An n-gram model whose words are token ids.

    Args:
        model: the counts; its words are the ids in decimal.
        vocabulary: tokens of the tokenizer, all of them.
    """

    model: NgramModel
    vocabulary: int

    @classmethod
    def fit(
        cls,
        documents: Iterable[Sequence[int]],
        vocabulary: int,
        order: int,
        log: Log = SILENT,
        scratch: Path | None = None,
    ) -> TokenNgram:
        """Count the tokens of documents, each from its start; smoothed by interpolated modified Kneser-Ney.

        Args:
            documents: read once, as a stream.
            scratch: see `NgramModel.fit`.
        """
        lines = (" ".join(map(str, ids)) for ids in documents)
        return cls(NgramModel.fit(lines, order, log=log, scratch=scratch), vocabulary)

    @property
    def order(self) -> int:
        """Tokens in the longest sequence counted."""
        return self.model.tables.order

    def score(self, ids: Sequence[int]) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Of each token of a document given those before it: the log-probability, and how much of those was counted.

        Returns:
            nats, float64 (tokens,); and int64 (tokens,): tokens of the longest known sequence that ends before it.
        """
        numbers = self._numbers[np.asarray(ids, dtype=np.int64)]
        line = np.concatenate([[BOS], numbers, [EOS]]).astype(np.int32)
        logs = self.model.tables.score(line)[1:-1].astype(np.float64) * np.log(10)
        logs[numbers == UNKNOWN] -= np.log(max(self._unseen, 1))
        return logs, self.model.tables.known_before(line)[1:-1]

    def after(self, ids: Sequence[int]) -> tuple[Floats, int]:
        """Probabilities of every token after `ids`: float64 (vocabulary,), summing to one; and as `score` the length
        of the longest known sequence at the end of `ids`."""
        tables = self.model.tables
        line = np.concatenate([[BOS], self._numbers[np.asarray(ids, dtype=np.int64)]])[-(tables.order - 1) or 1 :]
        chances = tables.after(line.tolist())
        chances[EOS] = 0.0
        spread = chances[self._numbers]
        spread[self._numbers == UNKNOWN] /= max(self._unseen, 1)
        whole = np.concatenate([line, [EOS]]).astype(np.int32)
        return spread / spread.sum(), int(tables.known_before(whole)[-1])

    def save(self, folder: Path) -> None:
        """Write the counts to `folder`, as `NgramModel.save` does."""
        self.model.save(folder)

    @classmethod
    def load(cls, folder: Path, vocabulary: int) -> TokenNgram:
        """The counts in `folder`.

        Raises:
            HalfpintError: they are not there, or damaged.
        """
        return cls(NgramModel.load(folder), vocabulary)

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int64]:
        """The model's number of each token; UNKNOWN for those never counted."""
        found = np.full(self.vocabulary, UNKNOWN, dtype=np.int64)
        words = self.model.tables.words[len(SPECIALS) :]
        found[np.array(words, dtype=np.int64)] = np.arange(len(SPECIALS), len(SPECIALS) + len(words))
        return found

    @cached_property
    def _unseen(self) -> int:
        return int((self._numbers == UNKNOWN).sum())
