"""Which terms become features: those that follow the labels, counted as hashes in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from halfpint.data.terms import Shape
from halfpint.train._candidates import candidates

WORDS = Shape((0, 0), 1)
TEXTS = ["good film", "good food", "bad film", "bad food", "bad day"] * 2
TARGETS = np.array([0, 0, 1, 1, 1] * 2)


def silent(_: float) -> None:
    pass


def test_terms_that_follow_the_labels_come_first() -> None:
    found = candidates(TEXTS, TARGETS, 2, WORDS, minimum=1, most=2, done=silent)
    assert found.names == ["w:bad", "w:good"]
    every = candidates(TEXTS, TARGETS, 2, WORDS, minimum=1, most=100, done=silent)
    weight = dict(zip(every.names, every.ratios.tolist(), strict=True))
    assert set(weight) == {f"w:{word}" for text in TEXTS for word in text.split()}
    assert weight["w:good"] > weight["w:day"] > weight["w:film"] > 0
    idf = dict(zip(every.names, every.idf.tolist(), strict=True))
    assert idf["w:day"] == pytest.approx(np.log(11 / 3) + 1, rel=1e-3)  # in two of ten texts
    # "good": 4 of 4 texts of the one label and 0 of 6 of the other, each with two texts of the mix.
    assert weight["w:good"] == pytest.approx(np.log((4.8 / 4.8) / (1.2 / 7.2)), rel=1e-3)


def test_rare_terms_are_left_out_where_others_are() -> None:
    texts = [*TEXTS, "once"]
    targets = np.append(TARGETS, 0)
    assert "w:once" not in candidates(texts, targets, 2, WORDS, minimum=2, most=100, done=silent).names
    assert candidates(["once"], targets[:1], 2, WORDS, minimum=2, most=100, done=silent).names == ["w:once"]
    assert candidates(["  "], targets[:1], 2, WORDS, minimum=1, most=100, done=silent).names == ["w:"]


def test_counting_in_bounded_memory_forgets_rare_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'good' if number % 2 else 'bad'} word{number}" for number in range(400)]
    targets = np.array([number % 2 for number in range(400)])
    monkeypatch.setattr("halfpint.train._candidates.chunked", lambda some: ((at, at + 20) for at in range(0, 400, 20)))
    shares: list[float] = []
    found = candidates(texts, targets, 2, WORDS, minimum=1, most=1000, done=shares.append, most_counted=60)
    assert {"w:good", "w:bad"} <= set(found.names) and len(found.names) < 200
    weight = dict(zip(found.names, found.ratios.tolist(), strict=True))
    assert weight["w:good"] == pytest.approx(np.log(201 / 1), rel=1e-3)  # counted in all texts
    assert len(candidates(texts, targets, 2, WORDS, minimum=1, most=1000, done=silent).names) == 402
    assert 0 < sum(shares) <= 1 + 1e-9
