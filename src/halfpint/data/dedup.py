"""Near duplicates: MinHash over character 5-grams, banded, every candidate then verified by its true Jaccard index.

In scripts without spaces (Chinese, Japanese, Thai) a character says as much as three letters and counts as three.

Source: A. Broder, "On the resemblance and containment of documents", 1997 (resemblance, min-wise sketches); the bands
are those of Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from halfpint.data.terms import RUN_CHARACTER
from halfpint.errors import HalfpintError, SettingError

_SHINGLE = 5  # characters
_LETTERS = 3  # that a character of a script without spaces counts as
_HASH_BITS = 40  # of a shingle; the upper 24 bits of a key hold the text's number
_MOST_TEXTS = 1 << (64 - _HASH_BITS)
_CHUNK_CHARS = 1 << 18
_CHUNK_PAIRS = 1 << 16
_CHUNK_SHINGLES = 1 << 20
_MISS = 1e-4  # chance that the bands miss a pair whose index is just the threshold
_BUCKET = 64  # texts that share a band and are all compared with each other
_HUGE_BUCKET_NEIGHBOURS = 8  # in a larger one each is compared with the next ones
_MOST_EXPANDED = 1024
_APOSTROPHES = frozenset("'\u2019\u02bc")

_Uints = NDArray[np.uint64]
_Ints = NDArray[np.int64]


class _Punctuation(dict[int, str | int | None]):
    """A table for `str.translate` that decides about a character when it first meets it."""

    def __missing__(self, code: int) -> str | int | None:
        char = chr(code)
        found: str | int | None = code
        if char in _APOSTROPHES:
            found = None
        elif unicodedata.category(char)[0] in "PZC":
            found = " "
        self[code] = found
        return found


_PUNCTUATION = _Punctuation()


def normalise(text: str) -> str:
    """The text in NFKC, lower case, without apostrophes, other punctuation and runs of spaces folded to one space.

    A text of punctuation alone keeps it. Normalising twice changes nothing more.
    """
    lowered = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    plain = " ".join(unicodedata.normalize("NFKC", lowered.translate(_PUNCTUATION)).split())
    return plain or " ".join(lowered.split())


def exact_groups(texts: Sequence[str]) -> list[list[int]]:
    """Indices of texts that are equal when normalised: groups of two or more, in order of their first member."""
    return [group for group in _by_normal_form(texts).values() if len(group) > 1]


def near_duplicate_pairs(
    texts: Sequence[str], *, threshold: float = 0.85, permutations: int = 128, seed: int = 0
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, Jaccard index of the sets of character 5-grams), i < j, sorted, with index >= threshold.

    Where more than 1,024 pairs would join two sets of equal texts, or the members of one, only those with the first
    member are given; of a bucket of more than 64 texts each is compared with its next 8. Groups stay whole that way.

    Args:
        texts: any texts; they are normalised here.
        threshold: 0 < threshold <= 1.
        permutations: hash functions of a sketch.
        seed: of the hash functions.

    Raises:
        HalfpintError: a threshold out of range, or more than 16 million different texts.
    """
    groups = _by_normal_form(texts)
    members = list(groups.values())
    found = [(first, second, 1.0) for group in members for first, second in _within(group)]
    for one, other, index in _pairs_of_distinct(list(groups), threshold, permutations, seed):
        found.extend((min(i, j), max(i, j), index) for i, j in _between(members[one], members[other]))
    return sorted(found)


def near_duplicate_groups(
    texts: Sequence[str], *, threshold: float = 0.85, permutations: int = 128, seed: int = 0
) -> _Ints:
    """One group number a text, int64, shape (texts,): texts joined by near-duplicate pairs share theirs.

    Numbers run from 0 in order of first appearance.

    Raises:
        HalfpintError: as `near_duplicate_pairs`.
    """
    groups = _by_normal_form(texts)
    parent = list(range(len(groups)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other, _ in _pairs_of_distinct(list(groups), threshold, permutations, seed):
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    group_of = np.empty(len(texts), dtype=np.int64)
    number: dict[int, int] = {}
    for index, group in enumerate(groups.values()):
        group_of[group] = number.setdefault(root(index), len(number))
    return group_of


def _by_normal_form(texts: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[normalise(text)].append(index)
    return groups


def _within(group: list[int]) -> list[tuple[int, int]]:
    if len(group) * (len(group) - 1) // 2 > _MOST_EXPANDED:
        return [(group[0], other) for other in group[1:]]
    return list(combinations(group, 2))


def _between(one: list[int], other: list[int]) -> list[tuple[int, int]]:
    return list(product(one, other)) if len(one) * len(other) <= _MOST_EXPANDED else [(one[0], other[0])]


def _pairs_of_distinct(
    texts: Sequence[str], threshold: float, permutations: int, seed: int
) -> list[tuple[int, int, float]]:
    if not 0 < threshold <= 1:
        raise SettingError("near-duplicate threshold", wanted="a number above 0, at most 1", got=str(threshold))
    if permutations < 1:
        raise SettingError("near-duplicate permutations", wanted="1 or more", got=str(permutations))
    if len(texts) >= _MOST_TEXTS:
        raise HalfpintError("near-duplicate search", wanted=f"fewer than {_MOST_TEXTS:,} texts", got=f"{len(texts):,}")
    if len(texts) < 2:
        return []
    keys = _shingle_keys(texts)
    starts = np.searchsorted(keys, np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(_HASH_BITS)).astype(np.int64)
    sketches = _sketches(keys, starts, permutations, seed)
    candidates = _candidates(sketches, _rows_per_band(threshold, permutations))
    return _verified(candidates, sketches, keys, starts, threshold)


def _mix(values: _Uints) -> _Uints:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _shingle_keys(texts: Sequence[str]) -> _Uints:
    """Sorted keys (text number << 40 | hash of a shingle), each once; a text below 5 characters is its own shingle."""
    parts: list[_Uints] = []
    start = 0
    while start < len(texts):
        stop, chars = start, 0
        while stop < len(texts) and (stop == start or chars + len(texts[stop]) <= _CHUNK_CHARS):
            chars += max(len(texts[stop]), _SHINGLE)
            stop += 1
        # Padding with NUL makes a short text one shingle; a shingle over a border belongs to no text and goes.
        padded = [_stretched(text).ljust(_SHINGLE, "\0") for text in texts[start:stop]]
        lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
        codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
        hashes = np.zeros(len(codes) - _SHINGLE + 1, dtype=np.uint64)
        for offset in range(_SHINGLE):
            hashes = _mix(hashes + codes[offset : len(codes) - _SHINGLE + 1 + offset] + np.uint64(0x9E3779B97F4A7C15))
        owner = np.repeat(np.arange(start, stop, dtype=np.uint64), lengths)[: len(hashes)]
        left = np.repeat(np.cumsum(lengths), lengths)[: len(hashes)] - np.arange(len(hashes))
        whole = left >= _SHINGLE
        shifted = np.uint64(64 - _HASH_BITS)
        # np.unique hashes integers, which is many times slower than sorting them.
        ordered = np.sort((owner[whole] << np.uint64(_HASH_BITS)) | (hashes[whole] >> shifted))
        parts.append(ordered[np.append(True, ordered[1:] != ordered[:-1])])
        start = stop
    # Parts go as they are copied: for a million texts there is no room for both.
    keys = np.empty(sum(map(len, parts)), dtype=np.uint64)
    end = len(keys)
    while parts:
        last = parts.pop()
        keys[end - len(last) : end] = last
        end -= len(last)
    return keys


def _stretched(text: str) -> str:
    return text if text.isascii() else RUN_CHARACTER.sub(lambda found: found[0] * _LETTERS, text)


def _sketches(keys: _Uints, starts: _Ints, permutations: int, seed: int) -> NDArray[np.uint32]:
    """MinHash sketches, uint32, shape (texts, permutations)."""
    random = np.random.default_rng(seed)
    factors = random.integers(0, 1 << 32, permutations, dtype=np.uint32) | np.uint32(1)
    offsets = random.integers(0, 1 << 32, permutations, dtype=np.uint32)
    count = len(starts) - 1
    sketches = np.empty((count, permutations), dtype=np.uint32)
    first = 0
    while first < count:
        # Chunks that stay in the cache: every permutation reads all of them.
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _CHUNK_PAIRS, side="right")) - 1)
        values = _mix(keys[starts[first] : starts[last]] & np.uint64((1 << _HASH_BITS) - 1)).astype(np.uint32)
        borders = starts[first:last] - starts[first]
        for column in range(permutations):
            sketches[first:last, column] = np.minimum.reduceat(values * factors[column] + offsets[column], borders)
        first = last
    return sketches


def _rows_per_band(threshold: float, permutations: int) -> int:
    """The most rows a band, which gives the fewest candidates, that still miss a pair at the threshold rarely."""
    fitting = [
        rows
        for rows in range(1, permutations + 1)
        if (1 - min(threshold, 0.999) ** rows) ** (permutations // rows) <= _MISS
    ]
    return max(fitting, default=1)


def _candidates(sketches: NDArray[np.uint32], rows: int) -> _Ints:
    """Pairs of texts that agree in a whole band, each once: int64, shape (pairs, 2)."""
    count = len(sketches)
    found: list[_Ints] = []
    for band in range(sketches.shape[1] // rows):
        bucket = np.zeros(count, dtype=np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            bucket = _mix(bucket + sketches[:, column].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        order = np.argsort(bucket, kind="stable")
        bucket = bucket[order]
        size = np.searchsorted(bucket, bucket, side="right") - np.searchsorted(bucket, bucket, side="left")
        reach = np.where(size > _BUCKET, _HUGE_BUCKET_NEIGHBOURS, _BUCKET)
        for step in range(1, min(_BUCKET, count)):
            same = np.flatnonzero((bucket[:-step] == bucket[step:]) & (reach[:-step] >= step))
            if not len(same):
                break
            found.append(order[same].astype(np.int64) * count + order[same + step])
    pairs = np.sort(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    return np.stack((pairs // count, pairs % count), axis=1)


def _verified(
    pairs: _Ints, sketches: NDArray[np.uint32], keys: _Uints, starts: _Ints, threshold: float
) -> list[tuple[int, int, float]]:
    sizes = np.diff(starts)
    # Six standard deviations below the threshold no estimate of a true pair falls.
    deviation = float(np.sqrt(threshold * (1 - threshold) / sketches.shape[1]))
    found: list[tuple[int, int, float]] = []
    for begin in range(0, len(pairs), _CHUNK_PAIRS):
        one, other = pairs[begin : begin + _CHUNK_PAIRS].T
        small, large = np.minimum(sizes[one], sizes[other]), np.maximum(sizes[one], sizes[other])
        possible = small >= threshold * large
        one, other = one[possible], other[possible]
        estimate = (sketches[one] == sketches[other]).mean(axis=1)
        likely = estimate >= threshold - 6 * deviation - 1e-9
        one, other = one[likely], other[likely]
        if not len(one):
            continue
        shared = _shared_shingles(one, other, keys, starts)
        index = shared / (sizes[one] + sizes[other] - shared)
        keep = index >= threshold
        found.extend(zip(one[keep].tolist(), other[keep].tolist(), index[keep].tolist(), strict=True))
    return found


def _shared_shingles(one: _Ints, other: _Ints, keys: _Uints, starts: _Ints) -> _Ints:
    """How many shingles the texts of each pair share: those of both, sorted by pair and hash, have equal neighbours."""
    sizes = np.diff(starts)
    shared = np.empty(len(one), dtype=np.int64)
    ends = np.cumsum(sizes[one] + sizes[other])
    first = 0
    while first < len(one):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _CHUNK_SHINGLES, side="right")))
        both = np.stack((one[first:last], other[first:last]), axis=1).ravel()
        lengths = sizes[both]
        stops = np.cumsum(lengths)
        place = np.arange(stops[-1]) + np.repeat(starts[both] - (stops - lengths), lengths)
        pair = np.repeat(np.arange(len(both), dtype=np.uint64) // np.uint64(2), lengths)
        hashes = np.sort((pair << np.uint64(_HASH_BITS)) | (keys[place] & np.uint64((1 << _HASH_BITS) - 1)))
        twice = hashes[1:][hashes[1:] == hashes[:-1]] >> np.uint64(_HASH_BITS)
        shared[first:last] = np.bincount(twice.astype(np.int64), minlength=last - first)
        first = last
    return shared
