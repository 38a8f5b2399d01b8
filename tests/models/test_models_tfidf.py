"""TF-IDF features: what they are, their lengths, and that a bundle gives back the vocabulary it was given."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.bundle import Bundle
from halfpint.models.tfidf import Features, read_features, terms

# Text as `read_table` gives it: anything but halves of surrogate pairs.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def vocabulary(some: list[str], characters: tuple[int, int] = (3, 5)) -> Features:
    names = sorted({term for text in some for term in terms(text, characters)}) or ["w:"]
    return Features(names, np.linspace(1, 3, len(names), dtype=np.float32), characters)


def test_terms_of_a_text() -> None:
    assert terms("Hi, you!", (0, 0)) == ["w:hi", "w:,", "w:you", "w:!", "w:hi ,", "w:, you", "w:you !"]
    assert terms("ab", (3, 5)) == ["w:ab", "c: ab", "c:ab ", "c: ab ", "c: ab "]
    assert terms("the the", (0, 0)) == ["w:the", "w:the", "w:the the"]
    assert terms("  \n ") == []


@given(some=st.lists(texts, min_size=1, max_size=8), other=texts, characters=st.sampled_from([(3, 5), (0, 0), (3, 3)]))
def test_what_is_written_is_read(some: list[str], other: str, characters: tuple[int, int]) -> None:
    features = vocabulary(some, characters)
    with tempfile.TemporaryDirectory() as folder:
        config = features.write(Path(folder))
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        found = read_features(Bundle(Path(folder)), features.idf)
        assert found.names == features.names
        assert found.characters == characters
    for text in [*some, other]:
        for ours, theirs in zip(features.row(text), found.row(text), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@given(some=st.lists(texts, min_size=1, max_size=6), text=texts)
def test_rows_have_unit_length(some: list[str], text: str) -> None:
    features = vocabulary(some)
    numbers, weights = features.row(text)
    known = {features.names.index(term) for term in terms(text) if term in features.names}
    assert set(numbers.tolist()) == known
    assert len(numbers) == len(known)
    assert numbers.dtype == np.int64
    assert weights.dtype == np.float32
    assert float((weights**2).sum()) == (pytest.approx(1, abs=1e-5) if known else 0)
    assert (weights > 0).all()


def test_weights_grow_slower_than_counts() -> None:
    """1 + ln(count), times the inverse document frequency."""
    features = Features(["w:a", "w:b"], np.array([1.0, 2.0], np.float32), (0, 0))
    numbers, weights = features.row("a a a a b")
    ratio = dict(zip(numbers.tolist(), weights.tolist(), strict=True))
    assert ratio[0] / ratio[1] == pytest.approx((1 + np.log(4)) / 2)


@given(some=st.lists(texts, min_size=1, max_size=8))
def test_padding_adds_nothing(some: list[str]) -> None:
    features = vocabulary(some[:1])
    indices, values = features.padded(some)
    assert indices.shape == values.shape
    assert indices.dtype == np.int64
    assert values.dtype == np.float32
    dense = np.random.default_rng(0).normal(size=(len(features.names), 3)).astype(np.float32)
    for text, row, weights in zip(some, indices, values, strict=True):
        numbers, wanted = features.row(text)
        np.testing.assert_allclose(weights @ dense[row], wanted @ dense[numbers], atol=1e-5)
    assert indices.shape[1] >= 1
