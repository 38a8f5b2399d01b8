"""Unknown words of a model of words cost their bytes, so that its figures are of the same text as others'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from halfpint.engines import ScoredText
from halfpint.errors import HalfpintError
from halfpint.evaluate.spelled import byte_costs, spelled
from halfpint.models.ngram import NgramModel

TRAIN = ["the cat sat\nthe dog sat", "a cat and a dog"]


def test_bytes_cost_what_their_frequency_says() -> None:
    costs = byte_costs(["aab"])
    assert np.exp(-costs).sum() == pytest.approx(1)
    assert costs[ord("a")] == pytest.approx(math.log(259 / 3)) and costs[0] == pytest.approx(math.log(259))


@pytest.mark.parametrize("text", ["the bird\u00e9 sat\n\n a  zebra", "the cat sat\n", ""])
def test_unknown_words_are_spelled_and_nothing_else_changes(text: str) -> None:
    scores = NgramModel.fit(TRAIN, 2).score([text])
    costs = byte_costs(TRAIN)
    one = ScoredText.of(text, scores.log10.astype(np.float64) * math.log(10), scores.unknown)
    found = spelled([text], [one], costs)[0]
    strange = [word for word in text.split() if word not in " ".join(TRAIN).split()]
    assert int(scores.unknown.sum()) == len(strange)
    more = sum(costs[list(f"{word} ".encode())].sum() for word in strange)
    assert one.log_probabilities.sum() - found.log_probabilities.sum() == pytest.approx(more)
    assert np.array_equal(found.log_probabilities[~scores.unknown], one.log_probabilities[~scores.unknown])
    assert (found.words, found.bytes) == (one.words, one.bytes)


def test_other_tokens_than_words_are_refused() -> None:
    one = ScoredText.of("a b c", np.zeros(2), np.array([True, False]))
    with pytest.raises(HalfpintError, match="4 words and ends of lines, got 2"):
        spelled(["a b c"], [one], byte_costs(TRAIN))
