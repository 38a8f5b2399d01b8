"""Labels for a whole file of texts, row by row in constant memory, and for lists of texts."""

from __future__ import annotations

import errno
import gzip
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from halfpint.data.columns import find_text_column
from halfpint.data.encoding import whole_characters
from halfpint.data.examples import label_text
from halfpint.data.json_rows import MOST_COLUMNS
from halfpint.data.rows import Rows, ending_of, opened
from halfpint.data.table import Form, Part, Table
from halfpint.engines import Engine
from halfpint.errors import HalfpintError, nearest, no_path, no_rows, unreadable
from halfpint.files import written
from halfpint.progress import Log
from halfpint.serve import _rows
from halfpint.task import LabelTask
from halfpint.terminal import amount

_CHARS_A_CHUNK = 4_000_000
_SAMPLE = 1000
_SHOWN = 10  # values
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Done:
    """What was written: the number of rows, and how many got each label, most first."""

    rows: int
    labels: Mapping[str, int]


def predict_texts(engine: Engine, task: LabelTask[Any], texts: Sequence[str], top: int = 1) -> list[dict[str, Any]]:
    """How the answer to each text reads (`LabelTask.rows`)."""
    if not texts:
        return []
    clean = [whole_characters(text) for text in texts]
    return task.rows(clean, engine.probabilities(clean), engine.labels, top)


def predict_file(
    engine: Engine,
    task: LabelTask[Any],
    source: Path,
    out: Path,
    *,
    text: str | None = None,
    of: str = "",
    top: int = 1,
    unsure: float = 0.0,
    only: str = "",
    redact: bool = False,
    chunk: int = 2048,
    form: Form | None = None,
    log: Log,
) -> Done:
    """Write the rows of `source` to `out` with the task's columns added.

    With `top` above 1 there may be several sets of them. Where a name is taken, all get others (`_added_columns`). A
    row without a text gets no label; one without anything in it is left out. `out` is written as its ending says
    (.csv, .tsv, .jsonl, .json, each also .gz), otherwise as `source` is, in its encoding; it appears once it is whole.

    Args:
        engine: a loaded model, which does `task`.
        source: CSV, TSV, JSONL, JSON, Parquet or a workbook, also gzipped; `-` reads standard input (kept in a
            temporary file).
        out: where to write; `-` is standard output.
        text: the column of the texts; None guesses it.
        of: the column that the model learned from, which names the added ones; empty where it is not known.
        top: labels per row.
        unsure: the least probability of an answer: one below it is given up (`LabelTask.unsure`).
        only: COLUMN=VALUE: other rows get no label.
        redact: replace what was found in the text by the name of its label, and add no column.
        chunk: rows in one call of the engine, at most.
        form: what a person says of how `source` is written.
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
        raise HalfpintError(
            str(out),
            wanted="a file to write",
            got="a folder",
            todo=f"Give {out}/labels.csv or so.",
            said=f"{out} is a folder; the labelled rows go into a file.",
        )
    if str(source) != "-" and out.exists() and source.exists() and out.samefile(source):
        todo = f"Give another name, such as {beside(source)}."
        raise HalfpintError(
            f"--out {out}",
            wanted="another file than the one that is read",
            got="the same",
            todo=todo,
            said=f"--out {out} is the file that is read.",
        )
    with ExitStack() as stack:
        file = stack.enter_context(_opened(source, place))
        size = os.fstat(file.fileno()).st_size
        with log.bar(f"Checking {place}", size) as bar:
            rows, sample, names_in, total = _surveyed(file, place, ending_of(source.name), form or Form(), text, bar)
        log.say(f"{place}: {'; '.join(rows.notes)}", kind="data")
        if rows.layout.encoding in ("cp1252", "latin-1"):
            log.say(f"{place} is not UTF-8: it is read as {rows.layout.encoding}.", kind="encoding")
        column = find_text_column(sample, text=text)
        if text is None:
            log.say(f"Texts are taken from the column {column!r} of {place}.", kind="column", column=column)
        chosen = _Chosen.of(only, names_in, place)
        others = [name for name in names_in if name != column]
        if redact and others:
            log.say(f"Only {column!r} is redacted; other columns stay as they are: {', '.join(others)}.", kind="redact")
        # What was found would be in the added columns.
        names = () if redact else _added_columns(task, engine.labels, top, of, names_in, place, log)
        added_names = [name for rank in names for name in rank]
        target = _rows.written_as(rows.layout, ending_of(out.name), str(out), [*engine.labels, *added_names])
        written = stack.enter_context(_written(out, target.encoding))
        writer = _rows.Writer(written, target, (*names_in, *added_names))
        bar = stack.enter_context(log.bar(f"Labelling {place}", size))
        rows.passed = bar.advance
        empty, labels = 0, Counter[str]()
        for numbered in _chunks(rows.parts(), column, chunk):
            texts = [_text_of(row.get(column), f"{place}, {rows.unit} {number}", column) for number, row in numbered]
            there = [index for index, one in enumerate(texts) if one.strip()]
            empty += len(texts) - len(there)
            given = [index for index in there if chosen(numbered[index][1])]
            some = predict_texts(engine, task, [texts[index] for index in given], top)
            if unsure:
                some = [task.unsure(one, unsure) for one in some]
            answers = dict(zip(given, some, strict=True))
            labels.update(str(one["label"]) for one in some if "label" in one)
            for index, (_, row) in enumerate(numbered):
                cells = task.cells(answers.get(index), len(names))
                added: dict[str, object] = {
                    name: value
                    for rank, values in zip(names, cells, strict=True)
                    for name, value in zip(rank, values, strict=True)
                }
                if redact and index in answers:
                    added[column] = task.redacted(texts[index], answers[index])
                writer.row({**row, **added})
        writer.close()
    if empty:
        log.say(
            f"{empty:,} of {amount(total, 'row')} {'has' if empty == 1 else 'have'} no text and got no label.",
            kind="empty_texts",
            rows=empty,
        )
    if only:
        log.say(f"{place}: {chosen.said(total)}", kind="only", rows=chosen.rows)
    return Done(total, dict(labels.most_common()))


@dataclass
class _Chosen:
    """Which rows get a label: those with a value in a column, or all; `rows` of them have come."""

    column: str = ""
    value: str = ""
    rows: int = 0
    others: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, only: str, names: Sequence[str], place: str) -> _Chosen:
        """What `COLUMN=VALUE` says of a file with columns of these names, which may have a = in them."""
        ends = [at for at, char in enumerate(only) if char == "=" and only[:at].strip() in names]
        if only and not ends:
            raise HalfpintError(
                "--only", wanted=f"COLUMN=VALUE with a column of {place}", got=repr(only),
                todo=nearest(only.partition("=")[0].strip(), names),
            )  # fmt: skip
        return cls(only[: ends[0]].strip(), only[ends[0] + 1 :].strip()) if only else cls()

    def __call__(self, row: _rows.Row) -> bool:
        if not self.column:
            return True
        there = label_text(row.get(self.column))
        if there != self.value and len(self.others) < _SHOWN:
            self.others.add(there)
        self.rows += there == self.value
        return there == self.value

    def said(self, total: int) -> str:
        """How many rows were labelled; what else there is where none was."""
        has = f"{self.column} = {self.value!r}"
        if not self.rows:
            return f"no row has {has}; there is: {', '.join(map(repr, sorted(self.others)))}."
        has = f"{'has' if self.rows == 1 else 'have'} {has}"
        return f"{self.rows:,} of {amount(total, 'row')} {has}; the others got no label."


def beside(source: Path) -> Path:
    """Where the labelled rows of a file go that names no other place: x.csv gives x-labelled.csv."""
    zipped = source.suffix.lower() == ".gz"
    stem = source.with_suffix("") if zipped else source
    ending = stem.suffix if stem.suffix.lower() in (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json") else ".csv"
    return source.with_name(f"{stem.stem}-labelled{ending}{source.suffix if zipped else ''}")


def _surveyed(
    file: BinaryIO, place: str, ending: str, form: Form, text: str | None, bar: Any
) -> tuple[Rows, Table, tuple[str, ...], int]:
    """The file's rows, read once so that faults are told before any work; the first ones, all columns, their number."""
    form = replace(form, names=(text,)) if text is not None else form
    rows = Rows(file, place, ending, form, passed=bar.advance)
    sample: Table | None = None
    names, count = dict.fromkeys(rows.columns), 0
    for part in rows.parts():
        count += len(part)
        names.update(dict.fromkeys(part.columns))
        if len(names) > MOST_COLUMNS:
            raise HalfpintError(
                place,
                wanted=f"at most {MOST_COLUMNS:,} columns",
                got="more",
                said=f"{place} has more than {MOST_COLUMNS:,} columns.",
            )
        if sample is None:
            some = {name: values[:_SAMPLE] for name, values in part.columns.items()}
            sample = Table(some, list(part.rows)[:_SAMPLE], place, ())
    if sample is None:
        raise no_rows(place)
    columns = {name: sample.columns.get(name, [None] * len(sample)) for name in names}
    return rows, Table(columns, sample.rows, place, ()), tuple(names), count


def _chunks(parts: Iterator[Part], column: str, chunk: int) -> Iterator[list[tuple[int, _rows.Row]]]:
    rows: list[tuple[int, _rows.Row]] = []
    chars = 0
    for part in parts:
        names = list(part.columns)
        cells = zip(*part.columns.values(), strict=True)
        objects = part.objects or (dict(zip(names, one, strict=True)) for one in cells)
        for number, row in zip(part.rows, objects, strict=True):
            rows.append((number, row))
            chars += len(str(row.get(column)))
            if len(rows) >= chunk or chars >= _CHARS_A_CHUNK:
                yield rows
                rows, chars = [], 0
    if rows:
        yield rows


def _added_columns(
    task: LabelTask[Any], labels: Sequence[str], top: int, of: str, there: Sequence[str], place: str, log: Log
) -> tuple[tuple[str, ...], ...]:
    """The names of the task's columns, one tuple for each rank. Where the file has one of them all are others, which is
    said: topic_2_predicted after topic_predicted, and predicted_label after label."""
    bare, taken = task.columns(top, labels), ""
    for number in count(1):
        if task.columns(top, labels, of) != bare:
            names = task.columns(top, labels, of if number == 1 else f"{of}_{number}")
        else:
            names = tuple(tuple("predicted_" * (number - 1) + name for name in rank) for rank in bare)
        known = next((name for rank in names for name in rank if name in there), "")
        if not known:
            break
        taken = taken or known
    if taken:
        log.say(f"{place} has a column {taken!r}: it stays, and the answers go to {names[0][0]!r}.", kind="column")
    return names


def _text_of(value: object, place: str, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise HalfpintError(
            f"{place}, column {column!r}",
            wanted="a text",
            got=f"a {type(value).__name__}: {value!r:.60}",
            said=f"{place}: the column {column!r} holds a {type(value).__name__}, not a text: {value!r:.60}.",
        )
    return str(value)


def _beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []


@contextmanager
def _opened(source: Path, place: str) -> Iterator[BinaryIO]:
    """The file to read, one that can be read twice."""
    try:
        file = opened(source)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise no_path(place, "a readable file", nearest(source.name, _beside(source))) from None
        raise unreadable(place, _said(error)) from None
    with file:
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
            raise HalfpintError(
                str(out), wanted="a place to write", got=_said(error), said=f"{out} cannot be written: {_said(error)}."
            ) from None
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
        raise HalfpintError(
            place,
            wanted="room on the disk",
            got=_said(error),
            todo=todo,
            said=f"There is no room left for {place}: {_said(error)}.",
        ) from error


def _said(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
