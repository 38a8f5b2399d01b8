"""Rows by column: a whole table, and a part of one as it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field


@dataclass(frozen=True)
class Table:
    """Rows by column.

    Attributes:
        columns: name -> one value a row; a missing value is None (an empty CSV cell stays "").
        rows: where a person finds each row: the row of a spreadsheet that opens the file (a header is row 1), the line
            of a JSONL record, otherwise the number of the row, from 1.
        source: the path or Hub name it was read from.
        notes: what was found out: encoding, delimiter, header, split.
    """

    columns: dict[str, list[object]]
    rows: list[int]
    source: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Part:
    """Some rows of a table that is read in order.

    Attributes:
        rows: where a person finds each row, as in `Table`.
        columns: name -> one value per row; all columns have the same length.
        size: bytes that the rows take, about.
        objects: the rows as they were written, where each has its own keys (JSON).
    """

    rows: Sequence[int]
    columns: dict[str, list[object]]
    size: int
    objects: Sequence[Mapping[str, object]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a file is written, as far as a person says it; what is empty or None is found out.

    Attributes:
        header: whether the first row names the columns.
        delimiter: between cells: a character, or its name (comma, semicolon, tab, pipe).
        encoding: a name that Python knows, such as cp1252 or gb18030.
        sheet: of a workbook.
        names: names of columns that somebody asks for: where all stand in the first row, it is a header.
    """

    header: bool | None = None
    delimiter: str = ""
    encoding: str = ""
    sheet: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How a file is written, as it was found out.

    Attributes:
        kind: json, delimited, fasttext, classed (TREC), parquet or workbook.
        encoding: as `open` takes it.
        delimiter: between cells; "\\x1f" where there is one column.
        quoted: whether quotation marks group cells; otherwise they are part of the texts.
        escaped: whether a backslash before a quotation mark takes it into the text.
        spaced: whether a space after a delimiter is no part of the cell.
        marked: whether a first line `sep=;` names the delimiter.
        header: whether the first row names the columns.
        skipped: rows before the first one with data.
        columns: names of the columns; of JSON none.
        notes: what was found out, in words.
    """

    kind: str
    _: KW_ONLY
    encoding: str = "utf-8"
    delimiter: str = ","
    quoted: bool = True
    escaped: bool = False
    spaced: bool = False
    marked: bool = False
    header: bool = True
    skipped: int = 0
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def shown(values: Sequence[object], most: int = 8, total: int | None = None) -> str:
    """The first `most` of `values`, and how many more there are; `total` is their number where some are left out."""
    first = ", ".join(map(str, values[:most]))
    more = (len(values) if total is None else total) - min(len(values), most)
    return first + (f" and {more:,} more" if more > 0 else "")
