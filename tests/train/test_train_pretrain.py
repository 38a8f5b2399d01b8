"""Pre-training: quick ways that give what the plain ones give, documents that do not see each other, exact resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.conversations import Conversations
from halfpint.data.prepare import Prepared
from halfpint.errors import HalfpintError
from halfpint.models import sizes
from halfpint.task import Split
from halfpint.tokenizers.train import CHAT_TEMPLATE
from halfpint.train import budget
from halfpint.train._masking import IGNORED, Masking, mask_tokens
from halfpint.train.plan import Plan
from halfpint.train.pretrain import Pretrain

torch = pytest.importorskip("torch", reason="training needs torch")
transformers = pytest.importorskip("transformers", reason="training needs transformers")

TINY = Pretrain(
    size="100k", vocabulary=400, context=32, batch_tokens=512, tokens=512 * 12, evaluations=3, evaluation_tokens=512,
    learning_rate=1e-2,
)  # fmt: skip
ENCODER = replace(TINY, arch="bert", tokens=512 * 4, evaluations=1)


@pytest.fixture(scope="module")
def documents(prepared: Prepared) -> Any:
    """The tickets as documents."""
    texts = [f"{example.text} It is about {example.label}." for example in prepared.train]
    return Split(train=texts[30:], validation=texts[:30], key="tickets")


@pytest.fixture(scope="module")
def run(run_stage: Callable[..., Any], documents: Any) -> Callable[..., tuple[Bundle, Any]]:
    """Runs a stage on the documents: gives the bundle and what was logged."""

    def go(stage: Pretrain, folder: Path | None = None, after: int = 0, **changes: Any) -> tuple[Bundle, Any]:
        return cast("tuple[Bundle, Any]", run_stage(stage, folder, after, **{"learns": documents, **changes}))

    return go


@pytest.fixture(scope="module")
def causal(run: Callable[..., tuple[Bundle, Any]]) -> tuple[Bundle, Any]:
    """What TINY makes."""
    return run(TINY)


@pytest.fixture(scope="module")
def masked(run: Callable[..., tuple[Bundle, Any]]) -> tuple[Bundle, Any]:
    """What ENCODER makes."""
    return run(ENCODER)


def tiny_model(arch: str) -> tuple[Any, str]:
    torch.manual_seed(0)
    model_type, objective = sizes.resolve(arch)
    settings, _ = sizes.size_dial(arch, 120_000, 300, 64)
    model = sizes.new_model(model_type, settings)
    with torch.no_grad():
        for tensor in model.parameters():  # biases and norms too: what starts at 0 or 1 hides mistakes
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model, objective


def rows(*lengths: int, objective: str = "causal") -> dict[str, Any]:
    """One row with random documents of these lengths."""
    random = np.random.default_rng(1)
    ids = random.integers(5, 300, size=(1, sum(lengths)))
    labels = ids.copy()
    if objective == "causal":
        labels[0, np.cumsum((0, *lengths[:-1]))] = IGNORED
    else:
        labels[0, ::2] = IGNORED
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    numbers = np.concatenate([np.full(length, number) for number, length in enumerate(lengths)])[None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "sequence_ids": numbers}


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.6])
def test_chunked_cross_entropy_is_cross_entropy(with_bias: bool, ignored: float) -> None:
    from halfpint.train._cross_entropy import chunked_cross_entropy

    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 211, (3, 20), generator=random)
    labels[torch.rand(3, 20, generator=random) < ignored] = IGNORED
    start = [torch.randn(*shape, generator=random) * 3 for shape in ((3, 20, 16), (211, 16), (211,))]

    def gradients(chunked: bool) -> tuple[float, list[Any]]:
        hidden, weight, bias = (tensor.clone().requires_grad_() for tensor in start)
        used = bias if with_bias else None
        if chunked:
            loss = chunked_cross_entropy(hidden, weight, used, labels, rows=7)
        else:
            logits = torch.nn.functional.linear(hidden, weight, used)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (loss * 0.5).backward()
        return loss.item(), [tensor.grad for tensor in (hidden, weight, bias) if tensor.grad is not None]

    (quick, ours), (plain, theirs) = gradients(True), gradients(False)
    assert quick == pytest.approx(plain, abs=1e-5)
    assert len(ours) == len(theirs) == 2 + with_bias
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        total = chunked_cross_entropy(*start[:2], None, labels, reduction="sum", rows=7)
        mean = chunked_cross_entropy(*start[:2], None, labels, rows=50)
    assert float(total) == pytest.approx(float(mean) * int((labels != IGNORED).sum()), rel=1e-5)
    assert float(chunked_cross_entropy(*start[:2], None, torch.full_like(labels, IGNORED))) == 0.0


@pytest.mark.parametrize("trained", [(True, False), (False, True), (False, False)])
def test_chunked_cross_entropy_of_what_is_frozen(trained: tuple[bool, bool]) -> None:
    """The gradients that are asked for are torch's, and no product is made for the others."""
    from halfpint.train._cross_entropy import chunked_cross_entropy

    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 211, (40,), generator=random)
    start = [torch.randn(*shape, generator=random) for shape in ((40, 16), (211, 16), (211,))]
    wanted = (*trained, True)

    def gradients(chunked: bool) -> list[Any]:
        given = [tensor.clone().requires_grad_(asked) for tensor, asked in zip(start, wanted, strict=True)]
        if chunked:
            chunked_cross_entropy(*given, labels, rows=7).backward()
        else:
            torch.nn.functional.cross_entropy(torch.nn.functional.linear(*given), labels).backward()
        return [tensor.grad for tensor in given]

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours = gradients(True)
    for one, other in zip(ours, gradients(False), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    products = sum(row.count for row in profile.key_averages() if row.key in ("aten::mm", "aten::addmm_"))
    assert products == 6 * (1 + sum(trained))  # in six chunks: the logits, and what each gradient takes


@pytest.mark.parametrize(("arch", "replaced"), [("llama", 3), ("gemma3", 3), ("gpt2", 1), ("bert", 1)])
def test_quick_passes_are_the_same_and_go_again(arch: str, replaced: int) -> None:
    from halfpint.models.quick_passes import quick_passes

    model, _ = tiny_model(arch)
    ids = torch.randint(5, 300, (2, 24), generator=torch.Generator().manual_seed(0))

    def gradients() -> tuple[float, dict[str, Any]]:
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss.item(), {name: tensor.grad.clone() for name, tensor in model.named_parameters()}

    plain, wanted = gradients()
    names = set(model.state_dict())
    with quick_passes(model) as found:
        quick, got = gradients()
        assert set(model.state_dict()) == names
    assert len(found) == replaced
    assert quick == pytest.approx(plain, abs=1e-5)
    for name, tensor in got.items():
        assert float((tensor - wanted[name]).norm()) <= 1e-4 * float(wanted[name].norm()) + 1e-7, name
    assert gradients()[0] == plain
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3"])
def test_quick_passes_in_bfloat16_are_as_near_as_plain_ones(arch: str) -> None:
    from halfpint.models.quick_passes import quick_passes

    model, _ = tiny_model(arch)
    ids = torch.randint(5, 300, (2, 24), generator=torch.Generator().manual_seed(0))

    def gradients(low: bool) -> Any:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return torch.cat([tensor.grad.flatten() for tensor in model.parameters()]), loss.item()

    (exact, loss), (plain, _) = gradients(False), gradients(True)
    with quick_passes(model):
        quick, found = gradients(True)
    assert found == pytest.approx(loss, rel=5e-3)
    assert float((quick - exact).norm()) <= 1.5 * float((plain - exact).norm())


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "bert", "roberta", "modernbert"])
def test_packed_documents_do_not_see_each_other(arch: str) -> None:
    from halfpint.train.learner import Learner

    model, objective = tiny_model(arch)
    learner = Learner(model.eval(), objective, torch.device("cpu"))
    learner.check_apart("here")
    assert learner.chunked
    packed = rows(9, 12, 7, objective=objective)
    with torch.no_grad():
        together = float(learner.loss(packed, "sum"))
        alone = [
            float(learner.loss({name: array[:, start:end] for name, array in packed.items()}, "sum"))
            for start, end in ((0, 9), (9, 21), (21, 28))
        ]
        seeing = float(learner.loss({**packed, "sequence_ids": 0 * packed["sequence_ids"],
                                     "position_ids": np.arange(28)[None]}, "sum"))  # fmt: skip
    assert together == pytest.approx(sum(alone), abs=2e-3)
    assert abs(seeing - together) > 0.01  # the test could tell


def test_the_loss_is_that_of_transformers() -> None:
    from halfpint.train.learner import Learner

    model, _ = tiny_model("llama")
    learner = Learner(model.eval(), "causal", torch.device("cpu"))
    row = rows(20)
    ids = torch.from_numpy(row["input_ids"])
    with torch.no_grad():
        wanted = float(model(input_ids=ids, labels=ids).loss)
        assert float(learner.loss(row)) == pytest.approx(wanted, abs=1e-5)
        learner.chunked = False
        assert float(learner.loss(row)) == pytest.approx(wanted, abs=1e-5)


def test_an_architecture_that_runs_on_is_refused() -> None:
    from halfpint.train.learner import Learner

    class RunsOn(torch.nn.Module):  # type: ignore[misc]
        """Adds up all that came before."""

        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(vocab_size=50, model_type="sums", pad_token_id=0)
            self.embed, self.head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50)

        def get_output_embeddings(self) -> Any:
            return self.head

        def forward(self, input_ids: Any) -> Any:
            return SimpleNamespace(logits=self.head(self.embed(input_ids).cumsum(1)))

    with pytest.raises(HalfpintError, match=r"keep the documents of a row apart.*'sums'"):
        Learner(RunsOn(), "causal", torch.device("cpu")).check_apart("here")


def test_masks_are_drawn_as_in_bert() -> None:
    ordinary = np.ones(1000, dtype=bool)
    ordinary[:5] = False
    ids = np.random.default_rng(0).integers(0, 1000, size=(200, 500))
    inputs, labels = mask_tokens(ids, Masking(0.15, 4, ordinary), np.random.default_rng(1))
    chosen = labels != IGNORED
    assert chosen[ids >= 5].mean() == pytest.approx(0.15, abs=0.005)
    assert not chosen[ids < 5].any()
    assert (labels[chosen] == ids[chosen]).all()
    assert (inputs[~chosen] == ids[~chosen]).all()
    assert (inputs[chosen] == 4).mean() == pytest.approx(0.8, abs=0.015)
    assert (inputs[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.01)
    assert (inputs[chosen] >= 4).all()
    again, _ = mask_tokens(ids, Masking(0.15, 4, ordinary), np.random.default_rng(1))
    assert (again == inputs).all()


def test_a_causal_model(causal: tuple[Bundle, Any]) -> None:
    bundle, log = causal
    entry = bundle.card["stages"][-1]
    assert (bundle.card["task"], bundle.card["engine"], entry["objective"]) == ("predict", "torch_lm", "causal")
    assert abs(entry["parameters"] / 100_000 - 1) <= 0.1
    names = {path.name for path in bundle.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert "generation_config.json" in names
    history = entry["history"]
    assert [row["step"] for row in history] == [4, 8, 12]
    assert {"loss", "nats_per_token", "bits_per_byte", "tokens_per_s", "sample"} <= set(history[-1])
    assert history[-1]["nats_per_token"] < log.losses[1] - 0.5
    model = transformers.AutoModelForCausalLM.from_pretrained(bundle.path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle.path)
    ids = torch.tensor([tokenizer("the invoice was wrong")["input_ids"]])
    assert ids[0, 0] == model.config.bos_token_id == tokenizer.bos_token_id
    assert tokenizer.chat_template == CHAT_TEMPLATE
    with torch.no_grad():
        made = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert made.shape[1] <= ids.shape[1] + 3


def test_a_masked_model(masked: tuple[Bundle, Any]) -> None:
    bundle, log = masked
    assert bundle.card["stages"][-1]["objective"] == "masked"
    model = transformers.AutoModelForMaskedLM.from_pretrained(bundle.path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle.path)
    ids = tokenizer("a [MASK] b")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id and tokenizer.mask_token_id in ids
    assert model.config.pad_token_id == tokenizer.pad_token_id and tokenizer.chat_template is None
    assert log.losses[4] < log.losses[1]


@pytest.mark.parametrize("stops", [[5], [2, 9]])
def test_resume_is_exact(stops: list[int], run: Callable[..., Any], causal: tuple[Bundle, Any], tmp_path: Path) -> None:
    bundle, whole = causal
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            run(TINY, tmp_path, after=stop)
    torch.manual_seed(99)
    again, log = run(TINY, tmp_path)
    first = min(log.losses)
    assert 1 < first <= stops[-1] + 1 or stops[-1] < 4
    assert log.losses == {step: loss for step, loss in whole.losses.items() if step >= first}
    assert again.fingerprint == bundle.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_a_plan_by_time_is_kept(run: Callable[..., Any], tmp_path: Path) -> None:
    stage = replace(TINY, tokens=0, minutes=2.0)
    with pytest.raises(KeyboardInterrupt):
        run(stage, tmp_path, after=1)
    path = tmp_path / "unfinished" / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    assert plan["total"] > 1 and 0 < plan["seconds"] <= 120
    path.write_text(json.dumps({"total": 5, "seconds": 0.01, "evaluations": 1}), encoding="utf-8")
    _, log = run(stage, tmp_path)
    assert (log.plan["total"], log.plan["seconds"]) == (5, 0.01)
    assert 2 <= max(log.losses) <= 5  # its time is over, so what is left is one step


def test_steps_follow_the_speed() -> None:
    plan = Plan(total=100, step=lambda step: (0, []), size=lambda batch: (1, 1), evaluate_every=10, seconds=50.0)
    assert plan.refitted("wsd", 10, 100, spent=5.0) == 100
    assert plan.refitted("wsd", 10, 100, spent=10.0) == 50
    assert plan.refitted("wsd", 10, 100, spent=4.95) == 100  # within what a speed varies by
    assert plan.refitted("wsd", 80, 100, spent=80.0) == 100  # the rate is falling already
    assert plan.refitted("cosine", 80, 100, spent=45.0) == 88
    assert replace(plan, seconds=math.inf).refitted("wsd", 10, 100, spent=10.0) == 100


@pytest.mark.parametrize("change", [{"batch_tokens": 256, "accumulate": 2}, {"gradient_checkpointing": True}])
def test_the_same_step_in_other_ways(
    change: dict[str, Any], run: Callable[..., Any], causal: tuple[Bundle, Any]
) -> None:
    _, log = run(replace(TINY, stop_after_steps=3, **change))
    assert [log.losses[step] for step in (1, 2, 3)] == pytest.approx(
        [causal[1].losses[step] for step in (1, 2, 3)], abs=2e-4
    )


def test_parts_of_a_batch_are_the_batch(
    run: Callable[..., Any], causal: tuple[Bundle, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfpint.train.rows._CACHED_TOKENS", 160)
    _, log = run(replace(TINY, stop_after_steps=3))
    assert [log.losses[step] for step in (1, 2, 3)] == pytest.approx(
        [causal[1].losses[step] for step in (1, 2, 3)], abs=2e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "lama"}, "Did you mean 'llama'"),
        ({"size": "ten"}, "size must be a number"),
        ({"objective": "causel"}, "Did you mean 'causal'"),
        ({"objective": "masked"}, "reads from left to right"),
        ({"arch": "bert", "objective": "causal"}, "reads in both directions"),
        ({"packing": "tight"}, "packing must be stream, fit, alone or segments"),
        ({"tokenizer": "bppe"}, "Did you mean 'bpe'"),
        ({"vocabulary": 30_000}, "The text is too short for a vocabulary of 30,000 tokens: it has "),
        ({"size": "20k", "vocabulary": 1000}, "size: expected a llama of about 20k"),
        ({"context": 100_000}, "corpus: expected at least one training sequence of 100000 tokens"),
        ({"context": 4}, "context must be 8 tokens or more"),
    ],
)
def test_what_cannot_be_is_said(change: dict[str, Any], message: str, run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=message):
        run(replace(TINY, **change), tmp_path)
    assert not (tmp_path / "made").exists()


def test_without_running_text(run: Callable[..., Any], conversations: Conversations) -> None:
    with pytest.raises(HalfpintError, match="expected running text, got conversations"):
        run(TINY, learns=conversations, task="chat")
    with pytest.raises(HalfpintError, match="expected a corpus of documents, got none"):
        run(TINY, learns=Split(train=(), validation=()))


def test_too_little_memory_is_told_first(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "free_memory_bytes", lambda device: 100_000)
    with pytest.raises(HalfpintError, match=r"memory: expected about .* GiB.*Lower batch_tokens"):
        run(TINY)
