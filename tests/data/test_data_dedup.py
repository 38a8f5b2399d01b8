"""Near duplicates against brute force and against datasketch, and the properties of normalising and grouping."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.data.dedup import exact_groups, near_duplicate_groups, near_duplicate_pairs, normalise
from halfpint.errors import HalfpintError

WORDS = [
    "the",
    "card",
    "my",
    "is",
    "not",
    "here",
    "please",
    "send",
    "new",
    "lost",
    "phone",
    "bank",
    "when",
    "will",
    "arrive",
    "account",
    "money",
    "app",
    "help",
]


def shingles(text: str) -> set[str]:
    plain = normalise(text)
    return {plain[i : i + 5] for i in range(max(1, len(plain) - 4))}


def jaccard(one: str, other: str) -> float:
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


def varied(count: int, seed: int) -> list[str]:
    """Random sentences, each second one a copy of an earlier one with few letters changed."""
    source = random.Random(seed)
    texts: list[str] = []
    while len(texts) < count:
        if texts and source.random() < 0.5:
            chars = list(source.choice(texts))
            for _ in range(source.randint(0, 3)):
                chars[source.randrange(len(chars))] = source.choice("abcdexyz ")
            texts.append("".join(chars))
        else:
            texts.append(" ".join(source.choices(WORDS, k=source.randint(1, 25))))
    return texts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.5, 0.85])
def test_pairs_equal_brute_force(seed: int, threshold: float) -> None:
    texts = varied(150, seed)
    found = near_duplicate_pairs(texts, threshold=threshold, seed=seed)
    true = {(i, j): jaccard(texts[i], texts[j]) for i, j in combinations(range(len(texts)), 2)}
    for i, j, index in found:
        assert index == pytest.approx(true[i, j])
        assert index >= threshold
    pairs = {(i, j) for i, j, _ in found}
    assert len(pairs) == len(found)
    assert {pair for pair, index in true.items() if index >= min(threshold + 0.05, 1)} <= pairs
    assert len(pairs) > 20


def test_recall_is_no_worse_than_that_of_datasketch() -> None:
    datasketch = pytest.importorskip("datasketch")
    texts = list(dict.fromkeys(map(normalise, varied(150, 9))))
    index = datasketch.MinHashLSH(threshold=0.85, num_perm=128)
    theirs = set()
    for number, text in enumerate(texts):
        sketch = datasketch.MinHash(num_perm=128, seed=3)
        sketch.update_batch([shingle.encode() for shingle in shingles(text)])
        theirs |= {(other, number) for other in index.query(sketch) if jaccard(texts[other], text) >= 0.85}
        index.insert(number, sketch)
    ours = {(i, j) for i, j, _ in near_duplicate_pairs(texts)}
    assert len(theirs) > 5
    assert theirs <= ours


def test_texts_that_differ_in_case_and_punctuation_are_equal() -> None:
    texts = ["Don't stop, please!", "dont  stop please", "another", "DON\u2019T STOP: PLEASE", "Another."]
    assert exact_groups(texts) == [[0, 1, 3], [2, 4]]
    assert near_duplicate_pairs(texts) == [(0, 1, 1.0), (0, 3, 1.0), (1, 3, 1.0), (2, 4, 1.0)]
    assert near_duplicate_groups(texts).tolist() == [0, 0, 1, 0, 1]


def test_texts_of_punctuation_numbers_and_signs_stay_apart() -> None:
    texts = ["!!!", "???", "\U0001f44d", "\U0001f44e", "1.50", "150", "C++", "C", ""]
    assert len(set(map(normalise, texts))) == len(texts)
    assert exact_groups(texts) == []


def test_many_equal_and_many_alike_texts_do_not_blow_up() -> None:
    texts = ["the very same text"] * 20_000
    pairs = near_duplicate_pairs(texts)
    assert len(pairs) == 19_999
    alike = [f"your order number {i:05d} has been sent to you today, thank you for buying with us" for i in range(1500)]
    groups = near_duplicate_groups(texts + alike)
    assert groups.tolist() == [0] * 20_000 + [1] * 1500


def test_edges() -> None:
    assert near_duplicate_pairs([]) == []
    assert near_duplicate_groups([]).tolist() == []
    assert near_duplicate_groups(["one"]).dtype == np.int64
    assert near_duplicate_pairs(["", " ", "a"]) == [(0, 1, 1.0)]
    with pytest.raises(HalfpintError, match="must be a number above 0, at most 1"):
        near_duplicate_pairs(["a", "b"], threshold=85)


def test_a_long_text_beside_short_ones() -> None:
    long = " ".join(random.Random(0).choices(WORDS, k=60_000))
    texts = ["short one", long, long + " and more", "short two"]
    assert [(i, j) for i, j, _ in near_duplicate_pairs(texts)] == [(1, 2)]


@settings(deadline=None)
@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("ab c.!", max_size=12), max_size=30), st.integers(0, 3))
def test_groups_join_exactly_what_pairs_join(texts: list[str], seed: int) -> None:
    groups = near_duplicate_groups(texts, threshold=0.6, seed=seed)
    assert groups.shape == (len(texts),)
    first_seen = list(dict.fromkeys(groups.tolist()))
    assert first_seen == list(range(len(first_seen)))
    joined = list(range(len(texts)))
    for i, j, _ in near_duplicate_pairs(texts, threshold=0.6, seed=seed):
        low, high = sorted((joined[i], joined[j]))
        joined = [low if group == high else group for group in joined]
    assert [[a == b for b in joined] for a in joined] == [[a == b for b in groups] for a in groups]
