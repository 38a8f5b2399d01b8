"""What `predict --file` adds to rows: columns named by what they answer, "unsure", and rows that are left out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from halfpint.errors import HalfpintError
from halfpint.outputs import Floats
from halfpint.progress import SILENT, Log
from halfpint.serve.batch import predict_file
from halfpint.tasks.classify import TASK


class LengthEngine:
    """Labels a text by whether its length is odd, more surely where it is long."""

    labels = ("even", "odd")

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """0.75 for texts of up to four characters, 0.9 for others."""
        rows = [[0.0, 0.75 if len(text) < 5 else 0.9] for text in texts]
        found = np.array([[1 - one[1], one[1]] for one in rows])
        return np.array([row if len(text) % 2 else row[::-1] for row, text in zip(found, texts, strict=True)])


ENGINE = LengthEngine()


def test_columns_are_named_by_what_they_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two models label one file, the first of them twice: nothing is lost, and what is numbered is said."""
    (tmp_path / "in.csv").write_text("text,mood_probability\nabc,0.1\n", "utf-8")
    for number, of, said in ((1, "topic", ""), (2, "tone", ""), (3, "topic", "topic_pre"), (4, "mood", "mood_pro")):
        out = tmp_path / f"out{number}.csv"
        before = tmp_path / ("in.csv" if number == 1 else f"out{number - 1}.csv")
        predict_file(ENGINE, TASK, before, out, text="text", of=of, top=2 if number == 4 else 1, log=Log())
        told = [line for line in capsys.readouterr().err.splitlines() if "it stays" in line]
        assert len(told) == bool(said) and said in "".join(told)
    head, row = list(csv.reader(out.open(encoding="utf-8")))
    assert head == [
        "text", "mood_probability", "topic_predicted", "topic_probability", "tone_predicted", "tone_probability",
        "topic_2_predicted", "topic_2_probability", "mood_2_predicted", "mood_2_probability", "mood_2_predicted_2",
        "mood_2_probability_2",
    ]  # fmt: skip
    assert row == ["abc", "0.1", *["odd", "0.75"] * 4, "even", "0.25"]


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_an_answer_below_the_threshold_is_unsure(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\nabc\nabcdef\nabcd\n", "utf-8")
    done = predict_file(ENGINE, TASK, tmp_path / "in.csv", tmp_path / "out.csv", text="text", unsure=0.8, log=SILENT)
    assert rows_of(tmp_path / "out.csv")[1:] == [
        ["abc", "unsure", "0.75"], ["abcdef", "even", "0.9"], ["abcd", "unsure", "0.75"],
    ]  # fmt: skip
    assert done.labels == {"unsure": 2, "even": 1}


def test_two_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second model labels the rows that the first one gave a label, and leaves the others empty."""
    (tmp_path / "in.csv").write_text("text,a=b\nabc, 1\nabcdef,2\nabcd,1\n,1\n", "utf-8")
    predict_file(ENGINE, TASK, tmp_path / "in.csv", tmp_path / "one.csv", text="text", of="complaint", log=SILENT)
    out = tmp_path / "two.csv"
    predict_file(
        ENGINE, TASK, tmp_path / "one.csv", out, text="text", of="why", only="complaint_predicted=even", log=Log()
    )
    assert [row[2:] for row in rows_of(out)[1:]] == [
        ["odd", "0.75", "", ""], ["even", "0.9", "even", "0.9"], ["even", "0.75", "even", "0.75"], ["", "", "", ""],
    ]  # fmt: skip
    assert "2 of 4 rows have complaint_predicted = 'even'; the others got no label." in capsys.readouterr().err
    # A column with = in its name, spaces around values; a value that no row has.
    done = predict_file(ENGINE, TASK, tmp_path / "in.csv", out, text="text", only="a=b= 1", log=SILENT)
    assert done.labels == {"odd": 1, "even": 1}
    predict_file(ENGINE, TASK, tmp_path / "in.csv", out, text="text", only="a=b=yes", log=Log())
    assert "no row has a=b = 'yes'; there is: '1', '2'." in capsys.readouterr().err
    with pytest.raises(HalfpintError, match=r"COLUMN=VALUE with a column of .*Did you mean 'a=b'"):
        predict_file(ENGINE, TASK, tmp_path / "in.csv", out, text="text", only="a b=1", log=SILENT)
