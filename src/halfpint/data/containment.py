"""Texts that are part of another: phrases cut out of a sentence, a reply that quotes. Where the longer one was learned
from, such a text is no fresh one to be judged on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halfpint.data.dedup import normalise

_WORDS = 4
"""Words that a text has at least to be looked for in others: shorter ones are anybody's."""
_MOST_HOLDERS = 8
"""Texts that hold a text, at most, to be joined with it: what many hold is a common phrase."""


def join_contained(texts: Sequence[str], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """`groups` with those joined of which a text (four words or more) is a part of a text of the other, word by word.

    Args:
        texts: any texts; they are normalised here.
        groups: one number a text, int64 (texts,): equal ones belong together.

    Source: the containment of Broder 1997, "On the resemblance and containment of documents", exactly 1.
    """
    words = [normalise(text).split() for text in texts]
    beginning: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, some in enumerate(words):
        if len(some) >= _WORDS:
            beginning[tuple(some[:_WORDS])].append(number)
    holders: dict[int, set[int]] = defaultdict(set)
    for holder, some in enumerate(words):
        for start in range(len(some) - _WORDS + 1):
            for part in beginning.get(tuple(some[start : start + _WORDS]), ()):
                found = words[part]
                if len(found) < len(some) and some[start : start + len(found)] == found:
                    holders[part].add(holder)
    first = {int(group): int(group) for group in groups.tolist()}

    def root(group: int) -> int:
        while first[group] != group:
            first[group] = first[first[group]]
            group = first[group]
        return group

    for part in sorted(holders):
        if len(holders[part]) <= _MOST_HOLDERS:
            for holder in sorted(holders[part]):
                low, high = sorted((root(int(groups[part])), root(int(groups[holder]))))
                first[high] = low
    return np.array([root(int(group)) for group in groups.tolist()], dtype=np.int64)
