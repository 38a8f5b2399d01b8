"""The rows of a delimited file, a part at a time: in blocks of bytes by NumPy, or by Python's csv module.

Both give the same rows (a test compares them). NumPy takes what is written plainly: it finds all delimiters outside of
quotation marks at once, about ten times as fast. From a block on in which a quotation mark stands where none should,
csv reads the rest.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfpint.data.delimited import END, ONE_COLUMN, is_suspicious, reader
from halfpint.data.table import Layout, Part, shown
from halfpint.errors import HalfpintError
from halfpint.terminal import amount

ROWS = 4096
"""Rows that are read at once."""
_SHOWN = 8
_MARK, _NEWLINE, _RETURN, _BORDER = 34, 10, 13, 0x1F
_MAYBE_BLANK = np.zeros(256, dtype=bool)
_MAYBE_BLANK[[*range(33), _MARK, 0xC2, 0xE1, 0xE2, 0xE3]] = True
_NOTHING = np.empty(0, dtype=np.intp)

Positions = npt.NDArray[np.intp]


class _Cut(NamedTuple):
    """The cells of whole records, the number of cells of each, those that may be blank, and the bytes behind them."""

    cells: list[str]
    widths: Positions
    maybe_blank: Positions
    rest: bytes
    multiline: bool


@dataclass
class Tally:
    """What was met in passing."""

    blank: int = 0
    wrong: list[tuple[int, int]] = field(default_factory=list)
    wrongs: int = 0
    suspicious: list[int] = field(default_factory=list)
    backslashes: list[int] = field(default_factory=list)


class Records:
    """The rows of a delimited file as `layout` says.

    Args:
        layout: how it is written.
        place: its name for people.
        max_cell_chars: a longer cell is an error.
        plainly: whether csv alone reads it.
    """

    def __init__(self, layout: Layout, place: str, max_cell_chars: int, *, plainly: bool = False) -> None:
        self._layout, self._place, self._most, self._plainly = layout, place, max_cell_chars, plainly
        self._width = len(layout.columns)
        self._row, self._newline = 1, "\n"
        self.tally = Tally()

    def parts(self, blocks: Iterator[bytes]) -> Iterator[Part]:
        """The rows of a file in UTF-8 that comes in blocks.

        Raises:
            HalfpintError: a quotation mark that is never closed, a cell that is too long; at the end, rows with
                another number of cells.
        """
        layout = self._layout
        if layout.marked:
            blocks = _without_first_line(blocks)
        first = next(blocks, b"")
        blocks = chain((first,), blocks) if first else blocks
        if b"\r" in first and b"\n" not in first:
            self._newline = "\r"  # as old Macintosh programs end lines
        plainly = self._plainly or layout.escaped or layout.spaced or not layout.delimiter.isascii()
        plainly = plainly or self._newline == "\r"
        held, step = b"", 1
        while not plainly:
            block = b"".join(islice(blocks, step))
            ended, held = not block, held + block
            if not held:
                break
            if ended and not held.endswith(b"\n"):
                held += b"\n"
            found = self._split(held)
            if found is None:
                plainly = True
                break
            size = len(held) - len(found.rest)
            yield from self._of_cells(found, size)
            held = found.rest
            if ended:
                plainly = bool(held)
                break
            step = step * 2 if not size else 1  # a long cell: not cut anew for each block
            if not size and len(held) > 4 * self._most + (1 << 22):
                plainly = True
        if plainly:
            yield from self._by_csv(chain((held,), blocks))
        self._refuse_ragged()

    def _split(self, block: bytes) -> _Cut | None:
        """The whole records at the front of a block.

        None where a quotation mark or a carriage return stands where plain writing has none.
        """
        layout = self._layout
        if b"\x1f" in block:
            return None
        data = np.frombuffer(block, dtype=np.uint8)
        borders = data == _NEWLINE
        if layout.delimiter != ONE_COLUMN:
            borders |= data == ord(layout.delimiter)
        at = np.flatnonzero(borders)
        marks: Positions = _NOTHING
        multiline = False
        if layout.quoted and b'"' in block:
            # Every second mark closes what the one before opened, and a border is inside where their number is odd.
            marks = np.flatnonzero(data == _MARK)
            inside = (np.searchsorted(marks, at) & 1).astype(bool)
            multiline = bool((data[at[inside]] == _NEWLINE).any())
            at = at[~inside]
        ends = np.flatnonzero(data[at] == _NEWLINE)
        if not len(ends):
            return _Cut([], ends, _NOTHING, block, False)
        at = at[: ends[-1] + 1]
        stop = int(at[-1]) + 1
        gone: list[Positions] = []
        if b"\r" in block:
            returns = np.flatnonzero(data[:stop] == _RETURN)
            returns = returns[np.searchsorted(marks, returns) & 1 == 0]
            at_end = data[returns + 1] == _NEWLINE
            if layout.quoted and not at_end.all():
                return None
            gone.append(returns[at_end])
        marks = marks[: np.searchsorted(marks, stop)]
        if len(marks):
            opening, closing = marks[0::2], marks[1::2]
            doubled = np.append(closing[:-1] + 1 == opening[1:], False)  # two marks are one of the text
            fits = np.zeros(256, dtype=bool)
            fits[[_NEWLINE, ord(layout.delimiter)]] = True
            before = fits[data[opening - 1]] | (opening == 0)
            before[1:] |= doubled[:-1]
            fits[_RETURN] = True  # one that ends no line was refused above
            if not before.all() or not (fits[data[closing + 1]] | doubled).all():
                return None
            gone += [opening, closing[~doubled]]
        lengths = np.diff(at, prepend=-1)
        widths = np.diff(ends, prepend=-1)
        if int(lengths.max()) > self._most:
            self._refuse_long(lengths, widths, block, at)
        text = data[:stop].copy()
        text[at] = _BORDER
        if gone:
            keep = np.ones(stop, dtype=bool)
            for positions in gone:
                keep[positions] = False
            text = text[keep]
        starts = np.append(0, at[ends[:-1]] + 1)
        # Only a row that begins with one of these may be blank: Unicode's spaces begin with the last four.
        begins = data[starts]
        begins = np.where(begins == _MARK, data[starts + 1 - (starts + 1 == stop)], begins)
        maybe = np.flatnonzero(_MAYBE_BLANK[begins] | (begins == ord(layout.delimiter)))
        return _Cut(text.tobytes().decode("utf-8").split("\x1f")[:-1], widths, maybe, block[stop:], multiline)

    def _refuse_long(self, lengths: Positions, widths: Positions, block: bytes, at: Positions) -> None:
        """Raise for a cell with more characters than it may have; fewer characters than bytes may be fine."""
        for index in np.flatnonzero(lengths > self._most):
            start = int(at[index]) - int(lengths[index]) + 1
            chars = len(block[start : int(at[index])].decode("utf-8").strip('"\r'))
            if chars > self._most:
                row = self._row + int(np.searchsorted(np.cumsum(widths), index, side="right"))
                raise _too_long(self._place, row, self._most, f"one of {chars:,}")

    def _of_cells(self, cut: _Cut, size: int) -> Iterator[Part]:
        """A part of equally wide records; other ones are looked at one by one."""
        width, cells, widths = self._width, cut.cells, cut.widths
        skipped = min(max(self._layout.skipped + 1 - self._row, 0), len(widths))
        blank = any(not cells[index * width].strip() for index in cut.maybe_blank if index * width < len(cells))
        if len(widths) and not blank and (widths[skipped:] == width).all() and (widths[:skipped] == width).all():
            rows = range(self._row + skipped, self._row + len(widths))
            self._row += len(widths)
            first = skipped * width
            names = self._layout.columns
            columns: dict[str, Any] = {name: cells[first + index :: width] for index, name in enumerate(names)}
            if rows:
                yield self._looked_at(Part(rows, columns, size), cut.multiline)
            return
        stops = np.cumsum(widths).tolist()
        records = [cells[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)] if stops else []
        yield from self._of_records(records, size, cut.multiline)

    def _of_records(self, records: Sequence[list[str]], size: int, multiline: bool = True) -> Iterator[Part]:
        """A part of records, without those of the header and blank ones."""
        rows, kept, width = [], [], self._width
        for row, cells in enumerate(records, start=self._row):
            if row <= self._layout.skipped:
                continue
            if not "".join(cells).strip():
                self.tally.blank += 1
            elif len(cells) == width or (len(cells) > width and not any(cells[width:])):
                rows.append(row)
                kept.append(cells)
            else:
                self.tally.wrongs += 1
                if len(self.tally.wrong) < _SHOWN:
                    self.tally.wrong.append((row, len(cells)))
        self._row += len(records)
        if rows:
            names = self._layout.columns
            yield self._looked_at(
                Part(rows, {name: [c[i] for c in kept] for i, name in enumerate(names)}, size), multiline
            )

    def _looked_at(self, part: Part, multiline: bool) -> Part:
        if multiline and self._layout.quoted and not self.tally.suspicious:
            for values in part.columns.values():
                if "\n" not in "".join(values):  # type: ignore[arg-type]
                    continue
                for row, cell in zip(part.rows, values, strict=True):
                    if is_suspicious(str(cell), self._layout.delimiter, self._width):
                        self.tally.suspicious.append(row)
                        return part
        return part

    def _by_csv(self, blocks: Iterator[bytes]) -> Iterator[Part]:
        """The rest of the file, by the csv module or, where marks are part of the texts, line by line."""
        layout = self._layout
        lines = text_of(_ended(blocks), "" if layout.quoted else self._newline)
        ended = False

        def end() -> Iterator[str]:
            nonlocal ended
            ended = True
            yield END

        if layout.quoted:
            records = reader(chain(lines, end()), layout)
        else:
            records = (line.removesuffix("\n").removesuffix("\r").split(layout.delimiter) for line in lines)
        while True:
            batch: list[list[str]] = []
            fault: HalfpintError | None = None
            with _field_limit(self._most):
                try:
                    batch.extend(islice(records, ROWS))  # what came before an error stays in the list
                except csv.Error:
                    got = "a longer one, or a quotation mark that is never closed"
                    fault = _too_long(self._place, self._row + len(batch), self._most, got)
            if ended and fault is None and (not batch or batch.pop() != [END]):
                fault = HalfpintError(
                    f"{self._place}, row {self._row + len(batch)}",
                    wanted="a closing quotation mark",
                    got="a quotation mark that is open until the end of the file",
                    todo='Remove it, or write it twice ("") inside a quoted cell.',
                    said=f"{self._place}, row {self._row + len(batch)}: a quotation mark is opened and never closed.",
                )
            if not batch and fault is None and (ended or not layout.quoted):
                return
            for row, cells in enumerate(batch, start=self._row):
                if cells and max(map(len, cells)) > self._most:
                    raise _too_long(self._place, row, self._most, f"one of {max(map(len, cells)):,}")
                if layout.quoted and not layout.escaped and any("\\" in cell and '"' in cell for cell in cells):
                    self.tally.backslashes.append(row)
            yield from self._of_records(batch, sum(len(cell) for cells in batch for cell in cells))
            if fault is not None:
                raise fault
            if ended:
                return

    def _refuse_ragged(self) -> None:
        wrong, total = self.tally.wrong, self.tally.wrongs
        if total:
            rows = shown([row for row, _ in wrong], total=total)
            raise HalfpintError(
                f"{self._place}, row{'s' if total > 1 else ''} {rows}",
                wanted=f"{self._width} fields in every row (delimiter {self._layout.delimiter!r})",
                got=f"{total:,} rows with another number (row {wrong[0][0]} has {wrong[0][1]})",
                todo="Put quotation marks around cells that hold the delimiter, or repair those rows.",
                said=f"{self._place} has {amount(total, 'row')} without the {self._width} fields of the others "
                f"(delimiter {self._layout.delimiter!r}): row{'s' if total > 1 else ''} {rows} (row {wrong[0][0]} has "
                f"{wrong[0][1]}).",
            )


def _too_long(place: str, row: int, most: int, got: str) -> HalfpintError:
    return HalfpintError(
        f"{place}, row {row}", wanted=f"cells of at most {most:,} characters", got=got,
        todo="Shorten or split that text; a quotation mark that is never closed can also join many lines.",
        said=f"{place}, row {row} is too long: cells of at most {most:,} characters are read, and here is {got}.",
    )  # fmt: skip


def _without_first_line(blocks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for block in blocks:
        held += block
        if b"\n" in held:
            yield held.partition(b"\n")[2]
            break
    yield from blocks


def _ended(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks, the last line of which ends: what follows an open quotation mark there is a line of its own."""
    last = b"\n"
    for block in blocks:
        last = block or last
        yield block
    if not last.endswith(b"\n"):
        yield b"\n"


@contextmanager
def _field_limit(most: int) -> Iterator[None]:
    old = csv.field_size_limit(min(most + 2, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(old)


def text_of(blocks: Iterator[bytes], newline: str | None = None) -> io.TextIOWrapper:
    """Blocks of UTF-8 as a file of text."""
    return io.TextIOWrapper(io.BufferedReader(_Stream(blocks)), "utf-8", newline=newline)


class _Stream(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._held = blocks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._held = block
        size = min(len(buffer), len(self._held))
        buffer[:size] = self._held[:size]
        self._held = self._held[size:]
        return size
