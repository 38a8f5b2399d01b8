"""Training rows that are asked too, and the last training on all of them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import halfpint
from halfpint.bundle import open_bundle
from halfpint.data.examples import Example
from halfpint.lookup import open_task
from halfpint.pipeline import Pipeline
from halfpint.progress import SILENT, Log
from halfpint.search import encoder
from halfpint.search import fit as fitting
from halfpint.search.choose import Choice, choose
from halfpint.search.crossval import FOLDS, CrossValidation, folds, trained_on_all
from halfpint.search.limits import Limits
from halfpint.search.space import cheap_groups
from halfpint.search.tries import Tries
from halfpint.task import Split, label_task

TASK = label_task(open_task("classify"), "here")


def rows(many: int, seed: int = 0) -> list[Example]:
    """Short made-up texts of two labels; one in six has no word that tells its label."""
    generator = np.random.default_rng(seed)
    told = {"good": ["fine", "great", "lovely", "warm"], "bad": ["poor", "cold", "broken", "late"]}
    plain = ["the", "room", "train", "soup", "was", "very", "a", "bit", "today", "again"]
    found = []
    for number in range(many):
        label = ("good", "bad")[number % 2]
        words = generator.choice(plain, 6).tolist()
        if generator.random() > 1 / 6:
            words.insert(int(generator.integers(0, 6)), str(generator.choice(told[label])))
        found.append(Example(f"{' '.join(words)} {number}", label, number + 1))
    return found


@given(st.lists(st.tuples(st.integers(-1, 6), st.sampled_from("ab")), min_size=10, max_size=80), st.integers(0, 9))
def test_parts_hold_each_row_once_and_groups_whole(made: list[tuple[int, str]], seed: int) -> None:
    examples = [Example(f"text {n}", label, n, group) for n, (group, label) in enumerate(made)]
    parts = folds(TASK, examples, FOLDS, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(examples)))
    for group in range(7):
        members = {n for n, example in enumerate(examples) if example.group == group}
        assert sum(bool(members & set(part.tolist())) for part in parts) <= 1


def test_each_label_is_in_each_part_in_proportion() -> None:
    parts = folds(TASK, rows(200), FOLDS, 0)
    assert [len(part) for part in parts] == [40] * FOLDS
    assert all(abs(sum(number % 2 for number in part.tolist()) - 20) <= 1 for part in parts)


def tries(tmp_path: Path, examples: list[Example], held: int, **limits: Any) -> Tries:
    split = Split(train=examples[held:], validation=examples[:held], key="made up here")
    pipeline = Pipeline(split, tmp_path / "work", TASK, "accuracy", SILENT)
    now = time.monotonic()
    found = Tries(TASK, Limits(minutes=10.0, **limits), pipeline, "accuracy", SILENT, now, now + 600)
    for group in cheap_groups(TASK):
        if group.name in ("majority", "tfidf-small"):
            found.try_group(group)
    return found


def chosen(found: Tries) -> Choice:
    return choose(found.candidates, found.limits, "accuracy", TASK, found.answers)


def test_rows_that_were_trained_on_are_asked_of_models_that_did_not(tmp_path: Path) -> None:
    found = tries(tmp_path, rows(400), 20, floor={"accuracy": 0.87})
    before = chosen(found)
    assert before.chosen is None  # all of 20 rows prove no 0.87
    asked = CrossValidation(found, lambda: chosen(found), time.monotonic() + 300).run()
    assert asked.chosen is not None and asked.chosen["family"] == "tfidf"
    name = asked.chosen["name"]
    answers = found.answers[name]
    assert 20 < len(answers.rows) <= 400 and answers.rows.tolist() == sorted(set(answers.rows.tolist()))
    # A model asked the rows that it learned from would be right on nearly all of them.
    assert 0.87 < asked.chosen["asked_score"] < 0.985
    assert not list((tmp_path / "work").glob("part-*/"))
    again = CrossValidation(found, lambda: chosen(found), time.monotonic() + 300).run()
    assert again.chosen is asked.chosen


def test_no_part_is_asked_of_a_model_that_learned_it_and_groups_stay_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Split[Example]] = []

    class Apart(Pipeline):
        def __init__(self, split: Split[Any], *rest: Any) -> None:
            given.append(split)
            super().__init__(split, *rest)

    examples = [replace(example, group=number // 2) for number, example in enumerate(rows(400))]
    found = tries(tmp_path, examples, 20, floor={"accuracy": 0.87})
    monkeypatch.setattr("halfpint.search.crossval.Pipeline", Apart)
    asked = CrossValidation(found, lambda: chosen(found), time.monotonic() + 300).run().chosen
    assert asked is not None and given
    split = found.pipeline.split
    parts = {f"part {number + 1} of": part for number, part in enumerate(folds(TASK, split.train, FOLDS, 0))}
    for apart in given:
        (part,) = (part for name, part in parts.items() if name in apart.key)
        assert {one.row for one in apart.train} == {one.row for one in split.train} - {split.train[n].row for n in part}
    answers = found.answers[asked["name"]]
    every = [*split.validation, *split.train]
    assert answers.counts.groups is not None
    assert len(set(answers.counts.groups.tolist())) == len({every[n].group for n in answers.rows.tolist()})


def test_what_was_skipped_for_want_of_time_is_tried_when_there_is_some(tmp_path: Path) -> None:
    found = tries(tmp_path, rows(200), 60)
    group = next(one for one in cheap_groups(TASK) if one.name == "tfidf-linear")
    found.deadline = time.monotonic() - 1
    found.try_group(replace(group, expected_s=30.0))
    assert [one["status"] for one in found.candidates if one["name"].startswith("tfidf-linear")] == ["skipped"] * 2
    assert found.minutes_needed is not None
    found.deadline = time.monotonic() + 300
    found.try_late()
    assert [one["status"] for one in found.candidates if one["name"].startswith("tfidf-linear")] == ["measured"] * 2
    assert found.minutes_needed is None and not found.late


def test_trying_again_does_not_forget_what_was_never_planned(tmp_path: Path) -> None:
    found = tries(tmp_path, rows(200), 60)
    group = next(one for one in cheap_groups(TASK) if one.name == "tfidf-linear")
    found.unplanned_s = 600.0
    found.deadline = time.monotonic() - 1
    found.try_group(replace(group, expected_s=30.0))
    assert found.missed_s == 630.0
    found.deadline = time.monotonic() + 300
    found.try_late()
    assert found.missed_s == 600.0


def test_the_proof_is_by_the_test_file_alone(tmp_path: Path) -> None:
    """Every label of the test file is wrong: what is right on validation is wrong there, and the report says so."""
    files = []
    for name, examples in (("train", rows(120)), ("test", rows(160)[120:])):
        files.append(tmp_path / f"{name}.jsonl")
        labels = sorted({example.label for example in examples})
        wrong = {label: labels[(at + 1) % len(labels)] if name == "test" else label for at, label in enumerate(labels)}
        lines = [json.dumps({"text": f"{name} {one.text}", "label": wrong[one.label]}) for one in examples]
        files[-1].write_text("\n".join(lines), encoding="utf-8")
    found = halfpint.fit(str(files[0]), test=str(files[1]), base="none", out=tmp_path / "out", quiet=True)
    one = next(one for one in found.report["candidates"] if one["name"] == found.chosen)
    figures = found.report["test"][found.chosen]
    assert figures["rows"] == 40 and one["metrics"]["accuracy"] > 0.7 and figures["accuracy"] < 0.3


def test_fit_tries_again_what_was_skipped_where_asking_rows_left_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def groups(task: Any) -> list[Any]:
        last = list(cheap_groups(task))
        return [*last[:-1], replace(last[-1], expected_s=1e9)]

    again: list[str] = []
    monkeypatch.setattr(fitting, "cheap_groups", groups)
    monkeypatch.setattr(Tries, "try_late", lambda self: again.extend(group.name for group, _ in self.late))
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps({"text": e.text, "label": e.label}) for e in rows(90)), encoding="utf-8")
    found = halfpint.fit(str(table), base="none", minutes=20.0, out=tmp_path / "out", quiet=True)
    assert again == ["tfidf-linear"] and "Some candidates were skipped for lack of time" in found.verdict


def test_a_base_that_cannot_read_the_texts_is_told_before_it_is_trained(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stopped(*given: Any) -> Any:
        raise StoppedError

    monkeypatch.setattr(encoder, "training_speed", stopped)
    for share, told in ((0.9, True), (0.1, False)):
        found = tries(tmp_path / str(share), rows(60), 20)
        found.log = Log(quiet=True)
        said: list[str] = []
        monkeypatch.setattr(found.log, "say", lambda text, said=said, **more: said.append(text))
        monkeypatch.setattr(encoder, "unreadable_share", lambda bundle, texts, share=share: share)
        with pytest.raises(StoppedError):
            encoder.try_encoder(found, str(tiny_encoder), tmp_path / "plan.json", 0)
        assert any("cannot read these texts" in text for text in said) == told


def test_without_time_nothing_is_asked(tmp_path: Path) -> None:
    found = tries(tmp_path, rows(400), 20, floor={"accuracy": 0.87})
    CrossValidation(found, lambda: chosen(found), time.monotonic()).run()
    assert {len(one.rows) for one in found.answers.values()} == {20}
    assert trained_on_all(found, found.made["tfidf-small-int8"], time.monotonic()) is None


def test_the_chosen_one_learns_from_all_rows_and_chooses_nothing_again(tmp_path: Path) -> None:
    found = tries(tmp_path, rows(120), 20)
    first = found.made["tfidf-small-int8"]
    again = trained_on_all(found, first, time.monotonic() + 300)
    assert again is not None and again.bundle.path != first.bundle.path
    before, after = (one.bundle.card["stages"][0] for one in (first, again))
    assert after["strength"] == before["strength"]
    given: Any = again.stages[0]
    assert (given.strength, given.weights, given.factor) == tuple(before[n] for n in ("strength", "weights", "factor"))
    small = tries(tmp_path, rows(120), 20, max_size_bytes=3000)
    assert trained_on_all(small, first, time.monotonic() + 300) is None  # over the limit


@pytest.mark.parametrize("many", [60, 300])
def test_few_rows_from_a_table_to_a_proven_model(tmp_path: Path, many: int) -> None:
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps({"text": e.text, "label": e.label}) for e in rows(many)), encoding="utf-8")
    found = halfpint.fit(str(table), base="none", minutes=2.0, out=tmp_path / "out", quiet=True)
    assert found.chosen is not None and found.chosen.startswith("tfidf")
    report = found.report
    one = next(one for one in report["candidates"] if one["name"] == found.chosen)
    assert one["trained_on"] == report["data"]["train"] + report["data"]["validation"]
    assert f"trained again on all {one['trained_on']} rows" in found.verdict
    assert "No transformer was trained." in found.verdict
    if many == 60:
        assert "So few test texts prove little" in found.verdict
    best, strongest = open_bundle(tmp_path / "out" / "best"), open_bundle(tmp_path / "out" / "strongest")
    assert best.card["stages"][0]["strength"] > 0 and strongest.kind
    assert "all_rows = true" in (tmp_path / "out" / "recipe.toml").read_text(encoding="utf-8")
    assert report["strongest"] in report["test"]
