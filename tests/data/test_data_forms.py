"""Tables as programs and people write them: headers, quotation marks, delimiters, JSON, Parquet, workbooks, pipes."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from halfpint.data.columns import find_columns
from halfpint.data.headers import has_header, rows_of_header
from halfpint.data.read import read_table
from halfpint.data.records import Records
from halfpint.data.table import Form, Layout, Table, shown
from halfpint.errors import HalfpintError

LONG = "Please describe in your own words what happened and which product it was about\n(optional)"


def table(folder: Path, content: str | bytes, name: str = "a.csv", **form: Any) -> Table:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(str(path), form=Form(**form))


def rows_of(found: Table) -> list[tuple[object, ...]]:
    return list(zip(*found.columns.values(), strict=True))


# Headers


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (f'Timestamp,"{LONG}",Which team?\n2026/03/1 10:00:00,no parcel,post\n2026/03/2 10:00:00,late,post\n', None),
        (f'Zeit,"{LONG}",Welche?\n2026-03-01 10:00,kein Paket,Post\n2026-03-02 11:00,zu spät,Post\n', None),
        ("v1,v2,,,\nham,so it is,,,\nspam,Win a prize,,,\n", ["v1", "v2", "column_3", "column_4", "column_5"]),
        ("2019,text\na word,some text\nother words,more of it\n", ["2019", "text"]),
        ("label,2019\n4,17\n5,18\n", ["column_1", "column_2"]),
    ],
)
def test_headers_that_are_no_single_words(tmp_path: Path, content: str, names: list[str] | None) -> None:
    found = table(tmp_path, content)
    assert len(found) == 2 + (names == ["column_1", "column_2"])
    assert list(found.columns) == names if names else LONG in found.columns


def test_a_question_may_hold_any_word(tmp_path: Path) -> None:
    content = "Timestamp,What happened?,Which team should answer this request?\n"
    rows = "".join(f"2026/03/{n} 10:00,the parcel number {n} has not come,{'ab'[n % 2]}\n" for n in range(1, 9))
    columns = find_columns(table(tmp_path, content + rows))
    assert columns.text == "What happened?" and columns.label.startswith("Which team")


def test_a_name_that_is_asked_for_makes_the_first_row_a_header(tmp_path: Path) -> None:
    content = "4711,my words\n17,no parcel came\n18,it is late\n"
    assert "column_1" in table(tmp_path, content).columns
    found = table(tmp_path, content, names=("my words", "4711"))
    assert found.columns == {"4711": ["17", "18"], "my words": ["no parcel came", "it is late"]}
    assert found.rows == [2, 3]
    assert "column_1" in table(tmp_path, content, names=("my words", "other")).columns


def test_what_a_person_says_overrules(tmp_path: Path) -> None:
    content = "text;label\nso, it is;b\n"
    assert rows_of(table(tmp_path, content, header=False))[0] == ("text", "label")
    assert list(table(tmp_path, "text;x,label\nso, it is;b\n", delimiter="comma", header=False).columns) == [
        "column_1",
        "column_2",
    ]
    assert list(table(tmp_path, "1;2\n3;4\n", header=True).columns) == ["1", "2"]
    word = "text,label\nпривет,a\n".encode("cp1251")
    assert table(tmp_path, word, encoding="cp1251").columns["text"] == ["привет"]
    assert table(tmp_path, "text,label\n你好,a\n".encode("gb18030"), encoding="gb18030").columns["text"] == ["你好"]
    with pytest.raises(HalfpintError, match="encoding must be an encoding that Python knows, not 'klingon'"):
        table(tmp_path, content, encoding="klingon")
    with pytest.raises(HalfpintError, match="bytes that are not ascii"):
        table(tmp_path, word, encoding="ascii")
    with pytest.raises(HalfpintError, match="delimiter must be one character"):
        table(tmp_path, content, delimiter="both")
    with pytest.raises(HalfpintError, match="is no workbook, so --sheet"):
        table(tmp_path, content, sheet="Two")


def test_surveys_with_two_or_three_headers(tmp_path: Path) -> None:
    monkey = "Respondent ID,What happened?,Which team?,\n,Open-Ended Response,Post,Bank\n17,no parcel,x,\n18,a fee,,x\n"
    found = table(tmp_path, monkey)
    assert list(found.columns) == ["Respondent ID", "What happened?", "Which team?", "Bank"]
    assert found.rows == [3, 4]
    assert "the first 2 rows are headers" in found.notes
    assert rows_of_header([["Q1"], ["What?"], ['{"ImportId":"QID1"}'], ["so"]]) == 3
    assert rows_of_header([["Respondent ID", "Q"], ["17", "so"]]) == 1
    assert has_header([["Respondent ID", "A question of more than four words"], ["17", "so"]])


# Quotation marks, delimiters, blank rows


def test_sep_line(tmp_path: Path) -> None:
    found = table(tmp_path, '"sep=|"\r\ntext|label\r\nno, it; is|b\r\n')
    assert found.columns == {"text": ["no, it; is"], "label": ["b"]}
    assert found.rows == [2]  # a spreadsheet does not show the line
    assert "the line sep= names the delimiter" in found.notes


def test_backslashes_before_quotation_marks(tmp_path: Path) -> None:
    content = 'text,label\n"he said \\"yes\\", twice",a\n"plain C:\\\\dir",b\n'
    assert table(tmp_path, content).columns["text"] == ['he said "yes", twice', "plain C:\\\\dir"]
    assert table(tmp_path, 'text,label\n"in C:\\",a\n"so",b\n').columns["text"] == ["in C:\\", "so"]
    both = 'text,label\n"he said \\"yes\\" twice",a\n"in C:\\",b\n"so",b\n'
    found = table(tmp_path, both)
    assert any("a backslash stands before a quotation mark in rows 2" in note for note in found.notes)


def test_backslashes_far_behind_the_start_of_a_file(tmp_path: Path) -> None:
    content = "text,label\n" + '"some text",a\n' * 20_000 + '"so \\"it\\" is",b\n'
    assert table(tmp_path, content).columns["text"][-1] == 'so "it" is'
    tabs = "text\tlabel\n" + "some text\ta\n" * 20_000 + '"so ""it"" is"\tb\n'
    assert table(tmp_path, tabs, "a.tsv").columns["text"][-1] == 'so "it" is'


def test_spaces_before_quotation_marks(tmp_path: Path) -> None:
    found = table(tmp_path, 'text, label\n"a, b", "billing"\n"c, d", "delivery"\n')
    assert found.columns == {"text": ["a, b", "c, d"], "label": ["billing", "delivery"]}


def test_a_comma_in_prose_is_no_delimiter(tmp_path: Path) -> None:
    content = "".join(f"the card {n} is gone, sorry;billing\nparcel {n} is late, again;delivery\n" for n in range(9))
    found = table(tmp_path, content)
    assert set(found.columns["column_2"]) == {"billing", "delivery"}


def test_rows_without_anything_in_them_are_skipped_and_told(tmp_path: Path) -> None:
    content = "text,label\na,b\n,\n , \n\nc,d\n" + ",\n" * 9
    found = table(tmp_path, content)
    assert rows_of(found) == [("a", "b"), ("c", "d")]
    assert found.rows == [2, 6]
    assert any(note == "12 empty rows skipped" for note in found.notes)
    assert table(tmp_path, "\n\ntext,label\na,b\n").rows == [4]


def test_labels_of_fasttext(tmp_path: Path) -> None:
    found = table(tmp_path, "__label__spam Win a prize\n__label__ham so, it is\n", "a.txt")
    assert found.columns == {"text": ["Win a prize", "so, it is"], "label": ["spam", "ham"]}
    with pytest.raises(HalfpintError, match="row 11: expected one __label__"):
        table(tmp_path, "__label__a some text\n" * 10 + "__label__a __label__b two\n", "a.txt")


def test_labels_of_questions(tmp_path: Path) -> None:
    lines = [f"HUM:ind Who was number {n} ?\nNUM:date When was {n} ?\n" for n in range(9)]
    found = table(tmp_path, "".join(lines), "a.txt")
    assert found.columns["text"][:2] == ["Who was number 0 ?", "When was 0 ?"]
    assert found.columns["label"][:2] == ["HUM", "NUM"] and found.columns["fine"][:2] == ["HUM:ind", "NUM:date"]
    with pytest.raises(HalfpintError, match="row 19 does not begin with LABEL:finer"):
        table(tmp_path, "".join(lines) + "Who?\n", "a.txt")
    assert "fine" not in table(tmp_path, "NOTE:a one\nHINT:b two\nTASK:c three\n", "b.txt").columns


def test_old_macintosh_line_ends(tmp_path: Path) -> None:
    assert rows_of(table(tmp_path, "text,label\ra b,c\rd e,f\r")) == [("a b", "c"), ("d e", "f")]


CELLS = st.text(st.sampled_from('ab ,;\t"\n\r\u00e4\u2028\u3000\U0001f600\x1e'), max_size=6)


def by_records(data: bytes, layout: Layout, *, plainly: bool, block: int) -> tuple[list[list[object]], list[int], str]:
    records = Records(layout, "here", 1000, plainly=plainly)
    columns: list[list[object]] = [[] for _ in layout.columns]
    rows: list[int] = []
    try:
        for part in records.parts(data[at : at + block] for at in range(0, len(data), block)):
            rows += part.rows
            for column, values in zip(columns, part.columns.values(), strict=True):
                column.extend(values)
    except HalfpintError as error:
        return columns, rows, str(error)
    return columns, rows, str(records.tally.blank)


@settings(deadline=None, max_examples=300)
@example(rows=[["", ""]], raw="", ends="\r\n", quote=csv.QUOTE_ALL, block=1)
@example(rows=[['"', "a"]], raw='a"b,c\n"open', ends="\n", quote=csv.QUOTE_ALL, block=7)
@given(
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=8), raw=st.just("") | CELLS,
    ends=st.sampled_from(["\n", "\r\n"]), quote=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    block=st.integers(1, 60),
)  # fmt: skip
def test_numpy_reads_what_the_csv_module_reads(
    rows: list[list[str]], raw: str, ends: str, quote: Any, block: int
) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator=ends, quoting=quote).writerows(rows)
    data = (out.getvalue() + raw).encode()
    for layout in (Layout("delimited", columns=("a", "b")), Layout("delimited", columns=("a", "b"), skipped=1)):
        plain = by_records(data, layout, plainly=True, block=block)
        assert by_records(data, layout, plainly=False, block=block) == plain
        if not raw and not any("\r" in cell for row in rows for cell in row) and not layout.skipped:
            kept = [row for row in rows if "".join(row).strip()]
            assert plain[0] == [[row[0] for row in kept], [row[1] for row in kept]]


def test_lists_say_how_many_more_there_are() -> None:
    assert shown([1, 2, 3], 2) == "1, 2 and 1 more"
    assert shown([1, 2], 2) == "1, 2"
    assert shown([1, 2], 2, total=1002) == "1, 2 and 1,000 more"


def test_columns_of_kaggle_are_found_by_content(tmp_path: Path) -> None:
    lines = "".join(f"ham,so it is number {n},,,\nspam,Win a prize {n},,,\n" for n in range(9))
    columns = find_columns(table(tmp_path, "v1,v2,,,\n" + lines))
    assert (columns.text, columns.label) == ("v2", "v1")
    assert "guessed by content" in columns.said


_LARGE = """
import sys
from halfpint.data.rows import Rows
from pathlib import Path
def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        print(sum(map(len, Rows(file, name, ".csv").parts())), most())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_parts_are_read_in_bounded_memory(tmp_path: Path) -> None:
    names = []
    for rows in (20_000, 1_000_000):
        with tempfile.NamedTemporaryFile("wb", suffix=".csv", dir=tmp_path, delete=False) as file:
            file.write(b"text,label\n" + b'"a text, of some length",a\n' * rows)
            names.append(file.name)
    done = subprocess.run([sys.executable, "-c", _LARGE, *names], capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (20_000, 1_000_000)
    assert after - before < 8_000_000
