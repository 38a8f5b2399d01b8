"""Texts that are part of another: phrases cut out of a sentence, a reply that quotes. Where the longer one was learned
from, such a text is no fresh one to be judged on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from sys import intern

import numpy as np
from numpy.typing import NDArray

from halfpint.data.dedup import normalise

_WORDS = 4
"""Words that a text has at least to be looked for in others: shorter ones are anybody's."""
_MOST_HOLDERS = 8
"""Groups that hold a text, at most, to be joined with it: what many hold is a common phrase."""
_Words = tuple[str, ...]


def join_contained(texts: Sequence[str], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """`groups` with those joined of which a text (four words or more) is a part of a text of the other, word by word.

    Args:
        texts: any texts; they are normalised here.
        groups: one number a text, int64 (texts,): equal ones belong together.

    Source: the containment of Broder 1997, "On the resemblance and containment of documents", exactly 1.
    """
    numbers, holders = _parts(texts)
    first = {int(group): int(group) for group in groups.tolist()}

    def root(group: int) -> int:
        while first[group] != group:
            first[group] = first[first[group]]
            group = first[group]
        return group

    # The longest first: phrases of one sentence that hold each other are one by the time the shortest is looked at.
    for part in sorted(holders, key=lambda part: (-len(part), part)):
        roots = {root(int(groups[holder])) for holder in holders[part]}
        if len(roots) <= _MOST_HOLDERS:
            roots |= {root(int(groups[number])) for number in numbers[part]}
            for other in roots:
                first[other] = min(roots)
    return np.array([root(int(group)) for group in groups.tolist()], dtype=np.int64)


def shared_parts(texts: Sequence[str], held: Sequence[str]) -> list[int]:
    """The numbers of those of `texts` that are a part of a held text, or that a held text is a part of.

    A part has four words or more. A held text that over eight of `texts` hold is a common phrase: those are not given.
    """
    numbers, holders = _parts([*texts, *held])
    found: set[int] = set()
    for part, wholes in holders.items():
        ours = {whole for whole in wholes if whole < len(texts)}
        if len(ours) < len(wholes):  # a held text has it
            found |= {number for number in numbers[part] if number < len(texts)}
        if len(ours) <= _MOST_HOLDERS and any(number >= len(texts) for number in numbers[part]):
            found |= ours
    return sorted(found)


def _parts(texts: Sequence[str]) -> tuple[dict[_Words, list[int]], dict[_Words, list[int]]]:
    """By their words, the numbers of the texts of four words or more, and of those the numbers of the texts that hold
    them (and are longer), in order."""
    words = [tuple(map(intern, normalise(text).split())) for text in texts]
    numbers: dict[_Words, list[int]] = defaultdict(list)
    lengths: dict[_Words, set[int]] = defaultdict(set)  # of the texts that begin so
    for number, some in enumerate(words):
        if len(some) >= _WORDS:
            numbers[some].append(number)
            lengths[some[:_WORDS]].add(len(some))
    holders: dict[_Words, list[int]] = defaultdict(list)
    for holder, some in enumerate(words):
        for start in range(len(some) - _WORDS + 1):
            for length in lengths.get(some[start : start + _WORDS], ()):
                part = some[start : start + length]
                if length < len(some) and part in numbers and (part not in holders or holders[part][-1] != holder):
                    holders[part].append(holder)
    return numbers, holders
