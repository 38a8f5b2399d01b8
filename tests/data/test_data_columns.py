"""Finding the text and label columns, and turning rows into examples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.data.columns import find_columns, find_text_column
from halfpint.data.examples import Example, fingerprint, is_missing_label, labelled
from halfpint.data.read import Table
from halfpint.errors import HalfpintError


def table(**columns: list[object]) -> Table:
    return Table(columns, list(range(1, len(next(iter(columns.values()))) + 1)), "made.csv", ())


TEXTS: list[object] = ["the first of the texts", "another one that is long", "short here", "and the last"]


@pytest.mark.parametrize(
    ("columns", "text", "label", "said"),
    [
        ({"text": TEXTS, "category": ["a", "b", "a", "b"]}, "text", "category", "guessed by name; name them with"),
        ({"column_1": ["a", "b", "a", "b"], "column_2": TEXTS}, "column_2", "column_1", "guessed by content"),
        ({"sentence": TEXTS, "column_2": ["0", "1", "1", "0"]}, "sentence", "column_2", "label guessed by content"),
        (
            {"sentiment": ["good", "bad"] * 2, "confidence": ["0.75", "1", "0.66", ""], "text": TEXTS},
            "text",
            "sentiment",
            "guessed by name",
        ),
        (
            {"label_score": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "x": list("aabbab"), "y z": ["a b c"] * 6},
            "y z",
            "x",
            "content",
        ),
        ({"tweet_text": TEXTS, "airline_sentiment": ["a", "b"] * 2}, "tweet_text", "airline_sentiment", "by name"),
        ({"text": TEXTS, "label": [0, 1, 0, 1], "label_text": ["n", "y"] * 2}, "text", "label", "by name"),
        ({"id": [1, 2, 3, 4], "x": ["y", "y", "n", "n"], "what": TEXTS}, "what", "x", "guessed by content"),
    ],
)
def test_guesses(columns: dict[str, list[object]], text: str, label: str, said: str) -> None:
    found = find_columns(table(**columns))
    assert (found.text, found.label) == (text, label)
    assert found.said.startswith(f"text column {text!r} and label column {label!r} (")
    assert said in found.said


def test_named_columns_are_taken_and_checked() -> None:
    made = table(body=TEXTS, notes=TEXTS, group=["a", "b"] * 2, kind=["c", "d"] * 2)
    found = find_columns(made, text="notes", label="kind")
    assert (found.text, found.label, found.said.endswith("(as named)")) == ("notes", "kind", True)
    assert find_columns(made, label="kind").said.endswith("(text guessed by name; name it with --text)")
    with pytest.raises(HalfpintError, match=r"no column 'kidn' for --label.*Did you mean 'kind'.*body, notes"):
        find_columns(made, label="kidn")
    with pytest.raises(HalfpintError, match="cannot both be the column 'kind'"):
        find_columns(made, text="kind", label="kind")


def test_what_cannot_be_guessed_is_an_error() -> None:
    with pytest.raises(HalfpintError, match=r"\(one, two could\)"):
        find_columns(table(what=TEXTS, one=["a", "b"] * 2, two=["c", "d"] * 2))
    with pytest.raises(HalfpintError, match="none looks like one"):
        find_columns(table(what=TEXTS, score=[0.1, 0.2, 0.3, 0.4]))
    with pytest.raises(HalfpintError, match="no column holds words"):
        find_columns(table(number=[1, 2, 3, 4], label=["a", "b"] * 2))
    assert find_text_column(table(number=[1, 2, 3, 4], what=TEXTS)) == "what"
    with pytest.raises(HalfpintError, match="Did you mean 'what'"):
        find_text_column(table(what=TEXTS), text="wat")


def test_cells_become_texts_and_labels() -> None:
    made = Table({"text": ["a", None, 7], "label": [1.0, " yes ", None]}, [2, 5, 9], "made.csv", ())
    found = find_columns(made, text="text", label="label")
    assert labelled(made, found) == [Example("a", "1", 2), Example("", "yes", 5), Example("7", "", 9)]


@pytest.mark.parametrize("value", [None, "", "  ", "nan", "NaN", math.nan])
def test_missing_labels(value: object) -> None:
    made = table(text=["a"], label=[value])
    (example,) = labelled(made, find_columns(made, text="text", label="label"))
    assert example.label == ""
    assert is_missing_label(example.label)


@pytest.mark.parametrize(("label", "read"), [(3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "True"), ("None", "None")])
def test_labels_are_texts(label: object, read: str) -> None:
    made = table(text=["a"], label=[label])
    assert labelled(made, find_columns(made, text="text", label="label"))[0].label == read


def test_lists_are_no_labels() -> None:
    made = table(text=["a"], label=[["x", "y"]])
    with pytest.raises(HalfpintError, match="row 1: the column 'label' holds a list, not a text or a number"):
        labelled(made, find_columns(made, text="text", label="label"))


PAIRS = st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=5)


@given(one=PAIRS, other=PAIRS)
def test_fingerprints_differ_exactly_where_contents_do(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    prints = [
        fingerprint([Example(text, label, first + index) for index, (text, label) in enumerate(pairs)])
        for first, pairs in ((1, one), (100, other))
    ]
    assert (prints[0] == prints[1]) == (one == other)


def test_fingerprint_stays_the_same_over_versions() -> None:
    assert fingerprint([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert fingerprint([Example("ab", "c", 1)]) != fingerprint([Example("a", "bc", 1)])
