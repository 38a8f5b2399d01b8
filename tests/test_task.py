"""What every task says of itself, and how rooms ask it: by its names, its outputs and its refusals."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint import registry
from halfpint.bundle import Bundle, Kind, new_bundle, open_bundle
from halfpint.data.conversations import ChatData, Conversations
from halfpint.data.corpus import Corpus, CorpusData
from halfpint.data.prepare import Data, Prepared
from halfpint.data.read import read_table
from halfpint.errors import HalfpintError
from halfpint.lookup import (
    default_task,
    guess_task,
    need_command,
    need_routes,
    open_task,
    task_of,
    tasks,
    text_task,
)
from halfpint.outputs import NO_LABEL, Encoded, joined, per_text
from halfpint.task import LabelTask, Split, Task, label_task, settings_of

CLASSIFY, PREDICT, CHAT = (open_task(name) for name in ("classify", "predict", "chat"))


@pytest.mark.parametrize("task", tasks(), ids=lambda task: task.name)
def test_a_task_says_what_it_is(task: Task[Any]) -> None:
    assert open_task(task.name) is task and task.name in registry.variants("tasks")
    assert task.about and task.metrics and task.ends and task.commands
    assert is_dataclass(task.data) and task.data.__doc__
    assert task.routes in registry.variants("serve")
    assert {"run", "serve", "evaluate", "report"} <= task.commands
    assert Kind.NOTHING not in task.ends and Kind.SAME not in task.ends
    if task.head is not None:
        assert task.head in registry.variants("models")


@pytest.mark.parametrize("task", [task for task in tasks() if isinstance(task, LabelTask)], ids=lambda task: task.name)
def test_a_task_with_labels_has_candidates(task: LabelTask[Any]) -> None:
    found = task.candidates()
    assert len({one.name for one in found}) == len(found) and any(one.baseline for one in found)
    assert {one.family for one in found} <= set(task.cheap) and set(task.counting) <= set(task.cheap)
    assert set(task.headline) <= set(task.metrics)
    assert all(
        not use or use.partition("/")[0] in ("train", "distil") for use in (task.frozen, task.static, task.blend)
    )
    for one in found:  # of a group all are finished from one training
        assert one.train == next(other.train for other in found if other.group == one.group)


def test_one_task_is_that_of_running_text_and_one_the_usual() -> None:
    assert [task.name for task in tasks() if task.of_text] == [text_task().name]
    assert [task.name for task in tasks() if task.default] == [default_task().name]


def test_an_unknown_task_is_told_with_the_nearest(bundles: Callable[[str], Bundle]) -> None:
    with pytest.raises(HalfpintError, match=r"^task: there is no 'clasify'\. Did you mean 'classify'"):
        open_task("clasify")
    with pytest.raises(HalfpintError, match=r"^--task: .*Did you mean 'predict'"):
        open_task("predit", "--task")
    with pytest.raises(HalfpintError, match="does no task yet: it is of the kind"):
        task_of(bundles("encoder"))
    assert task_of(bundles("majority")) is CLASSIFY


def test_what_gives_no_labels_is_told() -> None:
    assert label_task(CLASSIFY, "here") is CLASSIFY
    with pytest.raises(
        HalfpintError,
        match=r"^here needs a model that gives labels; this one is for the task 'predict'",
    ):
        label_task(PREDICT, "here")


def test_settings_are_those_that_were_given() -> None:
    assert settings_of(CLASSIFY, source="x.csv", text="", label=None, drop_missing=False) == Data(source="x.csv")
    assert settings_of(CLASSIFY, source="x.csv", drop_missing=True).drop_missing
    assert settings_of(PREDICT, sources=("x.txt",), text="body") == CorpusData(sources=("x.txt",), text="body")
    assert settings_of(CHAT, source="x.json") == ChatData(source="x.json")
    # What is not given may be an option of another task.
    assert settings_of(PREDICT, sources=("x.txt",), label="") == CorpusData(sources=("x.txt",))
    with pytest.raises(HalfpintError, match="--label") as caught:
        settings_of(PREDICT, sources=("x.txt",), label="topic")
    assert caught.value.wanted == "no such option for the task 'predict' (the next word of running text)"
    with pytest.raises(HalfpintError, match=r"^--drop-missing does not fit the task 'chat'"):
        settings_of(CHAT, source="x.json", drop_missing=True)


def test_data_looks_like_that_of_a_task(tmp_path: Path) -> None:
    turns = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    files = {
        "table.csv": "text,label\nabc,a\n", "rows.jsonl": '{"text": "abc", "label": "a"}\n', "book.txt": "It was.\n",
        "turns.json": json.dumps([turns]), "turns.jsonl": json.dumps(turns) + "\n",
        "asked.json": json.dumps([{"instruction": "Say one.", "output": "one"}]), "broken.json": "[" * 100_000,
        "empty.json": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "turns.jsonl.gz").write_bytes(gzip.compress(json.dumps(turns).encode()))
    (tmp_path / "folder").mkdir()
    wanted = {
        "table.csv": CLASSIFY, "rows.jsonl": CLASSIFY, "turns.json": CHAT, "turns.jsonl": CHAT, "asked.json": CHAT,
        "turns.jsonl.gz": CHAT,
    }  # fmt: skip
    for name, task in wanted.items():
        assert guess_task(str(tmp_path / name)) is task, name
    for task in tasks():  # none raises, whatever is there
        for name in (*files, "folder", "nothing", "\0"):
            assert 0 <= task.recognises(str(tmp_path / name)) <= 1
    assert guess_task(str(tmp_path / "book.txt"), ["predict", "chat"]) is PREDICT
    with pytest.raises(HalfpintError, match=r"looks like none of these") as caught:
        guess_task(str(tmp_path / "table.csv"), ["predict", "chat"])
    assert caught.value.place == str(tmp_path / "table.csv")
    told = "chat: answers in a conversation; predict: the next word of running text"
    assert caught.value.wanted == f"data of a task ({told})"


def test_a_command_that_makes_no_sense_for_a_bundle(bundles: Callable[[str], Bundle]) -> None:
    assert need_command(bundles("majority"), "fit") is CLASSIFY
    assert need_command(bundles("ngram"), "generate") is PREDICT
    with pytest.raises(HalfpintError) as caught:
        need_command(bundles("majority"), "generate")
    found = caught.value
    assert (found.place, found.wanted) == (
        str(bundles("majority").path), "a bundle that `halfpint generate` takes",
    )  # fmt: skip
    assert found.got == "one of the task 'classify' (one label per text)"
    assert found.todo == "These commands take it: compress, distil, evaluate, predict, report, serve."
    with pytest.raises(HalfpintError, match=r"for the task 'predict' .*which `halfpint check` does not do"):
        need_command(bundles("language"), "check")


def test_a_bundle_goes_to_the_file_that_serves_it(bundles: Callable[[str], Bundle]) -> None:
    assert need_routes(bundles("majority"), "halfpint.serve.classify") is CLASSIFY
    assert need_routes(bundles("ngram"), "halfpint.serve.language") is PREDICT
    assert need_routes(bundles("chat"), "halfpint.serve.language") is CHAT
    for name, module, other in (("ngram", "classify", "language"), ("majority", "language", "classify")):
        with pytest.raises(HalfpintError) as caught:
            need_routes(bundles(name), f"halfpint.serve.{module}")
        task = task_of(bundles(name)).name
        assert caught.value.wanted == f"a bundle that serve/{module} serves"
        assert caught.value.got == f"one of the task '{task}'"
        assert caught.value.todo == f"serve/{other} serves it."


def test_documents_of_each_task(prepared: Prepared, corpus: Corpus, conversations: Conversations) -> None:
    found = CLASSIFY.documents(prepared)
    assert found.train == [example.text for example in prepared.train] and found.key == prepared.key
    assert found.validation == [example.text for example in prepared.validation] and not found.test
    assert PREDICT.documents(corpus) is corpus
    with pytest.raises(HalfpintError, match="expected running text, got conversations"):
        CHAT.documents(conversations)


def test_splits_say_what_they_hold(prepared: Prepared, corpus: Corpus, conversations: Conversations) -> None:
    told = prepared.summary()
    assert (told["train"], told["validation"], told["test"]) == (
        len(prepared.train), len(prepared.validation), len(prepared.test),
    )  # fmt: skip
    assert told["rows"] == told["train"] + told["validation"] + told["test"]
    assert set(told) == {
        "source", "test_source", "rows", "train", "validation", "test", "labels", "columns", "notes", "dropped",
        "findings", "fingerprint",
    }  # fmt: skip
    assert told["fingerprint"] == prepared.key != prepared.proof
    for split in (prepared, corpus, conversations):
        assert isinstance(split, Split) and split.key
        assert json.loads(json.dumps(split.summary())) == split.summary()
        split.summary().clear()
        assert split.summary()  # it is the reader's own


def test_labels_without_one(prepared: Prepared) -> None:
    task = label_task(CLASSIFY, "here")
    labels = task.labels(prepared.train)
    examples = [*prepared.train[:3], task.unlabelled("a text"), task.answered("another", 2, labels)]
    found = task.targets(examples, labels)
    assert found[:3].tolist() == [labels.index(example.label) for example in prepared.train[:3]]
    assert found[3:].tolist() == [NO_LABEL, 2] and found.dtype == np.int64
    assert task.texts(examples)[3:] == ["a text", "another"]
    with pytest.raises(HalfpintError, match="The training data has no label"):
        task.targets(prepared.train, labels[:1])
    with pytest.raises(HalfpintError, match=r"^--redact needs .* marks parts of texts, not one that gives"):
        task.redacted("a text", {})


def test_numbers_are_sorted_by_their_value(prepared: Prepared) -> None:
    task = label_task(CLASSIFY, "here")
    numbers = [task.answered("a text", index, ("10", "9", "-1")) for index in range(3)]
    assert task.labels(numbers) == ("-1", "9", "10")
    assert task.labels([*numbers, task.answered("a text", 0, ("b",))]) == ("-1", "10", "9", "b")


def test_units_are_found_again() -> None:
    """Two texts of three and no words, the first one in two rows, and one text of two words."""
    rows: list[dict[str, list[int]]] = [{"input_ids": [1, 5, 6, 2]}, {"input_ids": [1, 7, 2]}, {"input_ids": [1, 8, 9]}]
    units = [np.array([0, 1]), np.array([2]), np.array([3, 4])]
    places = [np.array([1, 2]), np.array([1]), np.array([1, 2])]
    encoded = Encoded(rows, units, places, np.array([3, 0, 2]))
    assert encoded.lengths == [4, 3, 3] and encoded.n_units == 5
    batch = np.array([2, 0])
    assert encoded.units_of(batch).tolist() == [3, 4, 0, 1]
    found = encoded.places_of(batch)
    assert found is not None and [one.tolist() for one in found] == [[0, 0, 1, 1], [1, 2, 1, 2]]
    assert encoded.units_of(batch[:0]).tolist() == []
    plain = Encoded(rows)
    assert plain.n_units == 3 and plain.units_of(batch) is batch and plain.places_of(batch) is None


def test_outputs_of_texts_with_any_number_of_units() -> None:
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    found = per_text(values, np.array([3, 0, 2]))
    assert [one.tolist() for one in found] == [values[:3].tolist(), [], values[3:].tolist()]
    assert joined(found, 2).tolist() == values.tolist() and joined(found, 2).dtype == np.float32
    assert per_text(values, None) is values and joined(values, 2) is values
    assert list(per_text(values[:0], np.zeros(0, np.int64))) == []
    assert joined([], 2).shape == (0, 2)


def test_settings_of_every_task_are_explained() -> None:
    for task in tasks():
        assert all(f"{item.name}" in (task.data.__doc__ or "") for item in fields(task.data))


def test_a_bundle_that_does_no_task_is_told_as_that(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "one") as (_, card):
        card["kind"] = "encoder"
    with pytest.raises(HalfpintError, match="does no task yet: it is of the kind 'encoder'"):
        task_of(open_bundle(tmp_path / "one"))


def test_guessing_leaves_a_pipe_readable(tmp_path: Path) -> None:
    pipe, rows = tmp_path / "pipe", "text,label\n" + "hello there,a\nbye now,b\n" * 9
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(rows,), daemon=True)
    writer.start()
    assert guess_task(str(pipe)).name == "classify"
    assert len(read_table(str(pipe))) == 18
    writer.join()
