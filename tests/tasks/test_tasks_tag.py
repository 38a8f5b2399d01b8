"""Spans: into tags and back, the best legal tags by brute force, rows of long texts, figures as others count them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.data.spans import Span, TagData, TagExample
from halfpint.data.words import words
from halfpint.errors import HalfpintError
from halfpint.lookup import guess_task, open_task
from halfpint.outputs import NO_LABEL
from halfpint.progress import SILENT
from halfpint.tasks import _tags
from halfpint.tasks._span_figures import METRICS, span_counts
from halfpint.tasks._tags import Tags, best_tags, tag_names
from halfpint.tasks._windows import word_rows
from halfpint.tasks.tag import Tag

TASK: Any = open_task("tag")
ROOT = Path(__file__).resolve().parents[2]
BIO = ("O", *(f"{letter}-{label}" for label in ("LOC", "PER") for letter in "BI"))
BIOES = ("O", *(f"{letter}-{label}" for label in ("LOC", "PER") for letter in "BIES"))
LABELS = ("LOC", "ORG", "PER")


@st.composite
def tagged(draw: st.DrawFn) -> TagExample:
    """A text with spans on word borders."""
    text = draw(st.text(st.sampled_from("abC1 .-東é\u0301\n"), max_size=30))
    spans, at, found = words(text), 0, []
    while at < len(spans):
        size = draw(st.integers(0, 3))
        if size and at + size <= len(spans):
            found.append(Span(spans[at][0], spans[at + size - 1][1], draw(st.sampled_from(LABELS))))
        at += size or 1
    return TagExample(text, tuple(found))


def outputs_of(examples: Sequence[TagExample], labels: Sequence[str]) -> list[Any]:
    """What a model says that is sure of these spans."""
    targets = TASK.targets(examples, labels)
    sizes = TASK.units(TASK.texts(examples))
    return np.split(np.eye(len(labels), dtype=np.float32)[targets], np.cumsum(sizes)[:-1])


@settings(max_examples=60)
@given(st.lists(tagged(), min_size=1, max_size=4), st.sampled_from(["BI", "BIES"]))
def test_spans_come_back_from_their_tags(examples: list[TagExample], letters: str) -> None:
    labels = ("O", *(f"{letter}-{label}" for label in LABELS for letter in letters))
    answers = TASK.decode(TASK.texts(examples), outputs_of(examples, labels), labels)
    assert answers == [example.spans for example in examples]
    counts = TASK.counts(examples, answers, labels)
    if any(example.spans for example in examples):
        assert all(metric(counts) == 1.0 for metric in TASK.metrics.values())


def legal(path: Sequence[int], tags: Tags) -> bool:
    """Whether tags make spans, by their names."""
    open_label = ""
    closes = any(name.startswith("E-") for name in tags.names)
    for name in (tags.names[number] for number in path):
        letter, label = name[0], name[2:]
        if letter in "IE" and label != open_label:
            return False
        if closes and letter not in "IE" and open_label:
            return False
        open_label = label if letter in "BI" else ""
    return not (closes and open_label)


@settings(max_examples=60)
@given(st.data(), st.sampled_from([BIO, BIOES]))
def test_the_best_legal_tags_are_those_that_trying_all_finds(data: st.DataObject, names: tuple[str, ...]) -> None:
    tags, seed = Tags(names), data.draw(st.integers(0, 10_000))
    sizes = data.draw(st.lists(st.integers(0, 4 if len(names) < 6 else 3), min_size=1, max_size=4))
    random = np.random.default_rng(seed)
    texts = [random.dirichlet(np.full(len(names), 0.4), size=size).astype(np.float32) for size in sizes]
    path, per_text = best_tags(texts, tags)
    assert per_text.tolist() == sizes
    for text, found in zip(texts, np.split(path, np.cumsum(per_text)[:-1]), strict=True):
        logs = np.log(np.maximum(text.astype(np.float64), 1e-12))

        def score(way: Sequence[int], logs: Any = logs) -> float:
            return float(sum(logs[place, tag] for place, tag in enumerate(way)))

        ways = itertools.product(range(len(names)), repeat=len(text))
        best = max(score(way) for way in ways if legal(way, tags))
        assert legal(found.tolist(), tags) and score(found.tolist()) == pytest.approx(best, abs=1e-5)


def test_the_other_scheme_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tag_names(["X"]) == ("O", "B-X", "I-X", "E-X", "S-X")
    monkeypatch.setattr(_tags, "LETTERS", "BI")
    assert tag_names(["X"]) == ("O", "B-X", "I-X")


def test_targets() -> None:
    examples = [
        TagExample("Anna Berg of Bonn.", (Span(0, 9, "PER"), Span(13, 17, "LOC"))),
        TagExample("Bonn Bonn", (Span(0, 4, "LOC"), Span(5, 9, "LOC"))),
        TagExample("Bonner", (Span(0, 4, "LOC"),)),
        TASK.unlabelled("who knows"),
        TagExample("", ()),
    ]
    found = TASK.targets(examples, BIO).tolist()
    assert found == [3, 4, 0, 1, 0, 1, 1, 1, NO_LABEL, NO_LABEL]
    assert TASK.units(TASK.texts(examples)).tolist() == [5, 2, 1, 2, 0]
    with pytest.raises(HalfpintError, match="the label 'ORG'"):
        TASK.targets([TagExample("a", (Span(0, 1, "ORG"),))], BIO)


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> Any:
    from halfpint.tokenizers.load import open_tokenizer

    return open_tokenizer(tiny_encoder)


@pytest.mark.parametrize("most", [5, 8, 13, 64])
def test_each_word_is_answered_for_once_where_it_is_most_central(most: int, tokenizer: Any) -> None:
    long = "My parcel from Bonn, Anna's, unbelievablylongwordthathasmanypieces did not arrive. " * 4
    texts = ["Where is it?", "", long, " \n", "x", "東京 parcel", long[::-1]]
    encoded = word_rows(texts, tokenizer, most)
    assert encoded.per_text is not None and encoded.units is not None and encoded.places is not None
    assert encoded.per_text.tolist() == [len(words(text)) for text in texts]
    assert sorted(np.concatenate(encoded.units).tolist()) == list(range(encoded.n_units))
    assert max(encoded.lengths) <= most
    whole = word_rows(texts, tokenizer, 10_000)

    def tokens(one: Any) -> list[tuple[int, int]]:
        found = [(0, 0)] * one.n_units
        for row, units, places in zip(one.rows, one.units, one.places, strict=True):
            assert len(row["input_ids"]) == len(row["shapes"])
            for unit, place in zip(units, places, strict=True):
                found[unit] = row["input_ids"][place], row["shapes"][place]
        return found

    assert tokens(encoded) == tokens(whole)
    assert {row["input_ids"][0] for row in encoded.rows} == {whole.rows[0]["input_ids"][0]}  # [CLS]
    # Rows overlap by a third, and a word in the overlap goes where it is further from the edge.
    firsts = np.cumsum([0, *encoded.per_text[:-1]])
    margin = (most - 2) // 6 - 1
    for row, units, places in zip(encoded.rows, encoded.units, encoded.places, strict=True):
        if len(units) and units[0] not in firsts:
            assert places[0] - 1 >= margin
        if len(units) and units[-1] + 1 not in (*firsts, encoded.n_units):
            assert len(row["input_ids"]) - 2 - places[-1] >= margin


@settings(max_examples=40)
@given(st.lists(st.text(max_size=40), max_size=4), st.integers(3, 12))
def test_any_text_has_rows(texts: list[str], most: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2, "b": 3}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    encoded = word_rows(texts, plain, most)
    assert encoded.n_units == sum(len(words(text)) for text in texts)
    assert encoded.units is not None and encoded.places is not None
    for row, places in zip(encoded.rows, encoded.places, strict=True):
        assert 0 < len(row["input_ids"]) <= most or not row["input_ids"]
        assert all(0 <= place < max(1, len(row["input_ids"])) for place in places)


GOLD = [
    (Span(0, 9, "PER"), Span(13, 17, "LOC"), Span(20, 30, "ORG")),
    (Span(0, 4, "LOC"), Span(5, 9, "LOC")),
    (),
]
FOUND = [
    (Span(0, 4, "PER"), Span(13, 17, "PER"), Span(20, 30, "ORG")),
    (Span(0, 9, "LOC"),),
    (Span(0, 3, "ORG"),),
]  # fmt: skip


def test_figures_of_a_small_table() -> None:
    counts = span_counts(GOLD, FOUND, LABELS)
    values = {name: metric(counts) for name, metric in METRICS.items()}
    # One of five is right; with half a point for each of two overlaps and a whole one for borders with another label.
    assert values["precision_strict"] == values["recall_strict"] == values["f1_strict"] == pytest.approx(1 / 5)
    assert values["f1_exact"] == pytest.approx(2 / 5) and values["f1_partial"] == pytest.approx(3 / 5)
    assert values["f1_type"] == pytest.approx(3 / 5)
    assert values["f1_macro"] == pytest.approx((0 + 2 / 3 + 0) / 3)
    assert len(counts) == 3


def as_tags(spans: Sequence[Span], size: int) -> list[str]:
    row = ["O"] * size
    for span in spans:
        row[span.start : span.end] = [f"B-{span.label}", *[f"I-{span.label}"] * (span.end - span.start - 1)]
    return row


def drawn_spans(random: np.random.Generator, size: int) -> tuple[Span, ...]:
    found, at = [], 0
    while at < size:
        length = int(random.integers(0, 4))
        if length and at + length <= size:
            found.append(Span(at, at + length, str(random.choice(LABELS))))
        at += max(length, 1)
    return tuple(found)


def test_strict_figures_are_those_of_seqeval() -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme").IOB2
    random = np.random.default_rng(0)
    gold, found = ([drawn_spans(random, 12) for _ in range(200)] for _ in range(2))
    found = [one if random.random() < 0.5 else other for one, other in zip(gold, found, strict=True)]
    counts = span_counts(gold, found, LABELS)
    tags = [[as_tags(spans, 12) for spans in side] for side in (gold, found)]
    for name, of, average in (
        ("f1_strict", metrics.f1_score, "micro"),
        ("precision_strict", metrics.precision_score, "micro"),
        ("recall_strict", metrics.recall_score, "micro"),
        ("f1_macro", metrics.f1_score, "macro"),
    ):
        wanted = of(*tags, average=average, mode="strict", scheme=scheme)
        assert METRICS[name](counts) == pytest.approx(wanted, abs=1e-12)


def test_figures_of_what_is_nearly_right_are_those_of_nervaluate() -> None:
    evaluator = pytest.importorskip("nervaluate").Evaluator
    random = np.random.default_rng(1)
    gold, found = ([drawn_spans(random, 15) for _ in range(300)] for _ in range(2))
    found = [one if random.random() < 0.3 else other for one, other in zip(gold, found, strict=True)]
    counts = span_counts(gold, found, LABELS)
    tags = [[as_tags(spans, 15) for spans in side] for side in (gold, found)]
    wanted = evaluator(*tags, tags=list(LABELS), loader="list").evaluate()["overall"]
    for ours, theirs in (("strict", "strict"), ("exact", "exact"), ("partial", "partial"), ("type", "ent_type")):
        assert METRICS[f"f1_{ours}"](counts) == pytest.approx(wanted[theirs].f1, abs=1e-12), ours
    assert METRICS["precision_partial"](counts) == pytest.approx(wanted["partial"].precision)
    assert METRICS["recall_partial"](counts) == pytest.approx(wanted["partial"].recall)


def test_rows_cells_and_redaction() -> None:
    text = "😀 Anna Berg of Bonn."
    example = TagExample(text, (Span(2, 11, "PER"), Span(15, 19, "LOC")))
    outputs = [0.9 * one + 0.1 / len(BIO) for one in outputs_of([example, TagExample("x", ())], BIO)]
    row, empty = TASK.rows([text, "x"], outputs, BIO)
    assert [text[one["start"] : one["end"]] for one in row["entities"]] == ["Anna Berg", "Bonn"]
    assert [one["text"] for one in row["entities"]] == ["Anna Berg", "Bonn"] and empty == {"entities": []}
    # Each word's tag has 0.92, and the word behind does not go on with 0.98.
    sure = [one["probability"] for one in row["entities"]]
    assert sure == pytest.approx([0.92 * 0.92 * 0.98, 0.92 * 0.98], abs=1e-6)
    assert TASK.rows(["Bonn"], [outputs[0][4:5]], BIO)[0]["entities"][0]["probability"] == pytest.approx(0.92)
    assert TASK.redacted(text, row) == "😀 [PER] of [LOC]." and TASK.redacted("x", empty) == "x"
    assert TASK.said(row) == "Anna Berg (PER, 0.829)  Bonn (LOC, 0.902)" and TASK.said(empty) == "nothing"
    assert TASK.columns(3, BIO) == TASK.columns(3, BIO, "tags") == (("entities",),)
    with pytest.raises(HalfpintError, match="one label per text, got one that gives spans"):
        TASK.unsure({"entities": []}, 0.5)
    assert TASK.cells(row, 1) == [(row["entities"],)] and TASK.cells(None, 1) == [(None,)]


def test_details_name_the_weakest_label_and_the_surest_mistake() -> None:
    anna = TagExample("Anna Berg", (Span(0, 9, "PER"),), 1)
    examples = [anna, TagExample("Bonn", (), 3), TagExample("Ulm", (Span(0, 3, "LOC"),), 5)]
    outputs = outputs_of([anna, TagExample("Bonn", (Span(0, 4, "LOC"),)), TagExample("Ulm", ())], BIO)
    answers = TASK.decode(TASK.texts(examples), outputs, BIO)
    found = TASK.details(examples, outputs, answers, BIO)
    assert [one["label"] for one in found["per_type"]] == ["LOC", "PER"] and found["per_type"][0]["support"] == 1
    assert found["tables"][0]["rows"][0] == ["LOC", 0.0, 0.0, 0.0, 1]
    assert [(one["label"], one["predicted"], one["row"]) for one in found["worst"]] == [
        ("nothing", "Bonn (LOC)", 3), ("Ulm (LOC)", "nothing", 5)
    ]  # fmt: skip
    json.dumps(found)


def test_labels_that_the_bundle_does_not_know_are_refused() -> None:
    with pytest.raises(HalfpintError, match=r"the 2 labels that the bundle knows \(LOC, PER\), got ORG \(lines 7\)"):
        TASK.need_labels([TagExample("a", (Span(0, 1, "ORG"),), 7)], BIO)
    with pytest.raises(HalfpintError, match="texts without labels"):
        TASK.need_labels([TASK.unlabelled("a")], BIO)
    with pytest.raises(HalfpintError, match="no labelled texts"):
        TASK.counts([], [], BIO)


def test_data_of_another_task_is_named(tmp_path: Path) -> None:
    for call in (TASK.check, lambda data: TASK.given(data, SILENT), lambda data: TASK.read(data, tmp_path, SILENT)):
        with pytest.raises(HalfpintError, match="looks like data of the task 'classify': one label per text"):
            call(TagData(source=str(ROOT / "examples" / "tickets.csv")))
    assert isinstance(guess_task(str(ROOT / "examples" / "orders.conll")), Tag)


def test_the_example_data_is_without_faults(tmp_path: Path) -> None:
    data = TagData(source=str(ROOT / "examples" / "orders.conll"))
    checked = TASK.check(data)
    assert (checked.rows, checked.labels) == (152, 4) and not checked.findings
    split = TASK.read(data, tmp_path, SILENT)
    assert TASK.labels(split.train)[:3] == ("O", "B-CONTACT", "I-CONTACT") and TASK.primary(split.train) == "f1_strict"
    assert split.facts["labels"].keys() == {"CONTACT", "PERSON", "PLACE", "PRODUCT"}
    assert TASK.answered("a b", (Span(0, 1, "PLACE"),), ()) == TagExample("a b", (Span(0, 1, "PLACE"),))
