"""Perplexity from sums and counts, its intervals, and that the engine's scores are those of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, new_bundle, write_json
from halfpint.errors import HalfpintError
from halfpint.evaluate.perplexity import BLOCK_TOKENS, perplexity, perplexity_of
from halfpint.progress import plain


def scored(*log_probabilities: float, words: int = 2, size: int = 10) -> Any:
    return SimpleNamespace(log_probabilities=np.array(log_probabilities, dtype=np.float32), words=words, bytes=size)


def test_a_fair_die() -> None:
    found = perplexity([6 * math.log(6)] * 60, [6] * 60, [3] * 60, [12] * 60)
    assert found.per_token.value == pytest.approx(6)
    assert found.per_word.value == pytest.approx(36)
    assert found.bits_per_byte.value == pytest.approx(math.log2(6) / 2)
    assert found.nats_per_token == pytest.approx(math.log(6))
    assert (found.tokens, found.words, found.bytes, found.documents) == (360, 180, 720, 60)
    assert (found.per_token.low, found.per_token.high) == pytest.approx((6, 6))
    shown = found.figures()
    assert shown["perplexity_per_token"] == pytest.approx(6) and shown["interval_over"] == "documents"
    json.dumps(plain(shown), allow_nan=False)


def test_totals_are_of_tokens_not_of_documents() -> None:
    found = perplexity([1.0, 100.0], [1, 400], [1, 100], [4, 1600])
    assert found.nats_per_token == pytest.approx(101 / 401)
    assert found.per_token.value == pytest.approx(math.exp(101 / 401))


def test_the_interval_covers() -> None:
    """Of intervals at 90 %, about nine in ten hold the true figure."""
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        tokens = random.integers(5, 40, size=80)
        nats = random.gamma(2.0, 1.5, size=80) / 3 * tokens  # a mean of 1 nat a token, much varied between documents
        found = perplexity(nats, tokens, tokens, tokens, resamples=300, seed=trial, level=0.9)
        hits += found.per_token.low <= math.e <= found.per_token.high
    assert 0.84 <= hits / 200 <= 0.96


def test_few_documents_are_cut_into_blocks() -> None:
    random = np.random.default_rng(0)
    logs = -random.random(10 * BLOCK_TOKENS + 7)
    found = perplexity_of([SimpleNamespace(log_probabilities=logs, words=1000, bytes=5000)])
    assert found.unit == f"blocks of {BLOCK_TOKENS} tokens" and found.documents == 1
    assert (found.tokens, found.words, found.bytes) == (len(logs), 1000, 5000)
    assert found.nats_per_token == pytest.approx(-logs.mean())
    assert found.per_token.low < found.per_token.value < found.per_token.high
    many = perplexity_of([scored(-1.0, -2.0), *(scored(-1.0) for _ in range(60)), scored()])
    assert (many.unit, many.documents, many.tokens) == ("documents", 61, 62)


def test_what_is_impossible_is_infinite() -> None:
    found = perplexity_of([scored(-1.0, -math.inf), *(scored(-1.0) for _ in range(60))])
    assert found.per_token.value == math.inf == found.bits_per_byte.high
    assert found.per_token.low == pytest.approx(math.e, rel=0.1)
    assert plain(found.figures())["perplexity_per_token"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], [], []), "at least one token"),
        (([0.0], [0], [0], [0]), "at least one token"),
        (([1.0, 2.0], [1], [1], [1]), "one sum and three counts"),
        (([-1.0], [1], [1], [1]), "negative log-probabilities"),
        (([math.nan], [1], [1], [1]), "negative log-probabilities"),
    ],
)
def test_bad_input(arguments: Any, message: str) -> None:
    with pytest.raises(HalfpintError, match=message):
        perplexity(*arguments)


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """A language model with random weights and a tokenizer of letters, of an architecture."""
    pytest.importorskip("torch", reason="language models need torch")
    pytest.importorskip("transformers", reason="language models need transformers")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    from halfpint.models import sizes

    folder = tmp_path_factory.mktemp("languages")

    def make(arch: str) -> Bundle:
        target = folder / arch
        if target.exists():
            return Bundle(target)
        model_type, objective = sizes.resolve(arch)
        marks = ["<|endoftext|>"] if objective == sizes.CAUSAL else ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate([*marks, *letters])}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(marks)
        if objective == sizes.MASKED:
            around = [("[CLS]", 1), ("[SEP]", 2)]
            tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
        settings, _ = sizes.size_dial(arch, 120_000, tokenizer.get_vocab_size(), 32)
        ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None if objective == sizes.CAUSAL else 0}
        torch.manual_seed(1)
        model = sizes.new_model(model_type, {**settings, **ids, "initializer_range": 0.3})
        with new_bundle(target) as (path, card):
            model.save_pretrained(path)
            tokenizer.save(str(path / "tokenizer.json"))
            write_json(path / "tokenizer_config.json", {"mask_token": "[MASK]"})
            card.update(task="predict", engine="torch_lm")
        return Bundle(target)

    return make


def by_hand(bundle: Bundle, ids: list[int]) -> Any:
    """Log-probabilities of each of `ids` but the first, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bundle.path).eval()
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
    return logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def test_scores_are_the_models(language: Callable[[str], Bundle]) -> None:
    from halfpint.engines.torch_lm import load

    bundle = language("llama")
    engine = load(bundle, 1)
    text = "the quick brown fox jumps over the lazy dog and on and on"
    short, empty, long = engine.score([text[:20], "", text])
    ids = [0, *engine._tokenizer.encode(text).ids]
    np.testing.assert_allclose(short.log_probabilities, by_hand(bundle, ids[:21]), atol=1e-4)
    assert (short.tokens, short.words, short.bytes) == (20, 5, 20)
    assert (empty.tokens, len(empty.log_probabilities)) == (0, 0)
    assert long.tokens == len(text) == len(long.log_probabilities) == 57
    np.testing.assert_allclose(long.log_probabilities[:31], by_hand(bundle, ids[:32]), atol=1e-4)
    # The windows after the first: 16 tokens on each time, scored with what the window has before them.
    np.testing.assert_allclose(long.log_probabilities[31:47], by_hand(bundle, ids[16:48])[-16:], atol=1e-4)
    np.testing.assert_allclose(long.log_probabilities[47:], by_hand(bundle, ids[26:58])[-10:], atol=1e-4)
    assert perplexity_of([short, empty, long]).tokens == 77


def test_writing_on(language: Callable[[str], Bundle]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from halfpint.engines.torch_lm import load

    bundle = language("llama")
    engine = load(bundle, 1)
    greedy = "".join(engine.generate("the fox", 12, temperature=0.0))
    model = AutoModelForCausalLM.from_pretrained(bundle.path).eval()
    ids = torch.tensor([engine.start("the fox")])
    wanted = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert greedy == engine._tokenizer.decode(wanted[0, ids.shape[1] :].tolist())
    first, same, other = ("".join(engine.generate("a", 60, temperature=1.5, seed=seed)) for seed in (1, 1, 2))
    assert first == same != other
    assert len(engine._tokenizer.encode(first).ids) > engine.context  # it went on where the context was full
    stop = first[5:7]
    assert "".join(engine.generate("a", 60, temperature=1.5, seed=1, stop=[stop])) == first[: first.index(stop)]
    narrow = "".join(engine.generate("the fox", 12, temperature=3.0, top_k=1))
    assert narrow == greedy == "".join(engine.generate("the fox", 12, temperature=3.0, top_p=1e-6))
    assert greedy == "".join(engine.generate("the fox", 12, temperature=3.0, min_p=0.999999))
    words = engine.next_words("the fox", 3)
    assert len(words) <= 3 and all(0 < probability <= 1 for _, probability in words)
    with pytest.raises(HalfpintError, match="temperature must be 0 or more"):
        engine.generate("a", temperature=-1.0)
    with pytest.raises(HalfpintError, match="fill needs a masked language model"):
        engine.fill("a [MASK]")


def test_gaps(language: Callable[[str], Bundle]) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    from halfpint.engines.torch_lm import load

    bundle = language("bert")
    engine = load(bundle, 1)
    found = engine.fill("a[MASK]c[MASK]", 4)
    assert [len(one) for one in found] == [4, 4]
    assert all(one[0][1] >= one[-1][1] for one in found)
    (scores,) = engine.score(["abc"])
    model = AutoModelForMaskedLM.from_pretrained(bundle.path).eval()
    ids = engine._tokenizer.encode("abc").ids
    for place in (1, 2, 3):
        hidden = torch.tensor([ids])
        hidden[0, place] = engine._tokenizer.token_to_id("[MASK]")
        with torch.no_grad():
            wanted = float(torch.log_softmax(model(input_ids=hidden).logits[0, place], -1)[ids[place]])
        assert scores.log_probabilities[place - 1] == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(HalfpintError, match=r"There is no \[MASK\] in the text"):
        engine.fill("abc")
    with pytest.raises(HalfpintError, match="at most 32 tokens"):
        engine.fill("[MASK]" + "a" * 50)
    with pytest.raises(HalfpintError, match="generate needs a causal language model"):
        engine.generate("a")


def test_a_repeated_token_is_held_back() -> None:
    from halfpint.engines._sampling import Sampling, choose

    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)
    random = np.random.default_rng(0)
    assert choose(logits, Sampling(temperature=0.0), [0], random) == 0
    assert choose(logits, Sampling(temperature=0.0, repetition_penalty=1.3), [0], random) == 1
    drawn = [choose(logits, Sampling(temperature=1.0), [], random) for _ in range(4000)]
    wanted = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, wanted, atol=0.03)
