"""Which terms may become features: counted as hashes in all texts, ranked by how far they follow the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from halfpint.data.terms import Index, Shape, chunked, hashed
from halfpint.machine import cores

_SHORT = np.uint64(20)  # bits of a hash that are left out while terms are counted, and hold a label or a text instead
_LOW = np.uint64((1 << 20) - 1)
MOST_COUNTED = 8_000_000
"""Counts kept at once: beyond them, terms that were seen in one text so far are forgotten."""
_SMOOTHING = 2.0

Counts = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Done = Callable[[float], object]


@dataclass(frozen=True)
class Candidates:
    """Terms that may become features.

    Attributes:
        names: as `data.terms` writes them, sorted.
        ratios, idf: weights of the terms as features, their log-count ratios or inverse document frequencies: float32
            (names,).
    """

    names: list[str]
    ratios: npt.NDArray[np.float32]
    idf: npt.NDArray[np.float32]


def candidates(
    texts: Sequence[str],
    targets: npt.NDArray[np.int64],
    labels: int,
    shape: Shape,
    *,
    minimum: int,
    most: int,
    done: Done,
    most_counted: int = MOST_COUNTED,
) -> Candidates:
    """The `most` terms that follow the labels closest, by chi-squared over the texts that they are in.

    A term's ratio is the largest absolute logarithm, over the labels, of how much more often texts of it have the term
    than others have (Wang & Manning 2012, "Baselines and Bigrams", section 2.1), smoothed by two texts of the mix.

    Args:
        texts: their texts; targets: their labels' numbers, int64 (texts,); labels: number of labels.
        shape: of the terms.
        minimum: texts that a term is in at least.
        done: is told each share of the work, which come to 1.
        most_counted: counts kept at once; with more, rare terms are counted from later texts on alone.
    """
    keys, counts = _counted(texts, targets, shape, most_counted, lambda share: done(share / 2))
    terms = keys >> _SHORT
    label = (keys & _LOW).astype(np.int64)
    first = np.flatnonzero(np.append(True, terms[1:] != terms[:-1])) if len(terms) else np.zeros(0, np.int64)
    if not len(first):
        return Candidates(["w:"], np.ones(1, np.float32), np.ones(1, np.float32))
    texts_with = np.add.reduceat(counts, first)
    of_term = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(terms))))
    share = np.bincount(targets, minlength=labels) / len(targets)
    expected = texts_with[of_term] * share[label]
    # A label that a term does not occur with adds what is expected of it; all that is expected is the term's texts.
    follows = np.add.reduceat((counts - expected) ** 2 / expected - expected, first) + texts_with
    enough = np.flatnonzero(texts_with >= minimum)
    if not len(enough):
        enough = np.arange(len(first))
    kept = np.sort(enough[np.argsort(-follows[enough], kind="stable")[:most]])
    ratios = _ratios(kept, of_term, label, counts, texts_with, len(targets) * share)
    idf = np.log((1 + len(targets)) / (1 + texts_with[kept])) + 1
    names = _names(texts, shape, terms[first][kept], lambda share: done(share / 2))
    order = sorted(range(len(names)), key=names.__getitem__)
    # Exports keep weights in half precision: rounded before the fit, they are the same numbers everywhere.
    rounded = [some[order].astype(np.float16).astype(np.float32) for some in (ratios, idf)]
    return Candidates([names[at] for at in order], *rounded)


def _in_parts(texts: Sequence[str]) -> Iterator[list[tuple[int, int]]]:
    """As many chunks at once as there are cores."""
    parts, size = list(chunked(texts)), cores()
    for at in range(0, len(parts), size):
        yield parts[at : at + size]


def _counted(
    texts: Sequence[str], targets: npt.NDArray[np.int64], shape: Shape, most: int, done: Done
) -> tuple[Keys, Counts]:
    """(term, label) as one number, sorted, and in how many texts of the label the term is."""

    def count(part: tuple[int, int]) -> tuple[Keys, Counts]:
        start, stop = part
        found = hashed(texts[start:stop], shape)
        # A text and a term in one number; a term counts once in a text.
        both, _ = _runs(np.sort((found.hashes & ~_LOW) | found.owners().astype(np.uint64)))
        return _runs(np.sort((both & ~_LOW) | targets[start:stop].astype(np.uint64)[(both & _LOW).astype(np.int64)]))

    waiting: list[tuple[Keys, Counts]] = [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    held = 0
    with ThreadPoolExecutor(cores()) as pool:
        for parts in _in_parts(texts):
            waiting += pool.map(count, parts)
            held += sum(len(keys) for keys, _ in waiting[-len(parts) :])
            done(sum(stop - start for start, stop in parts) / len(texts))
            if held > 2 * most:
                keys, counts = _summed(waiting)
                waiting = [_without_rare(keys, counts) if len(keys) > most else (keys, counts)]
                held = len(waiting[0][0])
    return _summed(waiting)


def _runs(ordered: Keys) -> tuple[Keys, Counts]:
    """Different values of sorted ones, and how often each is there."""
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else np.zeros(0, np.int64)
    return ordered[first], np.diff(np.append(first, len(ordered)))


def _summed(parts: Sequence[tuple[Keys, Counts]]) -> tuple[Keys, Counts]:
    keys = np.concatenate([keys for keys, _ in parts])
    counts = np.concatenate([counts for _, counts in parts])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    if not len(keys):
        return keys, counts
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[first], np.add.reduceat(counts, first)


def _without_rare(keys: Keys, counts: Counts) -> tuple[Keys, Counts]:
    """Without terms that one text had."""
    terms = keys >> _SHORT
    alone = (counts == 1) & np.append(True, terms[1:] != terms[:-1]) & np.append(terms[1:] != terms[:-1], True)
    return keys[~alone], counts[~alone]


def _ratios(
    kept: Counts, of_term: Counts, label: Counts, counts: Counts, texts_with: Counts, per_label: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    place = np.full(len(texts_with), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    inside = place[of_term] >= 0
    rows, label, counts = place[of_term[inside]], label[inside], counts[inside]
    order = np.argsort(label, kind="stable")
    rows, counts, borders = rows[order], counts[order], np.searchsorted(label[order], np.arange(len(per_label) + 1))
    total, texts = texts_with[kept], per_label.sum()
    found = np.zeros(len(kept))
    for number, size in enumerate(per_label):  # label by label: a table of all would be large
        those = slice(borders[number], borders[number + 1])
        of_label = np.zeros(len(kept))
        of_label[rows[those]] = counts[those]
        usual = _SMOOTHING * size / texts
        if not 0 < size < texts:
            continue  # no text, or all: nothing can be told apart
        here = (of_label + usual) / (size + usual)
        rest = _SMOOTHING - usual
        there = (total - of_label + rest) / (texts - size + rest)
        np.maximum(found, np.abs(np.log(here / there)), out=found)
    return np.maximum(found, 1e-3)


def _names(texts: Sequence[str], shape: Shape, wanted: Keys, done: Done) -> list[str]:
    """The terms of hashes without their last bits, sorted by these."""
    index = Index(wanted << _SHORT)
    names = [""] * len(wanted)
    missing = np.ones(len(wanted), dtype=bool)

    def find(part: tuple[int, int]) -> list[tuple[int, str]]:
        found = hashed(texts[part[0] : part[1]], shape)
        at, numbers = index.find(found.hashes & ~_LOW)
        new = np.flatnonzero(missing[numbers])
        numbers, first = np.unique(numbers[new], return_index=True)
        return [(number, found.name(term)) for number, term in zip(numbers.tolist(), at[new][first], strict=True)]

    with ThreadPoolExecutor(cores()) as pool:
        for parts in _in_parts(texts):
            for number, name in chain.from_iterable(pool.map(find, parts)):
                if missing[number]:
                    names[number], missing[number] = name, False
            done(sum(stop - start for start, stop in parts) / len(texts))
            if not missing.any():
                break
    return names
