"""The next token from a language model's logits: greedy, or drawn after cutting off what is unlikely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import SettingError

_FIRST = 2048  # of the likeliest, put in order before all are


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: what logits are divided by; 0 always takes the likeliest.
        top_k: draw from so many of the likeliest; 0 from all.
        top_p: draw from the likeliest that together have this probability (Holtzman et al. 2020, section 3.1).
        min_p: drop what is less likely than this share of the likeliest (Nguyen et al. 2024, section 3).
        repetition_penalty: divides the positive logits of tokens that were there (Keskar et al. 2019, section 4.1).

    The temperature comes first, then top_k, top_p and min_p, each on the distribution that the temperature leaves.

    Raises:
        HalfpintError: one of them is out of its range.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0"),
            ("min_p", 0 <= self.min_p < 1, "a share below 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "a number from 0.01 to 100"),
        ):
            if not fits:
                raise SettingError(name, wanted=wanted, got=str(getattr(self, name)))


def choose(
    logits: npt.NDArray[np.float32], sampling: Sampling, seen: Sequence[int], random: np.random.Generator
) -> int:
    """The id of the next token.

    Args:
        logits: float32 of shape (vocabulary,); minus infinity where a token may not be.
        seen: ids that repetition_penalty is about.
        random: drawn from once, unless greedy.
    """
    values = penalised(logits, sampling.repetition_penalty, seen)
    if sampling.temperature == 0:
        return int(values.argmax())
    values -= values.max()
    values /= sampling.temperature
    shares = np.exp(values)
    kept = _kept(values, shares, sampling)
    bounds = (shares if kept is None else shares[kept]).cumsum()
    place = min(int(np.searchsorted(bounds, random.random() * bounds[-1], side="right")), len(bounds) - 1)
    return place if kept is None else int(kept[place])


def penalised(logits: npt.NDArray[np.float32], penalty: float, seen: Sequence[int]) -> npt.NDArray[np.float64]:
    """The logits with those of `seen` made smaller (see `Sampling`): a new array."""
    values = logits.astype(np.float64)
    if penalty != 1.0 and len(seen):
        there = np.unique(np.asarray(seen))
        past = values[there]
        values[there] = np.where(past > 0, past / penalty, past * penalty)
    return values


def likeliest(values: npt.NDArray[Any], number: int) -> npt.NDArray[np.int64]:
    """Ids of the `number` highest of `values`, the highest first; of equals the lower id."""
    if number >= len(values):
        return np.argsort(-values, kind="stable")
    some = np.argpartition(-values, number - 1)[:number] if number else np.zeros(0, dtype=np.int64)
    found: npt.NDArray[np.int64] = some[np.lexsort((some, -values[some]))]
    return found


def _kept(
    values: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], sampling: Sampling
) -> npt.NDArray[np.int64] | None:
    """Ids that top_k, top_p and min_p leave, likeliest first; None: all of them.

    Only as many as may be needed are put in order: a whole vocabulary takes as long as a small model's step.
    """
    most = min(sampling.top_k or len(values), len(values))
    if most == len(values) and sampling.top_p == 1 and not sampling.min_p:
        return None
    total = shares.sum()
    for size in (min(_FIRST, most), most):
        order = likeliest(values, size)
        keep = size
        if sampling.top_p < 1:
            keep = min(keep, int(np.searchsorted(shares[order].cumsum(), sampling.top_p * total)) + 1)
        if sampling.min_p:
            keep = min(keep, int((shares[order] >= sampling.min_p).sum()))
        if keep < size or size == most:
            break
    found: npt.NDArray[np.int64] = order[: max(1, keep)]
    return found
