"""The engine of a trained language model that counts, and the text so far, predict along with (see `train.mix`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, read_json, write_json
from halfpint.engines import torch_lm
from halfpint.engines._constraint import Grammars
from halfpint.engines._reading import Reading
from halfpint.engines._scored import Done, ScoredText, unsaid
from halfpint.engines._writing import Writer
from halfpint.models.continuous_cache import ContinuousCache, ages
from halfpint.models.token_ngram import TokenNgram

COUNTED, WEIGHTS = "counted", "mix.json"

Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.float32]
Scored = tuple[list[int], npt.NDArray[np.float32], Any]
"""Scored ids, their log-probabilities and the states they were predicted from, as `score_states` gives them."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """What predicts beside the trained model, and how much each counts.

    Args:
        counts: n-grams of the tokens that it learned from; by_length: their weight for each length of what they know.
        cache: what the text itself tells, or None; by_age: its weight for each age of the text.
    """

    counts: TokenNgram
    by_length: Floats
    cache: ContinuousCache | None
    by_age: Floats

    def score(self, ids: Sequence[int], scored: Scored) -> Floats:
        """Log-probabilities by all together of the scored tokens of a text whose ids are `ids`."""
        _, logs, states = scored
        counted, lengths = self.counted(ids, len(logs))
        found = mixed_logs(logs.astype(np.float64), counted, self.by_length[lengths])
        if self.cache is not None and len(found):
            found = mixed_logs(found, self.cache.score(states, scored[0]), self.by_age[ages(len(found))])
        return found

    def counted(self, ids: Sequence[int], scored: int) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Nats of the counts for the scored tokens, and the lengths that they knew.

        A trained model without a start of documents does not score the first token; neither is counted then.
        """
        logs, lengths = self.counts.score(ids) if len(ids) else (np.zeros(0), np.zeros(0, dtype=np.int64))
        return logs[len(ids) - scored :], lengths[len(ids) - scored :]

    def after(self, ids: Sequence[int], following: Sequence[int], logits: Floats, states: States) -> Floats:
        """Probabilities of every token: float64 (vocabulary,).

        Args:
            ids: of the text alone; following: those of them that the model predicted.
            logits, states: of the trained model.
        """
        trained = np.exp(logits - logits.max())
        counted, length = self.counts.after(ids)
        weight = self.by_length[length]
        found: Floats = (1 - weight) * trained / trained.sum() + weight * counted[: len(trained)]
        if self.cache is not None:
            weight = self.by_age[ages(len(following) + 1)[-1]]
            found = (1 - weight) * found + weight * self.cache.after(states, following, len(found))
        return found

    def save(self, folder: Path) -> None:
        """Write it to `folder`."""
        self.counts.save(folder)
        told: dict[str, Any] = {"weights": _rounded(self.by_length), "by_age": _rounded(self.by_age)}
        if self.cache is not None:
            told |= {"sharpness": self.cache.sharpness, "reach": self.cache.reach}
        write_json(folder / WEIGHTS, told)

    @classmethod
    def load(cls, folder: Path, vocabulary: int) -> Mixture:
        """What `save` wrote."""
        told = read_json(folder / WEIGHTS)
        cache = ContinuousCache(told["sharpness"], told["reach"]) if "sharpness" in told else None
        counts = TokenNgram.load(folder, vocabulary)
        return cls(counts, np.array(told["weights"]), cache, np.array(told.get("by_age", ())))


class MixedEngine(Writer):
    """Scores, predicts and writes by all of them at once.

    Attributes:
        context, ends: the trained model's.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._trained = torch_lm.load(bundle, threads)
        self.context, self.ends = self._trained.context, self._trained.ends
        self._mixture = Mixture.load(bundle.path / COUNTED, int(bundle.config["vocab_size"]))

    def score(self, texts: Sequence[str], done: Done = unsaid) -> list[ScoredText]:
        """Each text's log-probabilities, token by token."""
        found = []
        for text, scored in zip(texts, self._trained.score_states(texts), strict=True):
            found.append(ScoredText.of(text, self._mixture.score(self.encode(text), scored)))
            done(1 / len(texts))
        return found

    def read_by(self, reading: Reading) -> Reading:
        """Have the trained model read long texts as `reading` says."""
        return self._trained.read_by(reading)

    @property
    def config(self) -> Any:
        """The trained model's configuration."""
        return self._trained.config

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone."""
        return self._trained.encode(text, special)

    def start(self, text: str) -> list[int]:
        """The ids to go on from after `text`."""
        return self._trained.start(text)

    def after(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Log-probabilities of the token after `ids`."""
        logits, states = self._trained.read(ids)
        own = ids[1:] if ids[:1] == self._trained.start("")[:1] else ids  # the start of a document is not counted
        found = self._mixture.after(own, ids[1:], logits.astype(np.float64), states)
        mixed: npt.NDArray[np.float32] = np.log(found + 1e-30).astype(np.float32)
        return mixed

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        return self._trained.decode(ids)

    def token(self, number: int) -> bytes:
        """The bytes that a token stands for."""
        return self._trained.token(number)

    def grammars(self) -> Grammars:
        """What makes constraints over this vocabulary."""
        return self._trained.grammars()


def mixed_logs(one: Floats, other: Floats, weights: Floats) -> Floats:
    """Log of the mean of two probabilities, the second of which has these weights."""
    with np.errstate(divide="ignore"):  # a weight of 0
        found: Floats = np.logaddexp(np.log1p(-weights) + one, np.log(weights) + other)
    return found


def _rounded(weights: Floats) -> list[float]:
    return [round(float(one), 6) for one in weights]


def load(bundle: Bundle, threads: int | None = None) -> MixedEngine:
    """Load both models."""
    return MixedEngine(bundle, threads)
