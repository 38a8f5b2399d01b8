"""Words: every character that is seen is in one, marks stay with their letters, the quick way is the other one."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.data import words as module
from halfpint.data.words import SHAPES, shapes, words


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in words(text)]


@given(st.text(max_size=60))
def test_words_are_in_order_and_leave_out_nothing_that_is_seen(text: str) -> None:
    found = words(text)
    assert all(start < end for start, end in found)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(found))
    covered = {place for start, end in found for place in range(start, end)}
    for place, char in enumerate(text):
        if not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf"):
            assert place in covered
        elif char.isspace():
            assert place not in covered


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_the_way_of_ascii_is_that_of_all_texts(text: str) -> None:
    assert words(text) == [match.span() for match in module._KINDS.finditer(text.translate(module._TABLE))]


@given(st.text(max_size=40))
def test_shapes_are_small_numbers_above_0(text: str) -> None:
    found = shapes(text, words(text))
    assert len(found) == len(words(text)) and all(0 < shape < SHAPES for shape in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hi, John's a_b!", ["Hi", ",", "John", "'", "s", "a_b", "!"]),
        ("U.S.", ["U", ".", "S", "."]),
        ("cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("東京に行く", list("東京に行く")),
        ("서울에서", list("서울에서")),
        ("ที่นี่", ["ที่", "นี่"]),
        ("❤️ ok", ["❤️", "ok"]),
        ("a\u200bb", ["a", "b"]),
        ("", []),
    ],
)  # fmt: skip
def test_scripts(text: str, wanted: list[str]) -> None:
    assert cut(text) == wanted


def test_shapes_tell_cases_and_what_is_before() -> None:
    text = "Paris paris PARIS 1999 12 a1 P .\n(Paris"
    found = dict(zip(cut(text), shapes(text, words(text)), strict=True))
    assert len({found[word] for word in ("paris", "PARIS", "1999", "12", "a1", "P", ".", "(")}) == 8
    first, last = (shape for word, shape in zip(cut(text), shapes(text, words(text)), strict=True) if word == "Paris")
    assert first != last and first % 10 == last % 10
