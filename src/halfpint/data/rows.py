"""Any file of rows, opened: what it is and how it is written is found out here, for every command that reads tables.

A file is read in parts, so that memory does not grow with it. What a person says (`Form`) overrules what is found.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from halfpint.data.columnar import WORKBOOKS, Parquet, Workbook
from halfpint.data.delimited import LONGEST_CELL, find_layout
from halfpint.data.encoding import Encoding, find_encoding, utf8_blocks
from halfpint.data.json_rows import LONGEST_LINE, is_object, json_parts, loaded, whole_parts
from halfpint.data.labelled_lines import classed_parts, fasttext_parts
from halfpint.data.records import Records
from halfpint.data.table import Form, Layout, Part, shown
from halfpint.errors import HalfpintError, damaged_gzip, no_rows
from halfpint.terminal import amount

LINES = (".jsonl", ".ndjson")
DATA_ENDINGS = (".csv", ".tsv", ".tab", *LINES, ".json", ".parquet", *WORKBOOKS)

_SAMPLE = 128 << 10
_PIPES: dict[tuple[str, int, int], IO[bytes]] = {}
_WHOLE_JSON = 1 << 30  # bytes of a JSON array, which cannot be read row by row


def ending_of(name: str) -> str:
    """The ending in lower case, without .gz."""
    return Path(name.lower().removesuffix(".gz")).suffix


def spooled(path: str) -> BinaryIO:
    """What comes through a pipe (or `-`, standard input) as a file that can be read twice; it is gone once closed.

    A pipe gives what it has once: who asks for the same one again gets the same.
    """
    status = os.fstat(sys.stdin.fileno()) if path == "-" else os.stat(path)
    key = (path, status.st_dev, status.st_ino)
    if key not in _PIPES:
        kept = tempfile.TemporaryFile()  # noqa: SIM115
        if path == "-":
            shutil.copyfileobj(sys.stdin.buffer, kept)
        else:
            with open(path, "rb") as pipe:
                shutil.copyfileobj(pipe, kept)
        _PIPES[key] = kept
    return _again(_PIPES[key])


def _again(kept: IO[bytes]) -> BinaryIO:
    kept.flush()
    kept.seek(0)
    return os.fdopen(os.dup(kept.fileno()), "rb")


def is_pipe(path: str) -> bool:
    """Whether `path` can be read only once: `-`, a FIFO, a socket or a terminal."""
    if path == "-":
        return True
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def opened(path: Path) -> BinaryIO:
    """The file, or what comes through the pipe, to read as often as one likes."""
    return spooled(str(path)) if is_pipe(str(path)) else path.open("rb")


class Rows:
    """A file of rows.

    Args:
        file: seekable; it stays open.
        place: its name for people.
        ending: of its name (see `ending_of`).
        form: what a person says of how it is written.
        max_cell_chars: a longer text is an error.
        max_bytes: a file that is larger, unpacked, is an error; 0: none is.
        passed: called with the bytes read since the last call (of the file as it lies there).

    Attributes:
        layout: how it is written.
        passed: see above.

    Raises:
        HalfpintError: not a table, or not readable.
    """

    def __init__(
        self, file: BinaryIO, place: str, ending: str, form: Form | None = None, *,
        max_cell_chars: int = LONGEST_CELL, max_bytes: int = 0, passed: Callable[[float], None] = lambda size: None,
    ) -> None:  # fmt: skip
        self._file, self._place, self._form = file, place, form or Form()
        self._most, self._max_bytes = max_cell_chars, max_bytes
        self.passed, self._told = passed, 0
        self._records: Records | None = None
        self._rows: Any = None
        start = self._start(4)
        if not start:
            raise no_rows(place, "is empty")
        if ending == ".parquet" or (start == b"PAR1" and ending not in (".csv", ".tsv", ".tab", *LINES)):
            self._rows = Parquet(self._whole(), place)
            self.layout = Layout("parquet", columns=self._rows.columns, notes=self._rows.notes)
        elif ending in WORKBOOKS:
            self._rows = Workbook(self._whole(), place, self._form)
            self.layout = self._rows.layout
        else:
            if self._form.sheet:
                raise HalfpintError(
                    f"{place}, --sheet",
                    wanted="a workbook for it",
                    got="a text file",
                    said=f"{place} is no workbook, so --sheet does not fit it.",
                )
            self.layout = self._text_layout(ending)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; of JSON, which names them in each row, none."""
        return self.layout.columns

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the columns that hold texts, where the file says so; else all."""
        return self._rows.texts if isinstance(self._rows, Parquet) else self.columns

    @property
    def unit(self) -> str:
        """What the numbers of rows count."""
        notes = self.layout.notes
        return "line" if "JSONL" in notes else "item" if "JSON" in notes else "row"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out: of the layout, and of the rows that were read last."""
        found = list(self.layout.notes)
        tally = self._records.tally if self._records is not None else None
        blank = tally.blank if tally is not None else getattr(self._rows, "blank", 0)
        if blank:
            found.append(f"{amount(blank, 'empty row')} skipped")
        if tally is not None and tally.suspicious:
            row = tally.suspicious[0]
            found.append(f"a quoted cell holds whole lines of the table at row {row}: check its quotation marks")
        if tally is not None and tally.backslashes:
            rows = shown(tally.backslashes[:8], total=len(tally.backslashes))
            found.append(f"a backslash stands before a quotation mark in rows {rows}: check how they were read")
        return tuple(found)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        """All rows from the first on; of Parquet only some `columns`, where they are named.

        Raises:
            HalfpintError: rows that do not fit the layout, or a text that is too long.
        """
        self._told = 0
        for part in self._parts(columns):
            if self.layout.kind not in ("delimited",):
                self._refuse_long(part)
            yield part

    def _parts(self, columns: Sequence[str] | None) -> Iterator[Part]:
        kind, place = self.layout.kind, self._place
        if isinstance(self._rows, Parquet):
            yield from self._rows.parts(columns)
        elif isinstance(self._rows, Workbook):
            yield from self._rows.parts()
        elif kind == "json":
            if "JSON" in self.layout.notes:
                yield from whole_parts(self._loaded(), place)
            else:
                yield from json_parts(self._blocks(), place)
        elif kind == "fasttext":
            yield from fasttext_parts(self._blocks(), place)
        elif kind == "classed":
            yield from classed_parts(self._blocks(), place)
        else:
            self._records = Records(self.layout, place, self._most)
            yield from self._records.parts(self._blocks())

    def _refuse_long(self, part: Part) -> None:
        for name, values in part.columns.items():
            texts = [value for value in values if isinstance(value, str)]
            if texts and max(map(len, texts)) > self._most:
                row, long = next(
                    (row, value)
                    for row, value in zip(part.rows, values, strict=True)
                    if isinstance(value, str) and len(value) > self._most
                )
                raise HalfpintError(
                    f"{self._place}, {self.unit} {row}, column {name!r}",
                    wanted=f"cells of at most {self._most:,} characters",
                    got=f"one of {len(long):,}",
                    todo="Shorten or split that text.",
                    said=f"{self._place}, {self.unit} {row}: the column {name!r} has a cell of {len(long):,} "
                    f"characters; at most {self._most:,} are read.",
                )

    def _text_layout(self, ending: str) -> Layout:
        place, form = self._place, self._form
        with self._damage_told():
            found = find_encoding(self._plain, place, named=form.encoding, passed=self._refuse_large)
        self._encoding, self._size = found.name, found.size
        data = b"".join(_first(self._blocks(), _SAMPLE))
        whole = len(data) < _SAMPLE
        sample = data.decode("utf-8", "ignore")
        if not sample.strip():
            raise no_rows(place)
        first = next((line for line in sample.split("\n") if line.strip()), "")
        if not whole and first.lstrip().startswith("{") and "\n" not in sample:
            first = self._first_line()
        said = bool(form.delimiter)
        if ending in LINES or (not said and is_object(first)):
            rest = sample.lstrip()[len(first.lstrip()) :].strip()
            kind = "JSON" if ending not in LINES and (not rest) else "JSONL"
            return Layout("json", encoding=found.name, notes=(found.note, kind))
        begins = sample.lstrip()
        if ending == ".json" or (not said and begins.startswith("[{") and self._tail().rstrip().endswith(b"]")):
            return Layout("json", encoding=found.name, notes=(found.note, "JSON"))
        marks = "" if whole else self._marks(sample, found)
        layout = find_layout(sample, whole=whole, ending=ending, form=form, place=place, marks=marks)
        return replace(layout, encoding=found.name, notes=(found.note, *layout.notes))

    def _marks(self, sample: str, found: Encoding) -> str:
        """Lines behind the sample in which the first quotation mark, or the first after a backslash, stands."""
        for there, mark in ((found.escape, b'\\"'), (found.mark, b'"')):
            if there < 0 or mark.decode() in sample:
                continue
            for block in self._blocks():
                if mark in block:
                    at = block.rfind(b"\n", 0, block.index(mark)) + 1
                    some = block[at : at + _SAMPLE]
                    return some[: some.rfind(b"\n") + 1].decode("utf-8", "ignore")
        return ""

    def _first_line(self) -> str:
        file = self._plain()
        return file.readline(LONGEST_LINE).decode(self._encoding, "ignore")

    def _tail(self) -> bytes:
        last = b""
        for block in self._blocks():
            last = (last + block)[-64:]
        return last

    def _loaded(self) -> object:
        if self._size > _WHOLE_JSON:
            raise HalfpintError(
                self._place, wanted=f"a JSON file of at most {_WHOLE_JSON >> 30} GB", got=f"{self._size / 1e9:,.1f} GB",
                todo="It cannot be read row by row: save it as JSONL, one object a line.",
                said=f"{self._place} is too large for one JSON value: {self._size / 1e9:,.1f} GB, where "
                f"{_WHOLE_JSON >> 30} GB are read.",
            )  # fmt: skip
        return loaded(b"".join(self._blocks()).decode("utf-8"), self._place)

    def _refuse_large(self, size: int) -> None:
        if self._max_bytes and size > self._max_bytes:
            raise too_large(self._place, self._max_bytes)

    def _plain(self) -> BinaryIO:
        """The file from its start on, unpacked."""
        self._file.seek(0)
        zipped = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        # Neither may close the file when it is forgotten: it is read again.
        if zipped:
            return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=self._file, mode="rb"), 1 << 20))
        return cast(BinaryIO, io.BufferedReader(_Kept(self._file), 1 << 20))

    def _start(self, size: int) -> bytes:
        with self._damage_told():
            return self._plain().read(size)

    def _whole(self) -> BinaryIO:
        """The file, unpacked into another one where it is gzipped: its parts are not read in order."""
        self._file.seek(0)
        if self._file.read(2) != b"\x1f\x8b":
            self._file.seek(0)
            return self._file
        with tempfile.TemporaryFile() as kept:
            with self._damage_told():
                shutil.copyfileobj(self._plain(), kept)
            return _again(kept)

    def _blocks(self) -> Iterator[bytes]:
        with self._damage_told():
            for block in utf8_blocks(self._plain(), self._encoding):
                yield block
                at = self._file.tell()
                self.passed(max(at - self._told, 0))
                self._told = at

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damaged_gzip(self._place, error) from error  # fmt: skip


def too_large(place: str, most: int) -> HalfpintError:
    """A table that does not fit into memory."""
    return HalfpintError(
        place, wanted=f"a table of at most {most / 1e9:,.1f} GB, unpacked (an eighth of this machine's memory)",
        got="a larger one", todo="Take a part of its rows, or only the columns of the text and the label.",
        said=f"{place} is too large: at most {most / 1e9:,.1f} GB, unpacked, are read at once (an eighth of this "
        "machine's memory).",
    )  # fmt: skip


def _first(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes."""
    for block in blocks:
        yield block[:size]
        size -= len(block)
        if size <= 0:
            return


class _Kept(io.RawIOBase):
    """A file that its reader cannot close."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._file.readinto(buffer))  # type: ignore[attr-defined]
