"""Models of words without an encoder: a dictionary finds again what was labelled, a conditional random field learns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.spans import Span, TagData, TagExample
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.lookup import open_task
from halfpint.models.dictionary import Counted, count
from halfpint.pipeline import Pipeline
from halfpint.progress import SILENT
from halfpint.stage import Work, stage_class
from halfpint.task import Split

TASK: Any = open_task("tag")
ORDERS = Path(__file__).resolve().parents[2] / "examples" / "orders.conll"


def example(text: str, *spans: tuple[str, str]) -> TagExample:
    """A text with the first place of each of these pieces labelled."""
    return TagExample(
        text, tuple(sorted(Span(text.index(one), text.index(one) + len(one), label) for one, label in spans))
    )


TRAIN = [
    example("May met Anna Berg in Bonn", ("May", "PER"), ("Anna Berg", "PER"), ("Bonn", "LOC")),
    example("Anna saw Bonn and New York", ("Anna", "PER"), ("Bonn", "LOC"), ("New York", "LOC")),
    example("it may rain and may not in York", ("York", "LOC")),
    example("New shoes and new ideas"),
]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bundle]:
    def run(use: str, train: list[TagExample], deadline: float | None = None, **settings: Any) -> Bundle:
        labels = TASK.labels(train)
        split = Split(train=train, validation=train)
        work = Work(
            target=tmp_path / "made",
            scratch=tmp_path / "scratch",
            task=TASK,
            split=split,
            labels=labels,
            primary="f1_strict",
            deadline=deadline,
        )
        return stage_class(use, "here")(**settings).run(None, work)

    return run


def found_by(bundle: Bundle, *texts: str) -> list[list[tuple[str, str]]]:
    engine = open_engine(bundle)
    answers = TASK.decode(texts, engine.probabilities(texts), engine.labels)
    return [[(text[s.start : s.end], s.label) for s in spans] for text, spans in zip(texts, answers, strict=True)]


def test_a_dictionary_takes_the_longest_entry_as_written_first(make: Callable[..., Bundle]) -> None:
    bundle = make("train/dictionary", TRAIN)
    assert found_by(bundle, "New York, York", "Anna Berg", "Berg Anna", "") == [
        [("New York", "LOC"), ("York", "LOC")], [("Anna Berg", "PER")], [("Anna", "PER")], []
    ]  # fmt: skip
    assert found_by(bundle, "BONN new york") == [[("BONN", "LOC"), ("new york", "LOC")]]
    # May is a name as it is written there, but in small letters it mostly is not.
    assert found_by(bundle, "May", "may MAY") == [[("May", "PER")], []]


def test_the_probabilities_of_a_dictionary_are_shares(make: Callable[..., Bundle]) -> None:
    bundle = make("train/dictionary", TRAIN)
    engine = open_engine(bundle)
    (rows,) = engine.probabilities(["in Bonn"])
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert rows[1].max() == pytest.approx(2 / 3, abs=1e-3) and engine.labels[rows[1].argmax()] == "S-LOC"
    assert rows[0].argmax() == 0 and 0.5 < rows[0].max() < 1


def test_an_entry_is_what_mostly_has_its_tags() -> None:
    texts: list[Counted] = [(["a", "b"], [(0, (1,))]), (["a"], []), (["a"], []), (["b"], [(0, (2,))])]
    found = count(texts, 0)
    assert dict(found.exact) == {"b": ((2,), pytest.approx(1 / 3))} and not found.folded


def test_a_dictionary_of_nothing(make: Callable[..., Bundle]) -> None:
    assert found_by(make("train/dictionary", [example("nothing here")]), "nothing at all") == [[]]


def test_a_field_learns_the_example_data(tmp_path: Path) -> None:
    pytest.importorskip("pycrfsuite")
    data = TagData(source=str(ORDERS), validation_share=0.2, test_share=0.2)
    split = TASK.read(data, tmp_path, SILENT)
    pipeline = Pipeline(split, tmp_path / "work", TASK, "f1_strict", SILENT)
    scores = {}
    for use in ("train/dictionary", "train/crf"):
        made = pipeline.make([stage_class(use, "here")()])
        engine = open_engine(made.bundle)
        outputs = engine.probabilities(TASK.texts(split.test))
        scores[use] = TASK.score("f1_strict", split.test, outputs, engine.labels)
        for rows in outputs:
            np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
        assert made.bundle.size_bytes < 100_000
    assert scores["train/crf"] > 0.7 > 2 * scores["train/dictionary"] > 0.2


def test_a_field_needs_labelled_words(make: Callable[..., Bundle]) -> None:
    pytest.importorskip("pycrfsuite")
    with pytest.raises(HalfpintError, match="texts with labelled words, got none"):
        make("train/crf", [replace(one, spans=None) for one in TRAIN])


@pytest.mark.parametrize(("seconds", "steps"), [(None, 8), (3600.0, 8), (0.0, 1)])
def test_a_field_makes_fewer_steps_where_time_is_short(
    seconds: float | None, steps: int, make: Callable[..., Bundle]
) -> None:
    pytest.importorskip("pycrfsuite")
    deadline = None if seconds is None else time.monotonic() + seconds
    assert make("train/crf", TRAIN, deadline, iterations=8).card["stages"][-1]["steps"] == steps


@pytest.mark.parametrize("setting", ["l1", "l2", "train_texts", "smallest", "seed", "iterations", "time_share"])
def test_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(HalfpintError, match=setting):
        stage_class("train/crf", "here")(**{setting: -1})
