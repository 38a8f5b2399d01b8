from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.counts import IntArray, check_metric
from halfpint.data.examples import Example
from halfpint.errors import HalfpintError
from halfpint.tasks import _label_figures as c
from halfpint.tasks.classify import TASK

reference = pytest.importorskip("sklearn.metrics")


@st.composite
def answers(draw: st.DrawFn) -> tuple[IntArray, c.FloatArray]:
    """True classes and probabilities; with few rows and up to 12 classes, many classes are absent."""
    rows, classes = draw(st.integers(1, 60)), draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    true = generator.integers(0, draw(st.integers(1, classes)), rows)
    logits = generator.normal(size=(rows, classes)) * draw(st.sampled_from([0.1, 1.0, 8.0, 60.0]))
    logits[:, draw(st.integers(0, classes - 1))] -= 100.0
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return true, probabilities.astype(draw(st.sampled_from([np.float32, np.float64])))


def examples(true: IntArray, classes: int) -> tuple[list[Example], list[str]]:
    """An example of each class in `true`, and the labels."""
    labels = [f"label {index}" for index in range(classes)]
    return [Example(f"text {row}", labels[index], row + 2) for row, index in enumerate(true)], labels


def scores(true: IntArray, probabilities: c.FloatArray) -> dict[str, float]:
    """Every figure of the task, as `evaluate` gives them."""
    given, labels = examples(true, probabilities.shape[1])
    counts = TASK.counts(given, TASK.decode(TASK.texts(given), probabilities, labels), labels)
    values = {name: metric(counts) for name, metric in TASK.metrics.items()}
    return {**values, **TASK.calibration(given, probabilities, labels)}


@given(answers())
@settings(max_examples=30, deadline=None)
def test_scores_are_those_of_scikit_learn(answer: tuple[IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    predicted = probabilities.argmax(axis=1)
    found = scores(true, probabilities)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    for average in ("macro", "micro", "weighted"):
        wanted = reference.precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        got = [found[f"{kind}_{average}"] for kind in ("precision", "recall", "f1")]
        assert got == pytest.approx(wanted[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rows of float32 that sum to 1 only within its precision
        wanted_loss = reference.log_loss(true, probabilities, labels=range(probabilities.shape[1]))
    assert found["log_loss"] == pytest.approx(wanted_loss, rel=1e-5, abs=1e-6)


@given(answers())
@settings(max_examples=30, deadline=None)
def test_each_class_and_the_confusion_are_those_of_scikit_learn(answer: tuple[IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    predicted, classes = probabilities.argmax(axis=1), range(probabilities.shape[1])
    wanted = reference.precision_recall_fscore_support(true, predicted, labels=list(classes), zero_division=0)
    counts = c.label_counts(true, predicted, len(classes))
    found = c.per_class(counts, [f"label {index}" for index in classes])
    assert [row["label"] for row in found] == [f"label {index}" for index in classes]
    for key, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        assert [row[key] for row in found] == pytest.approx(list(values))
    matrix = c.confusion(true, predicted, len(classes))
    assert matrix.tolist() == reference.confusion_matrix(true, predicted, labels=list(classes)).tolist()


@given(answers())
@settings(max_examples=30, deadline=None)
def test_one_metric_is_the_one_among_the_scores(answer: tuple[IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    found = scores(true, probabilities)
    given, labels = examples(true, probabilities.shape[1])
    for name in c.METRICS:
        assert TASK.score(name, given, probabilities, labels) == found[name]
    assert set(found) == {*c.METRICS, "calibration_error", "log_loss"}


def test_calibration_error_by_hand() -> None:
    # Bin (0.6, 0.667] holds two rows of confidence 0.65, one right; bin (0.867, 0.933] holds one of 0.9, right.
    probabilities = np.array([[0.65, 0.35], [0.65, 0.35], [0.1, 0.9]])
    assert c.calibration_error(np.array([0, 1, 1]), probabilities) == pytest.approx((2 * 0.15 + 0.1) / 3)


@given(answers())
@settings(max_examples=30, deadline=None)
def test_calibration_error_is_that_of_a_loop_over_the_bins(answer: tuple[IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    confidence, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == true
    edges = np.linspace(0, 1, 16)
    wanted = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            wanted += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert c.calibration_error(true, probabilities) == pytest.approx(wanted, abs=1e-9)


def test_a_sure_and_right_classifier_has_no_error() -> None:
    true = np.array([0, 1, 2])
    found = scores(true, np.eye(3))
    assert all(found[name] == 1.0 for name in c.METRICS)
    assert found["calibration_error"] == 0.0
    assert found["log_loss"] < 1e-12


def test_worst_errors_are_the_most_confident_mistakes() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.99, 0.01]], dtype=np.float32)
    found = c.worst_errors(
        np.array([1, 0, 1, 1]), probabilities, ["one", "two", "three", "x" * 500], [2, 3, 4, 5], ["no", "yes"], n=2
    )
    assert [row["row"] for row in found] == [5, 2]
    assert found[0]["text"] == "x" * 299 + "…"
    assert found[1] == {
        "text": "one",
        "label": "yes",
        "predicted": "no",
        "probability": pytest.approx(0.9),
        "row": 2,
    }


@given(answers())
@settings(max_examples=30, deadline=None)
def test_counts_are_how_often_each_label_was_right_true_and_guessed(answer: tuple[IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    counts = c.label_counts(true, predicted, classes)
    wanted = [np.bincount(rows, minlength=classes) for rows in (true[true == predicted], true, predicted)]
    assert counts.total().tolist() == np.concatenate(wanted).tolist()
    assert len(counts) == len(true) and len(counts.rows) == len(set(zip(true, predicted, strict=True)))
    for row, first, second in zip(counts.rows[counts.which], true, predicted, strict=True):
        here = np.zeros((3, classes))
        here[0, first] = first == second
        here[1, first] = here[2, second] = 1
        assert row.tolist() == here.reshape(-1).tolist()


def test_an_unknown_metric_is_told_with_the_nearest() -> None:
    with pytest.raises(HalfpintError, match="Did you mean 'f1_macro'"):
        check_metric("f1-macro", c.METRICS)
    with pytest.raises(HalfpintError, match=r"primary: expected the name of a metric, got 'f1-macro'.*'f1_macro'"):
        TASK.check_metric("f1-macro", "primary")
    TASK.check_metric("", "primary")  # the data chooses


@pytest.mark.parametrize(
    "call", [lambda none: scores(none, np.zeros((0, 2))), lambda none: TASK.counts([], [], ["a", "b"])]
)
def test_no_row_is_an_error(call: Callable[[IntArray], object]) -> None:
    with pytest.raises(HalfpintError, match="no labelled rows"):
        call(np.zeros(0, dtype=np.int64))


def test_coverage_is_what_a_threshold_leaves() -> None:
    sure = np.array([0.95] * 60 + [0.75] * 40 + [0.45] * 20)
    right = np.array([True] * 57 + [False] * 3 + [True] * 30 + [False] * 10 + [False] * 20)
    probabilities = np.stack([sure, np.full(120, 0.1), np.full(120, 0.2)], axis=1)
    found = {one["threshold"]: one for one in c.coverage(np.where(right, 0, 1), probabilities)}
    assert found[0.9]["answered"] == 0.5 and found[0.9]["accuracy"] == pytest.approx(0.95)
    assert found[0.7]["answered"] == pytest.approx(100 / 120) and found[0.7]["accuracy"] == pytest.approx(0.87)
    # Too few texts, or too few that are answered: nothing is said.
    assert c.coverage(np.zeros(99, int), probabilities[:99]) == []
    few = c.coverage(np.where(right, 0, 1), np.where(probabilities == 0.95, 0.65, probabilities))
    assert [one["threshold"] for one in few] == [0.5, 0.6, 0.7]
