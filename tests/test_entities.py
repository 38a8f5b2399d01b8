"""Named entities from a file to a served model: the recipe that is shipped, and a search without an encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from halfpint.bundle import open_bundle
from halfpint.commands.run import run_recipe
from halfpint.data.spans import TagData
from halfpint.engines import open_engine
from halfpint.lookup import open_task
from halfpint.model import load
from halfpint.progress import Log
from halfpint.recipe import read_recipe
from halfpint.report.terminal import ran, summary
from halfpint.search.fit import Request, fit
from halfpint.search.limits import Limits
from halfpint.serve.batch import predict_file, predict_texts
from halfpint.task import label_task

ROOT = Path(__file__).resolve().parents[1]
ORDERS = ROOT / "examples" / "orders.conll"

pytest.importorskip("pycrfsuite", reason="it trains a conditional random field")


def test_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = read_recipe(ROOT / "recipes" / "entities.toml")
    result = run_recipe(recipe, tmp_path / "out", Log(quiet=True))
    assert result["test"]["f1_strict"] > 0.7 and result["test"]["interval"][0] < result["test"]["f1_strict"]
    assert {one["label"] for one in result["test"]["per_type"]} == {"CONTACT", "PERSON", "PLACE", "PRODUCT"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    told = ran(result)
    for words in ("Label by label, the weakest first", "Worst errors"):
        assert words in page and words in told
    assert run_recipe(recipe, tmp_path / "out", Log(quiet=True)) == result  # nothing is done again

    best = open_bundle(tmp_path / "out" / "best")
    assert best.size_bytes < 50_000 and best.card["task"] == "tag" and "f1_strict" in best.card["figures"]["test"]
    task, engine = label_task(open_task("tag"), "here"), open_engine(best)
    text = "Please send the Brisk kettle to Lena Okafor in Porto."
    (row,) = predict_texts(engine, task, [text])
    assert [(one["text"], one["label"]) for one in row["entities"]] == [
        ("Brisk kettle", "PRODUCT"), ("Lena Okafor", "PERSON"), ("Porto", "PLACE")
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": text, "id": 7}) + "\n", encoding="utf-8")
    assert predict_file(engine, task, tmp_path / "in.jsonl", tmp_path / "out.jsonl", log=Log(quiet=True)).rows == 1
    written = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert written["id"] == 7 and written["entities"][2]["label"] == "PLACE"


def test_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "cache"))  # no word vectors, and none to be had
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    data = TagData(source=str(ORDERS), validation_share=0.2, test_share=0.2)
    task = label_task(open_task("tag"), "here")
    request = Request(task=task, data=data, limits=Limits(minutes=2), out=tmp_path / "out", base="none")
    report = fit(request, Log(quiet=True))
    assert report["chosen"] == "crf" and report["primary_metric"] == "f1_strict"
    assert set(report["test"]) == {"crf", "dictionary"}  # the baseline is proved too
    assert report["test"]["crf"]["f1_strict"] > report["test"]["dictionary"]["f1_strict"]
    assert "crf" in summary(report) and (tmp_path / "out" / "recipe.toml").is_file()


def test_the_command_line(typed: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    recipe, source = ROOT / "recipes" / "entities.toml", f'data.source="{ORDERS}"'
    assert typed("run", recipe, "--set", source, "--out", tmp_path / "out")[0] == 0
    code, told, _ = typed("predict", tmp_path / "out" / "best", "Please send the kettle to Porto.")
    assert code == 0 and "kettle (PRODUCT, " in told and "Porto (PLACE, " in told
    code, told, _ = typed("predict", tmp_path / "out" / "best", "--json", "We live in Porto.")
    assert json.loads(told)["entities"][0]["label"] == "PLACE"
    best = tmp_path / "out" / "best"
    assert load(best).labels == ("CONTACT", "PERSON", "PLACE", "PRODUCT")
    code, _, said = typed("predict", best, "We live in Porto.", "--top", "3")
    assert code == 2 and "--top needs a model that ranks labels" in said
    code, _, said = typed("export", best, "--out", tmp_path / "file")
    assert code == 2 and "These commands take it: compress, distil, evaluate, predict, report, serve" in said
    (tmp_path / "in.csv").write_text("text,who\nI live in Porto,Lena\n", encoding="utf-8")
    code, _, said = typed("predict", best, "--file", tmp_path / "in.csv", "--redact", "--text", "text")
    assert code == 0 and "Only 'text' is redacted; other columns stay as they are: who." in said
    assert (tmp_path / "in-labelled.csv").read_text(encoding="utf-8") == "text,who\nI live in [PLACE],Lena\n"
