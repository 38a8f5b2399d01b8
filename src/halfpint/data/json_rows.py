"""JSON -> rows: an object per line, an array of objects, and the forms that pandas writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from halfpint.data.encoding import whole_characters
from halfpint.data.records import text_of
from halfpint.data.table import Part
from halfpint.errors import HalfpintError

MOST_COLUMNS = 10_000
LONGEST_LINE = 32_000_000

_ROWS = 2048
_WRAPPERS = ("data", "rows", "records", "examples", "items", "results", "train")


def cell(value: object) -> object:
    """The value, None for NaN; half a surrogate pair (JSON can hold one, UTF-8 cannot) becomes U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else whole_characters(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def is_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def json_parts(blocks: Iterator[bytes], place: str) -> Iterator[Part]:
    """The objects of a file with one per line, in UTF-8.

    Raises:
        HalfpintError: a line that is no object.
    """
    yield from _parts(_lines(text_of(blocks, "\n"), place), place, "line")


def whole_parts(loaded: object, place: str) -> Iterator[Part]:
    """The rows of a JSON value: see `rows_in`.

    Raises:
        HalfpintError: it is no table, or a row is no object.
    """
    yield from _parts(((number, row, 0) for number, row in enumerate(rows_in(loaded, place), start=1)), place, "item")


def loaded(text: str, place: str) -> object:
    """The value that a JSON text stands for.

    Raises:
        HalfpintError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HalfpintError(
            place,
            wanted="a JSON array of objects",
            got=f"text that is not JSON ({error})",
            said=f"{place} is not valid JSON: {error}.",
        ) from None


def rows_in(loaded: object, place: str) -> list[Any]:
    """The rows of a JSON value: an array, an object with one inside, or a table as pandas writes it.

    pandas' `orient` may be columns (its default), index, split, records or table.

    Raises:
        HalfpintError: it is none of them.
    """
    if isinstance(loaded, list):
        return loaded
    if isinstance(loaded, dict):
        if isinstance(loaded.get("columns"), list) and isinstance(loaded.get("data"), list):
            return [dict(zip(map(str, loaded["columns"]), row, strict=False)) for row in loaded["data"]]
        if isinstance(loaded.get("schema"), dict) and isinstance(loaded.get("data"), list):
            return list(loaded["data"])
        lists = [name for name, value in loaded.items() if isinstance(value, list) and name in _WRAPPERS]
        if len(lists) == 1 and all(isinstance(row, dict) for row in loaded[lists[0]]):
            return list(loaded[lists[0]])
        rows = _by_index(loaded)
        if rows is not None:
            return rows
        if not any(isinstance(value, list | dict) for value in loaded.values()):
            return [loaded]
    keys = f" with the keys {', '.join(map(repr, list(loaded)[:8]))}" if isinstance(loaded, dict) else ""
    raise HalfpintError(
        place,
        wanted='a JSON array of objects: [{"text": …, "label": …}, …]',
        got=f"a JSON {type(loaded).__name__}{keys}",
        todo="Save the array alone, or one object a line as JSONL.",
    )


def _by_index(loaded: Mapping[str, Any]) -> list[Any] | None:
    """The rows of columns or rows that are objects with the same keys; None: they are not."""
    values = list(loaded.values())
    if not values:
        return None
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        rows = [dict(zip(loaded, row, strict=True)) for row in zip(*values, strict=True)]
        return rows if not any(isinstance(row, dict) for row in values[0]) else None
    if not all(isinstance(value, dict) for value in values):
        return None
    keys = list(values[0])
    if all(key.isdigit() for key in loaded) and not all(key.isdigit() for key in keys):
        return values
    if any(value.keys() != values[0].keys() for value in values[1:]):
        return None
    return [{name: value[key] for name, value in loaded.items()} for key in keys]


def _lines(lines: Any, place: str) -> Iterator[tuple[int, Any, int]]:
    number = 0
    while line := lines.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise HalfpintError(
                f"{place}, line {number}", wanted=f"lines of at most {LONGEST_LINE:,} characters", got="a longer one",
                todo="Save it as JSONL, one object a line.",
                said=f"{place}, line {number} is too long: at most {LONGEST_LINE:,} characters are read.",
            )  # fmt: skip
        if not line.strip():
            continue
        try:
            yield number, json.loads(line), len(line)
        except (ValueError, RecursionError) as error:
            raise HalfpintError(
                f"{place}, line {number}",
                wanted="one JSON object a line",
                got=f"text that is not JSON ({error})",
                todo="Repair that line, or give the file the ending that fits it.",
                said=f"{place}, line {number} is not valid JSON: {error}.",
            ) from None


def _parts(numbered: Iterator[tuple[int, Any, int]], place: str, unit: str) -> Iterator[Part]:
    names: dict[str, None] = {}
    while batch := list(islice(numbered, _ROWS)):
        for number, row, _ in batch:
            if not isinstance(row, dict):
                raise HalfpintError(
                    f"{place}, {unit} {number}",
                    wanted="one JSON object",
                    got=f"a JSON {type(row).__name__}: {row!r:.60}",
                    said=f"{place}, {unit} {number} is not a JSON object but a {type(row).__name__}: {row!r:.60}.",
                )
            if not row.keys() <= names.keys():
                names.update(dict.fromkeys(row))
                if len(names) > MOST_COLUMNS:
                    raise HalfpintError(
                        f"{place}, {unit} {number}", wanted=f"at most {MOST_COLUMNS:,} different keys in all rows",
                        got="more", todo="Keep the text and the label of each row; put the rest under one key.",
                    )  # fmt: skip
        columns: dict[str, list[object]] = {}
        for at, (_, row, _) in enumerate(batch):
            for name, value in row.items():
                if name not in columns:
                    columns[name] = [None] * len(batch)
                columns[name][at] = cell(value)
        yield Part([n for n, _, _ in batch], columns, sum(s for _, _, s in batch), [row for _, row, _ in batch])
