"""Training and reading with a memory: segments in a row are one text, and what was read before is not read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.prepare import Prepared
from halfpint.engines import Reading, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.evaluate.context import STEP, by_context, effective_contexts
from halfpint.progress import SILENT
from halfpint.task import Split
from halfpint.train.pretrain import Pretrain

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("transformers", reason="training needs transformers")

TINY = Pretrain(
    arch="transformer-xl", size="100k", vocabulary=400, context=16, batch_tokens=128, tokens=128 * 12, evaluations=2,
    evaluation_tokens=256, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def documents(prepared: Prepared) -> Any:
    """The tickets as a few long documents."""
    texts = [f"{example.text} It is about {example.label}." for example in prepared.train]
    joined = ["\n".join(texts[start : start + 10]) for start in range(0, len(texts), 10)]
    return Split(train=joined[2:], validation=joined[:2], key="long tickets")


@pytest.fixture(scope="module")
def made(run_stage: Callable[..., Any], documents: Any) -> dict[str, tuple[Bundle, Any]]:
    """A Transformer-XL and a llama, both trained a little."""
    llama = replace(TINY, arch="llama", context=64)
    return {one.arch: run_stage(one, None, 0, learns=documents) for one in (TINY, llama)}


def test_training_reads_on(made: dict[str, tuple[Bundle, Any]]) -> None:
    bundle = made["transformer-xl"][0]
    entry = bundle.card["stages"][-1]
    assert entry["packing"] == "segments" and bundle.config["mem_length"] == 16
    curve = [float(row["loss"]) for row in entry["history"]]
    assert curve[-1] < curve[0]


def test_the_loss_of_segments_in_a_row_is_that_of_the_text(made: dict[str, tuple[Bundle, Any]]) -> None:
    """With a memory as long as the text; a segment that does not follow the last one begins without."""
    from halfpint.train.learner import Learner

    engine: Any = open_language_engine(made["transformer-xl"][0])
    model = engine._model
    model.config.mem_length = 64
    learner = Learner(model, "causal", torch.device("cpu"))
    ids = np.random.default_rng(0).integers(5, 300, size=(2, 33))
    together = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "sequence_ids": np.zeros((2, 32), dtype=np.int64)}
    numbers = {"row": np.arange(2), "segment": np.zeros(2, dtype=np.int64)}
    with torch.no_grad():
        whole = float(learner.loss({**together, **numbers}, "sum"))
        parts = [
            {name: array[:, start : start + 8] for name, array in together.items()}
            | {"row": np.arange(2), "segment": np.full(2, start // 8)}
            for start in range(0, 32, 8)
        ]
        assert sum(float(learner.loss(part, "sum")) for part in parts) == pytest.approx(whole, rel=1e-5)
        apart = sum(float(learner.loss(part, "sum")) for part in (parts[0], parts[2], parts[1], parts[3]))
    assert abs(apart / whole - 1) > 1e-4


def test_a_text_is_read_once_with_its_memory(made: dict[str, tuple[Bundle, Any]], documents: Any) -> None:
    """Segments side by side, of texts of different lengths, score as each text in one piece where all is remembered."""
    engine: Any = open_language_engine(made["transformer-xl"][0])
    texts = [documents.validation[0][:400], documents.validation[1][:90], "", "a", documents.validation[1][:300]]
    engine.read_by(Reading(context=7, mem_length=1000))
    in_parts = engine.score(texts)
    engine.read_by(Reading(context=1000, mem_length=1000))
    for one, whole in zip(in_parts, engine.score(texts), strict=True):
        assert np.allclose(one.log_probabilities, whole.log_probabilities, atol=1e-4)
    engine.read_by(Reading(context=7, mem_length=0))
    assert not np.allclose(engine.score(texts)[0].log_probabilities, in_parts[0].log_probabilities, atol=1e-3)
    assert engine.score(texts)[2].tokens == 0


def test_a_window_that_slides_by_one_gives_each_token_all_it_can_see(
    made: dict[str, tuple[Bundle, Any]], documents: Any
) -> None:
    engine: Any = open_language_engine(made["llama"][0])
    text = documents.validation[0][:200]
    engine.read_by(Reading(context=9, stride=1))
    found = engine.score([text])[0].log_probabilities
    ids = engine._from_start([engine.encode(text)])[0]
    with torch.no_grad():
        for at in range(1, len(ids)):
            logits = engine._model(input_ids=torch.tensor([ids[max(0, at - 8) : at]])).logits[0, -1]
            assert float(logits.log_softmax(-1)[ids[at]]) == pytest.approx(float(found[at - 1]), abs=1e-4)


@pytest.mark.parametrize(
    ("arch", "reading", "words"),
    [
        ("llama", Reading(mem_length=4), "a model with a memory"),
        ("llama", Reading(context=65), "2 to 64 tokens"),
        ("llama", Reading(context=16, stride=16), "fewer tokens than the context"),
        ("transformer-xl", Reading(stride=4), "a model without a memory"),
    ],
)
def test_what_cannot_be_read(
    made: dict[str, tuple[Bundle, Any]], arch: str, reading: Reading, words: str
) -> None:  # fmt: skip
    engine: Any = open_language_engine(made[arch][0])
    with pytest.raises(HalfpintError, match=words):
        engine.read_by(reading)


def test_by_context(made: dict[str, tuple[Bundle, Any]], documents: Any) -> None:
    """Longer contexts score the same tokens; the figures of one length are those of reading so."""
    for arch, lengths in (("llama", (8, 16, 32)), ("transformer-xl", (0, 8, 64))):
        engine: Any = open_language_engine(made[arch][0])
        texts = [text[:500] for text in documents.validation]
        found = by_context(engine, texts, lengths, SILENT)
        assert [one["context"] for one in found["contexts"]] == list(lengths)
        assert len({one["tokens"] for one in found["contexts"]}) == 1
        last = lengths[-1]
        engine.read_by(
            Reading(context=last + STEP, stride=STEP) if arch == "llama" else Reading(context=STEP, mem_length=last)
        )
        nats = -np.concatenate([one.log_probabilities for one in engine.score(texts)]).mean()
        assert found["contexts"][-1]["nats_per_token"] == pytest.approx(float(nats), rel=1e-5)
    with pytest.raises(HalfpintError, match="rising"):
        by_context(engine, texts, (8, 8), SILENT)


def test_the_effective_context_is_of_a_group() -> None:
    """The one that gains up to the longest context, and one that stops gaining over the best of both."""
    easy = np.full(90, 1.0)
    gains = [np.concatenate([easy, np.full(10, nats)]) for nats in (8.0, 7.0, 6.0, 5.0)]
    stops = [np.concatenate([easy, np.full(10, nats)]) for nats in (8.0, 7.0, 6.99, 6.98)]
    assert effective_contexts([gains], (0, 8, 16, 32))[0] == {"0.1": 32, "0.5": 32, "1": 32}
    assert effective_contexts([stops], (0, 8, 16, 32))[0] == {"0.1": 8, "0.5": 8, "1": 8}
    both = effective_contexts([gains, stops], (0, 8, 16, 32))
    assert [one["0.1"] for one in both] == [32, 8]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"arch": "llama", "mem_length": 8}, "remembers"), ({"arch": "llama", "packing": "segments"}, "remembers")],
)
def test_a_memory_is_for_those_that_have_one(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HalfpintError, match=words):
        replace(TINY, **changes).check()


def test_as_commands(
    made: dict[str, tuple[Bundle, Any]], documents: Any, tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(documents.validation[0], encoding="utf-8")
    folder = str(made["transformer-xl"][0].path)
    told = {}
    for length in ("0", "32"):
        told[length] = json.loads(typed("evaluate", folder, text, "--mem-length", length, "--json")[1])
        assert told[length]["mem_length"] == int(length) and told[length]["context"] == 16
    assert told["0"]["tokens"] == told["32"]["tokens"] and told["0"]["perplexity"] != told["32"]["perplexity"]
    code, shown, _ = typed("evaluate", folder, text, "--contexts", "0 16 32", "--tokens", "100")
    assert code == 0 and "effective context:" in shown
    code, _, errors = typed("evaluate", made["llama"][0].path, text, "--mem-length", "8")
    assert code == 2 and "--context and --stride" in errors
    code, shown, _ = typed("generate", folder, "Where is", "--max-tokens", "30")
    assert code == 0 and shown.strip()
