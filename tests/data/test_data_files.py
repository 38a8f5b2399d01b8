"""Files of rows that are no plain CSV: JSON as pandas writes it, Parquet, folders, pipes, workbooks; their bounds."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfpint.data.corpus import CorpusData, prepare_corpus
from halfpint.data.read import read_table
from halfpint.data.table import Form, Table
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT


def table(folder: Path, content: str, name: str) -> Table:
    (folder / name).write_text(content, encoding="utf-8")
    return read_table(str(folder / name))


ROWS = [{"text": "no parcel", "label": "post"}, {"text": "a fee", "label": "bank"}]


def as_pandas(orient: str) -> str:
    columns = list(ROWS[0])
    forms = {
        "columns": {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in columns},
        "index": {str(n): row for n, row in enumerate(ROWS)},
        "split": {"columns": columns, "index": [0, 1], "data": [list(row.values()) for row in ROWS]},
        "table": {"schema": {"fields": []}, "data": [{"index": n, **row} for n, row in enumerate(ROWS)]},
        "list": {name: [row[name] for row in ROWS] for name in columns},
        "data": {"version": 1, "data": ROWS},
        "records": ROWS,
    }
    return json.dumps(forms[orient])


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table", "list", "data", "records"])
@pytest.mark.parametrize("name", ["a.json", "a.txt"])
def test_json_as_pandas_and_services_write_it(tmp_path: Path, orient: str, name: str) -> None:
    found = table(tmp_path, as_pandas(orient), name)
    assert [found.columns["text"], found.columns["label"]] == [["no parcel", "a fee"], ["post", "bank"]]


def test_pandas_itself(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for orient in ("columns", "index", "split", "table", "records"):
        pandas.DataFrame(ROWS).to_json(tmp_path / "a.json", orient=orient)
        assert read_table(str(tmp_path / "a.json")).columns["text"] == ["no parcel", "a fee"]


def test_json_that_is_too_deep_or_too_wide(tmp_path: Path) -> None:
    for content in ('{"a":' * 100_000, "[" * 100_000, "[" + "1" * 5000 + "]"):
        for name in ("a.json", "a.jsonl"):
            with pytest.raises(HalfpintError, match="JSON"):
                table(tmp_path, content, name)
    wide = "".join(f'{{"key{n}": 1}}\n' for n in range(10_002))
    with pytest.raises(HalfpintError, match=r"line 10001: expected at most 10,000 different keys"):
        table(tmp_path, wide, "a.jsonl")


def test_a_table_larger_than_memory_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"text,label\n" + b"so it is,a\n" * 200_000)
    (tmp_path / "a.csv.gz").write_bytes(packed)
    assert len(packed) < 20_000
    with pytest.raises(HalfpintError, match=r"too large: at most 0\.0 GB, unpacked.*Take a part of its rows"):
        read_table(str(tmp_path / "a.csv.gz"), max_bytes=1_000_000)
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["x" * 10_000] * 5000, "label": ["a"] * 5000}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(HalfpintError, match="too large: at most"):
        read_table(str(tmp_path / "a.parquet"), max_bytes=1_000_000)


def texts_of(source: str, folder: Path) -> list[str]:
    corpus = prepare_corpus(CorpusData(sources=(source,), clean=False, validation_share=0.0), folder, SILENT)
    return list(corpus.train)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary", "binary", "large_binary"])
def test_text_of_parquet_however_it_is_stored(tmp_path: Path, kind: str) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = arrow.array(["a first text", "größer als zuvor"])
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(arrow, kind)())
    parquet.write_table(arrow.table({"text": column, "n": [1, 2]}), tmp_path / "a.parquet")
    assert read_table(str(tmp_path / "a.parquet")).columns["text"] == ["a first text", "größer als zuvor"]
    assert sorted(texts_of(str(tmp_path / "a.parquet"), tmp_path)) == ["a first text", "größer als zuvor"]


@pytest.mark.parametrize("metadata", [b"\xff", b"{", b"[]", b'{"info": null}', b'{"info": {"features": {"label": 3}}}'])
def test_metadata_of_parquet_that_cannot_be_read(tmp_path: Path, metadata: bytes) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    found = arrow.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({b"huggingface": metadata})
    parquet.write_table(found, tmp_path / "a.parquet")
    assert read_table(str(tmp_path / "a.parquet")).columns["label"] == [0, 1]


def test_faults_of_parquet_are_one_error(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    broken = arrow.StringArray.from_buffers(1, arrow.py_buffer(b"\0\0\0\0\2\0\0\0"), arrow.py_buffer(b"\xff\xfe"))
    parquet.write_table(arrow.table({"text": broken, "label": ["a"]}), path)
    for read in (lambda: read_table(str(path)), lambda: texts_of(str(path), tmp_path / "corpus")):
        with pytest.raises(HalfpintError, match="text in it that is not UTF-8"):
            read()
    parquet.write_table(arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], names=["text", "text"]), path)
    found = read_table(str(path))
    assert found.columns == {"text": ["a"], "text_2": ["b"]}
    assert any("several columns" in note for note in found.notes)
    path.write_bytes(path.read_bytes()[:-20] + b"\0" * 20)
    for read in (lambda: read_table(str(path)), lambda: texts_of(str(path), tmp_path / "corpus")):
        with pytest.raises(HalfpintError, match="expected a Parquet file, got one that cannot be read"):
            read()


def test_a_folder_of_parts_of_one_table(tmp_path: Path) -> None:
    for name, text in (("train-00000-of-00002", "a"), ("train-00001-of-00002", "b"), ("test-00000-of-00001", "c")):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{text} b,x\n{text} c,y\n")
    found = read_table(str(tmp_path))
    assert found.columns["text"] == ["a b", "a c", "b b", "b c"]
    assert found.rows == [1, 2, 3, 4]
    assert read_table(str(tmp_path), split="test").columns["text"] == ["c b", "c c"]
    (tmp_path / "train-00001-of-00002.csv").write_text("text,other\nb c,x\n")
    with pytest.raises(HalfpintError, match=r"00001-of-00002\.csv has other columns \(.*\) than train-00000"):
        read_table(str(tmp_path))


def test_parts_in_a_folder_named_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("about it")
    for number in range(2):
        (tmp_path / "data" / f"{number:05}.jsonl").write_text(json.dumps(ROWS[number]) + "\n")
    assert read_table(str(tmp_path)).columns["label"] == ["post", "bank"]


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe that gives a table once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = "text,label\n" + "".join(f"text number {n} of some length,{n % 2}\n" for n in range(30))
    writer = threading.Thread(target=lambda: path.write_text(content), daemon=True)
    writer.start()
    yield path
    writer.join(10)


def test_pipes_are_read_as_often_as_it_takes(pipe: Path, tmp_path: Path) -> None:
    assert len(read_table(str(pipe))) == 30
    assert len(read_table(str(pipe))) == 30
    assert "text number 3 of" in "".join(texts_of(str(pipe), tmp_path / "corpus"))


def test_standard_input(tmp_path: Path) -> None:
    content = "text,label\n" + "".join(f"text number {n} of some length,{'ab'[n % 2]}\n" for n in range(9))
    line = [sys.executable, "-m", "halfpint", "check", "-"]
    done = subprocess.run(line, input=content, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "-: 9 rows, 2 labels" in done.stdout, done.stderr


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")
    try:
        Path(name).write_text("text,label\na,b\n")
    except OSError:
        pytest.skip("this file system takes no such name")
    line = [sys.executable, "-m", "halfpint", "check", os.fsencode(name)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not in UTF-8" in done.stderr and "Traceback" not in done.stderr


def workbook(path: Path, sheets: dict[str, dict[int, list[object]]]) -> None:
    """Write a workbook: for each sheet its rows by their numbers."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
    numbered = list(enumerate(sheets.items(), start=1))
    listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, (name, _) in numbered)
    linked = "".join(f'<Relationship Id="r{n}" Type="{office}/worksheet" Target="s{n}.xml"/>' for n, _ in numbered)
    root = f'<Relationship Id="r0" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("_rels/.rels", f"<Relationships {package}>{root}</Relationships>")
        book.writestr("xl/_rels/workbook.xml.rels", f"<Relationships {package}>{linked}</Relationships>")
        book.writestr("xl/workbook.xml", f'<workbook {space} xmlns:r="{office}"><sheets>{listed}</sheets></workbook>')
        for n, (_, rows) in numbered:
            lines = ""
            for row, values in rows.items():
                cells = "".join(
                    f'<c r="{"ABC"[at]}{row}" t="inlineStr"><is><t>{value}</t></is></c>'
                    if isinstance(value, str)
                    else f'<c r="{"ABC"[at]}{row}"><v>{value}</v></c>'
                    for at, value in enumerate(values)
                )
                lines += f'<row r="{row}">{cells}</row>'
            book.writestr(f"xl/s{n}.xml", f"<worksheet {space}><sheetData>{lines}</sheetData></worksheet>")


def test_workbooks(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    head: list[object] = ["text", "label"]
    one = {3: head, 4: ["no parcel", "post"], 6: ["a fee", "bank"]}
    workbook(tmp_path / "a.xlsx", {"One": one, "Two": {1: head, 2: [4.0, "x"]}})
    found = read_table(str(tmp_path / "a.xlsx"))
    assert found.columns == {"text": ["no parcel", "a fee"], "label": ["post", "bank"]}
    assert found.rows == [4, 6]
    assert "1 empty row skipped" in found.notes
    assert "sheet 'One' (of One, Two; --sheet names another)" in found.notes
    assert read_table(str(tmp_path / "a.xlsx"), form=Form(sheet="Two")).columns == {"text": [4], "label": ["x"]}
    with pytest.raises(HalfpintError, match=r"--sheet must be .*'Tow'\. Did you mean 'Two'"):
        read_table(str(tmp_path / "a.xlsx"), form=Form(sheet="Tow"))
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(HalfpintError, match="expected an Excel workbook"):
        read_table(str(tmp_path / "b.xlsx"))
