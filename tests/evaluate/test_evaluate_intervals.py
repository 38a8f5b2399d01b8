from __future__ import annotations

import numpy as np
import pytest
from halfpint.metrics import METRICS, IntArray, metric
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.errors import HalfpintError
from halfpint.evaluate import intervals
from halfpint.evaluate.intervals import bootstrap_interval, paired_difference


def _answers(seed: int, rows: int, classes: int, right: float) -> tuple[IntArray, IntArray]:
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, rows)
    return true, np.where(generator.random(rows) < right, true, generator.integers(0, classes, rows))


def test_the_true_rate_lies_inside_as_often_as_it_should() -> None:
    rate, rows, inside = 0.8, 200, 0
    for seed in range(100):
        right = np.random.default_rng(seed).random(rows) < rate
        low, high = bootstrap_interval(
            np.ones(rows, dtype=np.int64), right.astype(np.int64), "accuracy", n_classes=2, seed=seed
        )
        inside += low <= rate <= high
    assert 88 <= inside <= 99


def test_the_interval_of_the_accuracy_is_as_wide_as_the_normal_one() -> None:
    true, predicted = _answers(0, 2000, 5, 0.7)
    low, high = bootstrap_interval(true, predicted, "accuracy", n_classes=5, resamples=4000)
    rate = float((true == predicted).mean())
    half = 1.96 * (rate * (1 - rate) / len(true)) ** 0.5
    assert (low, high) == pytest.approx((rate - half, rate + half), abs=half * 0.1)


def test_resampling_cells_is_resampling_rows() -> None:
    true, predicted = _answers(1, 300, 6, 0.6)
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(true), (3000, len(true)))
    values = [metric("f1_macro", true[pick], predicted[pick], 6) for pick in picks]
    wanted = np.quantile(values, [0.025, 0.975])
    found = bootstrap_interval(true, predicted, "f1_macro", n_classes=6, resamples=3000)
    assert found == pytest.approx(tuple(wanted), abs=0.05 * (wanted[1] - wanted[0]))


@given(st.integers(0, 1000), st.integers(1, 200), st.integers(2, 20), st.sampled_from(METRICS))
@settings(max_examples=40, deadline=None)
def test_ends_are_in_order_and_within_0_and_1(seed: int, rows: int, classes: int, name: str) -> None:
    true, predicted = _answers(seed, rows, classes, 0.5)
    low, high = bootstrap_interval(true, predicted, name, n_classes=classes, resamples=200)
    assert 0 <= low <= high <= 1
    inner = bootstrap_interval(true, predicted, name, n_classes=classes, resamples=200, level=0.5)
    assert low <= inner[0] <= inner[1] <= high


@given(st.integers(0, 1000), st.integers(1, 200), st.integers(2, 20), st.sampled_from(METRICS))
@settings(max_examples=40, deadline=None)
def test_equal_predictions_do_not_differ(seed: int, rows: int, classes: int, name: str) -> None:
    true, predicted = _answers(seed, rows, classes, 0.5)
    found = paired_difference(true, predicted, predicted.copy(), name, n_classes=classes, resamples=100)
    assert found == (0.0, 0.0, 0.0)


def test_a_difference_turns_its_sign_with_its_sides() -> None:
    true, a = _answers(2, 1000, 10, 0.9)
    b = np.where(np.random.default_rng(9).random(1000) < 0.1, 0, a)
    difference, low, high = paired_difference(true, a, b, "f1_macro", n_classes=10)
    assert difference == metric("f1_macro", true, a, 10) - metric("f1_macro", true, b, 10)
    assert 0 < low < difference < high
    turned = paired_difference(true, b, a, "f1_macro", n_classes=10)
    assert turned == pytest.approx((-difference, -high, -low), abs=0.2 * (high - low))


def test_pairs_are_surer_than_two_intervals() -> None:
    true, a = _answers(3, 1000, 4, 0.7)
    b = a.copy()
    b[:30] = true[:30]
    _, low, high = paired_difference(true, a, b, "accuracy", n_classes=4)
    own = bootstrap_interval(true, a, "accuracy", n_classes=4)
    assert high - low < (own[1] - own[0]) / 2


def test_a_seed_gives_one_interval_whatever_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    true, predicted = _answers(4, 500, 8, 0.6)
    whole = bootstrap_interval(true, predicted, "f1_weighted", n_classes=8, seed=3)
    assert bootstrap_interval(true, predicted, "f1_weighted", n_classes=8, seed=4) != whole
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 1000)
    assert bootstrap_interval(true, predicted, "f1_weighted", n_classes=8, seed=3) == pytest.approx(whole, abs=1e-12)


def test_bad_arguments_are_told() -> None:
    true = np.array([0, 1])
    with pytest.raises(HalfpintError, match="accuracy"):
        bootstrap_interval(true, true, "acuracy", n_classes=2)
    with pytest.raises(HalfpintError, match="level"):
        bootstrap_interval(true, true, "accuracy", n_classes=2, level=95)
    with pytest.raises(HalfpintError, match="at least one row"):
        paired_difference(true[:0], true[:0], true[:0], "accuracy", n_classes=2)
