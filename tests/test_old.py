"""Bundles and unfinished runs that an earlier version made: they open, answer as they did, and go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OLD = Path(__file__).resolve().parent / "old"
ANSWERS: dict[str, dict[str, Any]] = json.loads((OLD / "answers.json").read_text(encoding="utf-8"))
ASKED = [row["text"] for row in ANSWERS["linear"]["predict"]]
LIKELY = 1e-3  # words below it are as good as any other
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `tests/old`, and the folder that commands are given in."""
    copy = shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(copy)
    return copy


def near(value: Any, tolerance: float) -> Any:
    """`value` with numbers of which the first digits count."""
    if isinstance(value, dict):
        return {key: near(item, tolerance) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item, tolerance) for item in value]
    return pytest.approx(value, rel=tolerance, abs=tolerance) if isinstance(value, float) else value


def likely(rows: list[dict[str, Any]], tolerance: float) -> list[Any]:
    """What each text was answered: labels or words with their probabilities, without the unlikely."""
    answers = [row.get("scores") or row["words"] for row in rows]
    return near([[one for one in answer if one["probability"] > LIKELY] for answer in answers], tolerance)


def test_every_bundle_has_its_answers() -> None:
    assert set(ANSWERS) == {path.name for path in (OLD / "bundles").iterdir()}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bundle_answers_as_it_did(name: str, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OLD)
    said, bundle = ANSWERS[name], f"bundles/{name}"
    code, out, err = typed("predict", bundle, *ASKED, "--top", "3", "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == ASKED
    assert likely(rows, 0) == likely(said["predict"], 1e-5)
    if "generate" in said:
        code, out, err = typed("generate", bundle, "I was charged", "--temperature", 0, "--max-tokens", 8, "--json")
        assert code == 0, err
        written = json.loads(out)
        assert {key: written[key] for key in said["generate"]} == said["generate"]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bundle_is_judged_as_it_was(name: str, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OLD)
    said = ANSWERS[name]["evaluate"]
    data = "tickets.csv" if "accuracy" in said else "held.txt"
    code, out, err = typed("evaluate", f"bundles/{name}", data, "--json")
    assert code == 0, err
    judged = json.loads(out)
    assert set(said) <= set(judged)
    said = {key: value for key, value in said.items() if key != "interval"}  # intervals are made in a better way since
    assert {key: judged[key] for key in said} == near(said, 1e-5)


def told(out: Path) -> list[dict[str, Any]]:
    """The events of a run."""
    return [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def stages(events: list[dict[str, Any]], what: str = "stage") -> list[str]:
    """The stages that were begun ("stage"), or ended ("stage done"), in order."""
    return [event["use"] for event in events if event["event"] == what]


def test_an_unfinished_fit_goes_on(old: Path, typed: Typed) -> None:
    out = old / "unfinished-fit"
    before = told(out)
    ended = stages(before, "stage done")
    assert ended == ["train/majority", "train/tfidf_linear", "export/onnx"]
    code, _, err = typed("fit", "tickets.csv", "--base", "none", "--out", out.name)
    assert code == 0, err
    assert "going on with the unfinished run in unfinished-fit" in err
    after = told(out)[len(before) :]
    linear = ["train/tfidf_linear", "export/onnx", "compress/onnx_int8"]
    assert stages(after)[:4] == [*linear[-1:], *linear]  # the rest of one, and the other
    assert len(stages(after)) > 7 and stages(after)[-3:][0] == linear[0]  # parts of the rows; the chosen one on all
    assert [event["name"] for event in after if event["event"] == "candidate"] == [
        "majority", "tfidf-small-fp32", "tfidf-small-int8", "tfidf-linear-fp32", "tfidf-linear-int8"
    ]  # fmt: skip
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    accuracy = {row["name"]: row["metrics"]["accuracy"] for row in report["candidates"]}
    assert accuracy["majority"] == pytest.approx(4 / 14) and accuracy["tfidf-small-fp32"] == pytest.approx(9 / 14)
    assert typed("predict", out.name + "/best", ASKED[0])[1].startswith("billing")


@pytest.mark.parametrize(
    ("name", "stage", "step", "total", "figure"),
    [
        ("unfinished-classifier", "train/finetune", 9, 108, "accuracy"),
        ("unfinished-language", "train/adapt", 10, 32, "nats_per_token"),
    ],
)
def test_an_unfinished_training_goes_on(
    name: str, stage: str, step: int, total: int, figure: str, old: Path, typed: Typed
) -> None:
    """The base is gone, too: it was copied before."""
    out = old / name
    before = told(out)
    assert stages(before)[-1] == stage and before[-1]["step"] > step
    code, _, err = typed("run", f"{name}.toml", "--out", name)
    assert code == 0, err
    after = told(out)[len(before) :]
    assert stages(after) == [stage] and f"resuming at step {step} of {total}" in err
    steps = [event["step"] for event in after if event["event"] == "step"]
    assert steps == list(range(step + 1, total + 1))
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    found = result["validation"]
    assert (found.get("metrics") or found)[figure] > 0
    assert not list((out / "work").glob("unfinished-*"))
