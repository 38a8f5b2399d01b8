"""Students of classifiers: what they begin as, what they learn, and what is refused before any work."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, read_json
from halfpint.data.examples import Example
from halfpint.data.prepare import Prepared
from halfpint.distil import answers as answering
from halfpint.distil._divergence import Softened
from halfpint.distil.answers import Answers
from halfpint.distil.hidden import Hidden
from halfpint.distil.logits import Logits
from halfpint.distil.student import Student
from halfpint.distil.teachers import made_from
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.models.pull import Pull
from halfpint.pipeline import Pipeline
from halfpint.progress import SILENT
from halfpint.stage import Work
from halfpint.tasks.classify import TASK

torch = pytest.importorskip("torch", reason="distilling needs torch")

Make = Callable[..., Work]
Get = Callable[[str], Bundle]
FAST = {"precision": "fp32", "batch_size": 16, "dropout": 0.0}


def texts_of(examples: Sequence[Example]) -> list[str]:
    return [example.text for example in examples]


def test_a_student_has_the_layers_it_is_given(
    three_layer_encoder: Path, bundles: Get, work: Make, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    base = Pull(base=str(three_layer_encoder)).run(None, work(tmp_path / "base"))
    made = Student(layers="1,3").run(base, work(tmp_path / "two"))
    before, after = (load_file(one.path / "model.safetensors") for one in (base, made))
    name = "encoder.layer.{}.output.dense.weight"
    np.testing.assert_array_equal(after[name.format(1)], before[name.format(2)])
    np.testing.assert_array_equal(after[name.format(0)], before[name.format(0)])
    assert name.format(2) not in after and made.config["num_hidden_layers"] == 2
    assert made.card["stages"][-1]["kept"] == [1, 3]
    assert Student(layers="2").run(base, work(tmp_path / "even")).card["stages"][-1]["kept"] == [1, 3]
    for wrong in ("3", "1,4", "2,1"):
        with pytest.raises(HalfpintError, match="fewer than 3, or rising numbers from 1 to 3"):
            Student(layers=wrong).run(base, work(tmp_path / "wrong"))
    for wrong in ("", "0", "one", "-1"):
        with pytest.raises(HalfpintError, match='must be a number such as "2"'):
            Student(layers=wrong)


def test_a_new_student_has_the_size_and_the_tokens(bundles: Get, work: Make, tmp_path: Path) -> None:
    teacher = bundles("finetuned")
    made = Student(size="150k").run(teacher, work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    assert entry["parameters"] == pytest.approx(150_000, rel=0.1)
    assert not entry["embeddings_begun"]  # its vectors are wider than the teacher's
    assert made.labels == teacher.labels
    # Its head says nothing yet.
    found = open_engine(made, threads=1).probabilities(["Where is my parcel?"])
    np.testing.assert_allclose(found, 1 / len(made.labels), atol=1e-6)


def test_students_learn_from_any_teacher(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    """Without a label in the loss, a student of TF-IDF answers as TF-IDF does, far more than it did before."""
    teacher = bundles("linear")
    train = prepared.train[:200]
    texts = texts_of(train)
    theirs = open_engine(teacher).probabilities(texts).argmax(1)
    stage = Logits(
        teacher=str(teacher.path), label_share=0.0, epochs=15, learning_rate=5e-3, head_learning_rate=2e-2,
        temperature=1.0, train_embeddings=True, **FAST,
    )  # fmt: skip
    made = stage.run(bundles("encoder"), work(tmp_path / "made", train=train, validation=prepared.validation[:40]))
    ours = open_engine(made, threads=1).probabilities(texts).argmax(1)
    majority = np.bincount(theirs).max() / len(theirs)
    assert (ours == theirs).mean() > majority + 0.3
    entry = made.card["stages"][-1]
    assert entry["history"][-1]["loss"] < entry["history"][0]["loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_the_loss_mixes_labels_and_teacher(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    """A student that is its teacher has no distance to it: what is left is its share of the labels' loss."""
    teacher, train = bundles("finetuned"), prepared.train[:64]

    def first_loss(share: float, parent: Bundle) -> float:
        stage = Logits(
            teacher=str(teacher.path), label_share=share, epochs=1, batch_size=64, batch_tokens=100_000,
            dropout=0.0, precision="fp32", stop_after_steps=1,
        )  # fmt: skip
        made = stage.run(parent, work(tmp_path / "made", train=train))
        return float(made.card["stages"][-1]["history"][0]["loss"])

    labels = TASK.labels(prepared.train)
    targets = TASK.targets(train, labels)
    answers = open_engine(teacher, threads=1).probabilities(texts_of(train))
    told = float(-np.log(answers[np.arange(len(train)), targets]).mean())
    assert first_loss(1.0, teacher) == pytest.approx(told, rel=1e-3)
    assert first_loss(0.25, teacher) == pytest.approx(0.25 * told, rel=1e-2)
    assert first_loss(0.0, teacher) == pytest.approx(0.0, abs=1e-4)
    theirs = np.log(open_engine(bundles("student"), threads=1).probabilities(texts_of(train)))
    apart = Softened().distance(torch.from_numpy(theirs), torch.from_numpy(np.log(answers))).mean()
    assert first_loss(0.0, bundles("student")) == pytest.approx(float(apart), rel=1e-2)


def test_unlabelled_texts_are_learned_from(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    known = prepared.validation[0].text
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], ["one more about an invoice"], ["and one about a parcel"], [known]])
    target = tmp_path / "made"
    stage = Logits(teacher=str(bundles("linear").path), unlabelled=str(path), epochs=1, **FAST)
    made = stage.run(bundles("encoder"), work(target, train=prepared.train[:40]))
    entry = made.card["stages"][-1]
    assert (entry["texts"], entry["labelled"]) == (42, 40)  # what is chosen by is left out
    assert stage.key("", "") != replace(stage, unlabelled="").key("", "")
    before = stage.key("", "")
    path.write_text("text\nother texts\n", encoding="utf-8")
    assert stage.key("", "") != before  # the name alone does not tell what is in it
    with pytest.raises(HalfpintError, match="a label_share below 1"):
        Logits(unlabelled=str(path), label_share=1.0)


def test_changed_copies_are_learned_from(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    train = prepared.train[:40]
    texts = texts_of(train)
    found = answering.changed_copies(texts, 3, 0, set(texts))
    assert 80 < len(found) == len(set(found)) <= 120 and not set(found) & set(texts)
    assert found == answering.changed_copies(texts, 3, 0, set(texts)) != answering.changed_copies(texts, 3, 1, set())
    words = set(" ".join(texts).split())
    assert all(set(text.split()) <= words for text in found)
    assert 0.1 < np.mean([len(text.split()) <= 5 for text in found]) < 0.5
    stage = Logits(teacher=str(bundles("linear").path), copies=3, epochs=1, **FAST)
    entry = stage.run(bundles("encoder"), work(tmp_path / "made", train=train)).card["stages"][-1]
    assert entry["labelled"] == 40 and 120 < entry["texts"] <= 160
    with pytest.raises(HalfpintError, match="a label_share below 1 for them"):
        Logits(copies=1, label_share=1.0)


def test_several_teachers_answer_with_their_mean(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    both = [bundles("linear"), bundles("finetuned")]
    made = Answers(teacher=",".join(str(one.path) for one in both)).run(None, work(tmp_path / "made"))
    texts = texts_of(prepared.train)
    wanted = np.mean([open_engine(one, threads=1).probabilities(texts) for one in both], axis=0)
    found = np.load(made.path / answering.FILE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), wanted, atol=1e-5)


class Counting:
    """A teacher that counts what it is asked, and gives up after so many texts."""

    def __init__(self, limit: int) -> None:
        self.asked, self.limit = 0, limit

    def probabilities(self, texts: list[str]) -> np.ndarray:
        if self.asked + len(texts) > self.limit:
            raise KeyboardInterrupt
        self.asked += len(texts)
        return np.full((len(texts), 2), 0.5, dtype=np.float32)


def test_asking_goes_on_where_it_was_stopped(work: Make, tmp_path: Path) -> None:
    """Chunks that are whole are not asked for again; a damaged one is, and so is all when the teacher is another."""
    texts = [f"text {number}" for number in range(3000)]
    held = work(tmp_path / "made")
    first = Counting(limit=2500)
    with pytest.raises(KeyboardInterrupt):
        answering._asked(first, texts, held, "key")  # type: ignore[arg-type]
    assert first.asked == 2048
    second = Counting(limit=9999)
    parts = answering._asked(second, texts, held, "key")  # type: ignore[arg-type]
    assert second.asked == 3000 - 2048 and len(parts) == 3
    parts[0].write_bytes(parts[0].read_bytes()[:-4] + b"\0\0\0\1")
    third = Counting(limit=9999)
    answering._asked(third, texts, held, "key")  # type: ignore[arg-type]
    assert third.asked == 1024
    other = Counting(limit=9999)
    answering._asked(other, texts, held, "another")  # type: ignore[arg-type]
    assert other.asked == 3000


def test_the_teacher_is_asked_once(bundles: Get, prepared: Prepared, tmp_path: Path) -> None:
    """Two students of one teacher share its answers in the pipeline's folder."""
    pipeline = Pipeline(prepared, tmp_path, TASK, "accuracy", SILENT)
    teacher = bundles("finetuned")
    for temperature in (1.0, 4.0):
        stage = Logits(teacher=str(teacher.path), temperature=temperature, epochs=1, **FAST)
        pipeline.make([Student(layers="1"), stage], start=teacher)
    assert len(list(tmp_path.glob("distil-answers-*"))) == 1
    assert len(list(tmp_path.glob("distil-logits-*"))) == 2


def test_the_teacher_is_what_the_student_was_made_from(bundles: Get, work: Make, tmp_path: Path) -> None:
    assert made_from(bundles("student"), "here").fingerprint == bundles("finetuned").fingerprint
    assert made_from(bundles("hidden"), "here").fingerprint == bundles("finetuned").fingerprint
    for bundle in (bundles("finetuned"), None):
        with pytest.raises(HalfpintError, match="expected the folder of a teacher"):
            made_from(bundle, "here")


@pytest.mark.parametrize(
    ("match", "size"), [("relations", ""), ("states", ""), ("relations", "150k"), ("states", "150k")]
)
def test_hidden_brings_a_student_nearer(match: str, size: str, bundles: Get, work: Make, tmp_path: Path) -> None:
    """Of the same width and of another one; the head stays as it is."""
    teacher = bundles("finetuned")
    student = Student(layers="1", size=size).run(teacher, work(tmp_path / "student"))
    stage = Hidden(
        teacher=str(teacher.path), match=match, epochs=3, learning_rate=3e-3, train_embeddings=True, precision="fp32"
    )
    made = stage.run(student, work(tmp_path / "made"))
    history = made.card["stages"][-1]["history"]
    assert -history[-1]["score"] < 0.9 * -history[0]["score"]
    from safetensors.numpy import load_file

    before, after = (load_file(one.path / "model.safetensors") for one in (student, made))
    assert set(before) == set(after)
    np.testing.assert_array_equal(before["classifier.weight"], after["classifier.weight"])


def test_hidden_teaches_an_encoder_without_a_head(bundles: Get, work: Make, tmp_path: Path) -> None:
    """It stays one, and a head can be put on it."""
    student, teacher = bundles("one-layer"), bundles("finetuned")
    made = Hidden(teacher=str(teacher.path), epochs=1, precision="fp32").run(student, work(tmp_path / "made"))
    assert made.config == student.config and made.card.get("engine") is None
    stage = Logits(teacher=str(teacher.path), epochs=1, train_texts=40, **FAST)
    headed = stage.run(made, work(tmp_path / "headed"))
    assert open_engine(headed, threads=1).labels == teacher.labels


def test_what_is_its_teacher_has_nothing_to_learn(bundles: Get, work: Make, tmp_path: Path) -> None:
    teacher = bundles("finetuned")
    for match in ("relations", "states"):
        stage = Hidden(teacher=str(teacher.path), match=match, epochs=1, stop_after_steps=1, precision="fp32")
        made = stage.run(teacher, work(tmp_path / match))
        assert made.card["stages"][-1]["history"][0]["loss"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "wanted"),
    [
        (Logits, {"temperature": 0.0}, "temperature must be a number from 0.05 to 100"),
        (Logits, {"temperature": float("nan")}, "temperature must be a number from 0.05 to 100"),
        (Logits, {"divergence": "forwards"}, "Did you mean 'forward'"),
        (Logits, {"js_beta": 1.0}, "js_beta must be a share between 0 and 1"),
        (Logits, {"label_share": 1.5}, "label_share must be a share from 0 to 1"),
        (Logits, {"epochs": 0}, "epochs must be a number above 0"),
        (Hidden, {"match": "attention"}, "match must be relations or states"),
        (Hidden, {"layer_map": "1,2"}, "match = states for it"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: Any, settings: dict[str, Any], wanted: str) -> None:
    with pytest.raises(HalfpintError, match=wanted):
        kind(**settings)


def test_a_teacher_that_does_not_fit_is_refused(
    bundles: Get, work: Make, prepared: Prepared, short_encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match="There is no folder"):
        Logits(teacher=str(tmp_path / "nowhere")).check()
    with pytest.raises(HalfpintError, match="is a model for the task 'predict', not 'classify'"):
        Logits(teacher=str(bundles("ngram").path)).run(bundles("encoder"), work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="expected one trained encoder that was not exported"):
        Hidden(teacher=str(bundles("linear").path)).check()
    few = [replace(example, label="yes" if number % 2 else "no") for number, example in enumerate(prepared.train[:40])]
    other = work(tmp_path / "made", train=few, validation=few, labels=("no", "yes"))
    with pytest.raises(HalfpintError, match="one that knows the 2 labels of the data"):
        Logits(teacher=str(bundles("linear").path)).run(bundles("encoder"), other)
    with pytest.raises(HalfpintError, match="expected the labels of the data: no, yes"):
        Logits(teacher=str(bundles("linear").path)).run(bundles("finetuned"), other)
    assert not (tmp_path / "made").exists()


def test_hidden_needs_the_same_tokens(bundles: Get, work: Make, tmp_path: Path) -> None:
    """A student whose vocabulary was pruned cuts texts otherwise."""
    with pytest.raises(HalfpintError, match="expected the tokenizer that the student has"):
        Hidden(teacher=str(bundles("finetuned").path)).run(bundles("few-tokens"), work(tmp_path / "made"))


def test_a_killed_student_goes_on(bundles: Get, work: Make, prepared: Prepared, tmp_path: Path) -> None:
    """Stopped after some steps and started again it ends with the same weights as one that was not stopped."""
    from safetensors.numpy import load_file

    teacher, student = bundles("finetuned"), bundles("student")
    stage = Logits(teacher=str(teacher.path), epochs=2, **FAST)
    whole = stage.run(student, work(tmp_path / "whole", train=prepared.train[:80]))
    held = work(tmp_path / "cut", train=prepared.train[:80])

    class Stop(Exception):
        pass

    from halfpint.train import loop

    original, calls = loop._evaluate, []

    def once(*given: Any) -> None:
        original(*given)
        calls.append(given)
        if len(calls) == 2:
            raise Stop  # after the first epoch was kept, before the second is

    loop._evaluate = once
    try:
        with pytest.raises(Stop):
            stage.run(student, held)
    finally:
        loop._evaluate = original
    assert read_json(held.scratch / "checkpoint" / "state.json")["step"] == 5
    again = stage.run(student, held)
    first, second = (load_file(one.path / "model.safetensors") for one in (whole, again))
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=name)
