"""Stages in order: what is done is not done again, what changed is, and what does not fit is told before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from halfpint.bundle import Bundle, Kind, open_bundle
from halfpint.data.examples import Example
from halfpint.data.prepare import Prepared, data_key
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.pipeline import Assessment, Made, Pipeline, faults_in_order
from halfpint.progress import Log
from halfpint.stage import Stage, Work, stage_class
from halfpint.tasks.classify import TASK
from halfpint.train.majority import Majority
from halfpint.train.tfidf_linear import TfidfLinear


@pytest.fixture
def pipeline(prepared: Prepared, tmp_path: Path) -> Callable[..., Pipeline]:
    """Makes a pipeline that tells its events in `tmp_path`; the training data can be changed."""

    def make(train: Sequence[Example] | None = None, primary: str = "accuracy") -> Pipeline:
        data = prepared
        if train is not None:
            data = replace(prepared, train=train, key=data_key(train, prepared.validation))
        return Pipeline(data, tmp_path / "work", TASK, primary, Log(tmp_path / "events.jsonl", quiet=True))

    return make


def ran(tmp_path: Path) -> list[str]:
    """The stages that ran so far."""
    path = tmp_path / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [event["use"] for event in map(json.loads, lines) if event["event"] == "stage done"]


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_nothing_is_made_twice(
    pipeline: Callable[..., Pipeline], stage_of: Callable[[str], Stage], tmp_path: Path
) -> None:
    stages = [stage_of("encoder"), stage_of("one-layer"), stage_of("classifier")]
    first = pipeline().make(stages)
    before = times(tmp_path / "work")
    assert ran(tmp_path) == ["models/pull", "compress/layers", "train/frozen_linear"]
    second = pipeline().make(stages)
    assert times(tmp_path / "work") == before
    assert len(ran(tmp_path)) == 3
    assert (first.key, first.bundle.path) == (second.key, second.bundle.path)
    assert first.seconds == sum(stage["seconds"] for stage in first.bundle.card["stages"])
    assert [stage["use"] for stage in first.bundle.card["stages"]] == [stage.use for stage in stages]
    assert not list((tmp_path / "work").glob("unfinished-*"))


def test_a_changed_field_makes_another(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    made = [pipeline().make([TfidfLinear(features=features)]) for features in (50, 60, 50)]
    assert made[0].key == made[2].key != made[1].key
    assert made[0].bundle.path == made[2].bundle.path != made[1].bundle.path
    assert ran(tmp_path) == ["train/tfidf_linear"] * 2


def test_changed_data_makes_another_where_it_is_used(
    pipeline: Callable[..., Pipeline], stage_of: Callable[[str], Stage], prepared: Prepared, tmp_path: Path
) -> None:
    stages = [stage_of("encoder"), stage_of("classifier")]
    first = pipeline().make(stages)
    second = pipeline(prepared.train[1:]).make(stages)
    assert first.key != second.key
    assert ran(tmp_path) == ["models/pull", "train/frozen_linear", "train/frozen_linear"]  # one pull is enough


def test_a_change_early_on_reaches_the_end(
    pipeline: Callable[..., Pipeline], stage_of: Callable[[str], Stage], tmp_path: Path
) -> None:
    plain = pipeline().make([stage_of("encoder"), stage_of("classifier")])
    cut = pipeline().make([stage_of("encoder"), stage_of("one-layer"), stage_of("classifier")])
    assert plain.key != cut.key
    assert ran(tmp_path).count("train/frozen_linear") == 2


@pytest.mark.parametrize("damage", ["config.json", "card.json"])
def test_a_damaged_bundle_is_made_again(damage: str, pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    made = pipeline().make([Majority()])
    fingerprint = made.bundle.fingerprint
    (made.bundle.path / damage).write_text("", encoding="utf-8")
    assert pipeline().make([Majority()]).bundle.fingerprint == fingerprint
    told = (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    assert ran(tmp_path) == ["train/majority"] * 2 and f"{made.bundle.path.name} is damaged and is made again" in told


def test_damaged_measurements_are_made_again(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    made = pipeline().make([Majority()])
    first = pipeline().assess(made)
    for cached in (tmp_path / "work").glob("*.assessment.*"):
        cached.write_bytes(cached.read_bytes()[:20])
        again = pipeline().assess(made)
        assert again.figures["metrics"] == first.figures["metrics"]
        assert np.array_equal(again.counts.rows, first.counts.rows)


@dataclass(frozen=True, kw_only=True)
class Resuming(Stage):
    """Goes on from what lies in its scratch folder, and cannot where that is damaged."""

    gives: ClassVar[Kind] = Kind.READY
    fails: bool = False

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        part = work.scratch / "part.npy"
        if part.exists():
            np.load(part, allow_pickle=False)
        elif self.fails:
            raise HalfpintError("here", wanted="other settings", got="these")
        with self.new_bundle(work, bundle) as (folder, card):
            (folder / "config.json").write_text("{}", encoding="utf-8")
            card["stages"].append({"use": self.use, "settings": {}, "seconds": 0.0})
        return Bundle(work.target)


def test_damaged_unfinished_work_is_begun_again(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    """Also where the stage then ends with an error of its own."""
    for fails in (False, True):
        stage = Resuming(fails=fails)
        key = stage.key("", f"{pipeline().split.key} accuracy")
        scratch = tmp_path / "work" / f"unfinished-{stage.use.replace('/', '-')}-{key[:12]}"
        scratch.mkdir(parents=True)
        (scratch / "part.npy").touch()
        if fails:
            with pytest.raises(HalfpintError, match="expected other settings"):
                pipeline().make([stage])
        else:
            assert pipeline().make([stage]).bundle.config == {}
        assert not (scratch / "part.npy").exists()
        assert "begins again" in (tmp_path / "events.jsonl").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Interrupted(Stage):
    """Counts how often it was begun, in its scratch folder, and ends only the third time."""

    gives: ClassVar[Kind] = Kind.READY

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        work.scratch.mkdir(parents=True, exist_ok=True)
        count = len(list(work.scratch.iterdir())) + 1
        (work.scratch / str(count)).touch()
        with self.new_bundle(work, bundle) as (folder, card):
            (folder / "config.json").write_text("{}", encoding="utf-8")
            if count < 3:
                raise KeyboardInterrupt
            card["stages"].append({"use": self.use, "settings": {}, "seconds": 0.0, "count": count})
        return Bundle(work.target)


def test_an_interrupted_stage_keeps_its_scratch_and_nothing_else(
    pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pipeline().make([Interrupted()])
        assert [path.name.split("-")[0] for path in (tmp_path / "work").iterdir()] == ["unfinished"]
    made = pipeline().make([Interrupted()])
    assert made.bundle.card["stages"][-1]["count"] == 3
    assert [path.name for path in (tmp_path / "work").iterdir()] == [made.bundle.path.name]


def test_faults_in_the_order(stage_of: Callable[[str], Stage], pipeline: Callable[..., Pipeline]) -> None:
    def faults(*names: str) -> list[str]:
        return faults_in_order([stage_of(name) for name in names], [f"stage {number}" for number in range(len(names))])

    assert faults("encoder", "one-layer", "classifier", "finetuned", "onnx", "onnx-few-tokens", "int8") == []
    assert faults("linear", "onnx-linear", "int8-linear") == []
    assert faults("majority") == []
    assert faults() == ["there is no [[stage]]"]
    assert faults("onnx") == ["stage 0: export/onnx needs 'classifier' or 'linear', got no stage before it"]
    assert faults("encoder", "onnx") == [
        "stage 1: export/onnx needs 'classifier' or 'linear', got a bundle of the kind 'encoder' before it"
    ]
    assert len(faults("encoder", "encoder", "int8")) == 2  # each is told
    with pytest.raises(HalfpintError, match=r"stages that fit together.*stage 1: compress/onnx_int8 needs 'onnx'"):
        pipeline().make([stage_of("int8")])
    with pytest.raises(HalfpintError, match="stage 1: export/onnx needs"):
        pipeline().make([stage_of("onnx")])


def test_stages_by_name() -> None:
    assert stage_class("train/majority", "here") is Majority
    for use in ("train/loop", "models/tfidf"):
        with pytest.raises(HalfpintError, match="which is no stage"):
            stage_class(use, "here")
    with pytest.raises(HalfpintError, match="Did you mean 'train/majority'"):
        stage_class("train/majorit", "here")


def told(assessment: Assessment) -> list[list[float]]:
    """The counts of each example."""
    rows: list[list[float]] = assessment.counts.rows[assessment.counts.which].tolist()
    return rows


def test_an_assessment_is_made_once(pipeline: Callable[..., Pipeline], prepared: Prepared) -> None:
    first = pipeline()
    made = first.make([Majority()])
    assessment = first.assess(made)
    found, held = assessment.figures, prepared.validation
    probabilities = np.asarray(open_engine(made.bundle).probabilities(TASK.texts(held)))
    predicted, targets = probabilities.argmax(axis=1), TASK.targets(held, first.labels)
    assert found["metrics"]["accuracy"] == pytest.approx((predicted == targets).mean())
    assert len(assessment.counts) == len(held)  # a row for each text, by which candidates are told apart
    for row, guess, true in zip(told(assessment), predicted, targets, strict=True):
        hits, support, guesses = np.split(np.array(row), 3)
        assert (support.argmax(), guesses.argmax(), hits[true]) == (true, guess, guess == true)
        assert (support.sum(), guesses.sum(), hits.sum()) == (1, 1, guess == true)
    low, high = found["interval"]
    assert low <= found["metrics"]["accuracy"] <= high
    assert found["parity"] is None
    cached = made.bundle.path.with_name(made.bundle.path.name + ".assessment.json")
    before = cached.stat().st_mtime_ns
    again = pipeline().assess(made)
    assert (again.figures, told(again)) == (found, told(assessment))
    assert cached.stat().st_mtime_ns == before
    other = pipeline(primary="f1_macro").assess(made).figures
    assert (other["primary"], cached.stat().st_mtime_ns != before) == ("f1_macro", True)
    assert np.allclose(other["metrics"]["accuracy"], found["metrics"]["accuracy"])


def test_an_assessment_is_of_its_own_data(
    pipeline: Callable[..., Pipeline], bundles: Callable[[str], Bundle], prepared: Prepared, tmp_path: Path
) -> None:
    """A bundle from elsewhere is assessed anew on other texts, and nothing is written beside it."""
    given = shutil.copytree(bundles("majority").path, tmp_path / "given" / "best")
    made = Made(open_bundle(given), "", ())
    first = pipeline().assess(made)
    other = pipeline()
    other.split = replace(prepared, validation=prepared.validation[:7], key="other")
    assert len(other.assess(made).counts) == 7 and len(first.counts) == len(prepared.validation)
    assert [path.name for path in (tmp_path / "given").iterdir()] == ["best"]
