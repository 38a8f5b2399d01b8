"""Counts: what every metric is a function of, one row of numbers per unit (a text, a document, a question)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """

    which: IntArray
    rows: Float64Array

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
        return Counts(self.which[chosen if chosen.size else slice(0)], self.rows)


@dataclass(frozen=True)
class Metric:
    """A metric: its value from summed counts, and how values compare.

    Attributes:
        of: takes sums of shape (..., columns) and gives values of shape (...).
        lower_is_better: whether a smaller value is the better one.
        bounded: False where a value may be infinite; the ends of its interval are then never interpolated.
    """

    of: Callable[[Float64Array], Float64Array]
    lower_is_better: bool = False
    bounded: bool = True

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
