"""What a compressed model kept: figures held against plain sums over the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfpint.bundle import Bundle, open_bundle
from halfpint.compress.quantize import Quantize
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.evaluate import kept as kept_module
from halfpint.evaluate.kept import kept
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer

WINDOW = 64


@pytest.fixture(scope="module")
def texts(corpus: object) -> list[str]:
    """The documents that the tiny models did not learn from."""
    return list(corpus.validation)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def rough(
    tmp_path_factory: pytest.TempPathFactory, bundles: Callable[[str], Bundle], text_work: Callable[..., Work]
) -> Bundle:
    """The tiny language model, coarsely quantised."""
    target = tmp_path_factory.mktemp("rough") / "made"
    return open_bundle(Quantize(method="round", types="mxfp4").run(bundles("language"), text_work(target)).path)


def test_figures_are_those_of_the_definition(
    bundles: Callable[[str], Bundle], rough: Bundle, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    parent = bundles("language")
    found = kept(parent, rough, texts, window=WINDOW, threads=1)
    tokenizer = open_tokenizer(parent.path)
    ids = tokenizer.encode("\n\n".join(texts), add_special_tokens=False).ids
    start = tokenizer.encode("").ids[:1]
    models = [load_model(one.path, "causal") for one in (parent, rough)]
    rows = []
    for low in range(0, len(ids) // WINDOW * WINDOW, WINDOW):
        window = torch.tensor([*start, *ids[low + len(start) : low + WINDOW]])
        with torch.no_grad():
            one, other = (torch.log_softmax(model(input_ids=window[None]).logits[0].double(), -1) for model in models)
        places, wanted = range(WINDOW // 2, WINDOW - 1), window[WINDOW // 2 + 1 :]
        first, second = one[places], other[places]
        picked = torch.arange(len(wanted)), wanted
        rows.append([
            float((first[picked] - second[picked]).mean()), float((first.exp() * (first - second)).sum(1).mean()),
            float((first.argmax(1) == second.argmax(1)).double().mean()),
        ])  # fmt: skip
    table = np.array(rows)
    assert (found["windows"], found["window"], found["positions"]) == (len(table), WINDOW, len(table) * 31)
    np.testing.assert_allclose(
        [found["ln_ppl_ratio"], found["kl"], found["same_top1"]], table.mean(axis=0), rtol=1e-3, atol=1e-5
    )
    error = table[:, 0].std(ddof=1) / len(table) ** 0.5
    assert found["ln_ppl_ratio_error"] == pytest.approx(error, rel=1e-3)
    assert np.log(found["perplexity"] / found["reference_perplexity"]) == pytest.approx(found["ln_ppl_ratio"])
    for name in ("kl", "same_top1"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    assert 0 < found["kl"] < found["kl_99"] and found["tokens_per_s"] > 0
    assert found["size_bytes"] > found["file_bytes"] == (rough.path / "model.safetensors").stat().st_size
    monkeypatch.setattr(kept_module, "_VALUES_AT_ONCE", 1000)  # a part of a window at a time
    again = kept(parent, rough, texts, window=WINDOW, threads=1)
    assert again["kl"] == pytest.approx(found["kl"])


def test_a_model_keeps_all_of_itself(bundles: Callable[[str], Bundle], texts: list[str]) -> None:
    found = kept(bundles("language"), bundles("language"), texts, window=WINDOW, tokens=4 * WINDOW + 3, threads=1)
    assert (found["ln_ppl_ratio"], found["kl"], found["same_top1"], found["windows"]) == (0.0, 0.0, 1.0, 4)


def test_each_model_runs_in_its_own_engine(bundles: Callable[[str], Bundle], texts: list[str]) -> None:
    found = kept(bundles("language"), bundles("gguf"), texts, window=WINDOW, threads=1)
    assert 0 < found["kl"] < 1e-3 and abs(found["ln_ppl_ratio"]) < 1e-3 and found["same_top1"] > 0.99
    assert found["file_bytes"] == (bundles("gguf").path / "model.gguf").stat().st_size


def test_what_cannot_be_compared_is_said(bundles: Callable[[str], Bundle], texts: list[str], tmp_path: Path) -> None:
    parent = bundles("language")
    with pytest.raises(HalfpintError, match="text of 2 windows of 64 tokens, got"):
        kept(parent, parent, ["Too short."], window=WINDOW)
    with pytest.raises(HalfpintError, match="the vocabulary of"):
        kept(parent, bundles("pulled"), texts)
    with pytest.raises(HalfpintError, match="a bundle of ngram"):
        kept(parent, bundles("ngram"), texts)


@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
def test_small_divergences_are_not_lost(size: float) -> None:
    """Held against float64 over a vocabulary of thousands: 8 bits have divergences of 1e-5."""
    random = np.random.default_rng(0)
    one = random.normal(0, 4, (20, 9000)).astype(np.float32)
    other = one + random.normal(0, size, one.shape).astype(np.float32)
    wanted = random.integers(0, 9000, 20).tolist()
    nats, other_nats, divergence, _ = kept_module._compared(one, other, wanted)
    plain = [values.astype(np.float64) for values in (one, other)]
    plain = [values - np.log(np.exp(values).sum(1, keepdims=True)) for values in plain]
    np.testing.assert_allclose(nats, -plain[0][np.arange(20), wanted], rtol=1e-5)
    np.testing.assert_allclose(other_nats, -plain[1][np.arange(20), wanted], rtol=1e-5)
    wanted_divergence = (np.exp(plain[0]) * (plain[0] - plain[1])).sum(1)
    np.testing.assert_allclose(divergence, wanted_divergence, rtol=1e-3, atol=5e-8)
