"""Which column holds the texts and which the labels: by name, else by content, and said in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from halfpint.data.names import LABEL_NAMES, TEXT_NAMES
from halfpint.data.read import Table
from halfpint.errors import HalfpintError, nearest

_LONGEST_LABEL = 60  # characters, on average
_WORDS_OF_NAME = 4
_MOST_NUMBERS = 50  # more distinct numbers than this are a quantity, not classes


@dataclass(frozen=True)
class Columns:
    """The two columns of a classification table; `said` is a sentence on how they were found."""

    text: str
    label: str
    said: str


def find_columns(table: Table, *, text: str | None = None, label: str | None = None) -> Columns:
    """The text and the label column of `table`, as named or guessed.

    Raises:
        HalfpintError: a named column is not there, both are the same, or one cannot be guessed.
    """
    how = []
    for name, flag in ((text, "--text"), (label, "--label")):
        if name is not None:
            _refuse_missing(table, name, flag)
    if text is not None and text == label:
        raise HalfpintError(
            f"{table.source}, --text and --label",
            wanted="two columns",
            got=f"{text!r} for both",
            todo=_there_is(table),
            said=f"{table.source}: the text and the label cannot both be the column {text!r}.",
        )
    found_label = label
    if found_label is None:
        found_label, means = _guess_label(table, text)
        how.append(("label", means, "--label"))
    found_text = text
    if found_text is None:
        found_text, means = _guess_text(table, found_label)
        how.insert(0, ("text", means, "--text"))
    return Columns(found_text, found_label, f"text column {found_text!r} and label column {found_label!r} {_said(how)}")


def find_text_column(table: Table, *, text: str | None = None) -> str:
    """The text column of a table that needs no labels.

    Raises:
        HalfpintError: the named column is not there, or no column holds texts.
    """
    if text is None:
        return _guess_text(table, None)[0]
    _refuse_missing(table, text, "--text")
    return text


def _said(how: Sequence[tuple[str, str, str]]) -> str:
    if not how:
        return "(as named)"
    flags = " and ".join(flag for _, _, flag in how)
    if len({means for _, means, _ in how}) == 1:
        what = "" if len(how) == 2 else f"{how[0][0]} "
        return f"({what}guessed by {how[0][1]}; name {'them' if len(how) == 2 else 'it'} with {flags})"
    return f"({', '.join(f'{what} guessed by {means}' for what, means, _ in how)}; name them with {flags})"


def _there_is(table: Table) -> str:
    return f"There is: {', '.join(table.columns)}."


def _refuse_missing(table: Table, name: str, flag: str) -> None:
    if name not in table.columns:
        near = nearest(name, table.columns)
        todo = near if near.startswith("There is") else f"{near} {_there_is(table)}"
        raise HalfpintError(
            f"{table.source}, {flag}",
            wanted=f"a column {name!r}",
            got="no such column",
            todo=todo,
            said=f"{table.source} has no column {name!r} for {flag}.",
        )


def _by_name(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of `names` that are known, exactly first, then as one of their words; each in the order of `known`."""
    exact = [name for word in known for name in names if name.strip().lower() == word]
    parts = {name: re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()) for name in names}
    # A long question may hold any word.
    short = [name for name in names if len(parts[name]) <= _WORDS_OF_NAME]
    partly = [name for word in known for name in short if len(word) > 1 and word in parts[name]]
    return list(dict.fromkeys(exact + partly))


def _guess_label(table: Table, text: str | None) -> tuple[str, str]:
    names = [name for name in table.columns if name != text]
    for name in _by_name(names, LABEL_NAMES):
        if _could_be_label(table.columns[name], needs_repeats=False):
            return name, "name"
    longest = max(names, key=lambda name: _mean_chars(table.columns[name]), default=None) if text is None else None
    likely = [name for name in names if name != longest and _could_be_label(table.columns[name], needs_repeats=True)]
    if len(likely) == 1:
        return likely[0], "content"
    raise HalfpintError(
        f"{table.source}, --label",
        wanted="a label column: few different short values",
        got=f"{len(likely)} that could be it ({', '.join(likely)})" if likely else "none that looks like one",
        todo=f"Name it with --label. {_there_is(table)}",
        said=f"{table.source}: it is not clear which column holds the labels"
        + (f" ({', '.join(likely)} could)." if likely else "; none looks like one."),
    )


def _guess_text(table: Table, label: str | None) -> tuple[str, str]:
    names = [name for name in table.columns if name != label and _has_words(table.columns[name])]
    by_name = _by_name(names, TEXT_NAMES)
    if by_name:
        return by_name[0], "name"
    if names:
        return max(names, key=lambda name: _mean_chars(table.columns[name])), "content"
    raise HalfpintError(
        f"{table.source}, --text",
        wanted="a text column",
        got="no column with words" + (f" besides the label column {label!r}" if label is not None else ""),
        todo=f"Name it with --text. {_there_is(table)}",
        said=f"{table.source}: no column holds words"
        + (f" besides the label column {label!r}." if label is not None else "."),
    )


def _could_be_label(values: Sequence[object], *, needs_repeats: bool) -> bool:
    present = [value for value in values if value is not None and value != ""]
    if not present or any(isinstance(value, (list, dict, bytes)) for value in present):
        return False
    distinct = {str(value).strip() for value in present}
    if _mean_chars(present) > _LONGEST_LABEL:
        return False
    numbers = [number for number in map(_number, distinct) if number is not None]
    if len(numbers) == len(distinct):
        whole = all(number == round(number) for number in numbers)
        if len(distinct) > _MOST_NUMBERS or (not whole and len(distinct) > 5):
            return False
    return not needs_repeats or (len(distinct) > 1 and len(distinct) * 2 <= len(present))


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < 1e18 else None


def _has_words(values: Sequence[object]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return sum(any(char.isalpha() for char in text) for text in texts[:1000]) * 2 > len(texts[:1000])


def _mean_chars(values: Sequence[object]) -> float:
    texts = [len(value) for value in values if isinstance(value, str)]
    return sum(texts) / len(texts) if texts else 0.0
