"""TF-IDF features of a text and a linear classifier on them, in plain Python and numpy.

Features are words, pairs of words, and character n-grams within words; the same code makes them in training and in use.
Weights: sublinear term frequency times inverse document frequency, rows of unit length (Salton & Buckley 1988).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError

_WORD = re.compile(r"\w+|[^\w\s]")
FEATURES_FILE = "features.txt"


def terms(text: str, characters: tuple[int, int] = (3, 5)) -> list[str]:
    """The features of `text` with repetition: "w:…" for words and pairs of words, "c:…" for character n-grams."""
    words = _WORD.findall(text.lower())
    found = ["w:" + word for word in words]
    found += [f"w:{first} {second}" for first, second in itertools.pairwise(words)]
    low, high = characters
    if high:
        for word in words:
            padded = f" {word} "
            for width in range(low, high + 1):
                found += ["c:" + padded[at : at + width] for at in range(max(1, len(padded) - width + 1))]
    return found


class Features:
    """The vocabulary: which terms count, and their inverse document frequency."""

    def __init__(self, names: Sequence[str], idf: npt.NDArray[np.float32], characters: tuple[int, int]) -> None:
        self.names, self.idf, self.characters = list(names), idf, characters
        self._index = {name: number for number, name in enumerate(self.names)}

    def row(self, text: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Indices and weights of the features in `text`, the weights of unit length (both empty when none is known)."""
        index = self._index
        counts = Counter(number for term in terms(text, self.characters) if (number := index.get(term)) is not None)
        numbers = np.fromiter(counts, dtype=np.int64, count=len(counts))
        weights = np.fromiter((1.0 + math.log(n) for n in counts.values()), dtype=np.float32, count=len(counts))
        weights *= self.idf[numbers]
        norm = float(np.sqrt((weights * weights).sum()))
        return numbers, weights / norm if norm else weights

    def padded(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows of several texts, padded with index 0 and weight 0: int64 and float32 of shape (texts, longest)."""
        rows = [self.row(text) for text in texts]
        longest = max(1, *(len(numbers) for numbers, _ in rows)) if len(rows) > 1 else max(1, len(rows[0][0]))
        indices = np.zeros((len(rows), longest), dtype=np.int64)
        values = np.zeros((len(rows), longest), dtype=np.float32)
        for number, (found, weights) in enumerate(rows):
            indices[number, : len(found)] = found
            values[number, : len(found)] = weights
        return indices, values

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the vocabulary into `folder`; gives what config.json has to hold besides."""
        (folder / FEATURES_FILE).write_text("\n".join(self.names) + "\n", encoding="utf-8")
        return {"characters": list(self.characters)}


def read_features(bundle: Bundle, idf: npt.NDArray[np.float32]) -> Features:
    """The vocabulary of a bundle."""
    names = (bundle.path / FEATURES_FILE).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(names) != len(idf):
        raise HalfpintError(
            str(bundle.path / FEATURES_FILE), wanted=f"{len(idf)} features", got=str(len(names)),
            todo="Make or copy the bundle again.",
        )  # fmt: skip
    low, high = bundle.config["characters"]
    return Features(names, idf, (low, high))
