"""A comparison from end to end: variants made in processes of their own, judged on the same text, one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import open_bundle
from halfpint.commands.report import Report
from halfpint.commands.run import Ran, Run
from halfpint.errors import HalfpintError
from halfpint.progress import Log
from halfpint.report.comparison_page import verdict_of
from halfpint.report.html import render

pytest.importorskip("torch", reason="training needs torch")

ROOT = Path(__file__).resolve().parents[1]
WORDS = [
    "red",
    "green",
    "blue",
    "north",
    "south",
    "east",
    "west",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
]
TINY = (
    "stage.1.size=150K", "stage.1.vocabulary=300", "stage.1.context=32", "stage.1.minutes=0", "stage.1.tokens=1024",
    "stage.1.batch_tokens=256", "stage.1.evaluations=1", "stage.1.evaluation_tokens=256", "stage.1.precision=fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents to learn from and others to be judged on, with words that the first ones have not."""
    made = tmp_path_factory.mktemp("comparing")
    texts = [f"The {a} wind of {b} is {c}.\nIt blows {c} {a} times." for a in WORDS for b in WORDS for c in WORDS[:3]]
    (made / "train.txt").write_text("\f".join(texts), "utf-8")
    held = [f"The {a} storm of {b} was {a}.\nIt blew {b} hours." for a in WORDS for b in WORDS]
    (made / "held.txt").write_text("\f".join(held), "utf-8")
    return made


def run(folder: Path, out: Path, *more: str) -> Ran:
    text = (f'data.sources=["{folder}/train.txt"]', f"data.validation={folder}/held.txt")
    recipe = ROOT / "recipes" / "architectures.toml"
    return Run(recipe=recipe, set=(*TINY, *text, *more), out=out, quiet=True).run(Log(quiet=True))


def test_variants_are_made_judged_and_compared(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result: dict[str, Any] = dict(run(folder, out).figures)
    rows = {row["name"]: row for row in result["variants"]}
    assert {"n-gram", "llama", "mamba-2"} <= set(rows)
    best = min(rows.values(), key=lambda row: row["bits_per_byte"])
    assert result["best"] == best["name"] and "difference" not in best
    assert open_bundle(out / "best").fingerprint
    for row in rows.values():
        assert row["bits_per_byte_interval"][0] <= row["bits_per_byte"] <= row["bits_per_byte_interval"][1]
        assert row["peak_memory_bytes"] > 20e6 and row["energy"]["wh"] > 0 and row["size_bytes"] > 0
        if row is not best:
            low, high = row["difference"][1:]
            assert row["difference"][0] == pytest.approx(row["bits_per_byte"] - best["bits_per_byte"], abs=1e-6)
            assert low <= row["difference"][0] <= high
    trained = [row for row in rows.values() if row["name"] != "n-gram"]
    assert all(row["tokens"] > 600 and row["parameters"] == pytest.approx(1.5e5, rel=0.1) for row in trained)
    assert 0 < rows["n-gram"]["unknown_share"] < 1 and all(row["unknown_share"] is None for row in trained)

    report = json.loads((out / "report.json").read_text("utf-8"))
    page = (out / "report.html").read_text("utf-8")
    assert report["variants"] == result["variants"] and report["verdict"] in page
    assert all(name in page for name in rows) and "are spelled out" in page
    shown = str(Report(folder=out).run(Log(quiet=True)))
    assert report["verdict"] in shown and "mamba-2" in shown

    before = {name: (out / "work" / name / "made.json").stat().st_mtime_ns for name in rows}
    again = Run(recipe=out / "recipe.resolved.toml", out=out, quiet=True).run(Log(quiet=True))
    assert dict(again.figures) == result  # there is nothing to do
    (out / "result.json").unlink()
    (out / "work" / "llama" / "made.json").unlink()
    third = dict(run(folder, out).figures)
    after = {name: (out / "work" / name / "made.json").stat().st_mtime_ns for name in rows}
    assert [name for name in rows if before[name] != after[name]] == ["llama"]
    bits = [[row["bits_per_byte"] for row in found["variants"]] for found in (result, third)]
    assert bits[0] == pytest.approx(bits[1])


def test_what_cannot_be_compared_is_refused_before_anything_is_made(folder: Path, tmp_path: Path) -> None:
    text = (ROOT / "recipes" / "architectures.toml").read_text("utf-8")
    recipe = tmp_path / "recipe.toml"
    for arch, said in (
        ("bert", r"variant llama: .*a causal architecture, got 'bert'"),
        ("lama", "Did you mean 'llama'"),
    ):
        recipe.write_text(text.replace("stage.1.arch=llama", f"stage.1.arch={arch}"), "utf-8")
        changes = (f'data.sources=["{folder}/train.txt"]', f"data.validation={folder}/held.txt")
        with pytest.raises(HalfpintError, match=said):
            Run(recipe=recipe, set=changes, out=tmp_path / "out", quiet=True).run(Log(quiet=True))
        assert not (tmp_path / "out").exists()


def test_the_verdict_says_which_differences_are_sure() -> None:
    rows = [
        {"name": "a", "bits_per_byte": 1.0}, {"name": "b", "bits_per_byte": 1.1, "difference": [0.1, 0.05, 0.15]},
        {"name": "c", "bits_per_byte": 1.2, "difference": [0.2, 0.1, 0.3]},
        {"name": "d", "bits_per_byte": 1.01, "difference": [0.01, -0.02, 0.04]},
    ]  # fmt: skip
    assert verdict_of(rows, "a") == (
        "a predicts best: 1.000 bits per byte, surely less than b and c; the difference to d is within the interval."
    )
    page = render({"kind": "comparison", "variants": [*rows, {"name": "<b>x"}], "best": "a", "verdict": "so"})
    assert "&lt;b&gt;x" in page and "<b>x" not in page
