"""The training loop: exact resuming, parity with a loop written by hand, and when it stops."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from halfpint.bundle import Bundle
from halfpint.data.prepare import Prepared
from halfpint.engines.torch_classifier import tensors
from halfpint.errors import TrainingStoppedError
from halfpint.progress import Log
from halfpint.stage import Work
from halfpint.tasks.classify import TASK
from halfpint.train import checkpoint, encoders
from halfpint.train.batches import epoch_batches
from halfpint.train.loop import Outcome, Training, optimiser_groups, train
from halfpint.train.schedule import factor

torch = pytest.importorskip("torch", reason="training needs torch")

PLAIN = Training(
    learning_rate=1e-2, epochs=2, batch_size=8, precision="fp32", seed=3, schedule="linear", warmup=0.2, clip_norm=1.0
)


@dataclass
class Job:
    """Something to train: a model, its examples, and what happened."""

    model: Any
    lengths: list[int]
    loss_of: Callable[[npt.NDArray[np.int64]], Any]
    work: Work
    losses: list[float] = field(default_factory=list)
    scores: Iterator[float] | None = None

    def run(self, settings: Training = PLAIN, interrupt_after: int = 0, **more: Any) -> Outcome:
        def on_step(step: int, loss: float) -> None:
            self.losses.append(loss)
            if step == interrupt_after:
                raise KeyboardInterrupt

        def score() -> float:
            return next(self.scores) if self.scores else float(self.losses[-1])

        more = {"checkpoint_every_s": 0.0, **more}
        return train(self.model, self.lengths, self.loss_of, score, settings, self.work, on_step=on_step, **more)

    def weights(self) -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


@pytest.fixture
def small(tmp_path: Path, work: Callable[..., Work]) -> Callable[..., Job]:
    """Makes a job on 48 random points: two layers, a norm, dropout."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(48, 6, generator=generator)
    targets = (points[:, 0] + points[:, 1] > 0).long() + (points[:, 2] > 1).long()

    def make(name: str = "job", dropout: float = 0.3, **changes: Any) -> Job:
        torch.manual_seed(7)
        model = torch.nn.Sequential()
        model.add_module("body", torch.nn.Linear(6, 16))
        model.add_module("norm", torch.nn.LayerNorm(16))
        model.add_module("dropout", torch.nn.Dropout(dropout))
        model.add_module("classifier", torch.nn.Linear(16, 3))

        def loss_of(batch: npt.NDArray[np.int64]) -> Any:
            index = torch.from_numpy(batch)
            return torch.nn.functional.cross_entropy(model(points[index]), targets[index])

        return Job(model, [10] * len(points), loss_of, work(tmp_path / name, **changes))

    return make


@pytest.fixture
def encoder_job(
    tmp_path: Path, work: Callable[..., Work], bundles: Callable[[str], Bundle], prepared: Prepared
) -> Callable[..., Job]:
    """Makes a job on 48 tickets with the tiny encoder."""
    examples = prepared.train[:48]
    labels = TASK.labels(prepared.train)
    targets = TASK.targets(examples, labels)

    def make(name: str = "job", dropout: float = 0.2) -> Job:
        encoder = bundles("encoder")
        torch.manual_seed(7)
        model = encoders.new_classifier(encoder, TASK, labels, 64, dropout)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        encoded = encoders.encoded(encoder.path, TASK, TASK.texts(examples), 64)

        def loss_of(batch: npt.NDArray[np.int64]) -> Any:
            inputs = tensors(encoded, batch, 0, torch.device("cpu"))
            return torch.nn.functional.cross_entropy(model(**inputs).logits, torch.from_numpy(targets[batch]))

        return Job(model, encoded.lengths, loss_of, work(tmp_path / name))

    return make


@contextmanager
def before_each_step(look: Callable[[Any], None]) -> Iterator[None]:
    """Calls `look(optimiser)` right before each of its steps."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    handle = register_optimizer_step_pre_hook(lambda optimiser, *_: look(optimiser))
    try:
        yield
    finally:
        handle.remove()


def assert_same_weights(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_resumes_exactly(make: Callable[..., Job], stops: list[int]) -> None:
    whole = make("whole", dropout=0.3)
    outcome = whole.run()
    assert outcome.steps == len(whole.losses) == 12
    assert len(set(whole.losses)) == 12
    losses: list[float] = []
    for stop in stops:
        part = make("parts", dropout=0.3)
        with pytest.raises(KeyboardInterrupt):
            part.run(interrupt_after=stop)
        losses = losses[: stop - len(part.losses)] + part.losses
    torch.manual_seed(99)  # what happens between must not matter
    torch.rand(5)
    part = make("parts", dropout=0.3)
    resumed = part.run()
    losses = losses[: 12 - len(part.losses)] + part.losses
    assert 0 < len(part.losses) < 12  # it went on, and from there
    assert losses == whole.losses
    assert_same_weights(part.weights(), whole.weights())
    for name in ("steps", "total_steps", "best_step", "best_score", "history", "stopped"):
        assert getattr(resumed, name) == getattr(outcome, name), name


@pytest.mark.parametrize("stops", [[2], [6], [7], [12], [3, 5, 10]])
def test_resume_is_exact(stops: list[int], small: Callable[..., Job]) -> None:
    assert_resumes_exactly(small, stops)


def test_resume_is_exact_with_an_encoder(encoder_job: Callable[..., Job]) -> None:
    assert_resumes_exactly(encoder_job, [5, 9])


def test_interrupted_while_evaluating(small: Callable[..., Job]) -> None:
    whole, part = small("whole"), small("parts")
    whole.run()

    def interrupted() -> Iterator[float]:
        yield part.losses[-1]
        raise KeyboardInterrupt

    part.scores = interrupted()
    with pytest.raises(KeyboardInterrupt):
        part.run()
    again = small("parts")
    again.run()
    assert_same_weights(again.weights(), whole.weights())


def test_without_interruption_nothing_is_drawn_from_elsewhere(small: Callable[..., Job]) -> None:
    first, second = small("first"), small("second")
    first.run()
    torch.manual_seed(12345)
    second.run()
    assert first.losses == second.losses
    other = small("other")
    other.run(replace(PLAIN, seed=4))
    assert other.losses != first.losses


def test_a_finished_run_is_not_trained_again(small: Callable[..., Job]) -> None:
    job = small()
    job.run()
    before = job.weights()
    again = small()
    outcome = again.run()
    assert again.losses == []
    assert outcome.steps == 12
    assert_same_weights(again.weights(), before)


def test_parity_with_a_plain_loop(encoder_job: Callable[..., Job]) -> None:
    """A loop as anyone would write it, over the same batches, gives the same losses and weights."""
    settings = replace(PLAIN, learning_rate=2e-3, weight_decay=0.1)
    ours, plain = encoder_job("ours", dropout=0.0), encoder_job("plain", dropout=0.0)
    ours.scores = iter((0.0, 1.0))  # the last weights are kept
    ours.run(settings)
    batches = [
        batch
        for epoch in range(2)
        for batch in epoch_batches(plain.lengths, batch_size=8, batch_tokens=4096, seed=3, epoch=epoch)
    ]
    decay = [tensor for tensor in plain.model.parameters() if tensor.ndim >= 2]
    keep = [tensor for tensor in plain.model.parameters() if tensor.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": keep, "weight_decay": 0.0}], lr=2e-3
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: (step + 1) / 3 if step < 2 else (12 - step) / 10
    )
    losses = []
    plain.model.train()
    for batch in batches:
        optimiser.zero_grad()
        loss = plain.loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(ours.losses, losses, rtol=0, atol=1e-6)
    for name, tensor in plain.weights().items():
        if not name.endswith("key.bias"):  # softmax does not feel it: its gradient is rounding, made large by Adam
            torch.testing.assert_close(ours.weights()[name], tensor, rtol=0, atol=1e-5)


def test_accumulated_batches_are_one_large_batch(small: Callable[..., Job]) -> None:
    settings = replace(PLAIN, epochs=1, clip_norm=0.0)
    steps = {}
    for name, size, accumulate in (("one", 32, 1), ("two", 16, 2)):
        job = small(name, dropout=0.0)
        job.lengths, before = job.lengths[:32], job.weights()
        outcome = job.run(replace(settings, batch_size=size, accumulate=accumulate))
        assert outcome.steps == outcome.total_steps == 1
        steps[name] = torch.cat([(job.weights()[key] - before[key]).flatten() for key in before]), job.losses[0]
    assert steps["two"][1] == pytest.approx(steps["one"][1], abs=1e-6)
    assert float((steps["one"][0] - steps["two"][0]).norm() / steps["one"][0].norm()) < 1e-3


def test_rates_follow_the_schedule(small: Callable[..., Job]) -> None:
    rates: list[tuple[float, float]] = []

    def look(optimiser: Any) -> None:
        rates.append((optimiser.param_groups[0]["lr"], optimiser.param_groups[-1]["lr"]))

    with before_each_step(look):
        small().run(replace(PLAIN, schedule="cosine", head_learning_rate=0.1))
    wanted = [factor("cosine", step, 12, 0.2) for step in range(12)]
    np.testing.assert_allclose(rates, [(1e-2 * value, 0.1 * value) for value in wanted], rtol=1e-9)


@pytest.mark.parametrize("limit", [0.05, 0.0])
def test_clipping_limits_the_norm(limit: float, small: Callable[..., Job]) -> None:
    norms: list[float] = []

    def look(optimiser: Any) -> None:
        found = [tensor.grad for group in optimiser.param_groups for tensor in group["params"]]
        norms.append(float(torch.cat([gradient.flatten() for gradient in found]).norm()))

    with before_each_step(look):
        small(dropout=0.0).run(replace(PLAIN, clip_norm=limit))
    assert len(norms) == 12
    if limit:
        assert max(norms) <= limit * 1.001
    else:
        assert min(norms) > 0.05


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_a_number_stops(where: str, small: Callable[..., Job], tmp_path: Path) -> None:
    job = small(log=Log(tmp_path / "events.jsonl", quiet=True))
    good = job.loss_of

    def bad(batch: npt.NDArray[np.int64]) -> Any:
        loss = good(batch)
        if len(job.losses) < 4:
            return loss
        # sqrt has an infinite slope at 0, so this one is finite with a gradient that is not.
        return loss * math.nan if where == "loss" else loss + (job.model.body.weight.sum() * 0).sqrt()

    job.loss_of = bad
    with pytest.raises(TrainingStoppedError, match=r"step 5.*not a finite number.*Lower learning_rate"):
        job.run()
    state = json.loads((job.work.scratch / "checkpoint" / "state.json").read_text(encoding="utf-8"))
    assert state["step"] == 4
    kept = small("kept")
    checkpoint.load(job.work.scratch, kept.model, torch.optim.AdamW(optimiser_groups(kept.model, PLAIN)))
    assert all(torch.isfinite(tensor).all() for tensor in kept.weights().values())
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events[-1]["event"] == "stopped"


def spiky(job: Job, odd: Callable[[int], bool]) -> None:
    good = job.loss_of

    def loss_of(batch: npt.NDArray[np.int64]) -> Any:
        loss = good(batch)
        return loss + 20 if odd(len(job.losses)) else loss

    job.loss_of = loss_of


def test_an_explosion_stops(small: Callable[..., Job]) -> None:
    job = small()
    spiky(job, lambda step: step >= 70)
    with pytest.raises(TrainingStoppedError, match="exploded") as caught:
        job.run(replace(PLAIN, epochs=16), guess=math.log(3))
    assert 70 < len(job.losses) <= 70 + 8
    assert str(job.work.scratch) in str(caught.value)
    assert (job.work.scratch / "checkpoint" / "tensors.safetensors").is_file()


def test_one_odd_batch_is_no_explosion(small: Callable[..., Job]) -> None:
    job = small()
    spiky(job, lambda step: step in (70, 80))
    assert job.run(replace(PLAIN, epochs=16), guess=math.log(3)).steps == 96


def test_patience_keeps_the_best_weights(small: Callable[..., Job]) -> None:
    job, shorter = small("long"), small("short")
    job.scores = iter((0.5, 0.6, 0.6, 0.55, 0.9))
    outcome = job.run(replace(PLAIN, epochs=5, patience=2))
    assert (outcome.steps, outcome.best_step, outcome.best_score) == (24, 12, 0.6)
    assert [row["score"] for row in outcome.history] == [0.5, 0.6, 0.6, 0.55]
    assert "no better score in 2 evaluations" in outcome.stopped
    shorter.scores = iter((0.5, 0.6))
    shorter.run(replace(PLAIN, epochs=5, stop_after_steps=12))
    assert_same_weights(job.weights(), shorter.weights())


def test_stop_after_steps_leaves_the_schedule(small: Callable[..., Job]) -> None:
    whole, cut = small("whole"), small("cut")
    whole.run()
    outcome = cut.run(replace(PLAIN, stop_after_steps=4))
    assert cut.losses == whole.losses[:4]
    assert (outcome.steps, outcome.total_steps, outcome.stopped) == (4, 12, "stop_after_steps was reached")


def test_a_deadline_ends_with_what_there_is(small: Callable[..., Job]) -> None:
    job = small(deadline=time.monotonic() - 1)
    outcome = job.run()
    assert outcome.steps == 1
    assert outcome.stopped == "the time limit was reached"
    assert len(outcome.history) == 1


@pytest.mark.parametrize(
    ("scores", "bar", "epochs"),
    [
        ((0.1, 0.12, 0.13, 0.14), 0.9, 2),  # halfway, and the last gain twice more would not do
        ((0.1, 0.5, 0.75, 0.8), 0.9, 4),  # 0.5 and twice 0.4 would
        ((0.95, 0.1, 0.1, 0.1), 0.9, 2),  # falling: no gain to hope for
        ((0.1, 0.12, 0.13, 0.14), None, 4),
        ((0.9, 0.91, 0.91, 0.91), 0.9, 4),
    ],
)
def test_a_run_that_cannot_win_stops(
    scores: tuple[float, ...], bar: float | None, epochs: int, small: Callable[..., Job]
) -> None:
    job = small(bar_to_beat=bar)
    job.scores = iter(scores)
    outcome = job.run(replace(PLAIN, epochs=4))
    assert len(outcome.history) == epochs
    assert bool(outcome.stopped) == (epochs < 4)
