"""Whether the first rows of a table name its columns, and by what names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from halfpint.data.names import LABEL_NAMES, OTHER_NAMES, TEXT_NAMES

_KNOWN = frozenset(TEXT_NAMES + LABEL_NAMES + OTHER_NAMES)
_LONG = 60  # characters: a longer cell is seldom a name
_NUMBERED = re.compile(r"(v|x|f|col|column|field|unnamed:?)[ _]?\d+", re.I)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b")
# What surveys put into their first column, in the languages that are common.
_STAMPS = frozenset(
    ("timestamp", "zeitstempel", "horodateur", "marca temporal", "informazioni cronologiche", "carimbo de data/hora")
)
_SURVEY_IDS = frozenset(("respondent id", "respondentid", "collector id", "collectorid"))
_IMPORT = '{"ImportId"'


def has_header(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first of `records` names the columns rather than being data."""
    first = [cell.strip() for cell in records[0]]
    below = [[row[i].strip() for row in records[1:]] for i in range(len(first))]
    named = [cell for cell in first if cell]
    if not named:
        return False
    if first[0].lower() in _STAMPS or {cell.lower() for cell in named} & _SURVEY_IDS:
        return True
    if any(
        _is_number(cell) and all(map(_is_number, filter(None, rest))) for cell, rest in zip(first, below, strict=True)
    ):
        return False
    known = [cell.lower() in _KNOWN for cell in first]
    if all(known):
        return True
    again = [bool(cell) and cell in rest for cell, rest in zip(first, below, strict=True)]
    if any(is_known and not seen for is_known, seen in zip(known, again, strict=True)):
        return True
    if any(again) or len(set(named)) < len(named):
        return False
    if all(_NUMBERED.fullmatch(cell) for cell in named):
        return True
    if any(
        len(rest) > 1 and not _DATE.match(cell) and all(_DATE.match(one) for one in rest if one) and any(rest)
        for cell, rest in zip(first, below, strict=True)
    ):
        return True
    if not all(first) or any(_is_number(cell) or len(cell) > _LONG or len(cell.split()) > 4 for cell in first):
        return False
    words = {word for cell in first for word in re.split(r"[\W_]+", cell.lower())}
    return bool(words & _KNOWN) or any(_names_column(cell, rest) for cell, rest in zip(first, below, strict=True))


def _names_column(first: str, rest: Sequence[str]) -> bool:
    """Whether `first`, which is not in `rest`, looks like a name over it and not like one more of its values."""
    if len(rest) < 2:
        return False
    repeats = len(set(rest)) * 2 <= len(rest)
    numbers = all(_is_number(cell) for cell in rest if cell)
    longer = len(first.split()) == 1 and sum(map(len, rest)) >= 4 * len(first) * len(rest)
    return repeats or numbers or longer


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.lower() not in {"nan", "inf", "infinity"}


def rows_of_header(records: Sequence[Sequence[str]]) -> int:
    """How many of the first rows name columns, where the first does: surveys have two or three.

    SurveyMonkey writes the kind of answer, or an option, under each question, and nothing under the number of the
    answer; Qualtrics writes the question and an import number.
    """
    first = [cell.strip().lower() for cell in records[0]]
    if len(records) > 2 and any(cell.startswith(_IMPORT) for cell in records[2]):
        return 3
    keys = [index for index, cell in enumerate(first) if cell in _SURVEY_IDS]
    second = records[1] if len(records) > 1 else ()
    return 2 if keys and any(map(str.strip, second)) and not any(second[index].strip() for index in keys) else 1


def names_of(records: Sequence[Sequence[str]], rows: int) -> list[str]:
    """The names in the first `rows` of `records`: an empty cell takes the one below it."""
    if rows != 2:
        return unique_names(records[0])
    return unique_names([above.strip() or below for above, below in zip(records[0], records[1], strict=True)])


def unique_names(header: Sequence[str]) -> list[str]:
    """Names of columns: "column_3" for an empty one, "name_2" for a repeat."""
    names: dict[str, None] = {}
    for index, cell in enumerate(header, start=1):
        name = base = cell.strip() or f"column_{index}"
        copy = 1
        while name in names:
            copy += 1
            name = f"{base}_{copy}"
        names[name] = None
    return list(names)


def numbered(width: int) -> list[str]:
    """Names for columns that have none."""
    return [f"column_{index}" for index in range(1, width + 1)]


def is_numbered(name: str) -> bool:
    """Whether a name is one that a column without a name gets."""
    return re.fullmatch(r"column_\d+", name) is not None
