"""Parquet, saved datasets and workbooks -> rows a part at a time."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from itertools import islice
from typing import Any, BinaryIO

from halfpint.data.headers import has_header, names_of, numbered, rows_of_header, unique_names
from halfpint.data.json_rows import cell
from halfpint.data.sheet_span import most_cells
from halfpint.data.table import Form, Layout, Part
from halfpint.errors import HalfpintError, SettingError, nearest, need, no_rows

WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")

_ROWS, _UNPACKED = 4096, 256
_MOST_CELLS = 40_000_000  # of one sheet, empty ones too: about 1.6 GB
_MOST_SHEET = 4 << 30  # bytes of a workbook, unpacked
_SAMPLE = 1000
_TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


@contextmanager
def told(place: str, wanted: str, todo: str = "") -> Iterator[None]:
    """Whatever goes wrong in a reader that is not ours becomes one error."""
    try:
        yield
    except (HalfpintError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = str(error).strip().splitlines()
        got = f"one that cannot be read ({type(error).__name__}: {first[0][:200] if first else 'no reason given'})"
        if isinstance(error, UnicodeDecodeError):
            got = f"text in it that is not UTF-8 ({error.reason})"
        raise HalfpintError(place, wanted=wanted, got=got, todo=todo) from error


class Parquet:
    """A Parquet file.

    Args:
        file: seekable.
        place: its name for people.

    Raises:
        HalfpintError: it is none, or pyarrow is missing.
    """

    def __init__(self, file: BinaryIO, place: str) -> None:
        parquet = need("pyarrow.parquet", f"reading {place}")
        self._place = place
        with told(place, "a Parquet file"):
            self._file = parquet.ParquetFile(file)
            schema = self._file.schema_arrow
            self.columns = tuple(unique_names(schema.names))
            self._unique = len(set(schema.names)) == len(schema.names)
            self.texts = tuple(name for name, field in zip(self.columns, schema, strict=True) if _is_text(field.type))
            self._names = class_names((schema.metadata or {}).get(b"huggingface"))
        again = [name for name, given in zip(self.columns, schema.names, strict=True) if name != given]
        renamed = [f"a name stands over several columns: one is read as {name!r}" for name in again]
        self.notes = ("Parquet", *replaced(self._names, self.columns), *renamed)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        """The rows of all columns, or of some.

        Raises:
            HalfpintError: the file is damaged, or a text in it is not UTF-8.
        """
        row = 0
        picked = list(columns) if columns is not None and self._unique else None
        names = picked or self.columns
        with told(self._place, "a Parquet file", "Write it again, with columns of text as strings."):
            # Few rows at once: what is stored once for many rows may be large.
            for batch in self._file.iter_batches(batch_size=_UNPACKED, columns=picked):
                values = [_values(column) for column in batch.columns]
                found = {
                    name: _named(some, self._names.get(name))
                    for name, some in zip(names, values, strict=True)
                    if columns is None or name in columns
                }
                yield Part(range(row + 1, row + len(batch) + 1), found, _size(values))
                row += len(batch)


def _size(columns: Sequence[Sequence[object]]) -> int:
    """Characters of texts, and eight bytes for all else."""
    return sum(len(value) if isinstance(value, (str, bytes)) else 8 for values in columns for value in values)


def _is_text(kind: Any) -> bool:
    name = str(getattr(kind, "value_type", kind)) if str(kind).startswith("dictionary") else str(kind)
    return name in _TEXTS


def _values(column: Any) -> list[object]:
    return [_text(value) if isinstance(value, bytes) else cell(value) for value in column.to_pylist()]


def _text(value: bytes) -> object:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def class_names(metadata: bytes | None) -> dict[str, list[str]]:
    """Column -> the names of its class numbers, as `datasets` stores them; what cannot be read names nothing."""
    try:
        features = json.loads(metadata or b"{}")["info"]["features"]
        found = {name: feature.get("names") for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        str(name): names
        for name, names in found.items()
        if isinstance(names, list) and names and all(isinstance(one, str) for one in names)
    }


def replaced(names: Mapping[str, Sequence[str]], columns: Sequence[str]) -> list[str]:
    """What to say of columns whose numbers became names."""
    return [
        f"numbers of column {name!r} replaced by the class names stored with them" for name in names if name in columns
    ]


def _named(values: list[object], names: Sequence[str] | None) -> list[object]:
    """Values with their class names instead of numbers; a number without a name is None."""
    if names is None:
        return values
    return [
        (names[value] if 0 <= value < len(names) else None) if isinstance(value, int) else value for value in values
    ]


def named_columns(columns: Mapping[str, list[object]], names: Mapping[str, Sequence[str]]) -> dict[str, list[object]]:
    """Columns of plain values, with class names instead of numbers."""
    return {name: _named([cell(value) for value in values], names.get(name)) for name, values in columns.items()}


class Workbook:
    """A sheet of an Excel or OpenDocument workbook: the one that is named, or the first.

    Raises:
        HalfpintError: it is none, it has no such sheet, or python-calamine is missing.
    """

    def __init__(self, file: BinaryIO, place: str, form: Form) -> None:
        calamine = need("python_calamine", f"reading {place}")
        self._place = place
        _refuse_huge(file, place)
        file.seek(0)
        with told(place, "an Excel workbook", "Open it and save it as .xlsx or as CSV."):
            book = calamine.CalamineWorkbook.from_filelike(file)
            names = list(book.sheet_names)
            if form.sheet and form.sheet not in names:
                raise SettingError(
                    f"{place}, --sheet", wanted="a sheet of the workbook", got=repr(form.sheet),
                    todo=nearest(form.sheet, names),
                )  # fmt: skip
            if not names:
                raise HalfpintError(
                    place,
                    wanted="a workbook with a sheet",
                    got="one without",
                    said=f"{place} is a workbook without a sheet.",
                )
            name = form.sheet or names[0]
            self._sheet = book.get_sheet_by_name(name)
            self._top = (self._sheet.start or (0, 0))[0]
            self._rows: list[list[object]] = self._sheet.to_python(skip_empty_area=True)
        filled = [row for row in self._rows if not _is_blank(row)]
        if not filled:
            raise no_rows(f"{place}, sheet {name!r}", "is empty")
        texts = [[_written(value) for value in row] for row in filled[:_SAMPLE]]
        named = bool(form.names) and set(form.names) <= {value.strip() for value in texts[0]}
        header = form.header if form.header is not None else named or has_header(texts)
        top = rows_of_header(texts) if header else 0
        columns = names_of(texts, top) if header else numbered(len(texts[0]))
        others = f" (of {', '.join(names)}; --sheet names another)" if len(names) > 1 and not form.sheet else ""
        notes = (f"sheet {name!r}{others}", "header found" if header else "no header found: columns named column_1, …")
        self.layout = Layout("workbook", header=bool(header), skipped=top, columns=tuple(columns), notes=notes)
        self.blank = 0

    def parts(self) -> Iterator[Part]:
        """The rows below the header, numbered as in the sheet."""
        numbered_rows = ((self._top + at, row) for at, row in enumerate(self._rows, start=1))
        filled = (one for one in numbered_rows if not _is_blank(one[1]))
        self.blank = sum(map(_is_blank, self._rows))
        rows = islice(filled, self.layout.skipped, None)
        while batch := list(islice(rows, _ROWS)):
            columns = {name: [_plain(row[index]) for _, row in batch] for index, name in enumerate(self.layout.columns)}
            yield Part([number for number, _ in batch], columns, _size(list(columns.values())))


def _refuse_huge(file: BinaryIO, place: str) -> None:
    file.seek(0)
    if not zipfile.is_zipfile(file):
        return
    with told(place, "an Excel workbook"), zipfile.ZipFile(file) as archive:
        size = sum(one.file_size for one in archive.infolist())
        cells = most_cells(file) if size <= _MOST_SHEET else 0
    if size > _MOST_SHEET:
        raise HalfpintError(
            place, wanted=f"a workbook of at most {_MOST_SHEET >> 30} GB, unpacked", got=f"one of {size / 1e9:,.1f} GB",
            todo="Save the sheet as CSV.",
            said=f"{place} is too large: {size / 1e9:,.1f} GB unpacked, where {_MOST_SHEET >> 30} GB are read.",
        )  # fmt: skip
    if cells > _MOST_CELLS:
        raise HalfpintError(
            place, wanted=f"a sheet that spans at most {_MOST_CELLS:,} cells", got=f"one of {cells:,}",
            todo="Delete what stands far from the table, or save the sheet as CSV.",
            said=f"A sheet of {place} is too large: from its first to its last cell it spans {cells:,} cells, where "
            f"{_MOST_CELLS:,} are read.",
        )  # fmt: skip


def _is_blank(row: Sequence[object]) -> bool:
    return all(value is None or not str(value).strip() for value in row)


def _plain(value: object) -> object:
    """A cell as a person sees it: whole numbers without a fraction, times as ISO writes them."""
    if isinstance(value, float) and value == round(value) and abs(value) < 1e15:
        return int(value)
    return value.isoformat() if isinstance(value, date | datetime | time) else cell(value)


def _written(value: object) -> str:
    plain = _plain(value)
    return "" if plain is None else str(plain)
