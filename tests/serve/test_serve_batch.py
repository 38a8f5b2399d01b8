"""Labels for whole files: what comes out, what is refused, and that memory stays constant."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from halfpint.errors import HalfpintError
from halfpint.outputs import Floats
from halfpint.progress import SILENT, Log
from halfpint.serve.batch import beside, predict_file, predict_texts
from halfpint.tasks.classify import TASK


class LengthEngine:
    """`even` or `odd`, by the number of characters, with 0.75."""

    labels: tuple[str, ...] = ("even", "odd")

    def __init__(self) -> None:
        self.seen: list[int] = []

    def probabilities(self, texts: Sequence[str]) -> Floats:
        self.seen.append(len(texts))
        odd = np.array([0.25 + 0.5 * (len(text) % 2) for text in texts], dtype=np.float32)
        return np.stack([1 - odd, odd], axis=1)


ENGINE = LengthEngine()


def label_of(text: str) -> str:
    return "odd" if len(text) % 2 else "even"


def labelled(
    source: Path, data: str | bytes, out: str = "out.csv", *, text: str | None = None, top: int = 1,
    encoding: str = "utf-8",
) -> str:  # fmt: skip
    """The text of what is written for a file that holds `data`."""
    source.write_bytes(data.encode() if isinstance(data, str) else data)
    target = source.parent / out
    predict_file(ENGINE, TASK, source, target, text=text, top=top, log=SILENT)
    raw = target.read_bytes()
    return (gzip.decompress(raw) if out.endswith(".gz") else raw).decode(encoding)


def test_texts_get_their_labels_in_order() -> None:
    found = predict_texts(ENGINE, TASK, ["abc", "ab", "half a pair \ud800"], top=2)
    assert [one["label"] for one in found] == ["odd", "even", "odd"]
    assert found[0]["scores"] == [{"label": "odd", "probability": 0.75}, {"label": "even", "probability": 0.25}]
    assert predict_texts(ENGINE, TASK, []) == []


_SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))


@given(rows=arrays.arrays(np.float32, _SHAPES, elements=st.floats(0, 1, width=32)), top=st.integers(1, 8))
def test_predictions_are_the_best_labels_in_order(rows: Floats, top: int) -> None:
    labels = [f"label {index}" for index in range(rows.shape[1])]
    texts = ["a text"] * len(rows)
    for row, found in zip(rows, TASK.rows(texts, rows, labels, top), strict=True):
        shares = [score["probability"] for score in found["scores"]]
        assert len(shares) == min(top, len(labels))
        assert shares == sorted(shares, reverse=True)
        assert found["probability"] == pytest.approx(float(row.max()), abs=1e-6)
        assert row[labels.index(found["label"])] == row.max()


def test_csv_keeps_its_rows_with_quoted_line_breaks(tmp_path: Path) -> None:
    rows = [["1", 'two\nlines, a comma and a "quote"'], ["2", "naïve ✓"], ["3", "x"]]
    data = io.StringIO()
    csv.writer(data).writerows([["id", "text"], *rows])
    found = list(csv.reader(io.StringIO(labelled(tmp_path / "in.csv", data.getvalue()), newline="")))
    assert found[0] == ["id", "text", "label", "probability"]
    assert found[1:] == [[*row, label_of(row[1]), "0.75"] for row in rows]


CELLS = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n"), max_size=12)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(CELLS, CELLS.filter(str.strip)), min_size=1, max_size=12), chunk=st.integers(1, 5))
def test_any_rows_come_through_whole(rows: list[tuple[str, str]], chunk: int) -> None:
    data = io.StringIO()
    writer = csv.writer(data, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("id", "text"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.csv", Path(folder) / "out.csv"
        source.write_text(data.getvalue(), encoding="utf-8", newline="")
        done = predict_file(ENGINE, TASK, source, out, text="text", chunk=chunk, log=SILENT)
        assert done.rows == len(rows) == sum(done.labels.values())
        with out.open(encoding="utf-8", newline="") as file:
            found = list(csv.reader(file))
    assert [tuple(row[:2]) for row in found[1:]] == rows
    assert [row[2] for row in found[1:]] == [label_of(text) for _, text in rows]


def test_names_that_are_taken_are_kept(tmp_path: Path) -> None:
    found = labelled(tmp_path / "in.csv", "text,label\nabc,old\nabcd,new\n")
    assert found == "text,label,predicted_label,predicted_probability\nabc,old,odd,0.75\nabcd,new,even,0.75\n"
    again = labelled(tmp_path / "in.csv", found)
    assert again.splitlines()[0].endswith("predicted_predicted_label,predicted_predicted_probability")


def test_top_adds_columns_for_each_rank(tmp_path: Path) -> None:
    found = labelled(tmp_path / "in.csv", "text,id\nabc,1\nabcd,2\n", top=5)
    assert found.splitlines()[:2] == ["text,id,label,probability,label_2,probability_2", "abc,1,odd,0.75,even,0.25"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_jsonl_keeps_its_values(tmp_path: Path, packed: bool) -> None:
    rows = [{"text": "abc", "n": {"deep": [1, 2.5, None]}}, {"text": "half \ud800", "more": "é"}, {"text": None}]
    data = "\n\n".join(json.dumps(row) for row in rows).encode()
    end = ".gz" if packed else ""
    found = labelled(tmp_path / f"in.jsonl{end}", gzip.compress(data) if packed else data, f"out.jsonl{end}")
    read = [json.loads(line) for line in found.splitlines()]
    assert [{name: row[name] for name in row if name not in ("label", "probability")} for row in read] == rows
    assert [(row["label"], row["probability"]) for row in read] == [("odd", 0.75), ("even", 0.75), (None, None)]


def test_a_gzipped_csv_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    data = gzip.compress(b"text,id\nabc,1\nabcd,2\n")
    assert labelled(tmp_path / "in.csv.gz", data, "out.csv.gz").splitlines()[1] == "abc,1,odd,0.75"
    first = (tmp_path / "out.csv.gz").read_bytes()
    labelled(tmp_path / "in.csv.gz", data, "out.csv.gz")
    assert (tmp_path / "out.csv.gz").read_bytes() == first


@pytest.mark.parametrize(
    ("name", "data", "out", "wanted"),
    [
        ("in.tsv", "text\tid\na, b\t1\nb\t2\n", "out.tsv", "a, b\t1\teven\t0.75\n"),
        ("in.tsv", 'text\tid\n"open\t1\nb\t2\n', "out.tsv", '"open\t1\todd\t0.75\n'),
        ("in.csv", "text;id\na, b;1\nb;2\n", "out.csv", "a, b;1;even;0.75\n"),
        ("in.csv", "text,id\nabc,1\nb,2\n", "out.tsv", "abc\t1\todd\t0.75\n"),
        ("in.csv", "text,id\nabc,1\nb,2\n", "out.jsonl", '{"text": "abc", "id": "1", "label": "odd"'),
        ("in.jsonl", '{"text": "abc", "n": [1]}\n{"text": "b"}\n', "out.csv", "abc,[1],odd,0.75\n"),
        ("in.csv", "text,id\r\nabc,1\r\nb,2\r\n", "out", "abc,1,odd,0.75\n"),
        ("in.txt", "text\nabc, d\nanother text\n", "out.csv", '"abc, d",even,0.75\n'),
        ("in.csv", "\ufefftext,id\nabc,1\nb,2\n", "out.csv", "\ufefftext,id,label,probability\nabc,1"),
        ("in.csv", "the first of three texts,7\nabc,8\nsome words,9\n", "out.csv", "abc,8,odd,0.75\n"),
        ("in.txt", '{"a":' * 100_000 + "\n", "out.csv", ",even,0.75\n"),
        ("in.csv", "text,id\nabc,1\n ,2\n,3\n", "out.csv", "abc,1,odd,0.75\n ,2,,\n,3,,\n"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_layouts_are_found_out_and_kept(tmp_path: Path, name: str, data: str | bytes, out: str, wanted: str) -> None:
    assert wanted in labelled(tmp_path / name, data, out)


def test_quoting_is_found_where_the_sample_ends_inside_a_cell(tmp_path: Path) -> None:
    cell = "one\ntwo\n" + "three " * 50 + "\nfour"
    data = "text\tid\n" + "".join(f'"{cell}"\t{index}\n' for index in range(2000))
    found = list(csv.reader(io.StringIO(labelled(tmp_path / "in.tsv", data, "out.tsv"), newline=""), delimiter="\t"))
    assert len(found) == 2001
    assert found[-1] == [cell, "1999", label_of(cell), "0.75"]


def test_a_text_column_is_named_or_guessed(tmp_path: Path) -> None:
    data = "id,subject_line,notes\n1,abc,a much longer text here\n2,abcd,and another long text\n"
    assert "1,abc,a much longer text here,odd" in labelled(tmp_path / "in.csv", data, text="subject_line")
    with pytest.raises(HalfpintError, match=r"in\.csv has no column 'notess' for --text.*Did you mean 'notes'"):
        labelled(tmp_path / "in.csv", data, text="notess")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("in.csv", "text,id\nabc,1\nabc,2,3\nb,2\n", "2 fields.*row 3 .row 3 has 3"),
        ("in.csv", "text,id,more\nabc,1\nabc,2\nb,3\n", "2 fields.*row 1 .row 1 has 3"),
        ("in.csv", 'text,id\nabc,1\n"open,2\nb,3\n', "row 3.*a quotation mark is opened and never closed"),
        ("in.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not valid JSON"),
        ("in.jsonl", '{"text": "a b"}\n[1]\n', "line 2 is not a JSON object but a list"),
        ("in.jsonl", '{"text": "a b"}\n' + "[" * 100_000, "line 2 is not valid JSON"),
        ("in.jsonl", '{"text": "a b"}\n{"text": ["a"]}\n', "line 2.*column 'text'.*list"),
        ("in.csv", "", "is empty"),
        ("in.csv", "\n\n", "no rows"),
        ("in.csv", "text,id\n", "rows"),
        ("in.csv", b"text,id\nab\x00c,1\n", "binary"),
        ("in.csv.gz", gzip.compress(b"text,id\n" + b"abc,1\n" * 500, mtime=0)[:-9], "damaged"),
        ("in.parquet", b"PAR1", "a Parquet file.*cannot be read"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_faults_are_told_and_leave_an_earlier_result_alone(
    tmp_path: Path, name: str, data: str | bytes, said: str
) -> None:
    (tmp_path / "out.csv").write_text("an earlier result", encoding="utf-8")
    with pytest.raises(HalfpintError, match=f"(?s){name}.*{said}"):
        labelled(tmp_path / name, data)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "an earlier result"
    assert {path.name for path in tmp_path.iterdir()} == {name, "out.csv"}


def test_rows_at_fault_are_told_before_any_work(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text,id\n" + "abc,1\n" * 5000 + "abc\n", encoding="utf-8")
    engine = LengthEngine()
    with pytest.raises(HalfpintError, match="row 5002"):
        predict_file(engine, TASK, source, tmp_path / "out.csv", log=SILENT)
    assert engine.seen == []


def test_missing_files_and_folders_as_results(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("text,id\nabc,1\n", encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"no file or folder .*Did you mean 'tickets\.csv'"):
        predict_file(ENGINE, TASK, tmp_path / "ticket.csv", tmp_path / "out.csv", log=SILENT)
    with pytest.raises(HalfpintError, match="a folder"):
        predict_file(ENGINE, TASK, tmp_path / "tickets.csv", tmp_path, log=SILENT)


def test_a_result_never_takes_the_place_of_its_source(tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=r"is the file that is read.*in-labelled\.csv"):
        labelled(tmp_path / "in.csv", "text,id\nabc,1\nb,2\n", "in.csv")
    assert (tmp_path / "in.csv").read_text(encoding="utf-8") == "text,id\nabc,1\nb,2\n"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_the_encoding_of_the_source_is_kept(tmp_path: Path, encoding: str) -> None:
    data = "text,id\nñandú,1\nb,2\n".encode(encoding)
    assert labelled(tmp_path / "in.csv", data, encoding=encoding).splitlines()[1] == "ñandú,1,odd,0.75"


def test_what_was_guessed_is_told(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes("text,id\nñandú,1\n,2\n".encode("cp1252"))
    log = Log(tmp_path / "events.jsonl", quiet=True)
    predict_file(ENGINE, TASK, source, tmp_path / "out.csv", log=log)
    told = (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    assert "column 'text'" in told
    assert "cp1252" in told
    assert "1 of 2 rows has no text" in told


_MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_serve_batch import LengthEngine
from halfpint.progress import SILENT
from halfpint.serve.batch import predict_file
from halfpint.tasks.classify import TASK

def most_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

for name in ("short.csv", "long.csv"):
    done = predict_file(LengthEngine(), TASK, Path(name), Path("out.csv"), chunk=500, log=SILENT)
    print(done.rows, most_memory())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    for name, rows in (("short.csv", 1500), ("long.csv", 50_000)):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            writer.writerows([index, f"text number {index},\n" + "word " * 80] for index in range(rows))
    line = [sys.executable, "-c", _MEMORY, str(Path(__file__).parent)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    (few, before), (many, after) = (map(int, told.split()) for told in done.stdout.splitlines())
    assert (few, many) == (1500, 50_000)
    assert (tmp_path / "long.csv").stat().st_size > 20_000_000
    assert after - before < 4_000_000
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as written:
        assert sum(1 for _ in csv.reader(written)) == 50_001


_COMMAND = """
import resource, sys
from pathlib import Path
import numpy as np
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT
from halfpint.serve.batch import predict_file
from halfpint.tasks.classify import TASK

class One:
    labels = ("a",)
    def probabilities(self, texts):
        return np.ones((len(texts), 1), dtype=np.float32)

if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    predict_file(One(), TASK, Path(sys.argv[1]), Path(sys.argv[2]), chunk=100, log=SILENT)
except HalfpintError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def command(*arguments: str | Path, given: str = "", out: str | None = None) -> subprocess.CompletedProcess[str]:
    """A process that labels a file; its standard output goes to the file `out`, if given."""
    line = [sys.executable, "-c", _COMMAND, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") if out is None else Path(out).open("w") as file:
        done = subprocess.run(
            line, input=given, stdout=file, stderr=subprocess.PIPE, text=True, timeout=300, check=False
        )
        if out is None:
            file.seek(0)
            done.stdout = file.read()
    return done


def test_a_full_disk_leaves_the_earlier_result_and_no_remains(tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text,id\n" + "some text,1\n" * 20_000, encoding="utf-8")
    out.write_text("an earlier result", encoding="utf-8")
    done = command(source, out, "100000")
    assert done.returncode == 2
    assert "no room left for" in done.stderr
    assert "an earlier one of that name is whole" in done.stderr
    assert out.read_text(encoding="utf-8") == "an earlier result"
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv"}


def test_standard_input_and_output(tmp_path: Path) -> None:
    done = command("-", "-", given="text,id\nabc,1\nb,2\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "text,id,label,probability\nabc,1,a,1.0\nb,2,a,1.0\n", "")
    full = command("-", "-", given="text,id\n" + "some text,1\n" * 5000, out="/dev/full")
    assert full.returncode == 2
    assert "standard output" in full.stderr
    assert "no space left" in full.stderr
    assert "Exception ignored" not in full.stderr


@pytest.mark.parametrize("name", ["out.parquet", "out.xlsx"])
def test_forms_that_are_not_written_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HalfpintError, match=r"not written row by row.*out\.csv"):
        labelled(tmp_path / "in.csv", "text,id\nabc,1\n", name)
    assert not (tmp_path / name).exists()


def test_a_json_array_is_read_and_written(tmp_path: Path) -> None:
    found = labelled(tmp_path / "in.json", '[{"text": "abc", "n": {"deep": 1}}, {"text": "b"}]', "out.json")
    assert [(row["label"], row.get("n")) for row in json.loads(found)] == [("odd", {"deep": 1}), ("odd", None)]


def test_parquet_is_read(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["abc", "ab"], "n": [1, 2]}), tmp_path / "in.parquet")
    data = (tmp_path / "in.parquet").read_bytes()
    assert labelled(tmp_path / "in.parquet", data) == "text,n,label,probability\nabc,1,odd,0.75\nab,2,even,0.75\n"


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("Timestamp,What happened in your own words this time?\n2026/03/1 10:00,a parcel\n", ",a parcel,even,0.75\n"),
        ("sep=;\ntext;id\nabc;1\n", "text;id;label;probability\nabc;1;odd;0.75\n"),
        ('text,id\n"he said \\"yes\\"",1\n', '"he said ""yes""",1,odd,0.75\n'),
        ("text,id\nabc,1\n,\n", "text,id,label,probability\nabc,1,odd,0.75\n"),
        ("text,id\n" + "x" * 200_000 + ",1\n", "x,1,even,0.75\n"),
        ("4,what\n5,abc\n", "4,what,label,probability\n5,abc,odd,0.75\n"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_tables_of_other_programs_are_labelled(tmp_path: Path, data: str, wanted: str) -> None:
    assert wanted in labelled(tmp_path / "in.csv", data, text="what" if "what" in data else None)


def test_a_label_that_the_encoding_does_not_have(tmp_path: Path) -> None:
    class Greek(LengthEngine):
        labels = ("ζυγός", "μονός")

    (tmp_path / "in.csv").write_bytes("text,id\nñandú,1\nb,2\n".encode("cp1252"))
    predict_file(Greek(), TASK, tmp_path / "in.csv", tmp_path / "out.csv", log=SILENT)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8-sig").splitlines()[1] == "ñandú,1,μονός,0.75"


def test_names_of_results() -> None:
    names = ("x.csv", "d/x.csv.gz", "x.JSONL", "x.xlsx", "x.parquet", "x")
    found = [str(beside(Path(name))).replace("x-labelled", "x") for name in names]
    assert found == ["x.csv", "d/x.csv.gz", "x.JSONL", "x.csv", "x.csv", "x.csv"]
