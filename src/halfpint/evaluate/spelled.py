"""Words that a model of whole words does not know, spelled out: what such a model comes to, byte for byte.

A model of words gives every word that it does not know one probability, however many bytes the word has. Beside a model
that predicts each byte of it that is no figure of the same thing: so each unknown word costs its bytes too, by their
frequencies in the training text, and the space that ends it. What it comes to is a length in which the text could be
written down, as it is for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.engines import ScoredText
from halfpint.errors import HalfpintError

_COUNTED_BYTES = 1_000_000


def byte_costs(texts: Iterable[str]) -> npt.NDArray[np.float64]:
    """Nats of each of the 256 bytes by its frequency in (the first megabyte of) `texts`, each counted once more."""
    counts, seen = np.ones(256), 0
    for text in texts:
        found = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8)
        counts += np.bincount(found, minlength=256)
        seen += len(found)
        if seen >= _COUNTED_BYTES:
            break
    costs: npt.NDArray[np.float64] = np.log(counts.sum()) - np.log(counts)
    return costs


def spelled(texts: Sequence[str], scores: Sequence[ScoredText], costs: npt.NDArray[Any]) -> list[ScoredText]:
    """The scores of texts with each unknown word's bytes among its nats; those of a model that knows all, as they are.

    Raises:
        HalfpintError: tokens that are not the words and ends of lines of the text.
    """
    return [_spelled(text, one, costs) for text, one in zip(texts, scores, strict=True)]


def _spelled(text: str, one: ScoredText, costs: npt.NDArray[Any]) -> ScoredText:
    if one.unknown is None or not one.unknown.any():
        return one
    lines = text.encode("utf-8", "replace").removesuffix(b"\n").split(b"\n")
    words = [word for line in lines for word in (*line.split(), b"")]
    if len(words) != len(one.unknown):
        raise HalfpintError(
            "an n-gram model's scores", wanted=f"{len(words):,} words and ends of lines", got=f"{len(one.unknown):,}"
        )
    logs = np.array(one.log_probabilities, dtype=np.float64)
    for at in np.flatnonzero(one.unknown):
        logs[at] -= costs[np.frombuffer(words[at] + b" ", dtype=np.uint8)].sum()
    return replace(one, log_probabilities=logs)
