"""Reading tables: formats, encodings, delimiters, headers, and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.data.read import Table, read_table
from halfpint.errors import HalfpintError

ROWS = [("Where is my card?", "card"), ("I lost my phone", "phone"), ("The card, it is gone", "card")]
TEXTS: list[object] = [text for text, _ in ROWS]
LABELS: list[object] = [label for _, label in ROWS]


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def delimited(delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([("text", "label"), *ROWS])
    return out.getvalue()


def fault(source: str, **options: int) -> str:
    with pytest.raises(HalfpintError) as caught:
        read_table(source, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
def test_every_format_gives_the_same_columns(tmp_path: Path, name: str, zipped: bool) -> None:
    objects = [{"text": text, "label": label} for text, label in ROWS]
    content = {
        "a.csv": delimited(","),
        "a.tsv": delimited("\t"),
        "a.txt": delimited(";"),
        "a.jsonl": "".join(json.dumps(found) + "\n" for found in objects),
        "a.json": json.dumps(objects, indent=1),
    }[name].encode()
    source = write(tmp_path, name + (".gz" if zipped else ""), gzip.compress(content) if zipped else content)
    table = read_table(source)
    assert table.columns == {"text": TEXTS, "label": LABELS}
    assert table.rows == ([1, 2, 3] if "json" in name else [2, 3, 4])
    assert len(table) == 3
    assert table.source == source


def test_parquet_with_class_names_and_missing_cells(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    features = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    columns = {"text": ["a b", None, "c d"], "label": [1, 0, -1], "score": [0.5, float("nan"), 1.0]}
    table = arrow.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "t.parquet")
    read = read_table(str(tmp_path / "t.parquet"))
    assert read.columns == {"text": ["a b", None, "c d"], "label": ["yes", "no", None], "score": [0.5, None, 1.0]}
    assert read.rows == [1, 2, 3]
    assert "is a Parquet file, not a text file" in fault(
        write(tmp_path, "t.csv", (tmp_path / "t.parquet").read_bytes())
    )
    assert "expected a Parquet file" in fault(write(tmp_path, "u.parquet", "text,label\na,b\n"))


def test_saved_datasets_and_their_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column(
        "label", datasets.ClassLabel(names=["ham", "spam"])
    )
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(str(tmp_path / "both"))
    assert read_table(str(tmp_path / "one")).columns["label"] == ["ham", "spam"]
    assert len(read_table(str(tmp_path / "both"))) == 2
    assert read_table(str(tmp_path / "both"), split="test").columns["text"] == ["b"]
    with pytest.raises(HalfpintError, match="Did you mean 'test'"):
        read_table(str(tmp_path / "both"), split="tst")


def test_folder_with_data_files(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "about it")
    assert "only README.md" in fault(str(tmp_path))
    write(tmp_path, "tickets.csv", delimited(","))
    assert read_table(str(tmp_path)).columns["text"] == TEXTS
    write(tmp_path, "test.tsv", "text\tlabel\nonly one\tcard\n")
    assert "2 data files that are not parts of one table: test.tsv, tickets.csv" in fault(str(tmp_path))
    assert read_table(str(tmp_path), split="test").columns["text"] == ["only one"]
    write(tmp_path, "train.csv", delimited(","))
    assert "file train.csv of the folder" in read_table(str(tmp_path)).notes
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "it is empty" in fault(str(empty))


def test_split_of_a_single_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match="is one file, and has no split 'train'"):
        read_table(write(tmp_path, "a.csv", delimited(",")), split="train")


@pytest.mark.parametrize(
    ("codec", "note"),
    [("utf-8", "UTF-8"), ("utf-8-sig", "byte-order mark"), ("utf-16", "UTF-16"), ("cp1252", "Windows-1252")],
)
def test_encodings(tmp_path: Path, codec: str, note: str) -> None:
    source = write(tmp_path, "a.csv", "text,label\nà la carte \u20ac déjà,é\nnon,b\n".encode(codec))
    table = read_table(source)
    assert table.columns == {"text": ["à la carte \u20ac déjà", "non"], "label": ["é", "b"]}
    assert note in table.notes[0]


def test_latin1_where_windows_1252_has_no_character(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a.csv", b"text,label\nd\xe9j\x81,a\nb,b\n"))
    assert table.columns["text"] == ["d\xe9j\x81", "b"]
    assert "Latin-1" in table.notes[0]


def test_a_line_that_is_utf8_by_chance_does_not_make_a_file_mixed(tmp_path: Path) -> None:
    content = b"text,label\n" + b"d\xe9j\xe0,a\n" * 40 + b"\xc3\xa9,b\n"
    assert read_table(write(tmp_path, "a.csv", content)).columns["text"][-1] == "\u00c3\u00a9"


def test_mixed_encodings_are_refused_with_the_lines(tmp_path: Path) -> None:
    lines = ["text,label"] + [f"café {i},a" for i in range(20)]
    data = "\n".join(lines).encode().split(b"\n")
    data[4] = data[11] = "café,a".encode("cp1252")
    message = fault(write(tmp_path, "a.csv", b"\n".join(data)))
    assert "a.csv mixes encodings: 18 lines with UTF-8 characters, and 2 " in message and "(lines 5, 12)" in message
    assert "Save those lines again as UTF-8" in message


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"PK\x03\x04 rest", "Excel"),
        (b"text,label\na\x00b,c\n", "a NUL byte on line 2"),
        ("text,label\na,b\n".encode("utf-32"), "UTF-32"),
        (b"\xff\xfea", "not UTF-16"),
        (b"\x1f\x8b\x08 broken", "damaged"),
        (gzip.compress(b"text,label\na,b\n" * 99, mtime=0)[:-9], "damaged"),
        (b"", "a.csv is empty"),
        (b"\n\n", "no rows"),
        (b"text,label\n", "only its header, text, label"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: bytes, got: str) -> None:
    assert got in fault(write(tmp_path, "a.csv", content))


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, "tickets.csv", delimited(","))
    assert "Did you mean 'tickets.csv'?" in fault(str(tmp_path / "ticket.csv"))
    assert "does not exist either" in fault(str(tmp_path / "nowhere" / "a.csv"))
    assert "Download it first" in fault("https://example.com/a.csv")
    assert "cannot be read" in fault(str(tmp_path / ("long" * 100 + ".csv")))


def test_folder_beside_wins_over_the_hub_when_a_file_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "tickets.csv", delimited(","))
    monkeypatch.chdir(tmp_path)
    assert "Did you mean 'tickets.csv'?" in fault("data/tickets")


def test_hub_name_without_network_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    code = (
        "from halfpint.data.read import read_table\n"
        "from halfpint.errors import HalfpintError\n"
        "try: read_table('owner/name')\n"
        "except HalfpintError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "download the data on a machine with network and give a path" in done.stdout


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    source = write(tmp_path, "a.csv", delimited(","))
    os.chmod(source, 0)
    assert "PermissionError" in fault(source)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_delimiter_is_found(tmp_path: Path, delimiter: str, name: str) -> None:
    table = read_table(write(tmp_path, name, delimited(delimiter)))
    assert table.columns == {"text": TEXTS, "label": LABELS}


def test_one_column_with_commas_in_it(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a.txt", "text\nhello, you\nno comma\none, two, three\n"))
    assert table.columns == {"text": ["hello, you", "no comma", "one, two, three"]}


def test_rows_are_those_of_a_spreadsheet(tmp_path: Path) -> None:
    content = 'text,label\r\n"two\r\nlines",a\r\n\r\n"a lone\rreturn",b\r\nlast,a\r\n'
    table = read_table(write(tmp_path, "a.csv", content))
    assert table.rows == [2, 4, 5]
    assert table.columns["text"] == ["two\r\nlines", "a lone\rreturn", "last"]


def test_jsonl_rows_are_lines_and_missing_keys_none(tmp_path: Path) -> None:
    content = '{"text": "a\\ud83d", "label": NaN}\n\n{"label": 1.0, "text": null, "extra": 2}\n'
    table = read_table(write(tmp_path, "a.jsonl", content))
    assert table.rows == [1, 3]
    assert table.columns == {"text": ["a\ufffd", None], "label": [None, 1.0], "extra": [None, 2]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl, line 2"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', "line 2 is not a JSON object but a list"),
        ("a.json", '{\n"meta": [{"text": "a"}]}', "with the keys 'meta'"),
        ("a.json", '[{"text": "a"}', "not valid JSON"),
        ("a.json", "[]", "no rows"),
    ],
)
def test_json_faults(tmp_path: Path, name: str, content: str, message: str) -> None:
    assert message in fault(write(tmp_path, name, content))


def test_stray_quotes_in_tsv_swallow_nothing(tmp_path: Path) -> None:
    content = 'ham\t"Hello there\nspam\twin a "prize" now\nham\tsays him"\nspam\tbuy 5" pipes\nham\t"all" of it\n'
    table = read_table(write(tmp_path, "a.tsv", content))
    assert table.columns["column_1"] == ["ham", "spam", "ham", "spam", "ham"]
    assert table.columns["column_2"][0] == '"Hello there'
    assert "quotation marks are part of the text" in table.notes
    assert any("no header" in note for note in table.notes)


def test_quoted_tsv_is_unquoted(tmp_path: Path) -> None:
    content = 'text\tlabel\n"a ""good"" one"\tyes\n"two\nlines"\tno\n'
    table = read_table(write(tmp_path, "a.tsv", content))
    assert table.columns["text"] == ['a "good" one', "two\nlines"]


def test_open_quote_in_csv_is_refused(tmp_path: Path) -> None:
    assert "a.csv, row 3: a quotation mark is opened and never closed" in fault(
        write(tmp_path, "a.csv", 'text,label\na,b\n"c,d\ne,f\n')
    )


def test_ragged_rows_are_listed(tmp_path: Path) -> None:
    message = fault(write(tmp_path, "a.csv", "text,label\na,b\nc\nd,e\nf,g,h\ni,j\n"))
    assert "a.csv has 2 rows without the 2 fields of the others (delimiter ','): rows 3, 5" in message
    assert "row 3 has 1" in message


def test_cell_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    source = write(tmp_path, "a.csv", f"text,label\nshort,a\n{'x' * 5_000_000},b\n")
    assert (
        "a.csv, row 3 is too long: cells of at most 1,000,000 characters are read, and here is one of 5,000,000"
        in fault(source)
    )
    assert len(str(read_table(source, max_cell_chars=6_000_000).columns["text"][1])) == 5_000_000
    line = write(tmp_path, "a.jsonl", '{"text": "' + "x" * 200 + '"}\n')
    assert "line 1: the column 'text' has a cell of 200 characters" in fault(line, max_cell_chars=100)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("ham\tOk lar, joking\nspam\tFree entry now\nham\tU dun say\n", ["column_1", "column_2"]),
        ("sentence\tlabel\nfine\t1\nbad\t0\n", ["sentence", "label"]),
        ("0\tsome text\n1\tother text\n", ["column_1", "column_2"]),
        ("Nachricht;Abteilung\nMeine Rechnung fehlt noch;Kasse\nBitte um einen Rückruf;Kasse\n", None),
        (",Review Text,Rating\n0,so good,5\n1,so bad,1\n", ["column_1", "Review Text", "Rating"]),
        ("text,text\na,b\nc,d\n", ["text", "text_2"]),
        ("a good film,pos\na bad film,neg\nan odd film,pos\n", ["column_1", "column_2"]),
    ],
)
def test_header_is_found_or_not(tmp_path: Path, content: str, names: list[str] | None) -> None:
    table = read_table(write(tmp_path, "a.txt", content))
    assert list(table.columns) == (names or ["Nachricht", "Abteilung"])
    assert any("no header" in note for note in table.notes) == ("column_2" in table.columns)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
FILLED = CELLS.filter(lambda cell: bool(cell.strip()))  # rows without anything in them are skipped


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.tuples(CELLS, FILLED), min_size=1, max_size=12))
def test_any_csv_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    table: Table = read_table(write(tmp_path_factory.mktemp("any"), "a.csv", out.getvalue().encode()))
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == rows
