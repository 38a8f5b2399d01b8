"""TF-IDF features of texts, in numpy; the same code makes them in training and in use.

Features are words, n-grams of words, and character n-grams within words (`data/terms`). Weights: sublinear term
frequency times a weight of the feature, rows of unit length (Salton & Buckley 1988).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.data.terms import Index, Shape, chunked, count_rows, hashed, hashes_of, terms
from halfpint.errors import HalfpintError
from halfpint.machine import cores

FEATURES_FILE = "features.txt"
_FEW_CHARS, _FEW_CHARS_OF_WORDS = 250, 1000  # of texts that plain Python is faster with; the latter without n-grams


@dataclass(frozen=True)
class Rows:
    """Sparse rows: those of text t are from starts[t] to starts[t + 1].

    Attributes:
        starts: int64 (texts + 1,).
        numbers: of features, rising within a row, int32 (entries,).
        weights: float32 (entries,); each row has unit length, or no entry.
    """

    starts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]

    def padded(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows of equal length, filled up with feature 0 and weight 0: int64 and float32 (texts, longest)."""
        lengths = np.diff(self.starts)
        longest = max(1, int(lengths.max(initial=0)))
        indices = np.zeros((len(lengths), longest), dtype=np.int64)
        values = np.zeros((len(lengths), longest), dtype=np.float32)
        filled = np.arange(longest) < lengths[:, None]
        indices[filled], values[filled] = self.numbers, self.weights
        return indices, values

    def of(self, texts: npt.NDArray[np.int64]) -> Rows:
        """The rows of these texts, in this order."""
        lengths = np.diff(self.starts)[texts]
        starts = np.append(0, np.cumsum(lengths))
        at = np.arange(starts[-1]) + np.repeat(self.starts[texts] - starts[:-1], lengths)
        return Rows(starts, self.numbers[at], self.weights[at])


class Features:
    """The vocabulary: which terms count, and the weight of each (its inverse document frequency, or another)."""

    def __init__(self, names: Sequence[str], idf: npt.NDArray[np.float32], shape: Shape) -> None:
        self.names, self.idf, self.shape = list(names), idf, shape
        self._number = {name: number for number, name in enumerate(self.names)}
        self._index: Index | None = None

    def row(self, text: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Numbers and weights of the features in `text`: the reference of `rows`, in plain Python."""
        number = self._number
        counts = Counter(at for term in terms(text, self.shape) if (at := number.get(term)) is not None)
        numbers = np.array(sorted(counts), dtype=np.int32)
        weights = np.array([1.0 + math.log(counts[at]) for at in numbers.tolist()], dtype=np.float32)
        weights *= self.idf[numbers]
        norm = float(np.sqrt((weights * weights).sum()))
        return numbers, weights / np.float32(norm) if norm else weights

    def rows(self, texts: Sequence[str], threads: int | None = None) -> Rows:
        """The features of texts; None takes a thread for each core."""
        if sum(map(len, texts)) <= (_FEW_CHARS if self.shape.characters[1] else _FEW_CHARS_OF_WORDS):
            some = [self.row(text) for text in texts]
            return _joined([Rows(np.array([0, len(one)]), one, weights) for one, weights in some])
        if self._index is None:
            self._index = Index(hashes_of(self.names))
        parts = list(chunked(texts))
        threads = min(threads or cores(), len(parts))
        if threads < 2:
            return _joined([self._some(texts[start:stop]) for start, stop in parts])
        with ThreadPoolExecutor(threads) as pool:
            return _joined(list(pool.map(lambda part: self._some(texts[part[0] : part[1]]), parts)))

    def _some(self, texts: Sequence[str]) -> Rows:
        assert self._index is not None
        found = hashed(texts, self.shape)
        at, numbers = self._index.find(found.hashes)
        starts, features, counts = count_rows(found.owners(at), numbers, len(texts), len(self.names))
        weights = (1.0 + np.log(counts)).astype(np.float32) * self.idf[features]
        owners = np.repeat(np.arange(len(texts)), np.diff(starts))
        norms = np.sqrt(np.bincount(owners, weights.astype(np.float64) ** 2, minlength=len(texts)))
        weights /= norms.astype(np.float32)[owners]
        return Rows(starts, features, weights)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the vocabulary into `folder`; gives what config.json has to hold besides."""
        (folder / FEATURES_FILE).write_text("\n".join(self.names) + "\n", encoding="utf-8")
        shape = self.shape
        return {"characters": list(shape.characters), "words": shape.words, "scripts": shape.scripts}


def _joined(parts: Sequence[Rows]) -> Rows:
    offsets = np.cumsum([0, *(part.starts[-1] for part in parts)])
    starts = [part.starts[1:] + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
    return Rows(
        np.concatenate([np.zeros(1, np.int64), *starts]),
        np.concatenate([np.zeros(0, np.int32), *(part.numbers for part in parts)]),
        np.concatenate([np.zeros(0, np.float32), *(part.weights for part in parts)]),
    )


def read_features(bundle: Bundle, idf: npt.NDArray[np.float32]) -> Features:
    """The vocabulary of a bundle."""
    names = (bundle.path / FEATURES_FILE).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(names) != len(idf):
        raise HalfpintError(
            str(bundle.path / FEATURES_FILE), wanted=f"{len(idf)} features", got=str(len(names)),
            todo="Make or copy the bundle again.",
        )  # fmt: skip
    low, high = bundle.config["characters"]
    words, scripts = bundle.config.get("words", 2), bundle.config.get("scripts", False)
    return Features(names, idf, Shape((low, high), words, scripts))
