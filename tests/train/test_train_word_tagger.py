"""The small network over words: it learns by heart, is exported as it is, and says the same alone and in company."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halfpint.bundle import Bundle, open_bundle
from halfpint.data.spans import Span, TagExample
from halfpint.data.words import words
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError, RefusedError
from halfpint.lookup import open_task
from halfpint.models import word_graph
from halfpint.models.crf import marginals
from halfpint.models.word_inputs import FIRST, LONGEST, PADDING, UNKNOWN, Table, WordInputs, read_table, spell
from halfpint.models.word_tagger import WordTagger, crf_loss
from halfpint.outputs import NO_LABEL
from halfpint.progress import Log
from halfpint.stage import Work, stage_class
from halfpint.task import Split
from halfpint.train import word_tagger
from halfpint.train.word_tagger import WordTaggerTraining, association

TASK: Any = open_task("tag")
SMALL = {"vectors": "", "hidden": 16, "filters": 8, "width": 12, "dropout": 0.0, "unknown": 0.0, "batch_size": 4}
NAMES, PLACES = ("Anna", "Tom", "Lena", "Ali"), ("Bonn", "New York", "Porto")


def example(text: str, *spans: tuple[str, str]) -> TagExample:
    """A text with the first place of each of these pieces labelled."""
    found = (Span(text.index(one), text.index(one) + len(one), label) for one, label in spans)
    return TagExample(text, tuple(sorted(found)))


TRAIN = [
    example(f"{name} {verb} {place}{end}", (name, "PER"), (place, "LOC"))
    for name in NAMES
    for place in PLACES
    for verb, end in (("met us in", " ."), ("went to", "\nand came back ."))
] + [example("nothing happened there"), example("we met and went back")]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bundle]:
    def run(train: list[TagExample] = TRAIN, **changes: Any) -> Bundle:
        settings = {"log": Log(quiet=True), "deadline": None, **changes.pop("work", {})}
        work = Work(
            target=tmp_path / "made", scratch=tmp_path / "scratch", task=TASK, labels=TASK.labels(train),
            split=Split(train=train, validation=train), primary="f1_strict", **settings,
        )  # fmt: skip
        stage = stage_class("train/word_tagger", "here")(**{**SMALL, "epochs": 1, **changes})
        stage.check()
        return stage.run(None, work)

    return run


def test_it_learns_a_pattern_by_heart(make: Callable[..., Bundle]) -> None:
    bundle = open_bundle(make(epochs=25, learning_rate=1e-2).path)
    engine = open_engine(bundle, threads=1)
    texts = TASK.texts(TRAIN)
    together = engine.probabilities(texts)
    assert TASK.decode(texts, together, engine.labels) == [one.spans for one in TRAIN]
    entry = bundle.card["stages"][-1]
    assert entry["stored_score"] == 1.0 and entry["difference"] < 1e-4 and entry["vectors"] == ""
    # A name that was never seen, in the place of one.
    (found,) = TASK.decode(["Olga met us in Bonn ."], engine.probabilities(["Olga met us in Bonn ."]), engine.labels)
    assert Span(15, 19, "LOC") in found
    assert {file.name for file in bundle.path.iterdir()} == {
        "README.md", "card.json", "config.json", "learned_texts.hashes", "model.onnx", "model.safetensors", "words.txt"
    }  # fmt: skip


def test_a_text_gets_the_same_answer_in_any_company(make: Callable[..., Bundle]) -> None:
    engine = open_engine(make(), threads=1)
    texts = ["", *TASK.texts(TRAIN), "word " * 300, " ", "Ünïcödé 🙂 文字", "a" * 3000, "\ud800 x"]
    together = engine.probabilities(texts)
    assert [len(one) for one in together] == [len(words(text)) for text in texts]
    for text, rows in zip(texts, together, strict=True):
        (alone,) = engine.probabilities([text])
        np.testing.assert_allclose(rows, alone, atol=1e-5)
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert engine.probabilities([]) == []


def network(**changes: Any) -> tuple[WordTagger, Table]:
    """A network with random weights, and the table of its vectors."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    values = random.normal(size=(6, 5)).astype(np.float32)
    values[PADDING] = 0
    table = Table.of(["anna", "met", "bonn", "."], values)
    vectors = torch.from_numpy(table.vectors(np.arange(6)))
    given = {"labels": 3, "hidden": 7, "filters": 4, "dropout": 0.5, "learn_vectors": False, **changes}
    return WordTagger(vectors, **given).eval(), table


def test_probabilities_are_those_that_all_sequences_give() -> None:
    model, table = network()
    with torch.no_grad():
        model.transitions.normal_(std=2)
    texts = ["Anna met", "Bonn .", "", "Anna met Bonn now ."]
    inputs = WordInputs.of(texts, table.rows)
    transitions = model.transitions.detach().numpy()
    for number, found in enumerate(word_tagger.probabilities(model, inputs)):
        n = int(inputs.sizes[number])
        assert found.shape == (n, 3)
        if not n:
            continue
        given = {name: torch.from_numpy(values) for name, values in inputs.batch([number]).items()}
        scores = model(**given)[0].detach().numpy()
        ways = list(itertools.product(range(3), repeat=n))
        value = [
            sum(scores[i, tag] for i, tag in enumerate(way))
            + sum(transitions[one, other] for one, other in itertools.pairwise(way))
            for way in ways
        ]
        chance = np.exp(np.array(value) - max(value))
        chance /= chance.sum()
        wanted = np.zeros((n, 3))
        for way, share in zip(ways, chance, strict=True):
            wanted[np.arange(n), list(way)] += share
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        # The loss is that of the same sequences.
        tags = torch.full((1, n), NO_LABEL)
        tags[0] = torch.tensor(ways[-2])
        loss = float(crf_loss(torch.from_numpy(scores)[None], tags, model.transitions.detach()))
        assert loss == pytest.approx(-np.log(chance[-2]) / n, abs=1e-4)


def test_padding_is_no_word() -> None:
    model, table = network()
    inputs = WordInputs.of(["Anna met Bonn .", "met"], table.rows)
    both = model(**{name: torch.from_numpy(values) for name, values in inputs.batch([0, 1]).items()})
    one = model(**{name: torch.from_numpy(values) for name, values in inputs.batch([1]).items()})
    torch.testing.assert_close(both[1, :1], one[0], atol=1e-6, rtol=0)
    scores, tags = torch.randn(2, 4, 3), torch.tensor([[0, 1, 2, 0], [1, *[NO_LABEL] * 3]])
    loss = crf_loss(scores, tags, model.transitions)
    first = crf_loss(scores[:1], tags[:1], model.transitions)
    second = crf_loss(scores[1:, :1], tags[1:, :1], model.transitions)
    torch.testing.assert_close(loss, (4 * first + second) / 5)


def test_inputs_tell_words_lines_and_characters() -> None:
    inputs = WordInputs.of(["Anna MET\nBONN 9\n.", "", "anna"], {"anna": FIRST, "met": FIRST + 1})
    assert inputs.sizes.tolist() == [5, 0, 1] and inputs.rows.tolist() == [2, 3, 1, 1, 1, 2, PADDING]
    assert inputs.lines.tolist() == [1, 1, 3, 3, 1, 2, 0]
    batch = inputs.batch([2, 0])
    assert batch["rows"].tolist() == [[2, 0, 0, 0, 0], [2, 3, UNKNOWN, UNKNOWN, UNKNOWN]]
    spelled = batch["characters"][batch["spelled"]]
    assert spelled[0, 0].tolist() == spell("anna") and spelled[1, 0].tolist() == spell("Anna")
    assert not spelled[0, 1:].any() and batch["sizes"].tolist() == [1, 5]
    assert spell("a" * 10 + "x" * 50 + "b" * 6) == spell("a" * 10 + "b" * 6)
    assert len(spell("é")) == LONGEST and 97 <= spell("é")[0] < 129


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    _, table = network()
    transitions = np.arange(4, dtype=np.float32).reshape(2, 2)
    table.write(tmp_path, transitions)
    read, found = read_table(tmp_path)
    np.testing.assert_array_equal(read.vectors(np.arange(6)), table.vectors(np.arange(6)))
    np.testing.assert_array_equal(found, transitions)
    assert read.rows == {"anna": 2, "met": 3, "bonn": 4, ".": 5} and read.width == 5
    (tmp_path / "words.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(HalfpintError, match="expected a vector for each of 1 words, got 4"):
        read_table(tmp_path)


def test_rounding_is_small() -> None:
    values = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    table = Table.of([], values)
    assert np.abs(table.vectors(np.arange(20)) - values).max() < np.abs(values).max() / 250


def write_vectors(folder: Path, known: list[str], width: int = 6) -> str:
    """A folder with word vectors."""
    folder.mkdir()
    (folder / "words.txt").write_text("\n".join(known) + "\n", encoding="utf-8")
    np.save(folder / "values.npy", np.random.default_rng(0).normal(size=(len(known), width)).astype(np.float32))
    return str(folder)


def test_word_vectors_of_a_folder(make: Callable[..., Bundle], tmp_path: Path) -> None:
    known = ["the", "u.s.", "met", "went", "to", "in", "Anna", "anna", ".", "us", "and", "came", "back", "bonn"]
    folder = write_vectors(tmp_path / "vectors", known)
    bundle = make(vectors=folder, rows=11, train_vectors=False)
    table, transitions = read_table(bundle.path)
    # What texts cannot be split into, and what is not in lower case, is no use.
    assert table.words == ["the", "met", "went", "to", "in", "anna", ".", "us", "and", "came", "back"]
    values = np.load(tmp_path / "vectors" / "values.npy")
    np.testing.assert_allclose(table.vectors(np.array([FIRST + 1])), values[[2]], atol=0.02)
    assert transitions.shape == (9, 9) and bundle.card["stages"][-1]["vectors"] == folder
    trained, _ = read_table(make(vectors=folder, rows=11).path)
    moved = np.abs(trained.vectors(np.arange(13)) - table.vectors(np.arange(13))).max(axis=1)
    assert trained.words == table.words and moved[FIRST + 1] > 0.01 > moved[FIRST]  # "met", and "the"


def test_vectors_of_another_language_are_not_used(make: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make(vectors=write_vectors(tmp_path / "vectors", ["und", "oder", "nicht"]))
    assert "met" in read_table(bundle.path)[0].words and bundle.card["stages"][-1]["vectors"] == ""


def test_without_a_network_it_trains_its_own_vectors(
    make: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    bundle = make(vectors="glove-6b-50d", work={"log": Log()})
    told = capsys.readouterr().err
    assert "no word vectors glove-6b-50d" in told and "word vectors of its own" in told
    assert bundle.card["stages"][-1]["vectors"] == "" and not (tmp_path / "cache" / "vectors" / "glove-6b-50d").exists()


def test_unknown_vectors_are_refused_before_work_starts() -> None:
    with pytest.raises(HalfpintError, match="Did you mean 'glove-6b-50d'"):
        WordTaggerTraining(vectors="glove-6b-50").check()


def test_an_export_that_says_something_else_is_refused(
    make: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(path: Path, weights: Any) -> None:
        word_graph.write_graph(
            path,
            {**weights, "classifier.bias": weights["classifier.bias"] + np.arange(len(weights["classifier.bias"]))},
        )

    monkeypatch.setattr(word_tagger, "write_graph", other)
    with pytest.raises(RefusedError, match="says the same as PyTorch"):
        make()
    assert not (tmp_path / "made").exists()


def test_it_ends_when_its_time_is_used_up(make: Callable[..., Bundle]) -> None:
    entry = make(epochs=10_000, work={"deadline": time.monotonic() + 0.5}).card["stages"][-1]
    assert 0 < entry["steps"] < 70_000


def test_seeds(make: Callable[..., Bundle]) -> None:
    first, again, other = (make(seed=seed).fingerprint for seed in (1, 1, 2))
    assert first == again != other


def test_tags_that_never_follow_begin_as_unlikely() -> None:
    found = association([np.array([0, 0, 1, 2, 0, 0]), np.array([0]), np.zeros(0, dtype=np.int64)], 3)
    assert found[0, 2] < 0 < found[1, 2] and np.isfinite(found).all()
    assert marginals([np.zeros((1, 3))], found)[0].shape == (1, 3)


def test_it_needs_labelled_words(make: Callable[..., Bundle]) -> None:
    with pytest.raises(HalfpintError, match="texts with labelled words, got none"):
        make([TagExample("Anna met", None), TagExample(" ", ())])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("rows", 0), ("width", 0), ("hidden", 0), ("filters", 0), ("dropout", 1.0), ("unknown", -0.1), ("train_texts", -1),
     ("time_share", 0.0), ("epochs", 0)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(HalfpintError, match=setting):
        WordTaggerTraining(**{setting: value})
