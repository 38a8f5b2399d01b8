"""`halfpint predict` as a person types it: files, their names, and what is asked back."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

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
