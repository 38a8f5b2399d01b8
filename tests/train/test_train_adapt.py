"""Training a language model further: it gets better at the domain, stays a plain bundle, and resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from halfpint.bundle import Bundle
from halfpint.engines import open_language_engine
from halfpint.errors import HalfpintError
from halfpint.task import Split
from halfpint.train.adapt import Adapt

torch = pytest.importorskip("torch", reason="training needs torch")
transformers = pytest.importorskip("transformers", reason="training needs transformers")
pytest.importorskip("peft", reason="adapters need peft")

TEXTS = [f"Case {number}: the patient had {['fever', 'pain', 'a cough'][number % 3]}." for number in range(200)]
TINY = Adapt(tokens=256 * 8, batch_tokens=256, learning_rate=1e-2, evaluations=2, precision="fp32", context=32)
LORA = replace(TINY, lora=True, lora_rank=4)


@pytest.fixture(scope="module")
def base(random_llama: Callable[..., Bundle]) -> Bundle:
    """A random Llama."""
    return random_llama(TEXTS)


@pytest.fixture(scope="module")
def run(run_stage: Callable[..., Any], base: Bundle) -> Callable[..., tuple[Bundle, Any]]:
    """Runs a stage on the base and the texts: gives the bundle and what was logged."""
    texts = Split(train=TEXTS[30:], validation=TEXTS[:30], key="cases")

    def go(stage: Adapt, folder: Path | None = None, after: int = 0, learns: Any = texts) -> tuple[Bundle, Any]:
        return cast("tuple[Bundle, Any]", run_stage(stage, folder, after, parent=base, learns=learns))

    return go


@pytest.mark.parametrize("stage", [TINY, LORA], ids=["all", "lora"])
def test_it_gets_better_and_resumes_exactly(
    stage: Adapt, base: Bundle, run: Callable[..., tuple[Bundle, Any]], tmp_path: Path
) -> None:
    bundle, log = run(stage)
    entry = bundle.card["stages"][-1]
    assert entry["nats_per_token"] < entry["nats_before"] - 0.3
    assert bundle.card["parent"] == base.fingerprint and bundle.card["task"] == "predict"
    assert (bundle.path / "tokenizer.json").read_bytes() == (base.path / "tokenizer.json").read_bytes()
    model = transformers.AutoModelForCausalLM.from_pretrained(bundle.path)
    assert not any("lora" in name for name, _ in model.named_parameters())
    before, after = (
        sum(float(one.log_probabilities.sum()) for one in open_language_engine(each).score(TEXTS[:10]))
        for each in (base, bundle)
    )
    assert after > before
    with pytest.raises(KeyboardInterrupt):
        run(stage, tmp_path, after=6)
    torch.manual_seed(99)
    again, rest = run(stage, tmp_path)
    assert min(rest.losses) > 1
    assert rest.losses == {step: log.losses[step] for step in rest.losses}
    assert again.fingerprint == bundle.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_cannot_be_is_said(run: Callable[..., Any]) -> None:
    for change, message in (
        ({"context": 500}, "context must be at most the model's 96 tokens"),
        ({"lora_targets": "q_proj"}, "lora_targets must be lora = true"),
        ({"packing": "tight"}, "packing must be stream, fit or alone"),
        ({"packing": "segments"}, "packing must be stream, fit or alone"),
    ):
        with pytest.raises(HalfpintError, match=message):
            run(replace(TINY, **change))
    with pytest.raises(HalfpintError, match="expected a corpus of documents"):
        run(TINY, learns=Split(train=(), validation=()))
