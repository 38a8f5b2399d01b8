from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from halfpint.counts import Counts, IntArray, Metric, ratio
from halfpint.errors import HalfpintError
from halfpint.evaluate import intervals
from halfpint.evaluate._beta import beta_quantile
from halfpint.evaluate.intervals import difference, interval
from halfpint.tasks import _text_figures
from halfpint.tasks._label_figures import METRICS, label_counts

ACCURACY, MACRO = METRICS["accuracy"], METRICS["f1_macro"]
MEAN = Metric(lambda sums: ratio(sums[..., 0], sums[..., 1]))
ENDLESS = Metric(lambda sums: sums[..., 0] / sums[..., 1], bounded=False)
NORMAL = 1.6449  # one-sided 95 %
ENDS = [(1 - 0.95) / 2, (1 + 0.95) / 2]


def _answers(seed: int, rows: int, classes: int, right: float) -> tuple[IntArray, IntArray]:
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, rows)
    return true, np.where(generator.random(rows) < right, true, generator.integers(0, classes, rows))


def _counts(seed: int, rows: int, classes: int, right: float) -> Counts:
    return label_counts(*_answers(seed, rows, classes, right), classes)


@pytest.mark.parametrize("rows", [9, 15, 30, 60, 100, 200, 400, 1000, 5000])
def test_the_true_rate_lies_inside_as_often_as_it_should(rows: int) -> None:
    """Exactly, not by simulation. With few rows a share takes few values, and no interval holds 0.95 at every rate:
    Wilson's comes down to 0.86 here. The mean over rates is what it should be."""
    found = []
    for rate in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99):
        held = 0.0
        for right, chance in enumerate(binom.pmf(np.arange(rows + 1), rows, rate)):
            if chance > 1e-7:
                low, high = intervals._share(right / rows, rows, 0.95)
                held += chance * (low <= rate <= high)
        found.append(held)
    assert min(found) > 0.91
    assert 0.94 < np.mean(found) < 0.975
    if rows >= 1000:
        assert all(0.93 <= one <= 0.97 for one in found)


def test_one_answer_is_counted_as_the_share_it_is() -> None:
    for rows, right in ((9, 9), (9, 4), (200, 190), (50, 0)):
        answers = (np.arange(rows) < right).astype(np.int64)
        counts = label_counts(np.ones(rows, dtype=np.int64), answers, 2)
        assert interval(counts, ACCURACY) == pytest.approx(intervals._share(right / rows, rows, 0.95))
    low, high = interval(label_counts(np.zeros(9, dtype=np.int64), np.zeros(9, dtype=np.int64), 2), ACCURACY)
    assert (round(low, 2), high) == (0.72, 1.0)


def test_quantiles_are_those_of_the_beta_distribution() -> None:
    for share in (0.025, 0.05, 0.5, 0.975):
        for a, b in ((0.5, 9.5), (1, 1), (3.7, 2.2), (900, 50.5), (4990.5, 10.5)):
            assert beta_quantile(share, a, b) == pytest.approx(beta.ppf(share, a, b), abs=1e-9)


@pytest.mark.parametrize(("rows", "shares", "right"), [
    (100, [0.5, 0.5], [0.9, 0.9]), (400, [0.6, 0.3, 0.1], [0.9, 0.7, 0.6]), (400, [0.95, 0.05], [0.999, 0.98]),
    (400, [0.1] * 10, [0.97] * 10),
])  # fmt: skip
def test_macro_averages_lie_inside_as_often_as_they_should(rows: int, shares: list[float], right: list[float]) -> None:
    generator, classes = np.random.default_rng(0), len(shares)

    def drawn(size: int) -> Counts:
        true = generator.choice(classes, size, p=shares)
        other = (true + generator.integers(1, classes, size)) % classes
        return label_counts(true, np.where(generator.random(size) < np.array(right)[true], true, other), classes)

    wanted = MACRO(drawn(400_000))
    inside = 0
    for _ in range(300):
        low, high = interval(drawn(rows), MACRO)
        inside += low <= wanted <= high
    assert 0.91 < inside / 300 < 0.985


def test_a_model_that_never_says_the_rare_label_cannot_be_right_by_leaving_it_out() -> None:
    """Resamples without the rare label have a macro F1 of 1; the label is there all the same."""
    true = np.array([0] * 190 + [1] * 10)
    counts = label_counts(true, np.zeros(200, dtype=np.int64), 2)
    low, high = interval(counts, MACRO)
    assert low < MACRO(counts) < high < 0.7


def test_units_of_one_group_count_together() -> None:
    """Groups of five that are right or wrong together are worth a fifth of their texts."""
    right = np.repeat(np.random.default_rng(0).random(200) < 0.8, 5).astype(np.int64)
    counts = label_counts(np.ones(1000, dtype=np.int64), right, 2)
    together = counts.in_groups(np.repeat(np.arange(200), 5).tolist())
    assert intervals.effective_answers(counts, ACCURACY) == pytest.approx(1000)
    assert intervals.effective_answers(together, ACCURACY) == pytest.approx(200, rel=0.02)
    (low, high), (lower, higher) = interval(counts, ACCURACY), interval(together, ACCURACY)
    assert higher - lower > 2 * (high - low)
    assert counts.in_groups([-1] * 1000).groups is None
    other = label_counts(np.ones(1000, dtype=np.int64), np.ones(1000, dtype=np.int64), 2)
    wide = difference(together, other.in_groups(np.repeat(np.arange(200), 5).tolist()), ACCURACY)
    narrow = difference(counts, other, ACCURACY)
    assert wide[2] - wide[1] > 2 * (narrow[2] - narrow[1])


def test_the_interval_of_the_accuracy_is_as_wide_as_the_normal_one() -> None:
    true, predicted = _answers(0, 2000, 5, 0.7)
    low, high = interval(label_counts(true, predicted, 5), ACCURACY)
    rate = float((true == predicted).mean())
    half = 1.96 * (rate * (1 - rate) / len(true)) ** 0.5
    assert (low, high) == pytest.approx((rate - half, rate + half), abs=half * 0.1)


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "f1_weighted", "recall_macro"])
def test_ends_are_near_those_of_resampled_rows(name: str) -> None:
    true, predicted = _answers(1, 600, 6, 0.6)
    other = _answers(2, 600, 6, 0.6)[1]
    generator, metric = np.random.default_rng(0), METRICS[name]
    picks = generator.integers(0, len(true), (3000, len(true)))
    values, others = (
        np.array([metric(label_counts(true[pick], answers[pick], 6)) for pick in picks])
        for answers in (predicted, other)
    )
    counts = label_counts(true, predicted, 6)
    for found, wanted in (
        (interval(counts, metric), np.quantile(values, ENDS)),
        (difference(counts, label_counts(true, other, 6), metric)[1:], np.quantile(values - others, ENDS)),
    ):
        assert found == pytest.approx(tuple(wanted), abs=0.12 * (wanted[1] - wanted[0]))


@pytest.mark.parametrize(("rows", "differ"), [(60, 0.05), (400, 0.02), (400, 0.2)])
def test_a_true_difference_lies_inside_as_often_as_it_should(rows: int, differ: float) -> None:
    generator = np.random.default_rng(1)
    inside = above = 0
    for _ in range(400):
        right = generator.random(rows) < 0.85
        other = np.where(generator.random(rows) < differ, generator.random(rows) < 0.6, right)
        a, b = (label_counts(np.ones(rows, dtype=np.int64), one.astype(np.int64), 2) for one in (right, other))
        wanted = differ * (0.85 - 0.6)
        _, low, high = difference(a, b, ACCURACY)
        inside += low <= wanted <= high
        one, _, _ = difference(a, b, ACCURACY, level=0.9)
        above += one - NORMAL * intervals.paired_error(a, b, ACCURACY) <= wanted
    assert inside / 400 > 0.92
    assert above / 400 > 0.92


def test_bounds_of_many_hold_together() -> None:
    """Of ten models that are all as good as the first, one bound in twenty sets at most is above the truth."""
    generator, rows, models = np.random.default_rng(2), 300, 10
    wrong = alone = 0
    for seed in range(200):
        right = generator.random((models + 1, rows)) < 0.8
        found = [label_counts(np.ones(rows, dtype=np.int64), one.astype(np.int64), 2) for one in right]
        differences = np.array([ACCURACY(one) - ACCURACY(found[0]) for one in found[1:]])
        pulls = [intervals.influence(one, ACCURACY) - intervals.influence(found[0], ACCURACY) for one in found[1:]]
        errors = np.array([intervals.paired_error(one, found[0], ACCURACY) for one in found[1:]])
        bounds = intervals.lower_bounds(
            differences, np.stack(pulls, axis=1), errors, np.arange(rows), seed=seed, resamples=500
        )
        wrong += bool((bounds > 0).any())
        alone += bool((differences - NORMAL * errors > 0).any())
    assert wrong / 200 < 0.09
    assert alone > 1.8 * wrong  # each by itself, they do not


@given(st.integers(0, 1000), st.integers(1, 200), st.integers(2, 20), st.sampled_from(sorted(METRICS)))
@settings(max_examples=40, deadline=None)
def test_ends_are_in_order_and_within_0_and_1(seed: int, rows: int, classes: int, name: str) -> None:
    counts = _counts(seed, rows, classes, 0.5)
    low, high = interval(counts, METRICS[name])
    assert 0 <= low <= high <= 1
    inner = interval(counts, METRICS[name], level=0.5)
    assert low <= inner[0] <= inner[1] <= high


@given(st.integers(0, 1000), st.integers(1, 200), st.integers(2, 20), st.sampled_from(sorted(METRICS)))
@settings(max_examples=40, deadline=None)
def test_equal_predictions_differ_by_no_more_than_so_many_units_can_show(
    seed: int, rows: int, classes: int, name: str
) -> None:
    true, predicted = _answers(seed, rows, classes, 0.5)
    one, same = (label_counts(true, answers, classes) for answers in (predicted, predicted.copy()))
    found, low, high = difference(one, same, METRICS[name])
    assert found == 0
    assert low == pytest.approx(-high)
    assert min(1.9 / rows, 1.0) <= high


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
    counts = Counts.of(np.stack([np.random.default_rng(4).gamma(2.0, size=300), np.ones(300)], axis=1))
    whole = interval(counts, ENDLESS, seed=3)
    assert interval(counts, ENDLESS, seed=4) != whole
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 1000)
    assert interval(counts, ENDLESS, seed=3) == pytest.approx(whole, abs=1e-12)


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
