"""CSV and TSV text -> columns: delimiter, quoting and header are found out."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from halfpint.data.names import LABEL_NAMES, OTHER_NAMES, TEXT_NAMES
from halfpint.errors import HalfpintError

Record = tuple[int, list[str]]  # physical line where it starts, cells

_SAMPLE_CHARS = 200_000
_SHOWN = 8
_NO_DELIMITER = "\x1f"
_END = "\x1e"  # fed after the last line: only an open quotation mark can swallow it
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", _NO_DELIMITER: "none (one column)"}
_PREFERENCE = {".tsv": "\t,;|", ".tab": "\t,;|", ".csv": ",;\t|"}
_KNOWN = frozenset(TEXT_NAMES + LABEL_NAMES + OTHER_NAMES)


class _OpenQuoteError(Exception):
    """A quotation mark is open at the end of the file; `line` is where its record starts."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def read_delimited(
    text: str, *, place: str, ending: str, max_cell_chars: int
) -> tuple[dict[str, list[object]], list[int], list[str]]:
    """Columns, the physical line where each record starts (the first line of the file is 1) and notes.

    Raises:
        HalfpintError: no records, records of different widths, a cell that is too long, or an open quotation mark.
    """
    old_limit = csv.field_size_limit(min(len(text) + 2, 2**31 - 1, sys.maxsize))
    try:
        delimiter = find_delimiter(text, ending)
        quoted = delimiter not in ("\t", _NO_DELIMITER) or marks_are_quoting(text, delimiter)
        records = list(_records(text, delimiter, quoted))
    except _OpenQuoteError as error:
        raise HalfpintError(
            f"{place}, line {error.line}",
            wanted="a closing quotation mark",
            got="a quotation mark that is open until the end of the file",
            todo='Remove it, or write it twice ("") inside a quoted cell.',
        ) from error
    finally:
        csv.field_size_limit(old_limit)
    if not records:
        raise HalfpintError(place, wanted="a table with rows", got="no rows")
    width = _refuse_ragged(records, place, delimiter)
    for line, cells in records:
        if max(map(len, cells)) > max_cell_chars:
            raise HalfpintError(
                f"{place}, line {line}",
                wanted=f"cells of at most {max_cell_chars:,} characters",
                got=f"one of {max(map(len, cells)):,}",
                todo="Shorten or split that text; a quotation mark that is never closed can also join many lines.",
            )
    notes = [f"delimiter {_NAMES[delimiter]}"]
    if not quoted and '"' in text:
        notes.append("quotation marks are part of the text")
    swallowed = _suspicious_quotes(records, delimiter, width) if quoted else []
    if swallowed:
        notes.append(f"a quoted cell holds whole lines of the table at line {swallowed[0]}: check its quotation marks")
    if has_header([cells for _, cells in records]):
        names = unique_names(records.pop(0)[1])
        notes.append("header found")
    else:
        names = [f"column_{index}" for index in range(1, width + 1)]
        notes.append("no header found: columns named column_1, column_2, …")
    if not records:
        raise HalfpintError(place, wanted="rows under the header", got=f"only the header {', '.join(names)}")
    columns: dict[str, list[object]] = {name: [cells[i] for _, cells in records] for i, name in enumerate(names)}
    return columns, [line for line, _ in records], notes


def has_header(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first of `records` names the columns rather than being data."""
    first = [cell.strip() for cell in records[0]]
    if any(_is_number(cell) or len(cell) > 60 for cell in first) or not any(first):
        return False
    known = [cell.lower() in _KNOWN for cell in first]
    if all(known):
        return True
    again = [bool(cell) and any(row[i].strip() == cell for row in records[1:]) for i, cell in enumerate(first)]
    if any(is_known and not seen for is_known, seen in zip(known, again, strict=True)):
        return True
    if any(again) or not all(first) or len(set(first)) < len(first) or any(len(cell.split()) > 4 for cell in first):
        return False
    words = {word for cell in first for word in re.split(r"[\W_]+", cell.lower())}
    return bool(words & _KNOWN) or any(
        _names_column(cell, [row[i] for row in records[1:]]) for i, cell in enumerate(first)
    )


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


def unique_names(header: Sequence[str]) -> list[str]:
    """Names of columns: "column_3" for an empty one, "name_2" for a repeat."""
    names: list[str] = []
    for index, cell in enumerate(header, start=1):
        name = base = cell.strip() or f"column_{index}"
        copy = 1
        while name in names:
            copy += 1
            name = f"{base}_{copy}"
        names.append(name)
    return names


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without their ends, numbered as an editor numbers them."""
    lines = text.split("\n") if "\n" in text else text.split("\r")
    return ((number, line.removesuffix("\r")) for number, line in enumerate(lines, start=1))


def _records(text: str, delimiter: str, quoted: bool) -> Iterator[Record]:
    """Records that are not blank.

    Raises:
        _OpenQuoteError: a quotation mark is open at the end.
    """
    if not quoted:
        yield from ((number, line.split(delimiter)) for number, line in _lines(text) if line.strip(" "))
        return
    newline = "\n" if "\n" in text else "\r"
    passed, ended = 0, False

    def pieces() -> Iterator[str]:
        nonlocal passed, ended
        for piece in io.StringIO(text, newline=""):
            # A lone carriage return inside a cell is no line to an editor when the file has line feeds.
            passed += piece.endswith(newline)
            yield piece if piece.endswith(("\n", "\r")) else piece + "\n"
        ended = True
        yield _END

    reader = csv.reader(pieces(), delimiter=delimiter)
    while True:
        start = passed + 1
        cells = next(reader)
        if ended:
            if cells != [_END]:
                raise _OpenQuoteError(start)
            return
        if cells and not (len(cells) == 1 and not cells[0].strip()):
            yield start, cells


def find_delimiter(text: str, ending: str) -> str:
    """The delimiter that cuts most lines into the same number of cells; the file's `ending` says which to prefer."""
    sample = text
    if len(text) > _SAMPLE_CHARS:
        cut = text.rfind("\n", 0, _SAMPLE_CHARS)
        sample = text[: cut if cut > 0 else _SAMPLE_CHARS]
    preference = _PREFERENCE.get(ending, "\t;|,")
    best, best_share = _NO_DELIMITER, 0.0
    for delimiter in preference:
        widths = _widths(sample, delimiter)
        if not widths or widths[0] < 2:
            continue
        share = sum(width == widths[0] for width in widths) / len(widths)
        # Commas in prose also make "fields": only the delimiter that the ending promises may be this inconsistent.
        if share > best_share and (share >= 0.5 or delimiter == preference[0]):
            best, best_share = delimiter, share
    return best


def _widths(sample: str, delimiter: str) -> list[int]:
    widths = []
    try:
        for _, cells in _records(sample, delimiter, quoted=delimiter != "\t"):
            widths.append(len(cells))
    except _OpenQuoteError:
        pass  # the sample ends inside a cell, or the file is at fault, which reading all of it will tell
    return widths


def marks_are_quoting(text: str, delimiter: str) -> bool:
    """Whether quotation marks in a text without commas between its cells are CSV quoting and not part of the texts."""
    if '"' not in text:
        return False
    lines = [line.split(delimiter) for _, line in _lines(text) if line.strip(" ")]
    if delimiter != _NO_DELIMITER and len({len(cells) for cells in lines}) == 1:
        # Each line is a record by itself, so quotes are quoting only where they stand in pairs at field borders.
        return all(_well_quoted(cell) for cells in lines for cell in cells if cell.startswith('"'))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return len({len(cells) for cells in reader if cells}) == 1
    except csv.Error:
        return False


def _well_quoted(cell: str) -> bool:
    return len(cell) >= 2 and cell.endswith('"') and '"' not in cell[1:-1].replace('""', "")


def _refuse_ragged(records: Sequence[Record], place: str, delimiter: str) -> int:
    width = Counter(len(cells) for _, cells in records).most_common(1)[0][0]
    if delimiter != _NO_DELIMITER:
        width = max(width, 2)
    wrong = [(line, len(cells)) for line, cells in records if len(cells) != width]
    if not wrong:
        return width
    shown = ", ".join(str(line) for line, _ in wrong[:_SHOWN]) + (", …" if len(wrong) > _SHOWN else "")
    raise HalfpintError(
        f"{place}, line{'s' if len(wrong) > 1 else ''} {shown}",
        wanted=f"{width} fields in every row (delimiter {_NAMES[delimiter]})",
        got=f"{len(wrong)} rows with another number (line {wrong[0][0]} has {wrong[0][1]})",
        todo="Put quotation marks around cells that hold the delimiter, or repair those lines.",
    )


def _suspicious_quotes(records: Sequence[Record], delimiter: str, width: int) -> list[int]:
    """Lines of records with a cell in which three lines or more look like records: often a stray quotation mark."""
    found = []
    for line, cells in records:
        for cell in cells:
            inner = cell.split("\n")[1:-1] if cell.count("\n") > 3 else []
            if inner and all(part.count(delimiter) == width - 1 for part in inner):
                found.append(line)
    return found
