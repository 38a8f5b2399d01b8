"""`halfpint predict` as a person types it: files, their names, and what is asked back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from halfpint import load
from halfpint.command import command_class

BUNDLE = Path(__file__).parent / "old" / "bundles" / "classifier-onnx"


def predict(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "halfpint", "predict", str(BUNDLE), *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_predict_writes_beside_the_file_and_counts(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("2,words\n1,I was charged twice\n3,the app crashes\n", encoding="utf-8")
    done = predict("--file", "in.csv", "--text", "words", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 rows written to in-labelled.csv\n" in done.stderr and "in.csv: encoding UTF-8; delimiter" in done.stderr
    assert done.stderr.endswith("        2  delivery\n")
    with (tmp_path / "in-labelled.csv").open(encoding="utf-8", newline="") as file:
        head, first, *_ = csv.reader(file)
    assert head[:3] == ["2", "words", "label"] and first[:3] == ["1", "I was charged twice", "delivery"]
    refused(predict("in.csv", folder=tmp_path), "Did you mean --file in.csv?")
    refused(predict("", folder=tmp_path), "An empty text has no answer")
    refused(predict("--file", "in.csv", "--out", "in.csv", folder=tmp_path), "is the file that is read")
    refused(predict("words", "--no-header", folder=tmp_path), "--no-header needs --file")


def test_unsure_and_only(tmp_path: Path) -> None:
    done = predict("I was charged twice", "--unsure", "1", "--json", folder=tmp_path)
    answer = json.loads(done.stdout)
    assert (answer["label"], answer["unsure"]) == ("unsure", True) and answer["scores"][0]["label"] != "unsure"
    assert answer["probability"] == answer["scores"][0]["probability"] < 1
    done = predict("I was charged twice", "--unsure", "0.01", "--json", folder=tmp_path)
    assert json.loads(done.stdout)["unsure"] is False
    assert predict("I was charged twice", "--unsure", "1", folder=tmp_path).stdout.startswith("unsure (")
    refused(predict("words", "--unsure", "2", folder=tmp_path), "--unsure")
    refused(
        predict("words", "--unsure", "0.5", "--top", "2", folder=tmp_path),
        "--top needs the labels as they are, not --unsure",
    )
    refused(predict("words", "--only", "a=b", folder=tmp_path), "--only needs --file")


def test_home_in_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands ~ in quotes, in --reference=~/model or in what Python is given."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "b").symlink_to(BUNDLE)
    assert command_class("predict")(bundle="~/b", texts=("~/no path",)).line().endswith(f"{tmp_path}/b '~/no path'")
    assert command_class("distil")(teacher="~/b,./c,~/d", data="x", student="~nobody-of-that-name/s").line() == (
        f"halfpint distil {tmp_path}/b,./c,{tmp_path}/d x --student '~nobody-of-that-name/s'"
    )
    assert load("~/b").labels == load(BUNDLE).labels
