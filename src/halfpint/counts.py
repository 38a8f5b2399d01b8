"""Counts: what every metric is a function of, one row of numbers per unit (a text, a document, a question)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, nearest

IntArray = npt.NDArray[np.integer[Any]]
Float64Array = npt.NDArray[np.float64]
LEVEL = 0.95
"""The level of every interval that is printed or stored."""
INTERVAL = f"{LEVEL:.0%} interval"
"""How such an interval is called."""


@dataclass(frozen=True)
class Counts:
    """One row of counts per unit, each different row stored once.

    A metric of any set of units is a function of the sum of their rows, so a bootstrap draws units and adds rows;
    units with the same row are drawn together, which makes it fast.

    Attributes:
        which: the row of each unit, int64 of shape (units,).
        rows: the different rows, float64 of shape (rows, columns).
        groups: the group of each unit, int64 of shape (units,), where units that are alike (near duplicates, parts of
            one document) are no independent ones: intervals are over groups then. None: each unit is its own.
    """

    which: IntArray
    rows: Float64Array
    groups: IntArray | None = None

    @classmethod
    def of(cls, table: npt.ArrayLike) -> Counts:
        """The counts in a table of shape (units, columns), equal rows stored once and in rising order."""
        rows, which = np.unique(np.asarray(table, dtype=np.float64), axis=0, return_inverse=True)
        return cls(which.reshape(-1).astype(np.int64), rows)

    def __len__(self) -> int:
        """The number of units."""
        return len(self.which)

    def total(self) -> Float64Array:
        """The sum over all units: float64 of shape (columns,)."""
        return np.bincount(self.which, minlength=len(self.rows)).astype(np.float64) @ self.rows

    def part(self, units: npt.ArrayLike) -> Counts:
        """The counts of some units, by their numbers or by a mask."""
        chosen = np.asarray(units)
        if not chosen.size:
            chosen = np.zeros(0, dtype=np.int64)
        return Counts(self.which[chosen], self.rows, None if self.groups is None else self.groups[chosen])

    def in_groups(self, numbers: Sequence[int]) -> Counts:
        """The same units in groups; a number below 0 is a group of its own."""
        groups = np.asarray(numbers, dtype=np.int64)
        alone = groups < 0
        groups[alone] = np.arange(alone.sum()) + max(int(groups.max(initial=-1)), -1) + 1
        return replace(self, groups=None if len(np.unique(groups)) == len(groups) else groups)

    def by_group(self) -> Counts:
        """One unit for each group: the sum of its rows."""
        if self.groups is None:
            return self
        names, place = np.unique(self.groups, return_inverse=True)
        sums = np.zeros((len(names), self.rows.shape[1]))
        np.add.at(sums, place.reshape(-1), self.rows[self.which])
        return Counts(np.arange(len(names)), sums)

    def __add__(self, other: Counts) -> Counts:
        """The units of both, of which none are the same; groups of both have numbers of their own kind."""
        rows = np.concatenate([self.rows, other.rows])
        which = np.concatenate([self.which, other.which + len(self.rows)])
        if self.groups is None or other.groups is None:
            return Counts(which, rows)
        return Counts(which, rows, np.concatenate([self.groups, other.groups]))


@dataclass(frozen=True)
class Metric:
    """A metric: its value from summed counts, and how values compare.

    Attributes:
        of: takes sums of shape (..., columns) and gives values of shape (...).
        lower_is_better: whether a smaller value is the better one.
        bounded: whether values are shares, from 0 to 1; False where one may be infinite: the ends of its interval are
            then never interpolated.
        extremes: takes rows and gives those that they would be with everything answered right, those with everything
            wrong, and how many answers each one has; None where a metric does not say. It tells how much of a metric
            hangs on each answer.
    """

    of: Callable[[Float64Array], Float64Array]
    lower_is_better: bool = False
    bounded: bool = True
    extremes: Callable[[Float64Array], tuple[Float64Array, Float64Array, Float64Array]] | None = None

    def __call__(self, counts: Counts) -> float:
        """The value of all units together."""
        return float(self.of(counts.total()))


def ratio(above: Float64Array, below: Float64Array) -> Float64Array:
    """`above` / `below`, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below != 0)


def check_metric(name: str, known: Mapping[str, Metric], place: str = "metric") -> None:
    """Raise HalfpintError, with the nearest name, when `name` is not in `known`; `place` is where it was written."""
    if name not in known:
        raise HalfpintError(place, wanted="the name of a metric", got=repr(name), todo=nearest(name, known))
