"""A continuous cache: what followed states like the present one, earlier in the same text, is likely to follow again.

Source: Grave, Joulin and Usunier 2017, "Improving Neural Language Models with a Continuous Cache", section 3; here
states are compared by their cosine, so that one sharpness fits states of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.float32]

NEVER = -300.0
"""Nats of a token that has not been in the text: less than any probability that can be told from 0."""
AGES = 12
"""Ages of a text that have a weight of their own: 0 tokens read, 1, 2 to 3, 4 to 7, and so on."""
_ROWS = 256  # states that are compared with the earlier ones at once


@dataclass(frozen=True)
class ContinuousCache:
    """Predicts from the text so far alone.

    Args:
        sharpness: how much more a state counts that is more alike: its weight is exp(sharpness * cosine).
        reach: how many tokens back it looks.
    """

    sharpness: float
    reach: int

    def score(self, states: States, following: Sequence[int]) -> Floats:
        """Log-probabilities of the tokens of a text, each from those before it: nats, float64 (tokens,).

        Args:
            states: float32 (tokens, width): what the model was in before each token.
            following: the tokens.
        """
        tokens = np.asarray(following, dtype=np.int64)
        found = np.full(len(tokens), NEVER)
        unit = _unit(states)
        for start in range(0, len(tokens), _ROWS):
            end = min(start + _ROWS, len(tokens))
            first = max(0, start - self.reach)
            places = np.arange(start, end)[:, None]
            earlier = np.arange(first, end)[None, :]
            seen = (earlier < places) & (earlier >= places - self.reach)
            weights = np.exp(self.sharpness * (unit[start:end] @ unit[first:end].T - 1)) * seen
            same = weights * (tokens[first:end][None, :] == tokens[start:end, None])
            total, hit = weights.sum(1, dtype=np.float64), same.sum(1, dtype=np.float64)
            known = hit > 0
            found[start:end][known] = np.maximum(np.log(hit[known] / total[known]), NEVER)
        return found

    def after(self, states: States, following: Sequence[int], vocabulary: int) -> Floats:
        """Probabilities of every token: float64 (vocabulary,), summing to one; all 0 at the start of a text.

        Args:
            states: float32 (tokens + 1, width): what the model was in before each of `following`, and is in now.
            following: the tokens of the text so far, less what nothing came before.
        """
        tokens = np.asarray(following, dtype=np.int64)[-self.reach :]
        if not len(tokens):
            return np.zeros(vocabulary)
        unit = _unit(states[-len(tokens) - 1 :])
        weights = np.exp(self.sharpness * (unit[:-1] @ unit[-1] - 1)).astype(np.float64)
        found: Floats = np.bincount(tokens, weights / weights.sum(), minlength=vocabulary).astype(np.float64)
        return found


def ages(tokens: int) -> npt.NDArray[np.int64]:
    """The age of a text before each of so many tokens, from 0 to AGES - 1: int64 (tokens,)."""
    read = np.arange(tokens)
    return np.minimum(np.log2(np.maximum(read, 1)).astype(np.int64) + (read > 0), AGES - 1)


def _unit(states: States) -> States:
    states = states.astype(np.float32, copy=False)  # half as long ones are enough to keep them in
    found: States = states / np.maximum(np.linalg.norm(states, axis=-1, keepdims=True), 1e-12)
    return found
