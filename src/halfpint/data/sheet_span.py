"""How many cells a workbook's sheets span: what reads them makes room for all between the first and the last.

Two cells in opposite corners are a small file, and room for 17 thousand million cells; so this is found out before.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from typing import IO

_BLOCK = 1 << 20
_LONGEST_TAG = 4096
_XLSX_PART = re.compile(rb"<(?:\w+:)?(row|c)(?=[\s/>])([^>]*)>")
_XLSX_PLACE = re.compile(rb"""\sr=["']([A-Z]{0,3})(\d{1,7})["']""")
_ODS_PART = re.compile(rb"<(/?)table:(table-row|table-cell|covered-table-cell|table)\b([^>]*)>")
_ODS_ROWS = re.compile(rb'table:number-rows-repeated="(\d{1,9})"')
_ODS_COLUMNS = re.compile(rb'table:number-columns-repeated="(\d{1,9})"')
_XLSB_SHEET = b"\x81\x01"  # BrtBeginSheet
_XLSB_ROW, _XLSB_CELLS = 0, range(2, 12)  # BrtRowHdr, and BrtCellRk to BrtFmlaError


def most_cells(file: IO[bytes]) -> int:
    """The number of cells from the first to the last of the largest sheet; 0 of what is no zip archive.

    Raises:
        zipfile.BadZipFile: the archive is damaged.
    """
    file.seek(0)
    if not zipfile.is_zipfile(file):
        return 0  # .xls, whose sheets have at most 65,536 rows of 256 cells
    most = 0
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():  # a sheet may have any name
            with archive.open(name) as part:
                start = part.read(len(_XLSB_SHEET))
            span = _xlsb if start == _XLSB_SHEET else _ods if name == "content.xml" else _xlsx
            with archive.open(name) as part:
                most = max(most, span(part))
    return most


class _Box:
    """The smallest rectangle around cells."""

    def __init__(self) -> None:
        self.top = self.left = 1 << 62
        self.bottom = self.right = -1

    def add(self, top: int, bottom: int, left: int, right: int) -> None:
        self.top, self.bottom = min(self.top, top), max(self.bottom, bottom)
        self.left, self.right = min(self.left, left), max(self.right, right)

    def cells(self) -> int:
        return max(self.bottom - self.top + 1, 0) * max(self.right - self.left + 1, 0)


def _tags(part: IO[bytes], wanted: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
    """The tags of an XML file that fit, a block at a time."""
    held = b""
    while block := part.read(_BLOCK):
        held += block
        stop = held.rfind(b">") + 1
        yield from wanted.finditer(held, 0, stop)
        held = held[stop:][-_LONGEST_TAG:]


def _xlsx(part: IO[bytes]) -> int:
    box, columns, row, column = _Box(), dict[bytes, int](), 0, 0
    for tag in _tags(part, _XLSX_PART):
        place = _XLSX_PLACE.search(tag[2])
        if tag[1] == b"row":
            row, column = int(place[2]) if place else row + 1, 0
            continue
        if place:
            letters = place[1]
            if letters not in columns:
                columns[letters] = sum((one - 64) * 26**power for power, one in enumerate(reversed(letters)))
            row, column = int(place[2]), columns[letters]
        else:
            column += 1
        if not tag[2].endswith(b"/"):
            box.add(row, row, column, column)
    return box.cells()


def _ods(part: IO[bytes]) -> int:
    """Cells that hold something have an end of their own; empty ones are one tag."""
    most, box, row, rows, column = 0, _Box(), 0, 1, 0
    for tag in _tags(part, _ODS_PART):
        closes, kind, attributes = tag[1], tag[2], tag[3]
        is_empty = attributes.endswith(b"/")
        if kind == b"table-row" and not closes:
            repeated = _ODS_ROWS.search(attributes)
            rows, column = int(repeated[1]) if repeated else 1, 0
            row += rows if is_empty else 0
        elif kind == b"table-row":
            row += rows
        elif kind == b"table" and closes:
            most = max(most, box.cells())
            box, row = _Box(), 0
        elif kind != b"table" and not closes:
            repeated = _ODS_COLUMNS.search(attributes)
            columns = int(repeated[1]) if repeated else 1
            if not is_empty:
                box.add(row, row + rows - 1, column, column + columns - 1)
            column += columns
    return max(most, box.cells())


def _xlsb(part: IO[bytes]) -> int:
    """Records of a type, a size and so many bytes (ECMA-376's binary twin, [MS-XLSB] 2.1.4)."""
    box, row = _Box(), 0
    while (kind := _number(part)) is not None:
        content = part.read(_number(part) or 0)
        if kind == _XLSB_ROW:
            row = int.from_bytes(content[:4], "little")
        elif kind in _XLSB_CELLS:
            column = int.from_bytes(content[:4], "little")
            box.add(row, row, column, column)
    return box.cells()


def _number(part: IO[bytes]) -> int | None:
    """A number of up to four bytes with seven bits each; None at the end."""
    number = 0
    for shift in range(0, 28, 7):
        byte = part.read(1)
        if not byte:
            return None
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    return number
