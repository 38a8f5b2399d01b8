"""Texts to learn from that give away a text that is judged on: the same, nearly the same, a part of one, or a whole."""

from __future__ import annotations

from collections.abc import Sequence

from halfpint.data.containment import shared_parts
from halfpint.data.dedup import near_duplicate_pairs, normalise

THRESHOLD = 0.85
"""The least Jaccard index of the sets of character 5-grams of two texts that are nearly the same."""
EXACT, NEAR, PART, KEPT = "leakage_exact", "leakage_near", "leakage_part", "leakage_kept"


def leaks(texts: Sequence[str], held: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of those of `texts` that leak a held text, each under one of EXACT, NEAR and PART, in order."""
    ours = [normalise(text) for text in texts]
    theirs = {normalise(text) for text in held if text.strip()}
    exact = [number for number, text in enumerate(ours) if text in theirs]
    beside = list(dict.fromkeys((*ours, *theirs)))
    near: set[str] = set()
    for one, other, _ in near_duplicate_pairs(beside, threshold=THRESHOLD):
        for text, neighbour in ((beside[one], beside[other]), (beside[other], beside[one])):
            if neighbour in theirs and text not in theirs:
                near.add(text)
    alike = [number for number, text in enumerate(ours) if text in near]
    parts = set(shared_parts(ours, sorted(theirs))) - set(exact) - set(alike) if theirs else set()
    return {EXACT: exact, NEAR: alike, PART: sorted(parts)}
