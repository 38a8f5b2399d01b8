"""Conditional random fields: marginals by trying all sequences, stored and read, and as CRFsuite has them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.data.words import words
from halfpint.errors import HalfpintError
from halfpint.models.crf import WEIGHTS_FILE, Crf, from_pairs, marginals, read_crf
from halfpint.models.word_attributes import attributes

TEXTS = ["Anna Berg of Bonn .", "", "Where is Bonn ?", "U.S.A 1999 x", " ", "Anna"]


def field(texts: list[str], tags: int = 3, seed: int = 0) -> Crf:
    random = np.random.default_rng(seed)
    names = sorted({name for text in texts for word in attributes(text) for name in word})
    pairs = [(name, tag, float(random.normal())) for name in range(len(names)) for tag in range(tags)]
    some = [pair for pair in pairs if random.random() < 0.5]
    return from_pairs(names, some, random.normal(size=(tags, tags)).astype(np.float32))


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(2, 4))
def test_marginals_are_those_that_all_sequences_give(seed: int, sizes: list[int], tags: int) -> None:
    random = np.random.default_rng(seed)
    transitions = random.normal(size=(tags, tags)) * 3
    texts = [random.normal(size=(size, tags)) * 3 for size in sizes]
    for scores, found in zip(texts, marginals(texts, transitions), strict=True):
        wanted = np.zeros_like(scores)
        for way in itertools.product(range(tags), repeat=len(scores)):
            score = sum(scores[place, tag] for place, tag in enumerate(way))
            score += sum(transitions[one, other] for one, other in itertools.pairwise(way))
            wanted[np.arange(len(way)), list(way)] += np.exp(score)
        wanted /= wanted.sum(axis=1, keepdims=True) if len(scores) else 1.0
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_long_texts_and_large_weights_stay_finite() -> None:
    random = np.random.default_rng(0)
    transitions = random.normal(size=(5, 5)) * 30
    texts = [random.normal(size=(size, 5)) * 100 for size in (3000, 1, 0, 40)]
    for found, scores in zip(marginals(texts, transitions), texts, strict=True):
        assert found.shape == scores.shape and np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_field_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = field(TEXTS)
    one.write(tmp_path)
    other = read_crf(tmp_path)
    for ours, theirs in zip(one.marginals(TEXTS), other.marginals(TEXTS), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert list(other.names) == list(one.names)
    assert [len(rows) for rows in other.marginals(TEXTS)] == [len(words(text)) for text in TEXTS]
    assert other.marginals([]) == []


def test_words_that_training_did_not_have_are_no_fault() -> None:
    (found,) = from_pairs(["w"], [], np.zeros((2, 2), dtype=np.float32)).marginals(["never seen"])
    np.testing.assert_allclose(found, 0.5)


def test_small_weights_and_attributes_without_any_are_left_out() -> None:
    made = from_pairs(["a", "b", "c"], [(0, 1, 0.001), (2, 0, 1.0), (2, 1, -2.0)], np.zeros((2, 2), np.float32), 0.01)
    assert (made.names, made.starts.tolist(), made.tags.tolist()) == (["c"], [0, 2], [0, 1])


@given(st.text(max_size=30))
def test_every_word_has_attributes_without_line_breaks(text: str) -> None:
    found = list(attributes(text))
    assert len(found) == len(words(text))
    for name in (name for word in found for name in word):
        assert "\n" not in name and name.encode()


def test_attributes_tell_the_word_its_form_and_its_neighbours() -> None:
    (_, berg, _, bonn) = attributes("Anna Berg, Bonn")
    assert {"wBerg", "lberg", "sXxx", "eerg", "-1anna", "+1,", "g01"} <= set(berg)
    assert {"wBonn", "-1,", "-2berg", "+1>", "g00"} <= set(bonn)
    assert "cuXX" in next(attributes("ULM")) and "clxx" in next(attributes("ulm"))


def test_probabilities_are_those_of_crfsuite(tmp_path: Path) -> None:
    crfsuite = pytest.importorskip("pycrfsuite")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["Anna", "of", "Bonn", "saw", "1999"], size=8)) for _ in range(40)]
    tags = [[str(int(word in ("Anna", "Bonn"))) for word in text.split()] for text in texts]
    trainer = crfsuite.Trainer(algorithm="lbfgs", params={"c1": 0.0, "max_iterations": 8}, verbose=False)
    for text, tag in zip(texts, tags, strict=True):
        trainer.append(crfsuite.ItemSequence(list(attributes(text))), tag)
    trainer.train(str(tmp_path / "field"))
    tagger = crfsuite.Tagger()
    tagger.open(str(tmp_path / "field"))
    told = tagger.info()
    names = sorted(told.attributes)
    pairs = [(names.index(name), int(tag), weight) for (name, tag), weight in told.state_features.items()]
    transitions = np.array([[told.transitions.get((one, other), 0.0) for other in "01"] for one in "01"])
    for text, found in zip(texts, from_pairs(names, pairs, transitions).marginals(texts), strict=True):
        tagger.set(crfsuite.ItemSequence(list(attributes(text))))
        wanted = [[tagger.marginal(tag, place) for tag in "01"] for place in range(8)]
        np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("wrong", ["counts", "tags", "transitions"])
def test_weights_that_do_not_fit_are_refused(wrong: str, tmp_path: Path) -> None:
    numpy_io = pytest.importorskip("safetensors.numpy")
    field(TEXTS).write(tmp_path)
    tensors = numpy_io.load_file(tmp_path / WEIGHTS_FILE)
    changed = {"counts": tensors["counts"] + 1, "tags": tensors["tags"] + 3, "transitions": tensors["transitions"][1:]}
    numpy_io.save_file({**tensors, wrong: changed[wrong]}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(HalfpintError, match="expected weights for the"):
        read_crf(tmp_path)
