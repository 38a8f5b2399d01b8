"""A whole life at tiny size: a table is checked, models are searched, the best is proven, used, and made again.

Every figure is measured as in a life of real size, each bundle in a process of its own: about 30 s on two cores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import open_bundle, read_json
from halfpint.commands.run import run_recipe
from halfpint.data.check import check
from halfpint.data.columns import find_columns
from halfpint.data.examples import labelled
from halfpint.data.prepare import Data
from halfpint.data.read import read_table
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.evaluate.evaluate import evaluate
from halfpint.progress import Log
from halfpint.recipe import read_recipe
from halfpint.search.fit import Request, best_bundle, fit
from halfpint.search.limits import Limits
from halfpint.serve.batch import predict_texts
from halfpint.tasks.classify import TASK

pytest.importorskip("torch", reason="a life with an encoder needs torch")

MOST_BYTES = 340_000
CANDIDATE = {
    "name", "family", "metrics", "interval", "size_bytes", "latency_p50_ms", "throughput_per_s", "energy_wh_per_1000",
    "train_s", "feasible", "bundle",
}  # fmt: skip


@pytest.fixture
def _slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes a tenth as fast: a busy machine, too, does in its minutes what an idle one does."""
    real, began = time.monotonic, time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + (real() - began) / 10)


@pytest.mark.usefixtures("_slow_clock")
def test_a_whole_life(tiny_encoder: Path, few_rows: Callable[[int], Path], tmp_path: Path) -> None:
    source, out = few_rows(120), tmp_path / "out"
    table = read_table(str(source))
    examples = labelled(table, find_columns(table))
    assert not [finding for finding in check(examples, probe_labels=False) if finding.severity == "error"]

    # The fp32 variant of the encoder is over the limit before it is made.
    limits = Limits(max_size_bytes=MOST_BYTES, max_latency_ms=1000.0, minutes=2.6)
    request = Request(task=TASK, data=Data(source=str(source)), limits=limits, out=out, base=str(tiny_encoder))
    report = fit(request, Log(quiet=True))

    by_name = in_the_report(report, out)
    assert {one["family"] for one in report["candidates"]} >= {"majority", "tfidf", "frozen encoder"}
    encoder = [one for one in report["candidates"] if one["name"].startswith("frozen") and one["family"] != "blend"]
    smaller = [one["status"] for one in encoder if one["precision"] in ("int8", "w8")]
    assert len(smaller) == 2 and set(smaller) <= {"measured", "refused"}  # 18 rows prove little of a quantised copy
    assert "measured" in {one["status"] for one in encoder if one["precision"] != "fp32"}
    assert {one["status"] for one in encoder if one["precision"] == "fp32"} == {"skipped"}
    assert by_name["frozen-fp32"]["why"].endswith("over 340 KB")

    chosen = by_name[report["chosen"]]
    best = best_bundle(out)
    assert best.path == out / "best"
    assert best.size_bytes <= MOST_BYTES
    assert best.card["figures"]["validation"]["accuracy"] == chosen["metrics"]["accuracy"]
    answers = predict_texts(open_engine(best, threads=1), TASK, ["I want my money back", ""], 2)
    assert len(answers) == 2
    assert all(answer["label"] in best.labels and len(answer["scores"]) == 2 for answer in answers)

    judged = evaluate(best, examples)
    assert judged["rows"] == 120
    assert judged["accuracy"] > report["test"]["majority"]["accuracy"] + 0.1  # it has seen most of these rows
    assert np.sum(judged["confusion"]["matrix"]) == 120

    recipe = read_recipe(out / "recipe.toml")
    again = run_recipe(recipe, tmp_path / "again", Log(quiet=True))
    if recipe.all_rows:  # what was chosen on validation learns from it in the end
        assert again["validation"]["learned_from"] and chosen["trained_on"] == 101
        assert open_bundle(tmp_path / "again" / "best").card["figures"]["validation"] is None
    else:
        assert again["validation"]["metrics"] == pytest.approx(chosen["metrics"], abs=1e-6)
    assert again["test"]["accuracy"] == report["test"][report["chosen"]]["accuracy"]
    assert open_bundle(tmp_path / "again" / "best").labels == best.labels

    with pytest.raises(HalfpintError, match="a finished run"):
        fit(request, Log(quiet=True))


def in_the_report(report: dict[str, Any], out: Path) -> dict[str, dict[str, Any]]:
    """What the report promises to everyone who reads it; gives its candidates by name."""
    found = read_json(out / "report.json")
    assert found["candidates"] == json.loads(json.dumps(report["candidates"]))
    assert set(found) >= {"task", "data", "limits", "candidates", "chosen", "verdict", "machine", "energy", "test"}
    assert found["task"] == "classify"
    assert found["data"]["rows"] == 120
    assert found["data"]["train"] + found["data"]["validation"] + found["data"]["test"] == 120
    assert found["limits"] == {
        "max_size_bytes": MOST_BYTES, "max_latency_ms": 1000.0, "floor": None, "keep": None, "minutes": 2.6,
        "within": 0.01,
    }  # fmt: skip
    assert found["machine"]["cores"] >= 1
    assert found["energy"]["source"] in ("measured", "modelled")
    by_name = {one["name"]: one for one in found["candidates"]}
    assert found["chosen"] in by_name
    assert found["verdict"].startswith(f"{found['chosen']}: ")
    for one in found["candidates"]:
        assert set(one) >= CANDIDATE
        if one["status"] == "measured":
            low, high = one["interval"]
            assert low <= one["metrics"]["accuracy"] <= high
            assert min(one["size_bytes"], one["latency_p50_ms"], one["throughput_per_s"]) > 0
            assert one["feasible"] == (one["size_bytes"] < MOST_BYTES - 2048)
            assert open_bundle(out / one["bundle"]).card["task"] == "classify"
        else:
            assert one["why"]
            assert not one["feasible"]
    smallest = min(one["size_bytes"] for one in found["candidates"] if one["feasible"])
    assert by_name[found["chosen"]]["size_bytes"] >= smallest
    assert set(found["test"]) >= {found["chosen"], "majority"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert found["chosen"] in page
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events[-1]["event"] == "done"
    return by_name
