"""Rows of a table file one by one, in constant memory: CSV, TSV and JSONL, each also gzipped."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import IO, Any, BinaryIO, TextIO

from halfpint.data.delimited import find_delimiter, has_header, marks_are_quoting, unique_names
from halfpint.data.read import Table
from halfpint.errors import HalfpintError

Row = Mapping[str, object]

JSON_ENDINGS = (".jsonl", ".ndjson")

_SAMPLE_BYTES = 200_000
_SAMPLE_ROWS = 1000
_SAMPLE_CHARS = 4_000_000
_LINES_A_CELL = 20
_LONGEST_CELL = 1_000_000
_LONGEST_LINE = 32_000_000
_ONE_COLUMN = "\x1f"  # a delimiter that no text has
_END = "\x1e"  # fed after the last line: only an open quotation mark can swallow it


@dataclass(frozen=True)
class Layout:
    """How a table file is written.

    Attributes:
        kind: "json" (one object a line) or "delimited".
        encoding: as `open` takes it.
        delimiter: between the cells; "" for JSON.
        quoted: whether quotation marks group cells; otherwise they are part of the texts.
        header: whether the first record names the columns.
        columns: names of the columns; for JSON all keys of all rows.
        rows: how many rows there are.
    """

    kind: str
    encoding: str
    delimiter: str = ""
    quoted: bool = True
    header: bool = True
    columns: tuple[str, ...] = ()
    rows: int = 0


def survey(file: BinaryIO, place: str, ending: str, passed: Callable[[float], None]) -> Layout:
    """The layout of a seekable file, found by reading all of it once, so that its faults are told before any work.

    Args:
        file: the file as it lies on the disk.
        place: its name for people.
        ending: its ending in lower case, without .gz.
        passed: told how many bytes were read since the last call.

    Raises:
        HalfpintError: not text, not a table, or rows that do not fit; it names the line.
    """
    with _damage_told(place):
        sample = _plain(file).read(_SAMPLE_BYTES)
    if not sample.strip():
        raise HalfpintError(place, wanted="a table with rows", got="an empty file")
    for encoding in _encodings(sample, place):
        layout = _guess(sample.decode(encoding, "ignore"), encoding, ending, whole=len(sample) < _SAMPLE_BYTES)
        if not layout.columns and layout.kind != "json":
            raise HalfpintError(place, wanted="a table with rows", got="no rows")
        count, names = 0, dict.fromkeys(layout.columns)
        try:
            for _, row in read_rows(file, place, layout, passed):
                count += 1
                names.update(dict.fromkeys(row))
        except UnicodeDecodeError:
            continue
        if not count:
            raise HalfpintError(place, wanted="a table with rows", got="no rows")
        return replace(layout, columns=tuple(names), rows=count)
    raise HalfpintError(
        place, wanted="text in UTF-8, UTF-16 or Windows-1252", got="other bytes", todo="Save it as UTF-8."
    )


def read_rows(file: BinaryIO, place: str, layout: Layout, passed: Callable[[float], None]) -> Iterator[tuple[int, Row]]:
    """Each row with the line on which it starts (the first line is 1).

    Raises:
        HalfpintError: a row that does not fit the layout.
        UnicodeDecodeError: bytes that are not in the layout's encoding.
    """
    with _damage_told(place):
        lines = _lines(io.TextIOWrapper(_plain(file), layout.encoding, newline=""), file, place, passed)
        if layout.kind == "json":
            yield from _json_rows(lines, place)
            return
        records = _quoted(lines, layout.delimiter, place) if layout.quoted else _unquoted(lines, layout.delimiter)
        width = len(layout.columns)
        if layout.header:
            next(records, None)
        for line, cells in records:
            if len(cells) != width:
                raise HalfpintError(
                    f"{place}, line {line}",
                    wanted=f"{width} fields in every row",
                    got=str(len(cells)),
                    todo="Put quotation marks around cells that hold the delimiter, or repair that line.",
                )
            yield line, dict(zip(layout.columns, cells, strict=True))


def sample_table(file: BinaryIO, place: str, layout: Layout) -> Table:
    """The first rows as a table, to guess columns from."""
    rows: list[tuple[int, Row]] = []
    chars = 0
    for line, row in read_rows(file, place, layout, lambda amount: None):
        rows.append((line, row))
        chars += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(rows) == _SAMPLE_ROWS or chars > _SAMPLE_CHARS:
            break
    columns = {name: [row.get(name) for _, row in rows] for name in layout.columns}
    return Table(columns, [line for line, _ in rows], place, ())


class Writer:
    """Writes rows as `layout` says; `columns` are those that come out, in order."""

    def __init__(self, file: IO[str], layout: Layout, columns: tuple[str, ...]) -> None:
        self._file, self._layout, self._columns = file, layout, columns
        self._csv = csv.writer(file, delimiter=layout.delimiter or ",", lineterminator="\n")
        if layout.kind == "delimited" and layout.header:
            self._cells(columns)

    def row(self, row: Row) -> None:
        """Write one row."""
        if self._layout.kind == "json":
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            self._cells(tuple(_cell(row.get(name)) for name in self._columns))

    def _cells(self, cells: tuple[str, ...]) -> None:
        if self._layout.quoted:
            self._csv.writerow(cells)
        else:
            delimiter = self._layout.delimiter
            self._file.write(delimiter.join(cell.replace(delimiter, " ") for cell in cells) + "\n")


def written_as(layout: Layout, ending: str) -> Layout:
    """The layout of what is written to a file with `ending`, for rows that came in `layout`."""
    encoding = "utf-8-sig" if layout.encoding == "utf-8-sig" else "utf-8"
    if ending in JSON_ENDINGS or (layout.kind == "json" and ending not in (".csv", ".tsv", ".tab")):
        return Layout("json", "utf-8")
    fitting = {".tsv": "\t", ".tab": "\t"}.get(ending, ",")
    if layout.kind == "json":
        return Layout("delimited", "utf-8", fitting)
    if layout.delimiter == _ONE_COLUMN or (ending in (".tsv", ".tab") and layout.delimiter != "\t"):
        return replace(layout, encoding=encoding, delimiter=fitting, quoted=True)
    return replace(layout, encoding=encoding)


def _plain(file: BinaryIO) -> Any:
    file.seek(0)
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    # Neither may close the file when it is forgotten: it is read again.
    return gzip.GzipFile(fileobj=file, mode="rb") if zipped else _Kept(file)


class _Kept(io.RawIOBase):
    """A file that its reader cannot close."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _damage_told(place: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HalfpintError(
            place, wanted="a whole gzip file", got=f"a damaged one ({error})", todo="Download or copy it again."
        ) from error


def _encodings(sample: bytes, place: str) -> tuple[str, ...]:
    """What the file may be encoded in, the likeliest first."""
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ("utf-16",)
    if b"\x00" in sample or sample.startswith((b"PAR1", b"PK\x03\x04")):
        raise HalfpintError(
            place, wanted="a CSV, TSV or JSONL file", got="a binary file", todo="Save it as CSV or JSONL in UTF-8."
        )
    return ("utf-8-sig",) if sample.startswith(codecs.BOM_UTF8) else ("utf-8", "cp1252", "latin-1")


def _guess(sample: str, encoding: str, ending: str, *, whole: bool) -> Layout:
    first = next((line for line in sample.split("\n") if line.strip()), "")
    if ending in JSON_ENDINGS or _is_object(first):
        return Layout("json", encoding)
    if not whole:  # the last line may be cut
        sample = sample[: sample.rfind("\n") + 1] or sample
    delimiter = find_delimiter(sample, ending)
    quoted = delimiter not in ("\t", _ONE_COLUMN) or _marks_group(sample, delimiter, whole)
    lines = iter(io.StringIO(sample, newline=""))
    records: list[list[str]] = []
    with suppress(HalfpintError):  # the sample may end inside a cell
        records += (cells for _, cells in (_quoted(lines, delimiter, "") if quoted else _unquoted(lines, delimiter)))
    if not records:
        return Layout("delimited", encoding, delimiter, quoted)
    width = Counter(map(len, records)).most_common(1)[0][0]
    fitting = [cells for cells in records if len(cells) == width]
    header = fitting[0] is records[0] and has_header(fitting)
    names = unique_names(records[0]) if header else [f"column_{index}" for index in range(1, width + 1)]
    return Layout("delimited", encoding, delimiter, quoted, header, tuple(names))


def _marks_group(sample: str, delimiter: str, whole: bool) -> bool:
    if marks_are_quoting(sample, delimiter):
        return True
    if whole or len({line.count(delimiter) for line in sample.splitlines()}) == 1:
        return False
    for _ in range(_LINES_A_CELL):  # cells hold line breaks, and the sample may end inside one
        sample = sample[: sample.rfind("\n", 0, -1) + 1]
        if marks_are_quoting(sample, delimiter):
            return True
    return False


def _is_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(text: TextIO, file: BinaryIO, place: str, passed: Callable[[float], None]) -> Iterator[str]:
    number, before = 0, 0
    while line := text.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise HalfpintError(
                f"{place}, line {number}",
                wanted=f"lines of at most {_LONGEST_LINE:,} characters",
                got="a longer one",
                todo="A JSON array is not read row by row: save it as JSONL, one object a line.",
            )
        if number % 256 == 0:
            passed(file.tell() - before)
            before = file.tell()
        yield line
    passed(file.tell() - before)


def _json_rows(lines: Iterator[str], place: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row, got = None, f"text that is not JSON ({error})"
        else:
            got = f"a JSON {type(row).__name__}"
        if not isinstance(row, dict):
            raise HalfpintError(f"{place}, line {number}", wanted="one JSON object a line", got=got)
        yield number, row


def _unquoted(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    numbered = enumerate(lines, start=1)
    return ((number, line.rstrip("\r\n").split(delimiter)) for number, line in numbered if line.strip(" \r\n"))


def _quoted(lines: Iterator[str], delimiter: str, place: str) -> Iterator[tuple[int, list[str]]]:
    ended = False

    def end() -> Iterator[str]:
        nonlocal ended
        ended = True
        yield _END

    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    reader = csv.reader(chain(lines, end()), delimiter=delimiter)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except csv.Error:
            cells, ended = [], True
        if ended:
            if cells != [_END]:
                raise HalfpintError(
                    f"{place}, line {start}",
                    wanted="a closing quotation mark",
                    got=f"a quotation mark that is open until the end or for more than {_LONGEST_CELL:,} characters",
                    todo='Remove it, or write it twice ("") inside a quoted cell.',
                )
            return
        if cells and not (len(cells) == 1 and not cells[0].strip()):
            yield start, cells


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
