"""The commands as a person types them, in processes of their own: what they give, and what they say of bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from halfpint import __version__
from halfpint.bundle import open_bundle

ROOT = Path(__file__).resolve().parents[1]
TICKETS = ROOT / "examples" / "tickets.csv"
PATIENCE_S = 300
Run = subprocess.CompletedProcess[str]


def halfpint(*words: object, cwd: Path, env: dict[str, str] | None = None, stdin: str = "") -> Run:
    """`halfpint WORDS` in folder `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "halfpint", *map(str, words)], cwd=cwd, env={**os.environ, **(env or {})},
        input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def said(done: Run, *words: str, code: int = 2) -> str:
    """The error message, the one of the run: it holds all `words`, and no traceback stands around it."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (code, 1), done.stderr
    assert "Traceback" not in done.stderr + done.stdout and done.stderr.splitlines()[-1] == errors[0], done.stderr
    for word in words:
        assert word in errors[0]
    return errors[0]


def files(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, and what is in them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def tickets() -> list[list[str]]:
    with TICKETS.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `halfpint fit examples/tickets.csv --base none` wrote, made once for this file and house/test_core.py."""
    out = tmp_path_factory.getbasetemp() / "fitted"
    if not (out / "report.json").is_file():
        done = halfpint("fit", TICKETS, "--base", "none", "--out", out, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def best(fitted: Path) -> Path:
    return fitted / "best"


@pytest.fixture
def sixty(tmp_path: Path) -> Path:
    """A table of 60 rows, in a folder of its own."""
    (tmp_path / "in").mkdir()
    return write_csv(tmp_path / "in" / "sixty.csv", tickets()[:61])


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a device of a size (a tmpfs)."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"device{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a device of a given size needs the right to mount one")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_version_and_help(tmp_path: Path) -> None:
    assert halfpint("--version", cwd=tmp_path).stdout.strip() == __version__
    for words in ((), ("--help",), ("fit", "--help")):
        done = halfpint(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "") and "Usage:" in done.stdout
    assert files(tmp_path) == {}


def test_fit_ends_with_the_proof_and_the_next_commands(fitted: Path) -> None:
    report = json.loads((fitted / "report.json").read_text(encoding="utf-8"))
    assert report["chosen"].startswith("tfidf-") and report["test"][report["chosen"]]["rows"] == 60
    assert {"report.html", "recipe.toml", "events.jsonl"} <= {path.name for path in fitted.iterdir()}
    events = [json.loads(line)["event"] for line in (fitted / "events.jsonl").read_text("utf-8").splitlines()]
    assert events[0] == "data" and events[-1] == "done"
    done = halfpint("report", fitted, cwd=ROOT)
    assert done.returncode == 0 and report["verdict"] in done.stdout
    assert f"halfpint serve {fitted / 'best'}" in done.stdout
    assert json.loads(halfpint("report", fitted, "--json", cwd=ROOT).stdout) == report


def test_predict_texts(best: Path, tmp_path: Path) -> None:
    done = halfpint("predict", best, "Where is my parcel?", "I cannot log in", "--top", "2", "--json", cwd=tmp_path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["label"] for answer in answers] == ["delivery", "login"]
    assert [len(answer["scores"]) for answer in answers] == [2, 2] and answers[0]["text"] == "Where is my parcel?"
    done = halfpint("predict", best, "Where is my parcel?", cwd=tmp_path)
    assert done.stdout.startswith("delivery ") and done.stdout.endswith("|  Where is my parcel?\n")


def test_predict_rows_from_standard_input_to_standard_output(best: Path, tmp_path: Path) -> None:
    words = ("predict", best, "--file", "-", "--out", "-")
    done = halfpint(*words, cwd=tmp_path, stdin="text\nWhere is my parcel?\nI cannot log in\n")
    head, *lines = done.stdout.splitlines()
    assert head == "text,category_predicted,category_probability"
    assert [line.split(",")[1] for line in lines] == ["delivery", "login"]


def test_predict_a_file(best: Path, tmp_path: Path) -> None:
    done = halfpint("predict", best, "--file", TICKETS, "--out", "labels.jsonl", cwd=tmp_path)
    assert done.returncode == 0 and "404 rows written to labels.jsonl" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 404 and sum(row["category_predicted"] == row["category"] for row in rows) > 340


def test_evaluate(best: Path, sixty: Path) -> None:
    done = halfpint("evaluate", best, sixty, "--json", cwd=sixty.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "size_bytes", "latency_p50_ms")
    for name in (*names, "texts_per_s", "energy_wh_per_1000"):
        assert isinstance(found[name], int | float) and found[name] > 0, name
    low, high = found["interval"]
    assert 0 < low <= found["accuracy"] <= high <= 1 and found["size_bytes"] == open_bundle(best).size_bytes
    assert found["learned"]["rows"] + found["learned"]["others"]["rows"] == found["rows"]  # test texts are the others


def test_check(tmp_path: Path) -> None:
    done = halfpint("check", TICKETS, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "404 rows, 8 labels" in done.stdout
    bad = write_csv(tmp_path / "bad.csv", [*tickets(), ["", "billing"], ["no label here", ""]])
    done = halfpint("check", bad, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    kinds = {finding["kind"]: finding["rows"] for finding in found["findings"]}
    assert (done.returncode, found["errors"]) == (1, 2)
    assert (kinds["missing_text"], kinds["missing_label"]) == ([406], [407])


def test_a_recipe_is_written_changed_and_run(tmp_path: Path) -> None:
    done = halfpint("init", TICKETS, "--out", "tickets.toml", cwd=tmp_path)
    assert done.returncode == 0 and "halfpint run tickets.toml" in done.stdout
    said(halfpint("init", TICKETS, "--out", "tickets.toml", cwd=tmp_path), "tickets.toml", "--force")
    (tmp_path / "small.toml").write_text(
        f'[data]\nsource = "{TICKETS.as_posix()}"\n\n[[stage]]\nuse = "train/tfidf_linear"\nstrength = 1.0\n\n'
        '[[stage]]\nuse = "export/onnx"\n'
    )
    words = ("run", "small.toml", "--set", "stage.1.features=200", "--json")
    done = halfpint(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["test"]["rows"] == 60 and (tmp_path / "small" / "best" / "model.onnx").is_file()
    assert "features = 200\n" in (tmp_path / "small" / "recipe.resolved.toml").read_text("utf-8")
    again = halfpint(*words, cwd=tmp_path)
    assert "nothing to do" in again.stderr and json.loads(again.stdout) == result


def test_all_faults_of_a_recipe_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[data]\nsorce = "x.csv"\n\n[[stage]]\nuse = "train/finetun"\n')
    before = files(tmp_path)
    done = halfpint("run", "bad.toml", cwd=tmp_path)
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: bad.toml has 3 faults:")
        and "Traceback" not in done.stderr
    )
    assert all(words in done.stderr for words in ("mean 'source'?", "mean 'train/finetune'?", "has 3 faults:"))
    assert files(tmp_path) == before


SOME = TICKETS.read_bytes()
BAD_DATA = {
    "zero": (b"text,label\n", ["only its header, text, label"]),
    "empty": (b"", ["is empty"]),
    "one_class": (
        b"text,label\n" + b"".join(b"text number %d,billing\n" % number for number in range(40)),
        ["only the label 'billing'", "two or more are needed"],
    ),
    "single": (SOME + b"a thing of its own,lonely\n", ["fewer than two usable examples ('lonely')", "row (406)"]),
    "unlabelled": (SOME + b"it has none,NaN\nnor has this,\n", ["no label: 2 rows (406, 407)", "--drop-missing"]),
    "binary": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, ["a binary file", "Save it as CSV, TSV or JSONL"]),
    "mixed": (
        b"text,label\n" + "un café tiède,a\n".encode() * 20 + "un café tiède,b\n".encode("latin-1") * 20,
        ["mixed.csv mixes encodings", "lines 22, 23", "UTF-8"],
    ),
    "huge": (
        SOME + b"word " * 1_000_000 + b",billing\n",
        ["row 406", "at most 1,000,000 characters", "one of 5,000,000"],
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_nothing_can_be_learned_from(name: str, tmp_path: Path) -> None:
    content, words = BAD_DATA[name]
    (tmp_path / f"{name}.csv").write_bytes(content)
    said(halfpint("fit", f"{name}.csv", "--base", "none", "--out", "out", cwd=tmp_path), f"{name}.csv", *words)
    assert files(tmp_path) == {f"{name}.csv": content} and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fit ticket.csv", ["no file or folder ticket.csv", "Did you mean 'tickets.csv'?"]),
        ("fit tickets.csv --label categori", ["--label", "Did you mean 'category'?", "text, category"]),
        ("fit tickets.csv --max-size 25XB", ["--max-size", "'25XB'", "MB"]),
        ("fit tickets.csv --max-latency fast", ["--max-latency", "'fast'", "10ms"]),
        ("fit tickets.csv --floor f1_makro=0.8", ["--floor", "Did you mean 'f1_macro'?"]),
        ("fit tickets.csv --keep 2", ["--keep", "above 0 and up to 1"]),
        ("fit tickets.csv --minutes 0", ["--minutes", "above 0"]),
        ("fit tickets.csv --minutes ten", ["--minutes", "number", "halfpint fit --help"]),
        ("fit tickets.csv --metric acuracy", ["--metric", "Did you mean 'accuracy'?"]),
        ("fit tickets.csv --base all-minilm", ["base model 'all-minilm'", "Did you mean 'all-minilm-l6-v2'?"]),
        ("fit", ["DATA", "halfpint fit --help"]),
        ("fiit tickets.csv", ["'fiit'", "halfpint --help"]),
        ("predict nowhere hello", ["no folder nowhere", "OUT/best"]),
        ("predict BEST", ["Give a text", "--file"]),
        ("predict BEST --file none.csv --out labels.csv", ["no file or folder none.csv"]),
        ("evaluate BEST tickets.csv --metric f1", ["--metric", "f1_macro"]),
        (
            "evaluate BEST tickets.csv --label text --text category",
            ["labels that the model does not know", "feature_request"],
        ),
        ("serve BEST --port 70000", ["--port", "70000"]),
        ("report nowhere", ["no folder nowhere", "output folder of a finished"]),
        ("run none.toml", ["no file or folder none.toml", "halfpint init"]),
    ],
)
def test_words_that_make_no_sense(line: str, words: list[str], best: Path, tmp_path: Path) -> None:
    shutil.copyfile(TICKETS, tmp_path / "tickets.csv")
    before = files(tmp_path)
    typed = [str(best) if word == "BEST" else word for word in line.split()]
    message = said(halfpint(*typed, cwd=tmp_path), *words)
    assert len(message) < 600 and files(tmp_path) == before


def test_a_folder_with_other_files_is_left_alone(fitted: Path, sixty: Path) -> None:
    out = sixty.parent / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    command = ("fit", sixty, "--base", "none", "--out", out)
    said(halfpint(*command, cwd=ROOT), "files of something else", "--force")
    said(halfpint("fit", TICKETS, "--base", "none", "--out", fitted, cwd=ROOT), "a finished run")
    # A fault that shows later takes nothing away either.
    before = files(shutil.copytree(fitted, out, dirs_exist_ok=True))
    said(halfpint(*command, "--label", "none", "--force", cwd=ROOT), "no column 'none'")
    assert files(out) == before and "mine.txt" in before


def test_force_drop_missing_and_a_size_that_nothing_meets(fitted: Path, tmp_path: Path) -> None:
    """In one run: what halfpint wrote goes, foreign files stay; unlabelled rows are left out; exit code 3."""
    data = write_csv(tmp_path / "data.csv", [*tickets(), ["this one has none", ""], ["nor has this", "NaN"]])
    out = shutil.copytree(fitted, tmp_path / "out")
    (out / "mine.txt").write_text("mine")
    limits = ("--max-size", "1KB", "--drop-missing")
    done = halfpint("fit", data, "--base", "none", "--out", out, *limits, "--force", cwd=ROOT)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
    assert "dropped: no label: 2 rows" in done.stderr
    assert "Infeasible; the closest is majority" in done.stdout and "next:" not in done.stdout
    assert (out / "mine.txt").read_text() == "mine" and not (out / "best").exists()
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["chosen"] is None and len(report["candidates"]) == 5


def test_too_little_room_is_told_before_any_work(device: Callable[[str], Path]) -> None:
    small = device("1m")
    said(
        halfpint("fit", TICKETS, "--base", "none", "--out", small / "out", cwd=ROOT), "too little room", "1 MB are free"
    )
    assert list(small.iterdir()) == []


def test_a_device_that_fills_up_leaves_what_was_written_whole(device: Callable[[str], Path]) -> None:
    disk = device("230m")
    out = disk / "out"
    command = [sys.executable, "-m", "halfpint", "fit", str(TICKETS), "--base", "none", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_for(running, lambda: bool(list(out.glob("work/train-tfidf*/card.json"))))
        with (disk / "filler").open("wb", buffering=0) as filler:
            for size in (1_000_000, 512):
                with suppress(OSError):
                    while True:
                        filler.write(bytes(size))
        done = Run(command, 0, *running.communicate(timeout=PATIENCE_S))
    done.returncode = running.returncode
    said(done, str(disk), "no room left on the device", "resumes")
    made = [card.parent for card in out.glob("work/*/card.json")]
    assert len(made) >= 2 and all(open_bundle(folder).labels for folder in made)
    assert not (out / "best").exists() and not (out / "report.json").exists()


def test_predict_without_room_keeps_the_earlier_file(best: Path, device: Callable[[str], Path]) -> None:
    small = device("16k")
    (small / "labels.csv").write_text("earlier")
    said(halfpint("predict", best, "--file", TICKETS, "--out", small / "labels.csv", cwd=ROOT), "no room left for")
    assert files(small) == {"labels.csv": b"earlier"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("command", ["check", "predict"])
def test_standard_output_without_room(command: str, best: Path) -> None:
    words = ["check", TICKETS] if command == "check" else ["predict", best, "--file", TICKETS, "--out", "-"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "halfpint", *map(str, words)], stdout=full, stderr=subprocess.PIPE, text=True,
            env=environment, check=False,
        )  # fmt: skip
    assert done.returncode == 2 and "no room left for standard output" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def no_network(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which every way out is a closed port of this machine, and nothing was downloaded before."""
    with socket.socket() as taken:  # and nobody else takes it meanwhile
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        cache = {name: str(tmp_path / "cache") for name in ("HALFPINT_CACHE", "HF_HOME")}
        yield {**dict.fromkeys(names, closed), **cache, "NO_PROXY": "", "no_proxy": ""}


def test_a_model_that_cannot_be_had(no_network: dict[str, str], sixty: Path) -> None:
    name = "owner/does-not-exist"
    words = (f"base model '{name}'", "With no network", f"halfpint pull {name}", "the folder of a model")
    said(halfpint("pull", name, cwd=ROOT, env=no_network), *words)
    out = sixty.parent / "out"
    said(halfpint("fit", sixty, "--base", name, "--out", out, cwd=ROOT, env=no_network), *words)
    assert not out.exists()


def wait_for(running: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert running.poll() is None and time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_ctrl_c_and_the_same_command_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "halfpint", "fit", str(TICKETS), "--base", "none", "--out", "out"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        wait_for(running, lambda: bool(list(tmp_path.glob("out/work/export-*.assessment.json"))))
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all processes in front
        _, told = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130 and "Traceback" not in told
    assert told.endswith("interrupted; give the same command again to go on where it stopped\n")
    trained = [card.stat().st_mtime_ns for card in sorted(tmp_path.glob("out/work/*/card.json"))]
    again = halfpint("fit", TICKETS, "--base", "none", "--out", "out", cwd=tmp_path)
    assert again.returncode == 0 and "going on with the unfinished run in out" in again.stderr
    after = [card.stat().st_mtime_ns for card in sorted(tmp_path.glob("out/work/*/card.json"))]
    assert set(trained) < set(after), "what was made before is not made again"
    assert (tmp_path / "out" / "best" / "card.json").is_file()
