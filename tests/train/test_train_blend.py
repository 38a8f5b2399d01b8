"""Blends: the average of two models' log-probabilities, and what makes one worth its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from halfpint.bundle import Bundle
from halfpint.data.examples import Example
from halfpint.engines import open_engine
from halfpint.engines.blend import OTHER, blended
from halfpint.engines.crf import CrfEngine
from halfpint.engines.linear import LinearEngine
from halfpint.errors import HalfpintError, RefusedError
from halfpint.stage import Work
from halfpint.train.blend import Blend
from halfpint.train.tfidf_linear import TfidfLinear

logits = arrays(np.float32, (4, 3), elements=st.floats(-8, 8, width=32))


def softmax(values: Any) -> Any:
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


@given(logits, logits, st.floats(0.0, 1.0))
def test_the_average_lies_between_its_parts(one: Any, other: Any, share: float) -> None:
    first, second = softmax(one), softmax(other)
    result = blended(first, second, share)
    assert np.allclose(result.sum(axis=1), 1, atol=1e-5)
    expected = softmax((1 - share) * np.log(first + 1e-9) + share * np.log(second + 1e-9))
    assert np.allclose(result, expected, atol=1e-6)
    agreed = first.argmax(1) == second.argmax(1)
    assert (result.argmax(1)[agreed] == first.argmax(1)[agreed]).all()


def test_a_blend_says_what_its_parts_say(bundles: Callable[[str], Bundle]) -> None:
    blend, encoder = bundles("blend"), bundles("int8")
    texts = ["where is my parcel", "please cancel my plan", "I love it", ""]
    linear = LinearEngine(Bundle(blend.path / OTHER)).probabilities(texts)
    expected = blended(open_engine(encoder).probabilities(texts), linear, 0.3)
    assert np.allclose(open_engine(blend).probabilities(texts), expected, atol=1e-6)
    assert (blend.path / OTHER / "model.safetensors").stat().st_size < 500 * (8 + 8) + 2000, "int8 codes, not floats"


def test_codes_are_near_the_weights(
    bundles: Callable[[str], Bundle], work: Callable[..., Work], few: list[Example], tmp_path: Path
) -> None:
    codes = LinearEngine(Bundle(bundles("blend").path / OTHER))
    trained = TfidfLinear(features=500).run(None, work(tmp_path / "linear", train=few))
    texts = ["where is my parcel", "the app crashes when I log in", "refund please"]
    assert np.allclose(codes.probabilities(texts), open_engine(trained).probabilities(texts), atol=0.02)


def test_a_blend_that_does_not_help_is_refused(
    bundles: Callable[[str], Bundle], work: Callable[..., Work], few: list[Example], tmp_path: Path
) -> None:
    parent = bundles("int8")
    made = work(tmp_path / "blend", train=few)
    said = open_engine(parent).probabilities([example.text for example in made.validation]).argmax(1)
    # Validation texts whose labels are what the encoder says: nothing can be better than it.
    told = [replace(example, label=made.labels[answer]) for example, answer in zip(made.validation, said, strict=True)]
    made.split = replace(made.split, validation=told)
    with pytest.raises(RefusedError, match=r"a better accuracy than the 1\.0000"):
        Blend(features=500).run(parent, made)
    assert not made.target.exists()


def test_models_of_words_are_blended_word_by_word(bundles: Callable[[str], Bundle]) -> None:
    blend, texts = bundles("blended-words"), ["send the kettle to Porto", "", "and a lamp"]
    engines = open_engine(bundles("bilstm")), CrfEngine(Bundle(blend.path / OTHER)), open_engine(blend)
    first, second, both = (engine.probabilities(texts) for engine in engines)
    assert [len(one) for one in both] == [5, 0, 3]
    for one, other, mean in zip(first, second, both, strict=True):
        assert np.allclose(mean, blended(one, other, 0.3), atol=1e-6)


def test_what_cannot_be_blended_is_refused(
    bundles: Callable[[str], Bundle], work: Callable[..., Work], tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match="a stage that makes a whole model, not 'train/finetune'"):
        Blend(other="train/finetune")
    with pytest.raises(HalfpintError, match="one model to blend with, got a blend"):
        Blend().run(bundles("blend"), work(tmp_path / "again"))
