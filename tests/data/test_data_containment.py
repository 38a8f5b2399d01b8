"""Parts of a text stay with it."""

from __future__ import annotations

import numpy as np

from halfpint.data.containment import join_contained
from halfpint.data.examples import Example
from halfpint.data.split import split


def joined(*texts: str) -> list[int]:
    return join_contained(texts, np.arange(len(texts))).tolist()


def test_a_part_is_joined_with_its_whole() -> None:
    assert joined("The film is a joy to watch, again!", "a joy to watch", "is a joy to hear", "the film is a") == [
        0, 0, 2, 0,
    ]  # fmt: skip
    assert joined("a joy", "it is a joy", "what a joy it was to see") == [0, 1, 2]  # too short to be anybody's
    assert joined("it was such a joy", "xit was such a joy", "so it was such a joyful day") == [0, 1, 2]  # whole words
    assert joined("one two three four five", "two three four five six", "two three four five") == [0, 0, 0]


def test_groups_that_were_there_stay() -> None:
    texts = ["alpha beta gamma delta epsilon", "beta gamma delta epsilon", "something else by itself here", "other"]
    assert join_contained(texts, np.array([0, 1, 1, 3])).tolist() == [0, 0, 0, 3]


def test_what_many_hold_joins_nobody() -> None:
    texts = ["at the end of the day", *(f"number {n} said at the end of the day" for n in range(9))]
    assert len(set(joined(*texts))) == 10
    assert len(set(joined(*texts[:9]))) == 1


def test_phrases_of_one_sentence_are_one_holder() -> None:
    words = ["it", "was", "at", "the", "end", "of", "the", "day", "that", "we", "all", "went", "home"]
    inside = [" ".join(words[low:high]) for low in range(3) for high in range(8, 14)]
    assert len(set(joined("at the end of", *inside))) == 1  # eighteen texts hold it, all of one sentence


def test_no_sentence_is_on_one_side_and_its_phrases_on_another() -> None:
    random = np.random.default_rng(0)
    examples = []
    for number in range(60):
        words = [f"w{word}" for word in random.integers(0, 500, 12)]
        for low, high in ((0, 12), (2, 8), (5, 12), (0, 5)):
            examples.append(Example(" ".join(words[low:high]), f"label {number % 3}", len(examples)))
    parts = split(examples, fractions=(0.6, 0.2, 0.2))
    sides = [{example.row // 4 for example in side} for side in (parts.train, parts.validation, parts.test)]
    assert all(sides) and not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])
