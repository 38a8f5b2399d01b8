"""`--minutes` that are over: what is judged is less, and said, and the bundle is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from halfpint.bundle import Bundle, open_bundle
from halfpint.engines import open_language_engine
from halfpint.evaluate.text import in_time, judge
from halfpint.progress import Log

TICKETS = str(Path(__file__).resolve().parents[1] / "examples" / "tickets.csv")
Typed = Callable[..., tuple[int, str, str]]
DOCUMENTS = [f"the parcel number {number} did not arrive, and nobody answers " * 40 for number in range(20)]


def test_excerpts_stand_for_text_that_takes_longer(
    bundles: Callable[[str], Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = open_language_engine(bundles("ngram"))
    assert in_time([engine], DOCUMENTS, math.inf, Log()) is DOCUMENTS
    some = in_time([engine, engine], DOCUMENTS, -1e9, Log())
    whole, chars = sum(map(len, DOCUMENTS)), sum(map(len, some))
    assert 0 < chars <= 2000 < whole
    assert f"judged by {chars:,} of {whole:,} characters, as no time was left for more" in capsys.readouterr().err
    assert in_time([engine], ["few words"], -1e9, Log()) == ["few words"]
    less, more = (judge(bundles("ngram"), DOCUMENTS, Log(quiet=True), until=until) for until in (-1e9, math.inf))
    assert 0 < less["tokens"] < more["tokens"]


def test_a_masked_model_is_judged_in_time_too(bundles: Callable[[str], Bundle]) -> None:
    masked = bundles("masked")
    less, more = (judge(masked, DOCUMENTS, Log(quiet=True), until=until) for until in (-1e9, math.inf))
    assert 0 < less["bytes"] <= 400 < more["bytes"]


def test_pretraining_and_finetuning_end_with_a_bundle(tmp_path: Path, typed: Typed) -> None:
    pytest.importorskip("torch")
    tiny = ("--size", "100K", "--vocab", "300", "--context", "32", "--as-it-is")
    made, more = tmp_path / "made", tmp_path / "more"
    hurried = ("--text", "text", "--minutes", "0.00001")
    code, _, errors = typed("pretrain", TICKETS, *tiny, *hurried, "--out", made)
    assert code == 0 and "plan: 1 step of" in errors, errors
    assert "as no time was left for more" in errors and "no baseline and no samples: no time was left" in errors
    assert open_bundle(made).card["stages"][0]["steps"] == 1 and (made / "report.html").is_file()
    code, _, errors = typed("finetune", made, TICKETS, "--task", "predict", *hurried, "--out", more)
    assert code == 0 and "plan: 1 step of" in errors, errors
    assert "no baseline and no samples: no time was left" in errors and open_bundle(more).card["files"]


def test_distilling_ends_with_a_bundle(bundles: Callable[[str], Bundle], tmp_path: Path, typed: Typed) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out"
    words = ("distil", bundles("language").path, TICKETS, "--text", "text", "--student", "layers=1", "--out", out)
    code, _, errors = typed(*words, "--minutes", "0.00001")
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(report["models"]) == {"teacher", "student", "control"} and report["verdict"]
    assert "written_tokens_per_s" not in report["models"]["student"], "no time was left to measure it"
    assert "as no time was left for more" in errors and open_bundle(out).config["num_hidden_layers"] == 1
