"""Near duplicates in a corpus that does not fit into memory: what is held of a text is its sketch, 512 bytes.

The sketches, bands and the exact check of every candidate are those of `dedup`; a candidate's text is read again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from halfpint.data.dedup import _HASH_BITS, _candidates, _rows_per_band, _shingle_keys, _sketches, _verified, normalise

THRESHOLD = 0.85

_PERMUTATIONS = 128
_CHUNK_CHARS = 1 << 21  # normalised text that is sketched at once
_PAIRS = 1 << 16


class NearDuplicates:
    """Collects texts one after the other, then tells which belong together.

    Args:
        threshold: Jaccard index of the sets of character 5-grams from which two texts are near duplicates.
        seed: of the hash functions.
    """

    def __init__(self, *, threshold: float = THRESHOLD, seed: int = 0) -> None:
        self.threshold, self.seed = threshold, seed
        self._waiting: list[str] = []
        self._chars = 0
        self._parts: list[NDArray[np.uint32]] = []

    def add(self, text: str) -> None:
        """The next text, as `dedup.normalise` gives it."""
        self._waiting.append(text)
        self._chars += len(text)
        if self._chars >= _CHUNK_CHARS:
            self._sketch()

    def _sketch(self) -> None:
        if self._waiting:
            keys, starts = _keys(self._waiting)
            self._parts.append(_sketches(keys, starts, _PERMUTATIONS, self.seed))
        self._waiting, self._chars = [], 0

    def groups(self, read: Callable[[int], str]) -> NDArray[np.int64]:
        """For each text the number of the first one of its group, int64, shape (texts,): its own where it is alone.

        Args:
            read: gives the text with that number, in the order they were added (normalised or not).
        """
        self._sketch()
        if not self._parts:
            return np.zeros(0, dtype=np.int64)
        sketches = np.concatenate(self._parts)
        first = np.arange(len(sketches), dtype=np.int64)

        def root(node: int) -> int:
            while first[node] != node:
                first[node] = first[first[node]]
                node = int(first[node])
            return node

        def join(pairs: list[tuple[int, int]], texts: dict[int, str]) -> None:
            numbers = sorted(texts)
            place = {number: local for local, number in enumerate(numbers)}
            keys, starts = _keys([texts[number] for number in numbers])
            local = np.array([[place[one], place[other]] for one, other in pairs], dtype=np.int64)
            for one, other, _ in _verified(local, sketches[numbers], keys, starts, self.threshold):
                low, high = sorted((root(numbers[one]), root(numbers[other])))
                first[high] = low

        pairs: list[tuple[int, int]] = []
        texts: dict[int, str] = {}
        chars = 0
        for one, other in self._likely(sketches):
            if root(one) == root(other):
                continue
            for number in (one, other):
                if number not in texts:
                    texts[number] = normalise(read(number))
                    chars += len(texts[number])
            pairs.append((one, other))
            if chars >= _CHUNK_CHARS or len(pairs) >= _PAIRS:
                join(pairs, texts)
                pairs, texts, chars = [], {}, 0
        if pairs:
            join(pairs, texts)
        return np.array([root(node) for node in range(len(first))], dtype=np.int64)

    def _likely(self, sketches: NDArray[np.uint32]) -> list[tuple[int, int]]:
        """Candidates whose sketches agree nearly as often as the threshold asks, in order."""
        pairs = _candidates(sketches, _rows_per_band(self.threshold, _PERMUTATIONS))
        # Six standard deviations below the threshold no estimate of a true pair falls.
        least = self.threshold - 6 * float(np.sqrt(self.threshold * (1 - self.threshold) / _PERMUTATIONS))
        found: list[tuple[int, int]] = []
        for begin in range(0, len(pairs), _PAIRS):
            one, other = pairs[begin : begin + _PAIRS].T
            likely = (sketches[one] == sketches[other]).mean(axis=1) >= least
            found.extend(zip(one[likely].tolist(), other[likely].tolist(), strict=True))
        return found


def _keys(texts: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles of `texts` as `dedup` sorts them, and where each text's begin."""
    keys = _shingle_keys(texts)
    borders = np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(_HASH_BITS)
    return keys, np.searchsorted(keys, borders).astype(np.int64)
