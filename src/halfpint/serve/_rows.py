"""Rows of a table, written row by row: CSV, TSV, JSONL and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO

from halfpint.data.delimited import ONE_COLUMN
from halfpint.data.rows import LINES
from halfpint.data.table import Layout
from halfpint.errors import HalfpintError

Row = Mapping[str, object]

_DELIMITED = (".csv", ".tsv", ".tab")
_UNWRITTEN = (".parquet", ".xlsx", ".xlsm", ".xls", ".xlsb", ".ods", ".feather", ".arrow")


class Writer:
    """Writes rows as `layout` says; `columns` are those that come out, in order. It ends with `close`."""

    def __init__(self, file: IO[str], layout: Layout, columns: tuple[str, ...]) -> None:
        self._file, self._layout, self._columns = file, layout, columns
        self._array, self._rows = layout.kind == "array", 0
        self._csv = csv.writer(file, delimiter=layout.delimiter or ",", lineterminator="\n")
        if layout.kind == "delimited" and layout.header:
            self._cells(columns)

    def row(self, row: Row) -> None:
        """Write one row."""
        if self._layout.kind == "delimited":
            self._cells(tuple(_cell(row.get(name)) for name in self._columns))
        else:
            before = ("[\n" if not self._rows else ",\n") if self._array else ""
            self._file.write(before + json.dumps(row, ensure_ascii=False, default=str) + ("" if self._array else "\n"))
        self._rows += 1

    def close(self) -> None:
        """Write what ends the file."""
        if self._array:
            self._file.write("\n]\n" if self._rows else "[]\n")

    def _cells(self, cells: tuple[str, ...]) -> None:
        if self._layout.quoted:
            self._csv.writerow(cells)
        else:
            delimiter = self._layout.delimiter
            self._file.write(delimiter.join(cell.replace(delimiter, " ") for cell in cells) + "\n")


def written_as(layout: Layout, ending: str, place: str, words: Sequence[str]) -> Layout:
    """The layout of what is written to a file with `ending`, for rows that came in `layout`.

    A delimited file keeps its encoding, if that has all characters of `words`, which are added to it; otherwise UTF-8
    with a byte-order mark, which spreadsheets recognise.

    Raises:
        HalfpintError: a form that is not written here.
    """
    if ending in _UNWRITTEN:
        raise HalfpintError(
            place, wanted="a file that is written row by row: .csv, .tsv, .jsonl or .json, also .gz",
            got=f"a {ending} file", todo=f"Give {place.removesuffix(ending)}.csv, which spreadsheets open, or .jsonl.",
            said=f"{place} would be a {ending} file, which is not written row by row: .csv, .tsv, .jsonl and .json "
            "are, also .gz.",
        )  # fmt: skip
    if ending == ".json":
        return Layout("array")
    if ending in LINES or (layout.kind in ("json", "parquet") and ending not in _DELIMITED):
        return Layout("json")
    fitting = {".tsv": "\t", ".tab": "\t"}.get(ending, ",")
    if layout.kind != "delimited":
        return Layout("delimited", delimiter=fitting)
    encoding = layout.encoding if _has(layout.encoding, words) else "utf-8-sig"
    layout = replace(layout, encoding=encoding, escaped=False, spaced=False)
    if layout.delimiter == ONE_COLUMN or (ending in (".tsv", ".tab") and layout.delimiter != "\t"):
        return replace(layout, delimiter=fitting, quoted=True)
    return layout


def _has(encoding: str, words: Sequence[str]) -> bool:
    try:
        "".join(words).encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
