"""The recipes of language models that are shipped, each run at tiny size: to the end, resumed, with a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfpint import cli
from halfpint.bundle import Bundle, open_bundle
from halfpint.commands.run import run_recipe
from halfpint.errors import HalfpintError
from halfpint.lookup import open_task
from halfpint.progress import SILENT, Log
from halfpint.recipe import Recipe, read_recipe
from halfpint.stage import Work
from halfpint.train.pretrain import Pretrain

ROOT = Path(__file__).resolve().parents[1]
PLAYS = ROOT.parent / "shared" / "data" / "tinyshakespeare" / "input.txt"
TINY = (
    "stage.1.size=125K", "stage.1.tokens=1024", "stage.1.batch_tokens=256", "stage.1.evaluations=1",
    "stage.1.evaluation_tokens=256", "stage.1.precision=fp32",
)  # fmt: skip


def shipped(name: str, *changes: str) -> Recipe:
    return read_recipe(ROOT / "recipes" / f"{name}.toml", changes)


def ran_twice(recipe: Recipe, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result and the report; a second run does nothing."""
    result = run_recipe(recipe, out, Log(quiet=True))
    report = json.loads((out / "report.json").read_text("utf-8"))
    before = (out / "report.html").read_bytes()
    assert run_recipe(read_recipe(out / "recipe.resolved.toml"), out, SILENT) == result
    assert (out / "report.html").read_bytes() == before
    assert report["recipe"] == recipe.toml() and report["energy"]["wh"] > 0
    assert not (out / "best" / "report.json").exists()
    return result, report


def test_shakespeare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not PLAYS.is_file():
        pytest.skip("no tinyshakespeare")
    text = tmp_path / "plays.txt"
    some = PLAYS.read_text(encoding="utf-8")[:30_000]
    text.write_text("\f".join(some[start : start + 3000] for start in range(0, 30_000, 3000)), encoding="utf-8")
    recipe = shipped("shakespeare", *TINY, "stage.1.context=64", f'data.sources=["{text}"]')
    result, report = ran_twice(recipe, tmp_path / "out")
    assert result["validation"]["bits_per_byte"] == report["validation"]["bits_per_byte"]
    assert report["baseline"]["order"] == 8 and report["baseline"]["bytes"] == report["validation"]["bytes"]
    assert 2 < report["baseline"]["bits_per_byte"] < 4  # of so little text
    training = report["training"][0]
    assert len(training["train"]) == 4 and training["tokens"] == 1024 and training["share_of_peak"] > 0
    assert report["verdict"].split(":")[0].startswith(f"{result['validation']['bits_per_byte']:.3f} bits per byte")
    monkeypatch.setattr("sys.argv", ["halfpint", "report", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0 and report["verdict"] in capsys.readouterr().out


def test_an_assistant(text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(ROOT)
    base = Pretrain(size="125K", vocabulary=400, context=256, tokens=512, batch_tokens=512, evaluations=1)
    base.run(None, text_work(tmp_path / "base"))
    recipe = shipped(
        "assistant", f"stage.1.base={tmp_path / 'base'}", "stage.2.template=chatml", "stage.2.epochs=1",
        "stage.2.learning_rate=5e-3", "stage.2.precision=fp32",
    )  # fmt: skip
    assert recipe.task is open_task("chat") and recipe.stages[1].settings()["lora"]
    result, report = ran_twice(recipe, tmp_path / "out")
    found = result["validation"]
    assert found["nats_per_assistant_token"] < found["nats_per_assistant_token_before"]
    best = open_bundle(tmp_path / "out" / "best")
    assert best.card["task"] == "chat" and (best.path / "chat_template.jinja").is_file()
    assert [one["use"] for one in best.card["stages"]] == ["train/pretrain", "models/pull_language", "train/chat"]
    assert report["taught"] == found and report["asked"] and report["data"]["form"] == "OpenAI"


@pytest.mark.slow
def test_masked_then_classify(few_rows: Callable[[int], Path], tmp_path: Path) -> None:
    changes = (
        f"data.source={few_rows(120)}", "data.test=", "data.text=text", "data.label=category",
        "data.validation_share=0.15", "stage.1.context=32", "stage.1.vocabulary=400", "stage.3.epochs=1",
        "stage.3.precision=fp32",
    )  # fmt: skip
    recipe = shipped("masked-then-classify", *TINY, *changes)
    assert [stage.use for stage in recipe.stages[3:]] == ["export/onnx", "compress/onnx_int8"]
    recipe = replace(recipe, stages=recipe.stages[:3])  # the exports are those of recipes/tickets.toml
    result, report = ran_twice(recipe, tmp_path / "out")
    assert recipe.task is open_task("classify") and 0 <= result["test"]["accuracy"] <= 1
    assert [one["use"] for one in report["training"]] == ["train/pretrain"]
    assert report["training"][0]["unit"] == "nats per masked token"
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "How it learned" in page and "On the test rows" in page and report["chosen"] == "out"


def test_an_encoder_comes_from_a_masked_model_alone(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    from halfpint.models.encoder import Encoder

    with pytest.raises(HalfpintError, match="expected a masked language model, got a llama"):
        Encoder().run(bundles("language"), text_work(tmp_path / "made"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["encoder", "ngram", "majority"])
def test_what_is_no_language_model_is_not_pulled_as_one(
    name: str, bundles: Callable[[str], Bundle], tiny_encoder: Path, tmp_path: Path
) -> None:
    from halfpint.models.pull_language import pull_language

    folder = tiny_encoder if name == "encoder" else bundles(name).path
    with pytest.raises(HalfpintError, match=r"expected a Transformer language model|not a model in Hugging Face"):
        pull_language(str(folder), tmp_path / "made", SILENT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "uses"),
    [("classify", ["train/pretrain"]), ("classify", ["models/pull"]), ("predict", ["train/majority"])],
)
def test_stages_that_do_not_do_the_task_are_refused_before_work_starts(
    task: str, uses: Sequence[str], tmp_path: Path, few_rows: Callable[[int], Path]
) -> None:
    source = "source" if task == "classify" else "sources"
    given = f'"{few_rows(120)}"' if task == "classify" else f'["{few_rows(120)}"]'
    stages = "".join(f'[[stage]]\nuse = "{use}"\n' for use in uses)
    path = tmp_path / "recipe.toml"
    path.write_text(f'[data]\n{source} = {given}\n[task]\nname = "{task}"\n{stages}', encoding="utf-8")
    with pytest.raises(HalfpintError, match=f"stage 1 .*expected stages that end with what does the task '{task}'"):
        run_recipe(read_recipe(path), tmp_path / "out", SILENT)
    assert [one.name for one in tmp_path.iterdir()] == ["recipe.toml"]
