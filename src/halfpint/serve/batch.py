"""Labels for a whole file of texts, row by row in constant memory, and for lists of texts."""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from halfpint.data.columns import find_text_column
from halfpint.engines import Engine
from halfpint.errors import HalfpintError, nearest
from halfpint.files import written
from halfpint.progress import Log
from halfpint.serve import _rows
from halfpint.task import LabelTask

_CHARS_A_CHUNK = 4_000_000
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def predict_texts(engine: Engine, task: LabelTask[Any], texts: Sequence[str], top: int = 1) -> list[dict[str, Any]]:
    """How the answer to each text reads (`LabelTask.rows`)."""
    if not texts:
        return []
    clean = [_clean(text) for text in texts]
    return task.rows(clean, engine.probabilities(clean), engine.labels, top)


def predict_file(
    engine: Engine,
    task: LabelTask[Any],
    source: Path,
    out: Path,
    *,
    text: str | None = None,
    top: int = 1,
    redact: bool = False,
    chunk: int = 2048,
    log: Log,
) -> int:
    """Write the rows of `source` to `out` with the task's columns added; gives their number.

    With `top` above 1 there may be several sets of them. Where a name is taken, all begin with `predicted_`. A row
    without a text gets no label. `out` is written as its ending says (.csv, .tsv, .jsonl, each also
    .gz), otherwise as `source` is; it appears once it is whole.

    Args:
        engine: a loaded model, which does `task`.
        source: CSV, TSV or JSONL, also gzipped; `-` reads standard input (kept in a temporary file).
        out: where to write; `-` is standard output.
        text: the column of the texts; None guesses it.
        top: labels per row.
        redact: replace what was found in the text by the name of its label, and add no column.
        chunk: rows in one call of the engine, at most.
        log: where progress is told.

    Raises:
        HalfpintError: no such file or column, rows at fault (told before any work), or no room on the disk.
    """
    if top < 1 or chunk < 1:
        raise HalfpintError("top and chunk", wanted="numbers above 0", got=f"{top} and {chunk}")
    if redact:
        task.redacted("", {})  # refuses a task that marks nothing
    place = "standard input" if str(source) == "-" else str(source)
    if str(out) != "-" and out.is_dir():
        raise HalfpintError(str(out), wanted="a file to write", got="a folder", todo=f"Give {out}/labels.csv or so.")
    with ExitStack() as stack:
        file = stack.enter_context(_opened(source, place))
        size = os.fstat(file.fileno()).st_size
        with log.bar(f"Checking {place}", size) as bar:
            layout = _rows.survey(file, place, _ending(source), bar.advance)
        if layout.encoding in ("cp1252", "latin-1"):
            log.say(f"{place} is not UTF-8: it is read as {layout.encoding}.", kind="encoding")
        column = find_text_column(_rows.sample_table(file, place, layout), text=text)
        if text is None:
            log.say(f"Texts are taken from the column {column!r} of {place}.", kind="column", column=column)
        # What was found would be in the added columns.
        names = [] if redact else _added_columns(layout.columns, task.columns(top, engine.labels))
        target = _rows.written_as(layout, _ending(out))
        written = stack.enter_context(_written(out, target.encoding))
        writer = _rows.Writer(written, target, (*layout.columns, *(name for rank in names for name in rank)))
        bar = stack.enter_context(log.bar(f"Labelling {place}", size))
        empty = 0
        for rows in _chunks(_rows.read_rows(file, place, layout, bar.advance), column, chunk):
            texts = [_text_of(row.get(column), place, line, column) for line, row in rows]
            given = [index for index, one in enumerate(texts) if one.strip()]
            empty += len(texts) - len(given)
            some = predict_texts(engine, task, [texts[index] for index in given], top)
            answers = dict(zip(given, some, strict=True))
            for index, (_, row) in enumerate(rows):
                cells = task.cells(answers.get(index), len(names))
                added: dict[str, object] = {
                    name: value
                    for rank, values in zip(names, cells, strict=True)
                    for name, value in zip(rank, values, strict=True)
                }
                if redact and index in answers:
                    added[column] = task.redacted(texts[index], answers[index])
                writer.row({**row, **added})
    if empty:
        log.say(f"{empty:,} of {layout.rows:,} rows have no text and got no label.", kind="empty_texts", rows=empty)
    return layout.rows


def _chunks(
    numbered: Iterator[tuple[int, _rows.Row]], column: str, chunk: int
) -> Iterator[list[tuple[int, _rows.Row]]]:
    rows: list[tuple[int, _rows.Row]] = []
    chars = 0
    for line, row in numbered:
        rows.append((line, row))
        chars += len(str(row.get(column)))
        if len(rows) >= chunk or chars >= _CHARS_A_CHUNK:
            yield rows
            rows, chars = [], 0
    if rows:
        yield rows


def _added_columns(columns: Sequence[str], wanted: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The names `wanted`, one tuple for each rank, with a prefix where one of them is among `columns`."""
    prefix = ""
    while True:
        names = [tuple(f"{prefix}{name}" for name in rank) for rank in wanted]
        if not any(name in columns for rank in names for name in rank):
            return names
        prefix += "predicted_"


def _text_of(value: object, place: str, line: int, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise HalfpintError(
            f"{place}, line {line}, column {column!r}", wanted="a text", got=f"a {type(value).__name__}: {value!r:.60}"
        )
    return str(value)


def _clean(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs: JSON can hold them, UTF-8 and tokenizers cannot."""
    return _SURROGATE.sub("\ufffd", text)


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []


@contextmanager
def _opened(source: Path, place: str) -> Iterator[BinaryIO]:
    """The file to read, one that can be read twice."""
    if str(source) == "-":
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept)
            yield cast(BinaryIO, kept)
        return
    ending = _ending(source)
    if ending in (".parquet", ".json"):
        raise HalfpintError(
            place, wanted="a file that is read row by row: .csv, .tsv or .jsonl, also .gz", got=f"a {ending} file"
        )
    try:
        file = source.open("rb")
    except OSError as error:
        near = nearest(source.name, _beside(source)) if isinstance(error, FileNotFoundError) else ""
        raise HalfpintError(place, wanted="a readable file", got=_said(error), todo=near) from None
    with file:
        if not file.seekable():
            raise HalfpintError(place, wanted="a file", got="a pipe", todo="Give - and send it to standard input.")
        yield file


@contextmanager
def _written(out: Path, encoding: str) -> Iterator[IO[str]]:
    """The file to write: under another name until all went well, then in its place."""
    # JSON spells half a surrogate pair as an escape, and so does this.
    options: dict[str, Any] = {"encoding": encoding, "errors": "backslashreplace", "newline": ""}
    if str(out) == "-":
        with _room_told("standard output", "What was written before is in it."):
            yield from _to_stdout(options)
        return
    todo = "Make room, or write elsewhere. The unfinished file is removed; an earlier one of that name is whole."
    with _room_told(str(out), todo), ExitStack() as stack:
        try:
            raw = stack.enter_context(written(out))
        except OSError as error:
            raise HalfpintError(str(out), wanted="a place to write", got=_said(error)) from None
        # No name and no time in the header: the same rows give the same bytes.
        zipped = out.name.lower().endswith(".gz")
        packed = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, 0)) if zipped else raw
        yield stack.enter_context(io.TextIOWrapper(cast(BinaryIO, packed), **options))


def _to_stdout(options: dict[str, Any]) -> Iterator[IO[str]]:
    text = io.TextIOWrapper(sys.stdout.buffer, **options)
    try:
        yield text
        text.flush()
    except OSError:
        # Nobody takes more: what is still buffered must not fail again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
    finally:
        text.detach()  # leaves standard output open


@contextmanager
def _room_told(place: str, todo: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise HalfpintError(place, wanted="room on the disk", got=_said(error), todo=todo) from error


def _said(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
