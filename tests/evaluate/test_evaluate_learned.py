"""Texts that a model learned from: kept in its bundle, carried along, recognised by `evaluate`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import LEARNED, Bundle
from halfpint.data.learned import LearnedTexts, keep_learned_texts, learned_texts
from halfpint.errors import DamagedError
from halfpint.report.terminal import evaluation
from halfpint.stage import Work
from halfpint.train.tfidf_linear import TfidfLinear

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, few_rows: Callable[[int], Path]) -> Path:
    """A recipe that trains on 120 rows, of which 18 are kept for the test."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.toml").write_text(
        f'[data]\nsource = "{few_rows(120)}"\ntext = "text"\nlabel = "category"\n\n'
        '[[stage]]\nuse = "train/tfidf_linear"\nfeatures = 300\n', encoding="utf-8",
    )  # fmt: skip
    return folder


def evaluated(typed: Typed, bundle: Path, data: Path) -> Any:
    code, said, errors = typed("evaluate", bundle, data, "--json")
    assert code == 0, errors
    found = json.loads(said)
    return found


def test_evaluate_knows_what_was_learned_from(ran: Path, few_rows: Callable[[int], Path], typed: Typed) -> None:
    code, said, errors = typed("run", ran / "recipe.toml", "--out", ran / "out", "--json")
    assert code == 0, errors
    result = json.loads(said)
    assert "learned" not in result["test"]  # no test text was learned from
    best = ran / "out" / "best"
    found = evaluated(typed, best, few_rows(120))
    learned, others = found["learned"], found["learned"]["others"]
    tests = result["test"]["rows"]
    assert learned["recognisable"] == found["rows"] and learned["rows"] == found["rows"] - tests
    # What is left are the test rows, and the figures those of the test.
    assert others["rows"] == tests and others["accuracy"] == result["test"]["accuracy"] < found["accuracy"]
    said = evaluation(found)
    assert f"learned from, or was chosen by, the texts of {learned['rows']} of the {found['rows']} rows" in said
    assert f"On the {tests} other rows: accuracy {others['accuracy']:.4f}, 95% interval" in said
    # A person may delete the file: the bundle works, and nothing is said.
    (best / LEARNED).unlink()
    assert "learned" not in evaluated(typed, best, few_rows(120))


def test_texts_are_known_in_other_letters_and_marks() -> None:
    kept = LearnedTexts.of(["Where is my parcel?", "I can't log in"], "key")
    assert kept.known(["WHERE is  my parcel!", "I can’t log in.", "Where is my invoice?"])[1].tolist() == [1, 1, 0]


def test_a_small_model_keeps_a_sample(work: Callable[..., Work], tmp_path: Path, typed: Typed) -> None:
    """A twentieth of 20 KB holds some 200 of 280 texts."""
    made = TfidfLinear(features=300).run(None, work(tmp_path / "made"))
    known = work(tmp_path / "x").train[:40]

    def written(name: str, texts: list[str]) -> Path:
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text", "category"], *([text, known[0].label] for text in texts)])
        return tmp_path / name

    texts = [example.text for example in known]
    found = evaluated(typed, made.path, written("known.csv", texts))["learned"]
    rows = found["rows"]
    assert found == {"rows": rows, "recognisable": rows, "share": 1.0, "others": None} and 10 < rows < 40
    code, said, errors = typed("evaluate", made.path, tmp_path / "known.csv")
    assert code == 0, errors
    assert f"about 100% of the 40 rows (estimated from the {rows} that can be recognised)" in said
    assert "None of them is left that it does not know: evaluate on other rows." in said
    half = written("half.csv", [*texts, *(f"a text that nobody wrote before, {number}" for number in range(40))])
    found = evaluated(typed, made.path, half)["learned"]
    new = found["recognisable"] - rows
    assert found["rows"] == rows and found["others"]["rows"] == new and 10 < new < 40
    _, said, _ = typed("evaluate", made.path, half)
    assert f"On the {new} of these that it does not know: accuracy" in said


def test_hashes(tmp_path: Path, work: Callable[..., Work]) -> None:
    texts = [f"text number {number}" for number in range(4000)]
    whole = LearnedTexts.of(texts, "key")
    sample = whole.cut(1024)
    assert len(whole.hashes) == 4000 and len(sample.hashes) == 200
    recognisable, known = sample.known(texts)
    assert (recognisable == known).all() and known.sum() == 200
    recognisable, known = sample.known([*texts[:1000], *(f"other text {number}" for number in range(1000))])
    assert not known[1000:].any() and 0.3 < known.sum() / recognisable.sum() < 0.7
    # No other text is taken for one of them.
    assert not whole.known([f"never seen {number}" for number in range(20_000)])[1].any()
    # What follows adds its own below the same limit, and keeps the salt.
    more = LearnedTexts.of(["one more", *texts[:10]], "another key", sample)
    assert more.salt == sample.salt and more.limit == sample.limit and set(sample.hashes) <= set(more.hashes)
    assert LearnedTexts.of(texts, "another key").salt != whole.salt
    assert not np.isin(LearnedTexts.of(texts, "another key").hashes, whole.hashes).any()
    for one in (whole, sample):
        again = LearnedTexts.from_bytes(one.to_bytes(), "file")
        assert (again.salt, again.limit) == (one.salt, one.limit) and (again.hashes == one.hashes).all()
    # A file that the card does not list is not looked at.
    made = TfidfLinear(features=300).run(None, work(tmp_path / "made"))
    card = json.loads((made.path / "card.json").read_text("utf-8"))
    card["files"].pop(LEARNED)
    (made.path / "card.json").write_text(json.dumps(card), "utf-8")
    assert learned_texts(Bundle(made.path)) is None


def test_size_and_damage(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(20_000)]
    (tmp_path / "weights").write_bytes(b"0" * 100_000)
    keep_learned_texts(tmp_path, texts, "key", None)
    assert 4_990 < (tmp_path / LEARNED).stat().st_size <= 5_000  # a twentieth
    (tmp_path / "weights").write_bytes(b"0" * 10_000_000)
    keep_learned_texts(tmp_path, texts, "key", None)
    assert 65_500 < (tmp_path / LEARNED).stat().st_size <= 65_536
    whole = LearnedTexts.of(texts[:10], "key").to_bytes()
    for bad in (b"", whole[:20], whole[:-1], b"x" + whole[1:], whole + b"0" * 5 * 20_000):
        with pytest.raises(DamagedError):
            LearnedTexts.from_bytes(bad, "file")
