"""A trained model and counts of its tokens together: a proper distribution, better than either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.corpus import Corpus
from halfpint.engines.mixed import COUNTED, MixedEngine
from halfpint.engines.torch_lm import load as load_trained
from halfpint.errors import HalfpintError
from halfpint.models import ngram
from halfpint.models.continuous_cache import AGES, NEVER, ContinuousCache, ages
from halfpint.models.token_ngram import TokenNgram
from halfpint.progress import Log
from halfpint.stage import Work
from halfpint.train.mix import Mix, fit_weights, fitted


def test_counts_of_tokens_are_a_distribution() -> None:
    random = np.random.default_rng(0)
    documents = [random.integers(0, 12, 40).tolist() for _ in range(20)]
    counts = TokenNgram.fit(documents, vocabulary=20, order=3)
    ids = [3, 5, 7, 15, 3, 5, 1]
    logs, lengths = counts.score(ids)
    for place in range(len(ids)):
        chances, length = counts.after(ids[:place])
        assert chances.sum() == pytest.approx(1) and (chances > 0).all() and len(chances) == 20
        # Where </s> had a share the others have it now; that share is small, and 0 inside a document.
        assert np.log(chances[ids[place]]) == pytest.approx(logs[place], abs=0.1)
        assert length == lengths[place]
    assert lengths[0] == 1 and lengths[4] == 0  # the start of a line is known; what follows a token never seen is not
    np.testing.assert_allclose(counts.after(ids[:4])[0][12:], counts.after(ids[:4])[0][12])  # they share alike


def test_weights_are_those_that_predict_best() -> None:
    random = np.random.default_rng(1)
    trained, counted = np.log(random.uniform(0.01, 1, (2, 4000)))
    lengths = random.integers(0, 2, 4000)
    counted[lengths == 1] += 0.5 * random.uniform(0, 1, (lengths == 1).sum())
    weights = fit_weights(trained, counted, lengths, 3)
    for length in (0, 1):
        here = lengths == length
        losses = [
            -np.logaddexp(np.log1p(-weight) + trained[here], np.log(weight) + counted[here]).mean()
            for weight in np.linspace(0.01, 0.99, 99)
        ]
        assert weights[length] == pytest.approx(0.01 + 0.01 * int(np.argmin(losses)), abs=0.011)
    assert 0 < weights[2] < 1  # it did not occur


def test_together_they_predict_better(bundles: Callable[[str], Bundle], corpus: Corpus) -> None:
    bundle = bundles("mixed")
    engine, alone = MixedEngine(bundle, 1), load_trained(bundles("language"), 1)
    texts = list(corpus.validation)
    together = np.concatenate([one.log_probabilities for one in engine.score(texts)])
    trained = np.concatenate([one.log_probabilities for one in alone.score(texts)])
    entry = bundle.card["stages"][-1]
    assert -together.mean() == pytest.approx(min(entry["nats"].values()), abs=1e-4) and len(together) == len(trained)
    assert (
        -trained.mean() == pytest.approx(entry["nats"]["trained"], abs=1e-4) and together.mean() > trained.mean() + 0.5
    )
    # What is scored is what is written by: token by token, in the context of one window.
    ids = [*engine.start(""), *engine.encode(texts[0])][: engine.context]
    scored = engine.score([texts[0]])[0].log_probabilities
    for place in (1, 2, 9):
        logs = engine.after(ids[:place])
        assert np.exp(logs.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)
        assert logs[ids[place]] == pytest.approx(scored[place - 1], abs=0.05)


def test_tokens_are_counted_on_disk_where_memory_is_small(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram, "_BUDGET", 1 << 18)
    mine = text_work(tmp_path / "made", log=Log(tmp_path / "events.jsonl", quiet=True))
    made = Mix(order=3, cache=0).run(bundles("language"), mine)
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (text,) = [event["text"] for event in told if event["event"] == "counting on disk"]
    assert str(mine.scratch) in text and not mine.scratch.exists()
    for name in ("model.safetensors", "vocabulary.txt", "config.json"):
        assert (made.path / COUNTED / name).read_bytes() == (bundles("mixed").path / COUNTED / name).read_bytes()


def test_a_cache_foretells_from_the_text_alone() -> None:
    random = np.random.default_rng(2)
    states = random.normal(size=(700, 8)).astype(np.float32)
    following = random.integers(0, 40, 700)
    cache = ContinuousCache(sharpness=3.0, reach=50)
    logs = cache.score(states, following)
    assert logs[0] == NEVER
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    for place in (1, 2, 49, 50, 51, 255, 256, 300, 699):
        weights = {}
        for earlier in range(max(0, place - 50), place):  # the definition, term by term
            weight = np.exp(3.0 * float(unit[place] @ unit[earlier]))
            weights[following[earlier]] = weights.get(following[earlier], 0.0) + weight
        chance = weights.get(following[place], 0.0) / sum(weights.values())
        assert logs[place] == pytest.approx(np.log(chance) if chance else NEVER, abs=1e-4)
        chances = cache.after(states[: place + 1], following[:place], 64)
        assert chances.sum() == pytest.approx(1) and chances[following[place]] == pytest.approx(chance, abs=1e-6)
    assert not cache.after(states[:1], [], 64).any()
    assert ages(9).tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4]
    assert ages(100_000)[-1] == AGES - 1


def test_a_text_that_repeats_itself_is_foretold_from_itself() -> None:
    """Where names come again the cache pays, its weights say so, and without reach there is none."""
    random = np.random.default_rng(3)
    texts = [random.choice(np.arange(5 * n, 5 * n + 5), 300).tolist() for n in range(8)]  # each with words of its own
    counts = TokenNgram.fit(texts, vocabulary=40, order=2)
    states = [random.normal(size=(300, 4)).astype(np.float32) for _ in texts]
    scored = [(ids, np.full(300, -np.log(40)), state) for ids, state in zip(texts, states, strict=True)]
    held = [ids[::-1] for ids in texts]
    mixture, nats = fitted(counts, held, [(ids, one[1], one[2]) for ids, one in zip(held, scored, strict=True)], 100)
    assert mixture.cache is not None and nats["with the text so far"] < nats["together"] < nats["trained"]
    assert mixture.by_age[0] == 0 and mixture.by_age[6] > 0.2
    assert fitted(counts, held, scored, 0)[0].cache is None


def test_refusals(bundles: Callable[[str], Bundle]) -> None:
    with pytest.raises(HalfpintError, match="order must be 2 to 8, not 9"):
        Mix(order=9)
    with pytest.raises(HalfpintError, match="cache must be 0 or more, not -1"):
        Mix(cache=-1)
