"""Counted words: terms for texts of a kind, the choice of the weighting, tables with too many rows for one fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.examples import Example
from halfpint.engines import open_engine
from halfpint.lookup import default_task
from halfpint.stage import Work
from halfpint.task import Split
from halfpint.train import tfidf_linear
from halfpint.train.tfidf_linear import TfidfLinear

COLOURS, BEASTS = ["red", "green", "blue", "white"], ["cat", "dog", "horse", "bird"]


def rows(count: int, seed: int, words: int = 6) -> list[Example]:
    """Texts of random letters, with one word of either list."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        own = (COLOURS, BEASTS)[number % 2][int(draw.integers(4))]
        other = ["".join(draw.choice(list("abcdefgh"), 3)) for _ in range(words - 1)]
        found.append(Example(" ".join([*other, own]), ("colour", "beast")[number % 2], number + 2))
    return found


def made(folder: Path, train: list[Example], held: list[Example] | None = None, **settings: Any) -> Bundle:
    task, split = default_task(), Split(train=train, validation=held or rows(60, 1), test=rows(60, 2))
    return TfidfLinear(**settings).run(
        None, Work(folder / "made", folder / "scratch", task, split, ("beast", "colour"))
    )


def right(bundle: Bundle, examples: list[Example]) -> float:
    engine = open_engine(bundle)
    best = engine.probabilities([one.text for one in examples]).argmax(axis=1)
    return float(np.mean([engine.labels[at] == one.label for at, one in zip(best, examples, strict=True)]))


def test_a_share_of_many_rows_is_fitted_on_and_all_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfidf_linear, "MOST_FITTED", 200)
    monkeypatch.setattr(tfidf_linear, "_MOST_TRIED", 90)
    bundle = made(tmp_path, rows(1000, 0), features=200)
    entry = bundle.card["stages"][-1]
    assert entry["texts_fitted"] == 200 and entry["features"] == 200
    assert right(bundle, rows(60, 2)) == 1.0


def test_long_texts_have_three_words_in_place_of_characters(tmp_path: Path) -> None:
    bundle = made(tmp_path, rows(40, 0, words=120))
    names = (bundle.path / "features.txt").read_text(encoding="utf-8").splitlines()
    assert bundle.config["characters"] == [0, 0] and bundle.config["words"] == 3
    assert {name[:2] for name in names} == {"w:"} and max(name.count(" ") for name in names) == 2
    short = made(tmp_path / "short", rows(40, 0))
    assert short.config["characters"] == [3, 5] and short.config["words"] == 2


def test_validation_chooses_the_weighting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card says which: where the first is made useless, the second is taken."""
    assert made(tmp_path / "one", rows(100, 0)).card["stages"][-1]["weights"] == "log-count ratio"
    count = tfidf_linear.candidates

    def spoiled(*given: Any, **settings: Any) -> Any:
        found = count(*given, **settings)
        known = np.array([name.removeprefix("w:") in {*COLOURS, *BEASTS} for name in found.names])
        found.ratios[known] = 1e-3
        found.ratios[[name.startswith("c:") for name in found.names]] = 1e-3
        return found

    monkeypatch.setattr(tfidf_linear, "candidates", spoiled)
    bundle = made(tmp_path / "other", rows(100, 0))
    assert bundle.card["stages"][-1]["weights"] == "inverse document frequency"
    assert right(bundle, rows(60, 2)) > 0.9


def test_what_was_chosen_is_not_chosen_again(tmp_path: Path) -> None:
    """Validation texts of which every label is wrong change nothing of a stage that has chosen; of another they do."""
    first = made(tmp_path / "first", rows(100, 0))
    wrong = [replace(one, label="beast" if one.label == "colour" else "colour") for one in rows(60, 1)]
    stage = TfidfLinear().settled(first.card["stages"][-1], 1.0)
    again = made(tmp_path / "again", rows(100, 0), wrong, **stage.changed_settings())
    texts = [one.text for one in rows(60, 2)]
    said = open_engine(first).probabilities(texts)
    assert np.allclose(open_engine(again).probabilities(texts), said, atol=1e-6)
    other = made(tmp_path / "other", rows(100, 0), wrong)
    assert not np.allclose(open_engine(other).probabilities(texts), said, atol=1e-3)


def test_no_term_is_of_the_validation_texts(tmp_path: Path) -> None:
    held = [replace(one, text=f"{one.text} zyzzyva") for one in rows(60, 1)]
    bundle = made(tmp_path, rows(100, 0), held)
    assert "zyzzyva" not in (bundle.path / "features.txt").read_text(encoding="utf-8")
