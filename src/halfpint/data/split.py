"""Train, validation and test: by label in proportion, like texts on one side, the same for the same seed.

Source: K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the Stratification of Multi-Label Data", 2011 (the rarest label
first, each to the side that wants it most), with groups of near duplicates in the place of single examples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfpint.data.containment import join_contained
from halfpint.data.dedup import near_duplicate_groups
from halfpint.data.examples import Example
from halfpint.errors import SettingError

_TRAIN, _VALIDATION, _TEST = range(3)


@dataclass(frozen=True)
class Splits:
    """Three parts that share no example and no group of near duplicates, each in the order of the file; the examples
    have the numbers of their groups."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


def alike(texts: Sequence[str]) -> NDArray[np.int64]:
    """The group of each text: near duplicates, and texts with those that they are a part of; int64 (texts,)."""
    return join_contained(texts, near_duplicate_groups(texts))


def grouped(examples: Sequence[Example], groups: NDArray[np.int64]) -> list[Example]:
    """The examples with the numbers of their groups."""
    return [replace(example, group=group) for example, group in zip(examples, groups.tolist(), strict=True)]


def split(
    examples: Sequence[Example],
    *,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
    max_validation: int = 5000,
) -> Splits:
    """Split `examples`; every label has a train example.

    A label in three groups or more is on each wanted side, unless groups that hold several labels or `max_validation`
    make that impossible.

    Args:
        examples: labelled examples.
        fractions: of train, validation and test; they sum to 1, and a side with 0 stays empty.
        seed: another seed gives another split.
        groups: one number an example, shape (examples,); equal numbers stay together. Default: near duplicates, and
            texts with those that they are a part of.
        max_validation: most validation examples; what would be above goes to train.

    Raises:
        HalfpintError: fractions that are none, or groups of another length.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise SettingError(
            "split fractions",
            wanted="three numbers that sum to 1, the first above 0",
            got=str(tuple(fractions)),
            todo="For example (0.7, 0.15, 0.15).",
        )
    if groups is None:
        groups = alike([example.text for example in examples])
    groups = np.asarray(groups)
    if len(groups) != len(examples):
        raise SettingError("split groups", wanted=f"one for each of {len(examples)} examples", got=str(len(groups)))
    examples = grouped(examples, groups)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups.tolist()):
        members[group].append(index)
    contents = [Counter(examples[index].label for index in group) for group in members.values()]
    cap = min(fractions[_VALIDATION], max_validation / max(len(examples), 1))
    shares = (fractions[_TRAIN] + fractions[_VALIDATION] - cap, cap, fractions[_TEST])
    plan = _Plan(contents, shares, seed)
    plan.assign(shares)
    plan.give_every_label()
    plan.cap_validation(max_validation)
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    for side, group in zip(plan.side, members.values(), strict=True):
        sides[side].extend(group)
    train, validation, test = ([examples[index] for index in sorted(side)] for side in sides)
    return Splits(train, validation, test)


def split_with(
    examples: Sequence[Example], doubtful: Sequence[Example], *, fractions: tuple[float, float, float], seed: int
) -> Splits:
    """Split `examples`, and give validation and test their share of `doubtful` rows, of which training gets none.

    Rows that are alike stay on one side; doubtful ones beside an example for training are on none.
    """
    if not doubtful:
        return split(examples, fractions=fractions, seed=seed)
    groups = alike([example.text for example in (*examples, *doubtful)])
    parts = split(examples, fractions=fractions, seed=seed, groups=groups[: len(examples)])
    doubtful = grouped(doubtful, groups[len(examples) :])
    sides = {
        example.group: side for side, part in enumerate((parts.train, parts.validation, parts.test)) for example in part
    }
    sizes = Counter(example.group for example in doubtful)
    free = [group for group in sizes if group not in sides]
    rows = sum(sizes[group] for group in free)
    room = {
        side: rows * len(part) / max(len(examples), 1)
        for side, part in ((_VALIDATION, parts.validation), (_TEST, parts.test))
    }
    for group in np.random.default_rng(seed).permutation(free).tolist():
        fullest = max(room, key=lambda side: room[side])
        sides[group] = fullest if room[fullest] >= sizes[group] / 2 else _TRAIN
        room[fullest] -= sizes[group] if sides[group] != _TRAIN else 0
    added = {side: [example for example in doubtful if sides[example.group] == side] for side in room}
    both = (sorted((*part, *added[side]), key=lambda example: example.row) for side, part in (
        (_VALIDATION, parts.validation), (_TEST, parts.test),
    ))  # fmt: skip
    validation, test = both
    return Splits(parts.train, validation, test)


class _Plan:
    """Which side each group is on, and how many rows and groups of each label every side has."""

    def __init__(self, contents: Sequence[Counter[str]], shares: tuple[float, float, float], seed: int) -> None:
        self.contents = contents
        self.side = [_TRAIN] * len(contents)
        self.wanted = [side for side in (_TRAIN, _TEST, _VALIDATION) if shares[side] > 0]
        self.with_label: dict[str, list[int]] = defaultdict(list)
        order = np.random.default_rng(seed).permutation(len(contents)).tolist()
        for group in order:
            for label in contents[group]:
                self.with_label[label].append(group)
        # Rarest label first; names break ties, so that no hash order decides.
        self.labels = sorted(self.with_label, key=lambda label: (len(self.with_label[label]), label))
        sizes = [sum(content.values()) for content in contents]
        self.sizes = sizes
        self.share = [share * sum(sizes) for share in shares]
        self.open = list(self.share)
        self.open_of = {
            label: [share * sum(contents[group][label] for group in self.with_label[label]) for share in shares]
            for label in self.labels
        }
        self.held: dict[str, list[int]] = {label: [0, 0, 0] for label in self.labels}

    def put(self, group: int, side: int) -> None:
        self.side[group] = side
        self._count(group, side, 1)

    def move(self, group: int, side: int) -> None:
        self._count(group, self.side[group], -1)
        self.put(group, side)

    def _count(self, group: int, side: int, sign: int) -> None:
        self.open[side] -= sign * self.sizes[group]
        for label, rows in self.contents[group].items():
            self.open_of[label][side] -= sign * rows
            self.held[label][side] += sign

    def assign(self, shares: tuple[float, float, float]) -> None:
        done = [False] * len(self.contents)
        for label in self.labels:
            todo = [group for group in self.with_label[label] if not done[group]]
            rows = sum(self.contents[group][label] for group in self.with_label[label])
            # Large groups first, while there is room everywhere; the sort keeps the shuffled order among equals.
            for group in sorted(todo, key=lambda group: -self.contents[group][label]):
                wants, size = self.open_of[label], self.contents[group][label]
                sides = [side for side in self.wanted if size > 1 and wants[side] >= size]
                if sides:
                    # By the share of what each side still wants: by rows the largest side would get all large groups,
                    # and the others would be left with what stands alone. Single rows, which come last, even it out.
                    wants = [want / max(share * rows, 1e-9) for want, share in zip(wants, shares, strict=True)]
                best = max(sides or self.wanted, key=lambda side: (round(wants[side], 9), self.open[side]))
                self.put(group, best)
                done[group] = True

    def give_every_label(self) -> None:
        """Every label to train, then those in three groups or more to each wanted side, then no side (nearly) empty."""
        for label in self.labels:
            if not self.held[label][_TRAIN]:
                self._bring(label, _TRAIN, force=True)
        for side in self.wanted[1:]:
            for label in self.labels:
                if len(self.with_label[label]) >= len(self.wanted) and not self.held[label][side]:
                    self._bring(label, side)
        for side in self.wanted[1:]:
            if side not in self.side:
                for label in reversed(self.labels):
                    if self._bring(label, side):
                        break
            self._fill(side)

    def _fill(self, side: int) -> None:
        """Up to its share, by labels in turn, where a side has less than half of it: many labels of two rows each want
        both of them for training."""
        if self.open[side] <= self.share[side] / 2:
            return
        moved = True
        while moved:
            moved = False
            for label in reversed(self.labels):
                spare = (group for group in self.with_label[label] if self._can_fill(group, side))
                if (group := next(spare, None)) is not None:
                    self.move(group, side)
                    moved = True

    def _can_fill(self, group: int, side: int) -> bool:
        return self.side[group] == _TRAIN and self.sizes[group] <= self.open[side] and self._is_spare(group)

    def _bring(self, label: str, side: int, *, force: bool = False) -> bool:
        """Move the smallest group with `label` to `side` that leaves no label without a side it has."""
        groups = sorted((group for group in self.with_label[label] if self.side[group] != side), key=self._weight)
        free = [group for group in groups if self._is_spare(group)]
        if free:
            fullest = max((self.side[group] for group in free), key=lambda other: (self.held[label][other], -other))
            self.move(next(group for group in free if self.side[group] == fullest), side)
        elif force and groups:
            self.move(groups[0], side)
        return bool(free) or force

    def _weight(self, group: int) -> tuple[int, int]:
        return len(self.contents[group]), self.sizes[group]

    def _is_spare(self, group: int) -> bool:
        return all(self.held[label][self.side[group]] > 1 for label in self.contents[group])

    def cap_validation(self, most: int) -> None:
        rows = sum(size for size, side in zip(self.sizes, self.side, strict=True) if side == _VALIDATION)
        for only_spare in (True, False):
            for label in reversed(self.labels):
                for group in self.with_label[label]:
                    if rows <= most:
                        return
                    if self.side[group] == _VALIDATION and (self._is_spare(group) or not only_spare):
                        self.move(group, _TRAIN)
                        rows -= self.sizes[group]
