"""Counts of units, and metrics as functions of their sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from halfpint.counts import Counts, Metric, check_metric, ratio
from halfpint.errors import HalfpintError
from halfpint.lookup import tasks

TABLES = arrays.arrays(
    np.int64, st.tuples(st.integers(1, 40), st.integers(1, 4)), elements=st.integers(0, 3)
)  # fmt: skip


@given(TABLES)
def test_counts_are_the_table(table: np.ndarray) -> None:
    counts = Counts.of(table)
    assert len(counts) == len(table) == len(counts.which)
    assert counts.rows[counts.which].tolist() == table.tolist()
    assert [tuple(row) for row in counts.rows] == sorted({tuple(row) for row in table.tolist()})
    assert counts.total().tolist() == table.sum(axis=0).tolist()
    assert (counts.which.dtype, counts.rows.dtype, counts.total().dtype) == (np.int64, np.float64, np.float64)


@given(TABLES, st.randoms(use_true_random=False))
def test_parts_are_parts_of_the_table(table: np.ndarray, random: object) -> None:
    counts = Counts.of(table)
    mask = np.array([random.random() < 0.5 for _ in table])  # type: ignore[attr-defined]
    places = [random.randrange(len(table)) for _ in range(5)]  # type: ignore[attr-defined]
    for units in (mask, places):
        part = counts.part(units)
        assert part.rows[part.which].tolist() == table[units].tolist()
        assert part.total().tolist() == table[units].sum(axis=0).tolist()


def test_no_unit_sums_to_nothing() -> None:
    none = Counts.of([[1, 2], [3, 4]]).part([])
    assert len(none) == 0 and none.total().tolist() == [0, 0]


def test_a_metric_is_of_the_sums() -> None:
    metric = Metric(lambda sums: ratio(sums[..., 0], sums[..., 1]))
    counts = Counts.of([[1, 4], [0, 4], [1, 4], [2, 0]])
    assert metric(counts) == 4 / 12
    assert metric.of(np.array([[1.0, 2.0], [3.0, 0.0]])).tolist() == [0.5, 0.0]
    assert isinstance(metric(counts), float)
    assert (metric.lower_is_better, metric.bounded) == (False, True)


def test_a_ratio_over_nothing_is_nothing() -> None:
    found = ratio(np.array([1.0, 0.0, 3.0]), np.array([0.0, 0.0, 2.0]))
    assert found.tolist() == [0.0, 0.0, 1.5]


def test_an_unknown_metric_is_told_where_it_was_written() -> None:
    known = {"accuracy": Metric(lambda sums: sums[..., 0])}
    with pytest.raises(HalfpintError, match=r"primary: expected the name of a metric, got 'acuracy'.*'accuracy'"):
        check_metric("acuracy", known, "primary")
    check_metric("accuracy", known)


@pytest.mark.parametrize("task", tasks(), ids=lambda task: task.name)
def test_metrics_of_many_sums_are_those_of_each(task: object) -> None:
    """A bootstrap asks for a thousand at once."""
    sums = np.random.default_rng(0).integers(1, 9, (5, 12)).astype(np.float64)
    for name, metric in task.metrics.items():  # type: ignore[attr-defined]
        values = metric.of(sums)
        assert values.shape == (5,), name
        assert [float(metric.of(row)) for row in sums] == pytest.approx(values.tolist(), rel=1e-12), name
