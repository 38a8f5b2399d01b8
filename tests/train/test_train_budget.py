"""What training costs: memory by what is trained, steps by the time there is, and little time spent on finding out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.packing import IGNORED
from halfpint.lookup import open_task
from halfpint.progress import Log
from halfpint.stage import Work
from halfpint.task import Split
from halfpint.train import budget
from halfpint.train.chat import Chat
from halfpint.train.loop import Training
from halfpint.train.pretrain import Pretrain
from halfpint.train.rows import HeldOut, Part

torch = pytest.importorskip("torch", reason="training needs torch")
transformers = pytest.importorskip("transformers", reason="training needs transformers")

ROWS, CONTEXT = 4, 16


class Rows:
    """Steps of two parts with four rows each."""

    tokens_a_step, steps_per_epoch = 2 * ROWS * CONTEXT, 10

    def step(self, step: int) -> tuple[int, list[Part]]:
        ids = np.random.default_rng(step).normal(size=(2, ROWS, CONTEXT)).astype(np.float32)
        return step // self.steps_per_epoch, [Part({"input_ids": part}, 1.0) for part in ids]

    def size(self, part: Part) -> tuple[int, int]:
        return ROWS, ROWS * CONTEXT


class Learning:
    """A layer, a loss, and how many rows went through it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.rows = torch.nn.Linear(CONTEXT, 3), 0

    def loss(self, part: Part) -> Any:
        self.rows += len(part.arrays["input_ids"])
        return self.model(torch.from_numpy(part.arrays["input_ids"])).square().sum()


def work_in(folder: Path) -> Work:
    return Work(
        target=folder / "made",
        scratch=folder,
        task=open_task("predict"),
        split=Split(train=(), validation=()),
        labels=(),
    )


def test_slow_steps_are_measured_on_one_sequence() -> None:
    stage = Chat(minutes=1.0, precision="fp32")
    learning = Learning()
    before = {name: tensor.clone() for name, tensor in learning.model.named_parameters()}
    one = budget.seconds_a_step(stage, Rows(), learning.model, learning.loss, 1e-6)
    assert learning.rows == 1 and one > 0
    learning.rows = 0
    budget.seconds_a_step(stage, Rows(), learning.model, learning.loss, 100.0)
    assert learning.rows >= 1 + 2 * ROWS
    for name, tensor in learning.model.named_parameters():
        assert torch.equal(tensor, before[name]) and tensor.grad is None


def test_a_plan_by_time_leaves_time_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def planned(name: str, evaluation_tokens: int, stage: Chat, steps: int = 0) -> Any:
        learning, work = Learning(), replace(work_in(tmp_path / name), log=Log())
        return budget.planned(
            stage, Rows(), learning.model, learning.loss, work, 0.0, steps=steps, evaluation_tokens=evaluation_tokens,
            what="the text", told=str,
        )  # fmt: skip

    import time

    soon = Chat(minutes=(time.monotonic() + 30) / 60, precision="fp32")  # half a minute, as the plan counts them
    quick = planned("quick", 1, soon)
    assert quick.total > 8 and quick.evaluate_every == quick.total // 8 and 0 < quick.seconds <= 30
    assert "would be enough" not in capsys.readouterr().err
    dear = planned("dear", 10**12, soon)
    assert dear.evaluate_every == dear.total  # an evaluation takes longer than all the time: one, at the end
    kept = json.loads((tmp_path / "dear" / "plan.json").read_text(encoding="utf-8"))
    assert kept["evaluations"] == 1 and planned("dear", 1, soon).total == dear.total
    late = planned("late", 1, Chat(minutes=1e-6, precision="fp32"))
    assert late.total == 1 and re.search(r"; [\d.]+ minutes would be enough for 10 steps", capsys.readouterr().err)
    steps = planned("steps", 10**12, replace(soon, evaluations=4), steps=40)
    assert (steps.total, steps.evaluate_every, steps.seconds) == (40, 10, float("inf"))


def test_the_time_is_counted_anew_early() -> None:
    plan = budget.Plan(total=100, step=lambda step: (0, []), size=lambda part: (1, 1), evaluate_every=50, seconds=9.0)
    assert [done for done in range(1, 101) if plan.refits(done, 100)] == [2, 4, 8, 16, 32, 50, 64, 100]
    assert not any(replace(plan, seconds=float("inf")).refits(done, 100) for done in range(1, 101))


def test_the_base_is_judged_as_far_as_there_is_time(tmp_path: Path) -> None:
    batches = [{"input_ids": np.full((2, 8), number), "labels": np.zeros((2, 8))} for number in range(5)]

    def held_out(some: list[dict[str, Any]]) -> tuple[float, int]:
        return float(sum(arrays["input_ids"].sum() for arrays in some)), 16 * len(some)

    def held() -> HeldOut:
        return HeldOut(SimpleNamespace(held_out=held_out), batches, "nats per token")

    whole = held()
    assert whole.before(work_in(tmp_path / "whole"), float("inf")) == 2.0 and whole.tokens == 80
    short = held()
    assert short.before(work_in(tmp_path / "short"), 0.0) == 0.0 and short.tokens == 16
    assert short.loss() == (0.0, 16)  # what comes after is judged on the same
    again = held()
    assert again.before(work_in(tmp_path / "short"), float("inf")) == 0.0 and again.tokens == 16


def test_frozen_weights_take_no_gradient_and_no_moments(random_llama: Callable[..., Bundle]) -> None:
    bundle = random_llama()
    model = transformers.AutoModelForCausalLM.from_pretrained(bundle.path)

    def needed() -> int:
        return budget.memory_needed(model, 4, 32, chunked=True, checkpointing=False, bf16=False)

    everything = needed()
    frozen = model.model.embed_tokens.weight.requires_grad_(False).numel()
    # In fp32 12 bytes: a gradient and two moments; of the output layer, which is the same tensor, 12 more: its gradient
    # is made while the loss is got, and scaled once more after it.
    assert everything - needed() == 24 * frozen
    model.requires_grad_(False)
    assert everything - needed() == 12 * frozen + 12 * sum(tensor.numel() for tensor in model.parameters())


def test_the_settings_of_the_loop_alone() -> None:
    found = Pretrain(size="1M", epochs=7, seed=3).with_rate(0.5)
    assert type(found) is Training and (found.learning_rate, found.epochs, found.seed) == (0.5, 7, 3)
    assert found.schedule == "wsd"


def test_products_of_the_loss_have_few_shapes() -> None:
    """However many tokens are counted: for each shape of a product PyTorch keeps something."""
    from halfpint.train._cross_entropy import chunked_cross_entropy

    random = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=random).requires_grad_() for shape in ((200, 16), (211, 16)))
    shapes = set()
    for counted in (3, 17, 64, 100, 128):
        labels = torch.randint(0, 211, (200,), generator=random)
        labels[counted:] = IGNORED
        with torch.profiler.profile(record_shapes=True) as profile:
            chunked_cross_entropy(hidden, weight, None, labels).backward()
        events = [one for one in profile.key_averages(group_by_input_shape=True) if one.key == "aten::mm"]
        shapes |= {rows for one in events for rows, _ in one.input_shapes[:2] if rows not in (16, 211)}
    assert shapes == {64, 128}
