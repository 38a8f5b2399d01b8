"""Training a language model further: it gets better at the domain, stays a plain bundle, and resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle
from halfpint.engines import open_language_engine
from halfpint.errors import HalfpintError
from halfpint.models import sizes
from halfpint.progress import SILENT, Log
from halfpint.stage import Work
from halfpint.tasks import predict
from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer
from halfpint.train.adapt import Adapt

torch = pytest.importorskip("torch", reason="training needs torch")
transformers = pytest.importorskip("transformers", reason="training needs transformers")
pytest.importorskip("peft", reason="adapters need peft")

TEXTS = [f"Case {number}: the patient had {['fever', 'pain', 'a cough'][number % 3]}." for number in range(200)]
TINY = Adapt(tokens=256 * 8, batch_tokens=256, learning_rate=1e-2, evaluations=2, precision="fp32", context=32)
LORA = replace(TINY, lora=True, lora_rank=4)


class Interrupting(Log):
    """Keeps the losses of the steps, and raises KeyboardInterrupt after one."""

    def __init__(self, after: int = 0) -> None:
        super().__init__(quiet=True)
        self.after = after
        self.losses: dict[int, float] = {}

    def event(self, kind: str, **fields: Any) -> None:
        super().event(kind, **fields)
        if kind == "step":
            self.losses[fields["step"]] = fields["loss"]
            if fields["step"] == self.after:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A random Llama."""
    folder = tmp_path_factory.mktemp("bases")
    train_tokenizer(TEXTS, TokenizerSettings(vocab_size=320), folder / "tokenizer", SILENT)
    size, _ = sizes.size_dial("llama", 60_000, 320, 64)
    torch.manual_seed(0)
    model = sizes.new_model("llama", {**size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1})
    with new_bundle(folder / "base") as (made, card):
        model.save_pretrained(made)
        for file in (folder / "tokenizer").iterdir():
            (made / file.name).write_bytes(file.read_bytes())
        card.update(task="predict", engine="torch_lm")
    return open_bundle(folder / "base")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Bundle) -> Callable[..., tuple[Bundle, Interrupting]]:
    """Runs a stage: gives the bundle and what was logged."""
    texts = SimpleNamespace(train=TEXTS[30:], validation=TEXTS[:30], key="cases")

    def go(
        stage: Adapt, folder: Path | None = None, after: int = 0, corpus: Any = texts
    ) -> tuple[Bundle, Interrupting]:  # fmt: skip
        folder, log = folder or tmp_path_factory.mktemp("adapted"), Interrupting(after)
        work = Work(
            target=folder / "made", scratch=folder / "unfinished", task=predict, train=(), validation=(), labels=(),
            log=log, corpus=corpus,
        )  # fmt: skip
        return open_bundle(stage.run(base, work).path), log

    return go


@pytest.mark.parametrize("stage", [TINY, LORA], ids=["all", "lora"])
def test_it_gets_better_and_resumes_exactly(
    stage: Adapt, base: Bundle, run: Callable[..., tuple[Bundle, Interrupting]], tmp_path: Path
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
        ({"context": 500}, "context: wanted at most the model's 64 tokens"),
        ({"lora_targets": "q_proj"}, "lora_targets: wanted lora = true"),
        ({"packing": "tight"}, "packing: wanted stream or fit"),
    ):
        with pytest.raises(HalfpintError, match=message):
            run(replace(TINY, **change))
    with pytest.raises(HalfpintError, match="wanted a corpus of documents"):
        run(TINY, corpus=None)
