"""Tables with few rows: an answer with what it rests on, or at once that they are too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import halfpint
from halfpint.data.examples import Example
from halfpint.errors import HalfpintError
from halfpint.lookup import open_task
from halfpint.search import fit as fitting
from halfpint.search.choose import choose
from halfpint.search.compare import Answers, compare, pooled_interval, strongest
from halfpint.search.limits import Limits
from halfpint.task import Split, label_task
from halfpint.tasks._label_figures import label_counts
from halfpint.train.finetune import Finetune
from halfpint.train.tfidf_linear import TfidfLinear

PLAIN = [
    "please",
    "could",
    "you",
    "help",
    "me",
    "with",
    "this",
    "today",
    "because",
    "it",
    "does",
    "not",
    "work",
    "as",
    "it",
    "should",
]


def table(path: Path, labels: dict[str, int]) -> Path:
    """So many texts of each label, with a word or two that tell it."""
    generator = np.random.default_rng(0)
    lines = ["text,label"]
    for label, count in labels.items():
        for number in range(count):
            words = [*generator.choice(PLAIN, 8).tolist(), f"{label}{number % 2}", f"{label}{number % 3}"]
            lines.append(f"{' '.join(generator.permutation(words).tolist())},{label}")
    path.write_text("\n".join([lines[0], *generator.permutation(lines[1:]).tolist()]), encoding="utf-8")
    return path


def fitted(tmp_path: Path, labels: dict[str, int], **settings: Any) -> Any:
    source = table(tmp_path / "table.csv", labels)
    return halfpint.fit(str(source), base="none", minutes=1.0, out=tmp_path / "out", quiet=True, **settings)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"a": 2, "b": 2}, "of 4 usable rows, 1 to choose a model by and 1 for the final test would be left"),
        ({"a": 5, "b": 5}, "Give 34 rows or more, at least three of each label."),
        ({f"l{number}": 2 for number in range(12)}, "would be left, and fewer than 5 prove nothing"),
        ({"only": 60}, "only the label 'only', where two or more are needed"),
        ({"a": 30, "b": 29, "lonely": 1}, "1 label with fewer than two usable examples \\('lonely'\\)"),
        ({f"l{number}": 1 for number in range(30)}, "30 labels with fewer than two usable examples"),
    ],
)
def test_what_cannot_be_chosen_or_proven_is_refused_before_any_work(
    labels: dict[str, int], told: str, tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match=told):
        fitted(tmp_path, labels)
    assert not (tmp_path / "out").exists()


def test_with_a_test_file_its_rows_are_a_persons_choice() -> None:
    rows = [Example("text", "a", number) for number in range(40)]
    some: Any = type("Some", (), {"source": "here", "test": "there", "validation_share": 0.15, "test_share": 0.15})()
    fitting._need_rows(some, Split(train=rows, validation=rows[:5], test=rows[:1]))
    with pytest.raises(HalfpintError, match="4 to choose a model by would be left"):
        fitting._need_rows(some, Split(train=rows, validation=rows[:4], test=rows))
    some.test = ""
    fitting._need_rows(some, Split(train=rows, validation=rows[:5], test=rows[:5]))
    with pytest.raises(HalfpintError, match="5 to choose a model by and 4 for the final test would be left"):
        fitting._need_rows(some, Split(train=rows, validation=rows[:5], test=rows[:4]))


def test_many_labels_of_two_rows_are_judged_on_more_than_one(tmp_path: Path) -> None:
    found = fitted(tmp_path, {f"l{number}": 2 for number in range(20)})
    data, test = found.report["data"], found.report["test"][found.chosen]
    assert (data["train"], data["validation"], data["test"]) == (28, 6, 6)
    assert "On 6 test texts" in found.verdict and "prove little" in found.verdict
    assert f"Right for {round(6 * test['metrics']['accuracy'])} of 6 texts it had never seen" in str(found)


def test_learned_again_is_said_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "trained_on_all", lambda *given: None)
    found = fitted(tmp_path, {"a": 30, "b": 30})
    assert "trained again" not in found.verdict and found.chosen
    recipe = (tmp_path / "out" / "recipe.toml").read_text(encoding="utf-8")
    assert "all_rows = true" not in recipe


def test_the_size_that_is_kept_is_said_beside_the_one_that_was_chosen(tmp_path: Path) -> None:
    found = fitted(tmp_path, {"a": 30, "b": 30})
    row = next(one for one in found.report["candidates"] if one["name"] == found.chosen)
    told = f"rows outside the test set ({row['size_bytes'] / 1e3:.3g} KB)."
    assert told in found.verdict


TASK = label_task(open_task("classify"), "here")


def candidate(name: str, right: int, size: int, **more: Any) -> dict[str, Any]:
    true = np.arange(400) % 2
    counts = label_counts(true, np.where(np.arange(400) < right, true, 1 - true), 2)
    return {
        "name": name, "family": name, "status": "measured", "size_bytes": size, "latency_p50_ms": 1.0, "counts": counts,
        "metrics": {"accuracy": right / 400}, "interval": [right / 400 - 0.03, right / 400 + 0.03], **more,
    }  # fmt: skip


def said(*found: dict[str, Any], limits: Limits | None = None, **more: Any) -> str:
    answers = {one["name"]: Answers.of(one["counts"]) for one in found if "counts" in one}
    return choose(list(found), limits or Limits(), "accuracy", TASK, answers, **more).verdict


def test_rows_that_were_asked_besides_are_told_where_they_were() -> None:
    assert "with cross-validation" not in said(candidate("one", 390, 10))
    asked = candidate("one", 390, 10, asked_rows=1200, asked_score=0.97)
    assert "; 0.9700 on 1,200 rows with cross-validation)" in said(asked)


def test_the_smallest_is_said_of_what_was_measured_alone() -> None:
    skipped: dict[str, Any] = {
        "name": "less",
        "family": "x",
        "status": "skipped",
        "size_bytes": None,
        "metrics": {},
        "why": "no time",
    }
    whole = said(candidate("one", 390, 10), skipped, minutes=9.0)
    assert "It is the best candidate measured that meets the limits, and the smallest of these." in whole
    for limits in (None, Limits(floor={"accuracy": 0.5}), Limits(keep=0.5)):
        for words in said(candidate("one", 390, 10), candidate("two", 392, 90), limits=limits).split(". "):
            assert "smallest" not in words or "measured" in words


def test_what_may_do_is_not_said_where_quality_was_asked_for() -> None:
    def pair(first: int) -> list[dict[str, Any]]:
        """A large candidate, and a small one with a mistake more: its mistakes are on the rows from `first` on."""
        true, right = np.arange(400) % 2, np.ones(400, dtype=bool)
        right[first : first + 20] = False
        small = candidate("small", 380, 10)
        small["counts"] = label_counts(true, np.where(right, true, 1 - true), 2)
        return [candidate("large", 381, 90), small]

    assert "small (10 B, 1.0 ms) may do as well: it is 0.0025 below it" in said(*pair(100))
    asked = pair(100)
    answers = {one["name"]: Answers.of(one["counts"]) for one in asked}
    lows = [pooled_interval(one, TASK.metrics["accuracy"])[1] for one in answers.values()]
    floor = Limits(floor={"accuracy": sum(lows) / 2})  # that the large one alone is shown to reach
    choice = choose(asked, floor, "accuracy", TASK, answers)
    assert choice.undecided == ("small",) and "may do as well" not in choice.verdict
    assert "may do as well" not in said(*pair(380))  # the same rows: it is shown, and taken


def test_the_best_is_the_better_on_the_rows_of_both() -> None:
    """One is better on few rows of validation; the other on those and the many that both were asked besides."""

    def answers(right: np.ndarray[Any, np.dtype[np.bool_]]) -> Answers:
        true = np.arange(len(right)) % 2
        return Answers.of(label_counts(true, np.where(right, true, 1 - true), 2))

    lucky, steady = np.ones(2000, dtype=bool), np.ones(2000, dtype=bool)
    lucky[100:600], steady[:10] = False, False
    metric = TASK.metrics["accuracy"]
    few = {"lucky": answers(lucky[:100]), "steady": answers(steady[:100])}
    assert strongest(["lucky", "steady"], few, metric) == "lucky"
    many = {"lucky": answers(lucky), "steady": answers(steady)}
    assert strongest(["lucky", "steady"], many, metric) == "steady"
    assert strongest(["lucky", "steady"], {**few, "lucky": many["lucky"]}, metric) == "lucky"  # few rows are of both


@pytest.mark.parametrize(("rows", "worse", "is_open"), [(60, 1, True), (60, 20, False), (4000, 67, False)])
def test_a_row_of_sixty_is_no_proof_that_more_rows_would_not_show_it(rows: int, worse: int, is_open: bool) -> None:
    """A mistake more on 60 rows is more than the margin, and leaves it open; a difference that is shown does not."""
    true, right = np.arange(rows) % 2, np.ones(rows, dtype=bool)
    right[:6] = False
    small = right.copy()
    small[6 : 6 + worse] = False
    counts = [label_counts(true, np.where(one, true, 1 - true), 2) for one in (right, small)]
    answers = dict(zip(("large", "small"), map(Answers.of, counts), strict=True))
    found = compare(["large", "small"], "large", answers, TASK.metrics["accuracy"])["small"]
    assert found.difference < -0.01 and not found.shows(0.01) and found.may_be(0.01) == is_open
    assert found.rows_needed(0.01) is None


def test_an_encoder_that_learned_from_some_rows_is_said_to() -> None:
    some = (Finetune(train_texts=2450), TfidfLinear())
    assert fitting.drawn(some, 26_493) == " (what is neural in it from 2,450 of them, drawn)"
    assert fitting.drawn(some, 2450) == "" and fitting.drawn((Finetune(), TfidfLinear()), 26_493) == ""
