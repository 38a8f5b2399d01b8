"""Candidates beside each other: by what they answered on rows that neither of them learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.counts import LEVEL, Counts, Float64Array, IntArray, Metric
from halfpint.evaluate.intervals import influence, interval, lower_bounds, paired_error

_MOST_TIMES = 100  # the rows that there are


@dataclass(frozen=True)
class Answers:
    """What a candidate answered on rows that it did not learn from.

    Attributes:
        rows: numbers of the rows among all that are not kept for the test, rising, shape (rows,).
        counts: one row of counts for each.
    """

    rows: IntArray
    counts: Counts

    @classmethod
    def of(cls, counts: Counts) -> Answers:
        """Answers on the rows with the first numbers: those of validation."""
        return cls(np.arange(len(counts)), counts)

    def on(self, rows: IntArray) -> Counts:
        """The counts on some of its rows."""
        return self.counts.part(np.searchsorted(self.rows, rows))

    def shared(self, other: Answers) -> IntArray:
        """The rows that both answered."""
        return np.intersect1d(self.rows, other.rows, assume_unique=True)


@dataclass(frozen=True)
class Comparison:
    """A candidate less another on the rows that both answered.

    Attributes:
        to: the other's name; difference: of the metric; error: its standard error; rows: how many.
        low: the lower end of the difference, one-sided at 95 %, of all comparisons together.
    """

    to: str
    difference: float
    error: float
    low: float
    rows: int

    def shows(self, margin: float) -> bool:
        """Whether the candidate is shown to be at most `margin` below the other."""
        return self.low >= -margin

    def may_be(self, margin: float) -> bool:
        """Whether more rows could still show it: the upper end, as far above the difference as the lower is below, is
        not under the margin. One of sixty rows is more than a margin of 0.01, and no proof of anything."""
        return not self.shows(margin) and 2 * self.difference - self.low > -margin

    def may_exceed(self, margin: float) -> bool:
        """Whether it may be better than the other by more than the margin."""
        return 2 * self.difference - self.low > margin

    def rows_needed(self, margin: float) -> int | None:
        """About how many rows would show it, if the difference stays as it is; None where none would, or so many (100
        times those that there are) that the difference is not known well enough to say."""
        room = margin + self.difference
        if room <= 0:
            return None
        needed = math.ceil(self.rows * ((self.difference - self.low) / room) ** 2)
        return needed if needed <= _MOST_TIMES * self.rows else None


def strongest(names: Sequence[str], answers: Mapping[str, Answers], metric: Metric) -> str:
    """The best of `names` (given by falling score): each next one against the best so far, on the rows of both."""
    best = names[0]
    for name in names[1:]:
        if _difference(answers[name], answers[best], metric)[0] > 0:
            best = name
    return best


def compare(names: Sequence[str], best: str, answers: Mapping[str, Answers], metric: Metric) -> dict[str, Comparison]:
    """Each of `names` beside `best`; the lower ends hold together."""
    others = [name for name in names if name != best]
    if not others:
        return {}
    units = 1 + max(int(answers[name].rows.max()) for name in (*others, best))
    pulls = np.zeros((units, len(others)))
    groups = np.arange(units) + units
    found, errors, sizes = np.zeros(len(others)), np.zeros(len(others)), []
    for at, name in enumerate(others):
        rows = answers[name].shared(answers[best])
        found[at], errors[at], pull = _difference(answers[name], answers[best], metric)
        pulls[rows, at] = pull
        together = answers[best].on(rows).groups
        if together is not None:
            groups[rows] = together
        sizes.append(len(rows))
    lows = lower_bounds(found, pulls, errors, groups)
    return {
        name: Comparison(best, float(found[at]), float(errors[at]), float(lows[at]), sizes[at])
        for at, name in enumerate(others)
    }


def pooled_interval(answers: Answers, metric: Metric, level: float = LEVEL) -> tuple[float, float, float]:
    """The metric on all rows that a candidate answered, and the ends of its interval."""
    return metric(answers.counts), *interval(answers.counts, metric, level=level)


def _difference(one: Answers, other: Answers, metric: Metric) -> tuple[float, float, Float64Array]:
    """The difference on shared rows, its standard error, and what each of these rows adds to it."""
    rows = one.shared(other)
    a, b = one.on(rows), other.on(rows)
    return metric(a) - metric(b), paired_error(a, b, metric), influence(a, metric) - influence(b, metric)
