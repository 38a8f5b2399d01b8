"""Splitting: a partition, whole groups, every label where it can be, the same everywhere for the same seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.data.examples import Example
from halfpint.data.split import Splits, split
from halfpint.errors import HalfpintError


def made(labels: list[int]) -> list[Example]:
    return [Example(f"text {row}", f"label {label}", row) for row, label in enumerate(labels)]


def parts(splits: Splits) -> list[list[Example]]:
    return [splits.train, splits.validation, splits.test]


LABELS = st.lists(st.integers(0, 5), max_size=80)
FRACTIONS = st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.8, 0.2, 0.0), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0)])


@settings(deadline=None)
@given(st.data(), LABELS, FRACTIONS, st.integers(0, 9), st.sampled_from([5000, 7, 0]))
def test_partition_groups_and_train_labels(
    data: st.DataObject, labels: list[int], fractions: tuple[float, float, float], seed: int, most: int
) -> None:
    examples = made(labels)
    groups = np.array(
        data.draw(st.lists(st.integers(0, 25), min_size=len(labels), max_size=len(labels))), dtype=np.int64
    )
    splits = split(examples, fractions=fractions, seed=seed, groups=groups, max_validation=most)
    assert sorted(e.row for part in parts(splits) for e in part) == list(range(len(labels)))
    assert all([e.row for e in part] == sorted(e.row for e in part) for part in parts(splits))
    sides = [{int(groups[e.row]) for e in part} for part in parts(splits)]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert {e.label for e in splits.train} == {e.label for e in examples}
    assert len(splits.validation) <= most
    assert all(not part for part, fraction in zip(parts(splits), fractions, strict=True) if fraction == 0)
    assert split(examples, fractions=fractions, seed=seed, groups=groups, max_validation=most) == splits


@settings(deadline=None)
@given(LABELS, st.integers(1, 4), FRACTIONS, st.integers(0, 9))
def test_labels_in_three_groups_are_on_every_wanted_side(
    labels: list[int], size: int, fractions: tuple[float, float, float], seed: int
) -> None:
    examples = made(labels)
    seen: Counter[int] = Counter()
    groups, count = [], defaultdict(set)
    for label in labels:  # groups of up to `size` examples, each of one label
        group = label * 1000 + seen[label] // size
        seen[label] += 1
        groups.append(group)
        count[f"label {label}"].add(group)
    splits = split(examples, fractions=fractions, seed=seed, groups=np.array(groups, dtype=np.int64))
    for name, own in count.items():
        for part, fraction in zip(parts(splits), fractions, strict=True):
            if fraction and len(own) >= 3:
                assert any(e.label == name for e in part)


@settings(deadline=None)
@given(st.lists(st.integers(7, 60), min_size=1, max_size=6), FRACTIONS, st.integers(0, 9))
def test_proportions(counts: list[int], fractions: tuple[float, float, float], seed: int) -> None:
    examples = made([label for label, count in enumerate(counts) for _ in range(count)])
    splits = split(examples, fractions=fractions, seed=seed, groups=np.arange(len(examples), dtype=np.int64))
    for part, fraction in zip(parts(splits), fractions, strict=True):
        assert abs(len(part) - fraction * len(examples)) <= len(counts)
        held = Counter(e.label for e in part)
        for label, count in enumerate(counts):
            assert abs(held[f"label {label}"] - fraction * count) <= 1.5


@pytest.mark.parametrize(("labels", "sizes"), [(20, [28, 6, 6]), (100, [140, 30, 30]), (6, [10, 1, 1])])
def test_many_labels_of_two_rows_leave_rows_to_judge_by(labels: int, sizes: list[int]) -> None:
    """Each label wants both for training: where that left a side with under half of its share, labels give one."""
    examples = made([*range(labels), *range(labels)])
    splits = split(examples, groups=np.arange(2 * labels, dtype=np.int64))
    assert [len(part) for part in parts(splits)] == sizes
    assert len({e.label for e in splits.train}) == labels


def test_near_duplicates_stay_together_by_default() -> None:
    base = [
        f"{word} {n} reasons to visit the {word} house in the summer" for n in range(3, 9) for word in ("red", "oak")
    ]
    texts = [text + end for text in base for end in ("", "!", " .")]
    examples = [Example(text, f"label {row % 2}", row) for row, text in enumerate(texts)]
    splits = split(examples)
    sides = [{e.text.rstrip(" .!") for e in part} for part in parts(splits)]
    assert sum(map(len, sides)) == len(base)
    assert all(sides)


def test_validation_is_capped_and_the_rest_trained_on() -> None:
    examples = made([0, 1] * 200)
    groups = np.arange(400, dtype=np.int64)
    splits = split(examples, groups=groups, max_validation=10)
    assert [len(part) for part in parts(splits)] == [330, 10, 60]
    many = made([row // 3 for row in range(36)])
    few = split(many, groups=np.arange(36, dtype=np.int64), max_validation=5)
    assert len(few.validation) == 5
    assert len({e.label for e in few.test}) == 12
    assert split(examples, groups=groups, seed=1) != split(examples, groups=groups, seed=2)


def test_tiny_sets_get_a_test_side_where_they_can() -> None:
    splits = split(made([0, 0, 1, 1]), groups=np.arange(4, dtype=np.int64))
    assert [len(part) for part in parts(splits)] == [2, 1, 1]
    assert split([]) == Splits([], [], [])


def test_hash_seed_changes_nothing() -> None:
    code = (
        "from halfpint.data.examples import Example\nfrom halfpint.data.split import split\n"
        "made = [Example(f'text {i * i} of {i}', 'abcdefg'[i * i % 7], i) for i in range(200)]\n"
        "print([e.row for e in split(made, seed=3).test])"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outs) == 1
    assert len(outs.pop()) > 50


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_fractions_that_are_none(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(HalfpintError, match="three numbers that sum to 1"):
        split(made([0, 1]), fractions=fractions)


def test_groups_of_another_length() -> None:
    with pytest.raises(HalfpintError, match="one for each of 2 examples, not 3"):
        split(made([0, 1]), groups=np.arange(3, dtype=np.int64))
