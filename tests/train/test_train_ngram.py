"""The stage and the engine of n-gram models: from documents to a bundle, and from there to words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import open_bundle
from halfpint.engines import ngram as engine
from halfpint.errors import HalfpintError
from halfpint.lookup import open_task
from halfpint.models import ngram
from halfpint.models.ngram import NgramModel
from halfpint.stage import Work
from halfpint.task import Split
from halfpint.train.ngram import Ngram

DOCUMENTS = ["the cat sat on the mat\nthe dog sat on the log\n", "the cat saw the dog", "a dog saw a cat\n"]


class Documents:
    """A side of a corpus as a stage gets it: read anew each time."""

    def __len__(self) -> int:
        return len(DOCUMENTS)

    def __iter__(self) -> Iterator[str]:
        return iter(DOCUMENTS)


@pytest.fixture
def corpus_work(work: Callable[..., Work], tmp_path: Path) -> Work:
    """The work of a stage on `DOCUMENTS`."""
    return made_of(work(tmp_path / "made"), Documents(), Documents())


def made_of(work: Work, train: Any, validation: Any = ()) -> Work:
    """The same work on other documents."""
    return replace(work, task=open_task("predict"), split=Split(train=train, validation=validation))


def test_a_bundle_from_documents(corpus_work: Work) -> None:
    stage = Ngram(order=3, prune="0 0 1")
    bundle = open_bundle(stage.run(None, corpus_work).path)
    assert bundle.card["task"] == "predict" and bundle.card["engine"] == "ngram"
    (entry,) = bundle.card["stages"]
    lines = "".join(text if text.endswith("\n") else f"{text}\n" for text in DOCUMENTS)
    model = NgramModel.fit([lines], 3, prune=[0, 0, 1])
    assert entry["ngrams"] == model.tables.ngrams == bundle.config["ngrams"]
    assert entry["vocabulary"] == len(model.tables.words)
    assert entry["discounts"] == [list(three) for three in model.discounts]
    assert entry["settings"] == {"order": 3, "smoothing": "kneser-ney", "prune": "0 0 1", "min_count": 0}
    names = {path.name for path in bundle.path.iterdir()}
    assert names == {"README.md", "card.json", "config.json", "model.safetensors", "vocabulary.txt"}

    loaded = engine.load(bundle, threads=1)
    scored = loaded.score([lines, *DOCUMENTS])
    wanted = model.score([lines]).log10 * np.log(10)
    np.testing.assert_allclose(scored[0].log_probabilities, wanted, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([text.log_probabilities for text in scored[1:]]), wanted, rtol=1e-6)
    assert loaded.next_words("the cat sat", top=1)[0][0] == "on"
    assert "".join(loaded.generate("the cat sat", temperature=0)).startswith(" on the")
    words = "".join(loaded.generate("the", seed=1, max_tokens=3))
    assert words == "".join(f" {word}" for word in model.sample("the", seed=1, tokens=3))


def test_settings_reach_the_model(corpus_work: Work) -> None:
    bundle = Ngram(order=2, smoothing="none", min_count=2).run(None, corpus_work)
    assert (bundle.config["order"], bundle.config["smoothing"], bundle.config["min_count"]) == (2, "none", 2)
    assert engine.load(bundle).next_words("sat") == [("on", 1.0)]


def test_a_text_larger_than_memory_is_counted_in_scratch(corpus_work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NgramModel.fit(DOCUMENTS, 3)
    seen: list[Path] = []

    class Watching(Documents):
        def __iter__(self) -> Iterator[str]:
            for text in DOCUMENTS * 2:
                yield text
                seen.extend(corpus_work.scratch.rglob("*.bin"))

    monkeypatch.setattr(ngram, "_BUDGET", 4000)
    bundle = Ngram(order=3).run(None, made_of(corpus_work, Watching()))
    assert seen and not corpus_work.scratch.exists()
    assert bundle.config["ngrams"] == whole.tables.ngrams
    assert engine.load(bundle).next_words("the cat sat", top=1)[0][0] == "on"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 9}, "order must be 1 to 8"),
        ({"prune": "0 -1"}, "prune"),
        ({"prune": "few"}, "prune"),
        ({"smoothing": "some"}, "smoothing"),
        ({"min_count": -1}, "min_count"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HalfpintError, match=message):
        Ngram(**settings)


def test_without_a_text(corpus_work: Work) -> None:
    with pytest.raises(HalfpintError, match="train/ngram: expected training text"):
        Ngram().run(None, made_of(corpus_work, ()))
    with pytest.raises(HalfpintError, match="at least one word"):
        Ngram().run(None, made_of(corpus_work, [" \n"]))
    assert not list(corpus_work.target.parent.iterdir())
