"""What is said in numbers and words that people use."""

from __future__ import annotations

import pytest

from halfpint.progress import passes_shown
from halfpint.report.units import gram_names


@pytest.mark.parametrize(
    ("passes", "said"), [(0.027, "2.7 % of one pass"), (1.0, "1 pass"), (1.5, "1.5 passes"), (12, "12 passes")]
)
def test_passes(passes: float, said: str) -> None:
    assert passes_shown(passes) == said


def test_grams() -> None:
    assert gram_names(4) == ["unigrams", "bigrams", "trigrams", "4-grams"]
