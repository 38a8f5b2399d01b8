"""The next token from a language model's logits: greedy, or drawn after cutting off what is unlikely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: what logits are divided by; 0 always takes the likeliest.
        top_k: draw from so many of the likeliest; 0 from all.
        top_p: draw from the likeliest that together have this probability (Holtzman et al. 2020, section 3.1).
        min_p: drop what is less likely than this share of the likeliest (Nguyen et al. 2024, section 3).
        repetition_penalty: divides the positive logits of tokens that were there (Keskar et al. 2019, section 4.1).
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0"),
            ("min_p", 0 <= self.min_p < 1, "a share below 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "a number above 0"),
        ):
            if not fits:
                raise HalfpintError(name, wanted=wanted, got=str(getattr(self, name)))


def choose(
    logits: npt.NDArray[np.float32], sampling: Sampling, seen: Sequence[int], random: np.random.Generator
) -> int:
    """The id of the next token.

    Args:
        logits: float32 of shape (vocabulary,).
        seen: ids that repetition_penalty is about.
        random: drawn from once, unless greedy.
    """
    values = logits.astype(np.float64)
    if sampling.repetition_penalty != 1.0 and len(seen):
        there = np.unique(np.asarray(seen))
        past = values[there]
        penalty = sampling.repetition_penalty
        values[there] = np.where(past > 0, past / penalty, past * penalty)
    if sampling.temperature == 0:
        return int(values.argmax())
    values /= sampling.temperature
    order = np.argsort(-values, kind="stable")
    shares = np.exp(values[order] - values[order[0]])
    shares /= shares.sum()
    keep = len(order)
    if sampling.top_k:
        keep = min(keep, sampling.top_k)
    if sampling.top_p < 1:
        keep = min(keep, int(np.searchsorted(shares.cumsum(), sampling.top_p)) + 1)
    if sampling.min_p:
        keep = min(keep, int((shares >= sampling.min_p * shares[0]).sum()))
    shares = shares[:keep].cumsum()
    return int(order[min(int(np.searchsorted(shares, random.random() * shares[-1], side="right")), keep - 1)])
