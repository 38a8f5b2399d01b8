"""How CSV, TSV and their relatives are written, found from a sample: delimiter, quotation marks, header."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from halfpint.data.headers import has_header, names_of, numbered, rows_of_header
from halfpint.data.table import Form, Layout
from halfpint.errors import HalfpintError, SettingError, no_rows

ONE_COLUMN = "\x1f"  # a delimiter that no text has
END = "\x1e"  # fed after the last line: only an open quotation mark can swallow it
LONGEST_CELL = 1_000_000

_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", ONE_COLUMN: "none (one column)"}
_BY_NAME = {**{name: mark for mark, name in _NAMES.items()}, "\\t": "\t", "none": ONE_COLUMN}
_PREFERENCE = {".tsv": "\t,;|", ".tab": "\t,;|", ".csv": ",;\t|"}
_LINES_A_CELL = 20
_TRIED = 32_768  # characters that each delimiter is tried on
_SEP = re.compile(r'"?sep=(.)"?\s*', re.I)
_ESCAPED = re.compile(r'(?<!\\)\\"')
_LABELLED = re.compile(r"__label__\S+")
CLASSED = re.compile(r"([A-Z][A-Z0-9_]+):(\S+)[ \t]+(?=\S)")
"""A label and a finer one before a text, as TREC's questions are written: "HUM:ind Who was the first?"."""
_FEWEST_CLASSED = 5  # lines for each label, on average


@dataclass(frozen=True)
class Quoting:
    """How cells are cut: see `Layout`."""

    delimiter: str
    quoted: bool = True
    escaped: bool = False
    spaced: bool = False


def find_layout(sample: str, *, whole: bool, ending: str, form: Form, place: str, marks: str = "") -> Layout:
    """The layout of a delimited file.

    Args:
        sample: its first lines; `whole` where that is all of it.
        ending: of its name, in lower case: the delimiter that it promises is preferred.
        form: what a person said of it.
        place: its name for people.
        marks: lines around the first quotation mark, where the sample has none.

    Raises:
        HalfpintError: no rows, or a delimiter that is none.
    """
    if not whole:  # the last line may be cut
        sample = sample[: sample.rfind("\n") + 1] or sample
    if _begin_with(CLASSED, sample) and ending == ".txt":
        note = "LABEL:finer before each text: columns text, label and fine (the finer one with its label)"
        return Layout("classed", quoted=False, header=False, columns=("text", "label", "fine"), notes=(note,))
    if _begin_with(_LABELLED, sample):
        note = "lines of fastText: __label__NAME before each text"
        return Layout("fasttext", quoted=False, header=False, columns=("text", "label"), notes=(note,))
    notes, found = [], _SEP.fullmatch(sample.split("\n", 1)[0].removesuffix("\r"))
    if found is not None:
        sample = sample.partition("\n")[2]
        notes.append("the line sep= names the delimiter")
    how = Quoting(_delimiter(form.delimiter, place) or (found[1] if found else _find_delimiter(sample, ending)))
    tail = f"{sample}\n{marks}" if marks else sample
    if how.delimiter in ("\t", ONE_COLUMN) and not _marks_group(tail, how.delimiter, whole):
        how = replace(how, quoted=False)
    else:
        how = _with_marks(marks or sample, how)
    records = [cells for cells in cut(sample, how, whole=whole) if any(map(str.strip, cells))]
    if not records:
        raise no_rows(place)
    width = Counter(map(len, records)).most_common(1)[0][0]
    width = max(width, 2) if how.delimiter != ONE_COLUMN else width
    fitting = [cells for cells in records if len(cells) == width]
    first = records[0]
    # A name that somebody asks for and that stands in the first row is the name of a column.
    named = bool(form.names) and set(form.names) <= {cell.strip() for cell in first}
    header = form.header if form.header is not None else named or (first in fitting[:1] and has_header(fitting))
    if header and len(first) != width:
        raise HalfpintError(
            f"{place}, row 1", wanted=f"{width} names, as the rows have fields (delimiter {_NAMES.get(how.delimiter)})",
            got=str(len(first)), todo="Name each column, or say --no-header.",
            said=f"{place}, row 1: there are {len(first)} names for {width} columns (delimiter "
            f"{_NAMES.get(how.delimiter)}).",
        )  # fmt: skip
    top = rows_of_header(fitting) if header else 0
    names = names_of(fitting, top) if header else numbered(width)
    notes.append(f"delimiter {_NAMES.get(how.delimiter, repr(how.delimiter))}")
    if not how.quoted and '"' in tail:
        notes.append("quotation marks are part of the text")
    if how.escaped:
        notes.append("a backslash before a quotation mark is no part of the text")
    if not header:
        notes.append("no header found: columns named column_1, column_2, …")
    elif top > 1:
        notes.append(f"the first {top} rows are headers")
    else:
        notes.append("header found" + ("" if form.header is None else " (as named)"))
    blank = next(index for index, cells in enumerate(cut(sample, how, whole=whole)) if cells == first)
    return Layout(
        "delimited", delimiter=how.delimiter, quoted=how.quoted, escaped=how.escaped, spaced=how.spaced,
        marked=found is not None, header=bool(header), skipped=blank + top, columns=tuple(names),
        notes=tuple(notes),
    )  # fmt: skip


def reader(lines: Iterable[str], how: Quoting | Layout) -> Iterator[list[str]]:
    """Python's CSV reader over lines with their ends."""
    if how.escaped:
        lines = (_ESCAPED.sub('""', line) for line in lines)
    return csv.reader(lines, delimiter=how.delimiter, skipinitialspace=how.spaced)


def cut(sample: str, how: Quoting, *, whole: bool) -> Iterator[list[str]]:
    """The records of a sample; the last one is left out where the sample ends inside it."""
    if not how.quoted:
        yield from (line.split(how.delimiter) for line in _lines(sample, blank=True))
        return
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from io.StringIO(sample, newline="")
        ended = True
        yield END

    rows = reader(lines(), how)
    old = csv.field_size_limit(max(len(sample) + 2, 2))
    try:
        for cells in rows:
            if ended:
                return
            yield cells
    except csv.Error:
        return
    finally:
        csv.field_size_limit(old)


def _lines(sample: str, *, blank: bool = False) -> Iterator[str]:
    lines = sample.split("\n") if "\n" in sample else sample.split("\r")
    return (line.removesuffix("\r") for line in lines if blank or line.strip(" \r"))


def _begin_with(label: re.Pattern[str], sample: str) -> bool:
    """Whether nearly all lines begin with a label; those of TREC's form with few labels, on many lines."""
    lines = list(_lines(sample))
    found = [match for line in lines if (match := label.match(line))]
    if not lines or len(found) * 10 < len(lines) * 9:
        return False
    return label is not CLASSED or len({one[1] for one in found}) * _FEWEST_CLASSED <= len(found)


def _delimiter(said: str, place: str) -> str:
    mark = _BY_NAME.get(said, said)
    if len(mark) > 1 or mark in ('"', "\n", "\r"):
        raise SettingError(
            f"{place}: delimiter", wanted="one character, or comma, semicolon, tab or pipe", got=repr(said)
        )
    return mark


def _find_delimiter(sample: str, ending: str) -> str:
    """The delimiter that cuts most lines into the same number of cells.

    Where several do, the one with the fewest cells that begin with a space: that is a comma in prose. Then the file's
    ending says which to prefer.
    """
    if len(sample) > _TRIED:
        sample = sample[: sample.rfind("\n", 0, _TRIED) + 1] or sample
    preference = _PREFERENCE.get(ending, "\t;|,")
    best, best_score = ONE_COLUMN, (0.0, 0.0)
    for delimiter in preference:
        records = list(cut(sample, Quoting(delimiter, quoted=delimiter != "\t"), whole=False))
        records = [cells for cells in records if any(map(str.strip, cells))]
        if not records or len(records[0]) < 2:
            continue
        width = len(records[0])
        share = sum(len(cells) == width for cells in records) / len(records)
        later = [cell for cells in records for cell in cells[1:]]
        prose = sum(cell[:1] == " " and cell[1:2] not in ("", '"') for cell in later) / len(later)
        # Commas in prose also make "fields": only the delimiter that the ending promises may be this inconsistent.
        if (share, -prose) > best_score and (share >= 0.5 or delimiter == preference[0]):
            best, best_score = delimiter, (share, -prose)
    return best


def _with_marks(sample: str, how: Quoting) -> Quoting:
    """`how`, with what the quotation marks of the sample say of backslashes and of spaces before them."""
    if '"' not in sample:
        return how
    if '\\"' in sample and not _is_strict(sample, how) and _is_strict(sample, replace(how, escaped=True)):
        how = replace(how, escaped=True)
    if f'{how.delimiter} "' in sample:
        records = list(cut(sample, how, whole=False))
        spaced, plain = (
            Counter(map(len, cut(sample, replace(how, spaced=True), whole=False))),
            Counter(map(len, records)),
        )
        is_cell = any(cell.startswith(' "') for cells in records for cell in cells)  # and no part of a text
        if is_cell and max(spaced.values(), default=0) >= max(plain.values()):
            how = replace(how, spaced=True)
    return how


def _is_strict(sample: str, how: Quoting) -> bool:
    """Whether every quotation mark stands where one may."""
    lines = io.StringIO(_ESCAPED.sub('""', sample) if how.escaped else sample, newline="")
    rows = csv.reader(lines, delimiter=how.delimiter, strict=True, skipinitialspace=how.spaced)
    try:
        for _ in rows:
            pass
    except csv.Error as error:
        return "end of data" in str(error)
    return True


def _marks_group(sample: str, delimiter: str, whole: bool) -> bool:
    """Whether quotation marks in a text without commas between its cells are CSV quoting and not part of the texts."""
    if '"' not in sample:
        return False
    if _marks_are_quoting(sample, delimiter):
        return True
    if whole or len({line.count(delimiter) for line in sample.splitlines()}) == 1:
        return False
    for _ in range(_LINES_A_CELL):  # cells hold line breaks, and the sample may end inside one
        sample = sample[: sample.rfind("\n", 0, -1) + 1]
        if _marks_are_quoting(sample, delimiter):
            return True
    return False


def _marks_are_quoting(text: str, delimiter: str) -> bool:
    lines = [line.split(delimiter) for line in _lines(text)]
    if delimiter != ONE_COLUMN and len({len(cells) for cells in lines}) == 1:
        # Each line is a record by itself, so quotes are quoting only where they stand in pairs at field borders.
        return all(_well_quoted(cell) for cells in lines for cell in cells if cell.startswith('"'))
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return len({len(cells) for cells in rows if cells}) == 1
    except csv.Error:
        return False


def _well_quoted(cell: str) -> bool:
    return len(cell) >= 2 and cell.endswith('"') and '"' not in cell[1:-1].replace('""', "")


def is_suspicious(cell: str, delimiter: str, width: int) -> bool:
    """Whether three lines or more in a cell look like records: often a stray quotation mark."""
    inner = cell.split("\n")[1:-1] if cell.count("\n") > 3 else []
    return bool(inner) and all(part.count(delimiter) == width - 1 for part in inner)
