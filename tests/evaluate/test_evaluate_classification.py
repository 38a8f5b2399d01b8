from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from halfpint.metrics import metric
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.errors import HalfpintError
from halfpint.evaluate import classification as c

reference = pytest.importorskip("sklearn.metrics")


@st.composite
def answers(draw: st.DrawFn) -> tuple[c.IntArray, c.FloatArray]:
    """True classes and probabilities; with few rows and up to 12 classes, many classes are absent."""
    rows, classes = draw(st.integers(1, 60)), draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    true = generator.integers(0, draw(st.integers(1, classes)), rows)
    logits = generator.normal(size=(rows, classes)) * draw(st.sampled_from([0.1, 1.0, 8.0, 60.0]))
    logits[:, draw(st.integers(0, classes - 1))] -= 100.0
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return true, probabilities.astype(draw(st.sampled_from([np.float32, np.float64])))


@given(answers())
@settings(max_examples=30, deadline=None)
def test_scores_are_those_of_scikit_learn(answer: tuple[c.IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    predicted = probabilities.argmax(axis=1)
    found = c.scores(true, probabilities)
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
def test_each_class_and_the_confusion_are_those_of_scikit_learn(answer: tuple[c.IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    predicted, classes = probabilities.argmax(axis=1), range(probabilities.shape[1])
    wanted = reference.precision_recall_fscore_support(true, predicted, labels=list(classes), zero_division=0)
    found = c.per_class(true, predicted, [f"label {index}" for index in classes])
    assert [row["label"] for row in found] == [f"label {index}" for index in classes]
    for key, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        assert [row[key] for row in found] == pytest.approx(list(values))
    matrix = c.confusion(true, predicted, len(classes))
    assert matrix.tolist() == reference.confusion_matrix(true, predicted, labels=list(classes)).tolist()


@given(answers())
@settings(max_examples=30, deadline=None)
def test_one_metric_is_the_one_among_the_scores(answer: tuple[c.IntArray, c.FloatArray]) -> None:
    true, probabilities = answer
    found = c.scores(true, probabilities)
    for name in c.METRICS:
        assert metric(name, true, probabilities.argmax(axis=1), probabilities.shape[1]) == found[name]
    assert set(found) == {*c.METRICS, "calibration_error", "log_loss"}


def test_calibration_error_by_hand() -> None:
    # Bin (0.6, 0.667] holds two rows of confidence 0.65, one right; bin (0.867, 0.933] holds one of 0.9, right.
    probabilities = np.array([[0.65, 0.35], [0.65, 0.35], [0.1, 0.9]])
    assert c.calibration_error(np.array([0, 1, 1]), probabilities) == pytest.approx((2 * 0.15 + 0.1) / 3)


@given(answers())
@settings(max_examples=30, deadline=None)
def test_calibration_error_is_that_of_a_loop_over_the_bins(answer: tuple[c.IntArray, c.FloatArray]) -> None:
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
    found = c.scores(true, np.eye(3))
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


def test_an_unknown_metric_is_told_with_the_nearest() -> None:
    with pytest.raises(HalfpintError, match="Did you mean 'f1_macro'"):
        metric("f1-macro", np.array([0]), np.array([0]), 2)


@pytest.mark.parametrize(
    "call", [lambda none: c.scores(none, np.zeros((0, 2))), lambda none: metric("accuracy", none, none, 2)]
)
def test_no_row_is_an_error(call: object) -> None:
    assert callable(call)
    with pytest.raises(HalfpintError, match="at least one row"):
        call(np.zeros(0, dtype=np.int64))
