from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.counts import Counts, IntArray, Metric, ratio
from halfpint.errors import HalfpintError
from halfpint.evaluate import intervals
from halfpint.evaluate.intervals import difference, interval
from halfpint.tasks import _text_figures
from halfpint.tasks._label_figures import METRICS, label_counts

ACCURACY, MACRO, WEIGHTED = METRICS["accuracy"], METRICS["f1_macro"], METRICS["f1_weighted"]
MEAN = Metric(lambda sums: ratio(sums[..., 0], sums[..., 1]))
ENDLESS = Metric(lambda sums: sums[..., 0] / sums[..., 1], bounded=False)
ENDS = [(1 - 0.95) / 2, (1 + 0.95) / 2]


def _answers(seed: int, rows: int, classes: int, right: float) -> tuple[IntArray, IntArray]:
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, rows)
    return true, np.where(generator.random(rows) < right, true, generator.integers(0, classes, rows))


def _counts(seed: int, rows: int, classes: int, right: float) -> Counts:
    return label_counts(*_answers(seed, rows, classes, right), classes)


def test_the_true_rate_lies_inside_as_often_as_it_should() -> None:
    rate, rows, inside = 0.8, 200, 0
    for seed in range(100):
        right = np.random.default_rng(seed).random(rows) < rate
        counts = label_counts(np.ones(rows, dtype=np.int64), right.astype(np.int64), 2)
        low, high = interval(counts, ACCURACY, seed=seed)
        inside += low <= rate <= high
    assert 88 <= inside <= 99


def test_the_interval_of_the_accuracy_is_as_wide_as_the_normal_one() -> None:
    true, predicted = _answers(0, 2000, 5, 0.7)
    low, high = interval(label_counts(true, predicted, 5), ACCURACY, resamples=4000)
    rate = float((true == predicted).mean())
    half = 1.96 * (rate * (1 - rate) / len(true)) ** 0.5
    assert (low, high) == pytest.approx((rate - half, rate + half), abs=half * 0.1)


def test_resampling_cells_is_resampling_rows() -> None:
    true, predicted = _answers(1, 300, 6, 0.6)
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(true), (3000, len(true)))
    values = [MACRO(label_counts(true[pick], predicted[pick], 6)) for pick in picks]
    wanted = np.quantile(values, [0.025, 0.975])
    found = interval(label_counts(true, predicted, 6), MACRO, resamples=3000)
    assert found == pytest.approx(tuple(wanted), abs=0.05 * (wanted[1] - wanted[0]))


@given(st.integers(0, 1000), st.integers(1, 200), st.integers(2, 20), st.sampled_from(sorted(METRICS)))
@settings(max_examples=40, deadline=None)
def test_ends_are_those_of_resampled_confusion_matrices(seed: int, rows: int, classes: int, name: str) -> None:
    """To the last digit: one draw for each pair of true and predicted label, in their order."""
    true, predicted = _answers(seed, rows, classes, 0.5)
    other = _answers(seed + 1, rows, classes, 0.5)[1]

    def values(*predictions: IntArray) -> list[list[float]]:
        cells, frequency = np.unique(np.stack([true, *predictions], axis=1), axis=0, return_counts=True)
        drawn = np.random.default_rng(seed).multinomial(rows, frequency / rows, size=50)
        return [
            [METRICS[name](label_counts(*np.repeat([cells[:, 0], side], draw, axis=1), classes)) for draw in drawn]
            for side in cells.T[1:]
        ]

    counts, others = (label_counts(true, answers, classes) for answers in (predicted, other))
    (alone,) = values(predicted)
    assert interval(counts, METRICS[name], resamples=50, seed=seed) == tuple(np.quantile(alone, ENDS))
    first, second = (np.array(side) for side in values(predicted, other))
    found = difference(counts, others, METRICS[name], resamples=50, seed=seed)
    wanted = METRICS[name](counts) - METRICS[name](others), *np.quantile(first - second, ENDS)
    assert found == wanted


@given(st.integers(0, 1000), st.integers(1, 200), st.integers(2, 20), st.sampled_from(sorted(METRICS)))
@settings(max_examples=40, deadline=None)
def test_ends_are_in_order_and_within_0_and_1(seed: int, rows: int, classes: int, name: str) -> None:
    counts = _counts(seed, rows, classes, 0.5)
    low, high = interval(counts, METRICS[name], resamples=200)
    assert 0 <= low <= high <= 1
    inner = interval(counts, METRICS[name], resamples=200, level=0.5)
    assert low <= inner[0] <= inner[1] <= high


@given(st.integers(0, 1000), st.integers(1, 200), st.integers(2, 20), st.sampled_from(sorted(METRICS)))
@settings(max_examples=40, deadline=None)
def test_equal_predictions_do_not_differ(seed: int, rows: int, classes: int, name: str) -> None:
    true, predicted = _answers(seed, rows, classes, 0.5)
    one, same = (label_counts(true, answers, classes) for answers in (predicted, predicted.copy()))
    assert difference(one, same, METRICS[name], resamples=100) == (0.0, 0.0, 0.0)


def test_a_difference_turns_its_sign_with_its_sides() -> None:
    true, a = _answers(2, 1000, 10, 0.9)
    b = np.where(np.random.default_rng(9).random(1000) < 0.1, 0, a)
    one, other = (label_counts(true, answers, 10) for answers in (a, b))
    found, low, high = difference(one, other, MACRO)
    assert found == MACRO(one) - MACRO(other)
    assert 0 < low < found < high
    assert difference(other, one, MACRO) == pytest.approx((-found, -high, -low), abs=0.2 * (high - low))


def test_pairs_are_surer_than_two_intervals() -> None:
    true, a = _answers(3, 1000, 4, 0.7)
    b = a.copy()
    b[:30] = true[:30]
    one, other = (label_counts(true, answers, 4) for answers in (a, b))
    _, low, high = difference(one, other, ACCURACY)
    own = interval(one, ACCURACY)
    assert high - low < (own[1] - own[0]) / 2


def test_a_seed_gives_one_interval_whatever_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = _counts(4, 500, 8, 0.6)
    whole = interval(counts, WEIGHTED, seed=3)
    assert interval(counts, WEIGHTED, seed=4) != whole
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 1000)
    assert interval(counts, WEIGHTED, seed=3) == pytest.approx(whole, abs=1e-12)


def test_several_metrics_share_their_resamples() -> None:
    counts, metrics = _counts(5, 200, 4, 0.6), list(METRICS.values())
    assert intervals.intervals(counts, metrics) == [interval(counts, metric) for metric in metrics]


def test_units_may_count_anything() -> None:
    """Correct answers out of questions, three or four a unit."""
    random = np.random.default_rng(0)
    asked = random.integers(3, 5, 400)
    table = np.stack([random.binomial(asked, 0.7), asked], axis=1)
    counts = Counts.of(table)
    assert len(counts.rows) < 10
    low, high = interval(counts, MEAN, resamples=4000)
    one_by_one = interval(Counts(np.arange(len(table)), table.astype(np.float64)), MEAN, resamples=4000)
    assert low < 0.7 < high
    assert (low, high) == pytest.approx(one_by_one, abs=0.1 * (high - low))


def test_an_endless_unit_makes_the_figure_endless_where_it_is_drawn() -> None:
    table = np.ones((60, 2))
    table[0, 0] = np.inf
    low, high = interval(Counts.of(table), ENDLESS)
    assert (low, high) == (1.0, np.inf)  # over a third of the resamples do not have it
    low, high = interval(Counts.of(table[1:]), ENDLESS)
    assert (low, high) == (1.0, 1.0)


def test_bounds_that_are_not_interpolated_are_values_of_resamples() -> None:
    nats = np.random.default_rng(0).gamma(2.0, size=80)
    counts = Counts.of(np.stack([nats, *np.ones((3, 80))], axis=1))
    metric = _text_figures.METRICS["perplexity_per_token"]
    drawn = np.random.default_rng(0).multinomial(80, np.full(80, 1 / 80), size=1000) @ np.sort(nats)
    values = np.sort(np.exp(drawn / 80))
    assert interval(counts, metric) == pytest.approx((values[24], values[975]), rel=1e-12)


def test_bad_arguments_are_told() -> None:
    counts = label_counts(np.array([0, 1]), np.array([0, 1]), 2)
    for level in (95, 0.0, 1.0, float("nan")):
        with pytest.raises(HalfpintError, match="level"):
            interval(counts, ACCURACY, level=level)
        with pytest.raises(HalfpintError, match="level"):
            difference(counts, counts, ACCURACY, level=level)
    none = counts.part([])
    for call in (lambda: interval(none, ACCURACY), lambda: difference(none, none, ACCURACY)):
        with pytest.raises(HalfpintError, match="at least one row"):
            call()
    with pytest.raises(HalfpintError, match="expected the same units, got 2 and 1"):
        difference(counts, counts.part([0]), ACCURACY)
