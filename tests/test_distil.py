"""`halfpint distil` from end to end: a bundle with a report of teacher, student and control; faults before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, file_sha256, open_bundle
from halfpint.commands._distil_classifier import Classifiers, verdict
from halfpint.commands._distil_language import Languages
from halfpint.commands.distil import Distil
from halfpint.data.examples import Example
from halfpint.distil.teachers import teacher_bundle
from halfpint.engines import open_engine
from halfpint.engines._scored import ScoredText
from halfpint.engines.torch_lm import TorchLanguageEngine
from halfpint.errors import HalfpintError
from halfpint.evaluate.perplexity import bits_difference
from halfpint.pipeline import Pipeline
from halfpint.progress import SILENT
from halfpint.report.distilled import distilled

pytest.importorskip("torch", reason="distilling needs torch")

ROOT = Path(__file__).resolve().parents[1]
TICKETS = str(ROOT / "examples" / "tickets.csv")
Get = Callable[[str], Bundle]


def copy_of(bundle: Bundle, target: Path) -> Path:
    """The bundle's files, to be changed."""
    return Path(shutil.copytree(bundle.path, target))


def test_a_classifier(
    bundles: Get, few: list[Example], tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    asked = Distil(
        teacher=f"{bundles('linear').path},{bundles('finetuned').path}", data=TICKETS,
        student=str(bundles("student").path), method="logits", out=tmp_path / "out", epochs=1, train_texts=100,
    )  # fmt: skip
    report = asked.run(SILENT).report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # what was unfinished is gone
    assert report == json.loads(json.dumps(report))
    code, told, _ = typed("report", tmp_path / "out")
    assert code == 0 and report["verdict"] in told
    made = open_bundle(tmp_path / "out")
    assert open_engine(made).labels == bundles("finetuned").labels
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["verdict"] == report["verdict"]
    assert set(report["models"]) == {"teacher", "student", "control"}
    for row in report["models"].values():
        low, high = row["test"]["interval"]
        assert low <= row["test"]["accuracy"] <= high
    value, low, high = report["differences"]["student less control"]["test"]
    assert low <= value <= high
    assert report["models"]["student"]["size_bytes"] > 0 and "the student without a teacher" in distilled(report)
    with pytest.raises(HalfpintError, match="a bundle that is there"):
        asked.run(SILENT)


def test_the_control_knows_nothing_of_the_teacher(bundles: Get, tmp_path: Path) -> None:
    """A student cut from its teacher has the teacher's layers; without one it is cut from what the teacher was made
    from."""
    teacher = bundles("finetuned")
    asked = Distil(
        teacher=str(teacher.path), data=TICKETS, student="layers=1", method="logits", out=tmp_path / "out",
        work=tmp_path / "work", epochs=1, train_texts=40,
    )  # fmt: skip
    assert asked.run(SILENT).report["control_begins"] == "as the teacher began"
    kinds = [[entry["use"] for entry in open_bundle(path.parent).card["stages"]] for path in
             sorted((tmp_path / "work").glob("distil-logits-*/card.json"))]  # fmt: skip
    pulled = ["models/pull", "distil/student", "distil/logits"]
    assert sorted(kinds) == sorted([pulled, [*(entry["use"] for entry in teacher.card["stages"]), *pulled[1:]]])


@pytest.mark.parametrize(
    "first",
    [
        {"settings": {"base": "/nowhere"}},
        *(
            pytest.param(first, marks=pytest.mark.slow)
            for first in ({"settings": {"old": 1}}, {"use": "models/gone"}, {"use": "compress/vocab"})
        ),
    ],
)
def test_where_the_teacher_does_not_tell_the_control_begins_as_the_student(
    first: dict[str, Any], bundles: Get, tmp_path: Path
) -> None:
    changed = copy_of(bundles("finetuned"), tmp_path / "changed")
    card = json.loads((changed / "card.json").read_text(encoding="utf-8"))
    card["stages"][0] |= first
    (changed / "card.json").write_text(json.dumps(card), encoding="utf-8")
    asked = Distil(
        teacher=str(changed), data=TICKETS, student="layers=1", method="logits", out=tmp_path / "out",
        epochs=1, train_texts=40,
    )  # fmt: skip
    report = asked.run(SILENT).report
    assert report["control_begins"] == "as the student" and "it began as the student" in report["verdict"]


def test_a_language_model(bundles: Get, tmp_path: Path) -> None:
    asked = Distil(
        teacher=str(bundles("language").path), data=TICKETS, text="text", student="layers=1",
        out=tmp_path / "out", tokens="10k", minutes=0.0,
    )  # fmt: skip
    report = asked.run(SILENT).report
    made = open_bundle(tmp_path / "out")
    assert made.config["num_hidden_layers"] == 1 and made.card["engine"] == "torch_lm"
    assert report["methods"] == ["logits"]
    assert {"bits_per_byte", "bits_per_byte_interval"} <= set(report["models"]["control"]["test"])
    assert "bits per byte" in distilled(report)
    assert report["energy"]["wh"] > 0 and report["models"]["student"]["written_tokens_per_s"] > 0


@pytest.mark.slow
def test_a_language_model_learns_inside_first(bundles: Get, tmp_path: Path) -> None:
    asked = Distil(
        teacher=str(bundles("language").path), data=TICKETS, text="text", student="size=90k",
        method="hidden,logits", out=tmp_path / "out", tokens="10k", minutes=0.0,
    )  # fmt: skip
    assert asked.run(SILENT).report["methods"] == ["hidden", "logits"]
    _, made, inside, logits = open_bundle(tmp_path / "out").card["stages"][-4:]
    assert [one["use"] for one in (made, inside, logits)] == [
        "distil/student",
        "distil/token_hidden",
        "distil/token_logits",
    ]
    assert inside["settings"]["train_embeddings"] and inside["relations"] < inside["relations_before"]


@pytest.mark.slow
def test_several_language_models_teach(bundles: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is itself, also where none is a bundle; all are scored, on text that no checkpoint was chosen by."""
    names = []
    for name in ("language", "taught"):
        shutil.copytree(bundles(name).path, tmp_path / name, ignore=shutil.ignore_patterns("card.json"))
        names.append(str(tmp_path / name))
    scored: list[list[str]] = []
    score = TorchLanguageEngine.score

    def noted(self: Any, texts: Any, *rest: Any) -> Any:
        scored.append(list(texts))
        return score(self, texts, *rest)

    monkeypatch.setattr(TorchLanguageEngine, "score", noted)
    chosen: list[list[str]] = []
    make = Pipeline.make

    def watched(self: Any, *given: Any, **settings: Any) -> Any:
        chosen.append(list(self.split.validation))
        return make(self, *given, **settings)

    monkeypatch.setattr(Pipeline, "make", watched)
    asked = Distil(
        teacher=",".join(names), data=TICKETS, text="text", student="layers=1", out=tmp_path / "out", tokens="10k",
        minutes=0.0, no_control=True,
    )  # fmt: skip
    report = asked.run(SILENT).report
    assert list(report["models"]) == ["teacher", "teacher 2", "student"]
    of = {name: row["test"]["bits_per_byte"] for name, row in report["models"].items()}
    assert (
        of["teacher"] != of["teacher 2"]
        and f"its teachers {of['teacher']:.4f}, {of['teacher 2']:.4f}" in (report["verdict"])
    )
    assert chosen[-1] and scored[-1] and not set(chosen[-1]) & set(scored[-1])


def test_a_test_of_its_own_is_looked_at_once(bundles: Get, tmp_path: Path) -> None:
    held = tmp_path / "held.txt"
    held.write_text("\n".join(f"The {word} parcel has not come." for word in ("first", "second", "third") * 40))
    asked = Distil(
        teacher=str(bundles("language").path), data=TICKETS, text="text", student="layers=1", test=str(held),
        out=tmp_path / "out",
    )  # fmt: skip
    run = Languages(asked, [bundles("language")], SILENT)
    run.open(tmp_path / "work")
    judged, chosen = list(run.judged), list(run.corpus.validation)
    assert "".join(judged) == held.read_text().strip() or "".join(judged).count("parcel has not come") == 120
    assert len(chosen) > 2 and not set(chosen) & {*judged, *run.corpus.train}
    assert len(run.corpus.train) > 10 * len(chosen)


def test_faults_are_told_before_any_work(bundles: Get, tmp_path: Path) -> None:
    teacher = str(bundles("finetuned").path)

    def refused(wanted: str, **changes: Any) -> None:
        settings: dict[str, Any] = {
            "teacher": teacher, "data": TICKETS, "student": "layers=1", "out": tmp_path / "out", **changes
        }  # fmt: skip
        with pytest.raises(HalfpintError, match=wanted):
            Distil(**settings).run(SILENT)
        assert not list(tmp_path.glob("out*"))

    refused("There is no folder", teacher=str(tmp_path / "none"))
    refused("Did you mean 'logits'", method="logit")
    refused("hidden alone teaches no answer", method="hidden")
    refused("must be layers=N, size=5M, a bundle, or a base model", student="layer=1")
    refused("must be a number such as", student="layers=two")
    refused("size must be a number of", student="size=huge")
    refused("temperature must be a number", temperature=-1.0)
    refused("divergence", divergence="kullback")
    refused("must do the same task", teacher=f"{teacher},{bundles('language').path}")
    linear = str(bundles("linear").path)
    refused("expected one trained encoder", teacher=linear, student=teacher, method="hidden,logits")
    refused("expected a trained encoder that was not exported", teacher=str(bundles("onnx").path), method="logits")
    refused("expected a table of texts for the teacher to label", method="sequence")
    refused("layers=N, size=5M, a bundle", teacher=str(bundles("language").path), student="layer=1")
    refused("hidden alone teaches no answer", teacher=str(bundles("language").path), method="hidden")
    refused(
        "--match: expected relations for a student of another shape",
        teacher=str(bundles("language").path),
        student="size=90k",
        method="hidden,logits",
        match="states",
    )
    answers_otherwise = copy_of(bundles("student"), tmp_path / "other-labels")
    config, card = (json.loads((answers_otherwise / f"{name}.json").read_text()) for name in ("config", "card"))
    config["id2label"] = {number: f"other {label}" for number, label in config["id2label"].items()}
    (answers_otherwise / "config.json").write_text(json.dumps(config))
    card["files"]["config.json"] = file_sha256(answers_otherwise / "config.json")
    (answers_otherwise / "card.json").write_text(json.dumps(card))
    refused("expected the labels of the data", student=str(answers_otherwise))
    refused("expected running text alone", teacher=str(bundles("language").path), train_texts=5)
    other = tmp_path / "other.csv"
    other.write_text("text,label\n" + "\n".join(f"text number {n},{'ab'[n % 2]}" for n in range(60)), encoding="utf-8")
    refused("expected one that knows the 2 labels of the data", data=str(other))


def test_a_verdict_says_when_the_teacher_was_of_no_use() -> None:
    rows = {name: {"test": {"accuracy": 0.8}} for name in ("teacher", "student", "control")}

    def said(low: float, high: float) -> str:
        return verdict(rows, {"student less control": {"test": [(low + high) / 2, low, high]}}, "accuracy")

    assert "the teacher is worth +0.0200" in said(0.01, 0.03)
    assert "does not show that the teacher helped" in said(-0.01, 0.03)
    assert "did harm" in said(-0.03, -0.01)
    del rows["control"]
    assert "is unknown" in verdict(rows, {}, "accuracy")


def test_bits_are_compared_document_by_document() -> None:
    random = np.random.default_rng(0)
    first = [ScoredText(-random.gamma(2, 1, size=40), 10, 100) for _ in range(80)]
    second = [ScoredText(one.log_probabilities - 0.1, 10, 100) for one in first]
    value, low, high = bits_difference(second, first)
    assert value == pytest.approx(0.1 * 40 / 100 / np.log(2))
    assert low == pytest.approx(value) and high == pytest.approx(value)  # the same everywhere: no doubt
    one = [ScoredText(-random.gamma(2, 1, size=6000), 10, 20_000)]
    other = [ScoredText(-random.gamma(2, 1, size=3000), 10, 20_000)]  # another tokenizer, half as many tokens
    value, low, high = bits_difference(other, one)
    assert low < value < high < 0


def test_the_teacher_of_a_search_is_the_trained_model(bundles: Get, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundles("int8").path, tmp_path / "best")
    shutil.copytree(bundles("int8").path, tmp_path / "work" / "export-int8")
    assert teacher_bundle(str(tmp_path)).fingerprint == bundles("int8").fingerprint  # what it came from is gone
    shutil.copytree(bundles("onnx").path, tmp_path / "work" / "export")
    shutil.copytree(bundles("classifier").path, tmp_path / "work" / "train")
    assert teacher_bundle(str(tmp_path)).fingerprint == bundles("classifier").fingerprint


def test_a_teacher_without_layers_teaches_a_base_encoder_that_is_cut(bundles: Callable[[str], Bundle]) -> None:
    teacher = bundles("onnx-linear")
    run = Classifiers(Distil(teacher=str(teacher.path), data=str(TICKETS), student="layers=1"), [teacher], SILENT)
    assert run.methods == ("logits",) and run._origin is None and run._untaught == ()
    assert [stage.use for stage in run._first] == ["models/pull", "distil/student"]
