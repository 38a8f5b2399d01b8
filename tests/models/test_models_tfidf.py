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
from halfpint.data.terms import Shape, terms
from halfpint.models import tfidf
from halfpint.models.tfidf import Features, read_features

# Text as `read_table` gives it: anything but halves of surrogate pairs.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
shapes = st.sampled_from([Shape(), Shape((0, 0), 3), Shape((3, 3)), Shape((3, 5), 2, scripts=False)])


def vocabulary(some: list[str], shape: Shape = Shape()) -> Features:
    names = sorted({term for text in some for term in terms(text, shape)}) or ["w:"]
    return Features(names, np.linspace(1, 3, len(names), dtype=np.float32), shape)


@given(some=st.lists(texts, min_size=1, max_size=8), other=texts, shape=shapes)
def test_what_is_written_is_read(some: list[str], other: str, shape: Shape) -> None:
    features = vocabulary(some, shape)
    with tempfile.TemporaryDirectory() as folder:
        config = features.write(Path(folder))
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        found = read_features(Bundle(Path(folder)), features.idf)
        assert found.names == features.names
        assert found.shape == shape
    for text in [*some, other]:
        for ours, theirs in zip(features.row(text), found.row(text), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_features_of_before_have_pairs_of_words_and_no_scripts(tmp_path: Path) -> None:
    features = Features(["w:a"], np.ones(1, np.float32), Shape((3, 5), 2, scripts=False))
    features.write(tmp_path)
    (tmp_path / "config.json").write_text('{"characters": [3, 5]}', encoding="utf-8")
    assert read_features(Bundle(tmp_path), features.idf).shape == features.shape


@given(some=st.lists(texts, min_size=1, max_size=6), text=texts)
def test_rows_have_unit_length(some: list[str], text: str) -> None:
    features = vocabulary(some)
    numbers, weights = features.row(text)
    known = {features.names.index(term) for term in terms(text, Shape()) if term in features.names}
    assert set(numbers.tolist()) == known
    assert len(numbers) == len(known)
    assert weights.dtype == np.float32
    assert float((weights**2).sum()) == (pytest.approx(1, abs=1e-5) if known else 0)
    assert (weights > 0).all()


def test_weights_grow_slower_than_counts() -> None:
    """1 + ln(count), times the inverse document frequency."""
    features = Features(["w:a", "w:b"], np.array([1.0, 2.0], np.float32), Shape((0, 0)))
    numbers, weights = features.row("a a a a b")
    ratio = dict(zip(numbers.tolist(), weights.tolist(), strict=True))
    assert ratio[0] / ratio[1] == pytest.approx((1 + np.log(4)) / 2)


@pytest.mark.parametrize("plain", [True, False])
@given(some=st.lists(texts, max_size=8), shape=shapes)
def test_rows_at_once_are_those_of_plain_python(plain: bool, some: list[str], shape: Shape) -> None:
    features = vocabulary(some[:2], shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfidf, "_FEW_CHARS", 10**6 if plain else -1)
        patch.setattr(tfidf, "_FEW_CHARS_OF_WORDS", 10**6 if plain else -1)
        rows = features.rows(some, 2)
    assert len(rows.starts) == len(some) + 1
    for number, text in enumerate(some):
        numbers, weights = features.row(text)
        own = slice(rows.starts[number], rows.starts[number + 1])
        np.testing.assert_array_equal(rows.numbers[own], numbers)
        np.testing.assert_allclose(rows.weights[own], weights, rtol=1e-5)


def test_padding_adds_nothing() -> None:
    features = vocabulary(["a b c d e", "a a", ""])
    given = ["b c", "", "e d a", "zz"]
    rows = features.rows(given)
    indices, values = rows.padded()
    assert indices.dtype == np.int64 and values.dtype == np.float32
    assert indices.shape == values.shape == (4, int(np.diff(rows.starts).max()))
    dense = np.random.default_rng(0).normal(size=(len(features.names), 3)).astype(np.float32)
    for text, row, weights in zip(given, indices, values, strict=True):
        numbers, wanted = features.row(text)
        np.testing.assert_allclose(weights @ dense[row], wanted @ dense[numbers], atol=1e-5)
    turned = rows.of(np.array([2, 0]))
    np.testing.assert_array_equal(turned.numbers, np.concatenate([features.row(given[2])[0], features.row("b c")[0]]))
    assert features.rows([]).padded()[0].shape == (0, 1)
