"""What sheets span, by how each kind of workbook is written: two far cells are as many as lie between them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from halfpint.data.read import read_table
from halfpint.data.sheet_span import most_cells
from halfpint.errors import HalfpintError


def archive(name: str, content: bytes) -> io.BytesIO:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as made:
        made.writestr(name, content)
    return held


def record(kind: int, content: bytes) -> bytes:
    return bytes([kind & 0x7F | 0x80, kind >> 7] if kind > 127 else [kind]) + bytes([len(content)]) + content


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ('<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>', 1 << 34),
        ('<row r="3"><c r="B3"><v>1</v></c><c r="C3"/></row><row r="4"><c s="1" r="C4"><v>1</v></c></row>', 4),
        ("<row><c><v>1</v></c><c/><c><v>1</v></c></row><row r='9'><c><v>2</v></c></row>", 27),
        ('<x:row r="1"><x:c r="A1"><x:v>1</x:v></x:c><x:c r="AA1"><x:v>1</x:v></x:c></x:row>', 27),
        ("", 0),
    ],
)
def test_xlsx(cells: str, wanted: int) -> None:
    sheet = f"<worksheet><cols/><sheetData>{cells}</sheetData></worksheet>".encode()
    assert most_cells(archive("xl/any.name", sheet)) == wanted


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ('<table:table-row table:number-rows-repeated="1048576">'
         '<table:table-cell table:number-columns-repeated="16384">'
         "<text:p>x</text:p></table:table-cell></table:table-row>", 1 << 34),
        ("<table:table-row><table:table-cell><text:p>x</text:p></table:table-cell>"
         '<table:table-cell table:number-columns-repeated="16383"/></table:table-row>'
         '<table:table-row table:number-rows-repeated="1048574"><table:table-cell/></table:table-row>', 1),
        ('<table:table-row table:number-rows-repeated="4"/><table:table-row><table:table-cell/><table:table-cell>1'
         "</table:table-cell><table:covered-table-cell/><table:table-cell>2</table:table-cell></table:table-row>", 3),
    ],
)  # fmt: skip
def test_ods(rows: str, wanted: int) -> None:
    sheet = f"<table:table><table:table-column/>{rows}</table:table><table:table></table:table>".encode()
    assert most_cells(archive("content.xml", sheet)) == wanted


def test_xlsb() -> None:
    rows = [(0, 0), (1_048_575, 16_383)]
    data = record(129, b"") + b"".join(
        record(0, row.to_bytes(4, "little") + bytes(13)) + record(5, column.to_bytes(4, "little") + bytes(12))
        for row, column in rows
    )
    assert most_cells(archive("xl/worksheets/sheet1.bin", data)) == 1 << 34
    assert most_cells(archive("xl/printer.bin", b"\x00\x00" + data)) == 0


def test_no_archive() -> None:
    assert most_cells(io.BytesIO(b"\xd0\xcf\x11\xe0 an old workbook")) == 0


def test_two_far_cells_are_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    cells = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    (tmp_path / "a.xlsx").write_bytes(archive("xl/s.xml", f"<sheetData>{cells}</sheetData>".encode()).getvalue())
    with pytest.raises(HalfpintError, match=r"a\.xlsx is too large: .* spans 17,179,869,184 cells.*as CSV"):
        read_table(str(tmp_path / "a.xlsx"))
