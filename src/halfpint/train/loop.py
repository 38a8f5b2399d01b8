"""The one training loop. A method supplies a loss for a batch and what is trainable; the loop does the rest."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, TrainingStoppedError, nearest
from halfpint.machine import describe
from halfpint.stage import Work
from halfpint.train import checkpoint
from halfpint.train.batches import epoch_batches
from halfpint.train.schedule import SCHEDULES, factor

if TYPE_CHECKING:
    import torch

_CHECKPOINT_EVERY_S = 60.0
_RECENT = 64  # losses that tell what is usual
_LATEST = 8  # losses whose median says whether training has blown up: one odd batch is no explosion


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of the loop.

    Args:
        learning_rate: peak rate of AdamW.
        head_learning_rate: peak rate of the task's head; 0 takes learning_rate.
        schedule: linear, cosine, wsd or constant.
        warmup: share of the steps over which the rate rises.
        epochs: passes over the training data.
        stop_after_steps: stop there without changing the schedule; 0 never.
        batch_size, batch_tokens: most texts, and most padded tokens, in a batch.
        accumulate: batches whose gradients are added up before a step.
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
        weight_decay: AdamW's, on matrices alone (no norms, no biases).
        precision: fp32, bf16 (autocast), or auto: bf16 where the machine computes it.
        patience: evaluations without a better score before stopping; 0 never stops.
        seed: of order, dropout and new weights.
    """

    learning_rate: float = 1e-4
    head_learning_rate: float = 0.0
    schedule: str = "linear"
    warmup: float = 0.1
    epochs: int = 4
    stop_after_steps: int = 0
    batch_size: int = 32
    batch_tokens: int = 4096
    accumulate: int = 1
    clip_norm: float = 1.0
    weight_decay: float = 0.01
    precision: str = "auto"
    patience: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a training run came to.

    `history` has one row an evaluation: step, epoch, loss (mean since the last one, nats), score, rate.
    """

    steps: int
    total_steps: int
    best_step: int
    best_score: float
    history: list[dict[str, float]]
    seconds: float
    texts_per_s: float
    stopped: str


def check_settings(settings: Training, place: str) -> None:
    """Raise a HalfpintError for the first setting that cannot be."""
    if settings.schedule not in SCHEDULES:
        raise HalfpintError(
            f"{place}: schedule", wanted=f"one of {', '.join(SCHEDULES)}", got=repr(settings.schedule),
            todo=nearest(settings.schedule, SCHEDULES),
        )  # fmt: skip
    if settings.precision not in ("auto", "fp32", "bf16"):
        raise HalfpintError(f"{place}: precision", wanted="auto, fp32 or bf16", got=repr(settings.precision))
    for name in ("learning_rate", "epochs", "batch_size", "batch_tokens", "accumulate"):
        if getattr(settings, name) <= 0:
            raise HalfpintError(f"{place}: {name}", wanted="a number above 0", got=str(getattr(settings, name)))


def device() -> torch.device:
    """The device to train on: the first GPU, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: str) -> bool:
    """Whether to autocast to bfloat16: when asked to, or by "auto" where the hardware multiplies it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool({"avx512_bf16", "amx_bf16"} & set(describe()["instructions"]))


def optimiser_groups(model: torch.nn.Module, settings: Training, head: str = "classifier.") -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, norms and biases do not; parameters under `head` have their own rate."""
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in checkpoint.trainable(model).items():
        groups.setdefault((name.startswith(head), parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": (settings.head_learning_rate or settings.learning_rate) if is_head else settings.learning_rate,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (is_head, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def train(
    model: torch.nn.Module,
    lengths: Sequence[int],
    batch_loss: Callable[[npt.NDArray[np.int64]], torch.Tensor],
    score: Callable[[], float],
    settings: Training,
    work: Work,
    *,
    guess: float = math.inf,
    on_step: Callable[[int, float], None] | None = None,
    checkpoint_every_s: float = _CHECKPOINT_EVERY_S,
) -> Outcome:
    """Train `model` in place and leave it with the weights of its best evaluation (one an epoch, and one at the end).

    Args:
        model: with `requires_grad` set on what is trainable, already on its device.
        lengths: tokens of each training example, which the batches are made by.
        batch_loss: the mean loss (scalar, nats) of the examples with the given indices.
        score: the validation score of the model as it is now; higher is better.
        work: gives scratch (checkpoints), log, deadline and bar_to_beat.
        guess: the loss of guessing evenly (ln of the number of classes); a run that stays above it has exploded.
        on_step: called after each step with its number and loss.
        checkpoint_every_s: seconds between checkpoints; each evaluation makes one too.

    Raises:
        TrainingStoppedError: the loss is not finite or exploded; the last good checkpoint stays in `work.scratch`.
    """
    import torch

    groups = optimiser_groups(model, settings)
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
    plan = _plan(lengths, settings)
    total = len(plan)
    torch.manual_seed(settings.seed)
    state = checkpoint.load(work.scratch, model, optimiser) or {
        "step": 0, "best_step": 0, "best_score": -math.inf, "history": [], "recent": [], "seconds": 0.0, "texts": 0,
        "since": [], "worse": 0, "ended": "",
    }  # fmt: skip
    if state["step"]:
        work.log.say(f"resuming at step {state['step']} of {total}", kind="resume", step=state["step"])
    best_path = work.scratch / "best.safetensors"
    bf16 = use_bf16(settings.precision)
    kind = device().type
    saved = started = time.monotonic()
    before = state["seconds"]

    def keep() -> None:
        state["seconds"] = before + time.monotonic() - started
        checkpoint.save(work.scratch, model, optimiser, state)

    model.train()
    with work.log.bar("training", total) as bar:
        bar.advance(state["step"])
        while state["step"] < total and not state["ended"]:
            step = state["step"]
            epoch, batches = plan[step]
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor(settings.schedule, step, total, settings.warmup)
            loss = 0.0
            for batch in batches:
                with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                    part = batch_loss(batch) / len(batches)
                part.backward()  # type: ignore[no-untyped-call]
                loss += float(part.detach())
            _check_loss(loss, state["recent"], guess, step, settings, work)
            norm = torch.nn.utils.clip_grad_norm_(
                [p for g in optimiser.param_groups for p in g["params"]], settings.clip_norm or math.inf
            )
            _check_loss(float(norm), [], math.inf, step, settings, work)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            state["step"] += 1
            state["texts"] += sum(len(batch) for batch in batches)
            state["since"].append(loss)
            state["recent"] = [*state["recent"], loss][-_RECENT:]
            speed = state["texts"] / max(before + time.monotonic() - started, 1e-9)
            bar.advance(1, f"loss {loss:.3f}  {speed:.0f} texts/s")
            work.log.event("step", step=state["step"], loss=loss, learning_rate=optimiser.param_groups[0]["lr"])
            if on_step:
                on_step(state["step"], loss)
            last = state["step"] == total or state["step"] == settings.stop_after_steps
            out_of_time = work.seconds_left() <= 0
            if last or out_of_time or plan[state["step"]][0] != epoch:
                _evaluate(model, score, state, epoch, best_path, optimiser.param_groups[0]["lr"], work)
                if out_of_time and not last:
                    state["ended"] = "the time given was used up"
                elif state["step"] == settings.stop_after_steps:
                    state["ended"] = "stop_after_steps was reached"
                elif settings.patience and state["worse"] >= settings.patience and not last:
                    state["ended"] = f"no better score in {settings.patience} evaluations"
                elif not last and _cannot_win(state["history"], total, work.bar_to_beat):
                    state["ended"] = "it cannot reach the best candidate any more"
            if time.monotonic() - saved >= checkpoint_every_s or (
                state["history"][-1:] and (state["history"][-1]["step"] == state["step"])
            ):
                keep()
                saved = time.monotonic()
    seconds = before + time.monotonic() - started
    checkpoint.load_weights(best_path, model)
    return Outcome(
        steps=state["step"], total_steps=total, best_step=state["best_step"], best_score=state["best_score"],
        history=state["history"], seconds=seconds, texts_per_s=state["texts"] / max(seconds, 1e-9),
        stopped=state["ended"],
    )  # fmt: skip


def _plan(lengths: Sequence[int], settings: Training) -> list[tuple[int, list[npt.NDArray[np.int64]]]]:
    """One entry a step: its epoch and its batches (several when gradients accumulate)."""
    steps: list[tuple[int, list[npt.NDArray[np.int64]]]] = []
    for epoch in range(settings.epochs):
        batches = epoch_batches(
            lengths, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens, seed=settings.seed, epoch=epoch
        )
        width = settings.accumulate
        steps += [(epoch, batches[start : start + width]) for start in range(0, len(batches), width)]
    return steps


def _check_loss(value: float, recent: Sequence[float], guess: float, step: int, settings: Training, work: Work) -> None:
    latest = statistics.median([*recent[-_LATEST + 1 :], value])
    exploded = len(recent) == _RECENT and latest > max(1.2 * guess, 2 * statistics.median(recent))
    if math.isfinite(value) and not exploded:
        return
    cause = "exploded" if exploded else "is not a finite number"
    work.log.event("stopped", step=step, value=value, cause=cause)
    raise TrainingStoppedError(
        f"training, step {step + 1}",
        wanted="a finite loss that falls",
        got=f"one that {cause} ({value:.4g} at learning rate {settings.learning_rate:g})",
        todo=f"Lower learning_rate (try {settings.learning_rate / 4:g}), raise warmup, or check the data; the last "
        f"good checkpoint is kept in {work.scratch}.",
    )


def _evaluate(
    model: torch.nn.Module, score: Callable[[], float], state: dict[str, Any], epoch: int, best_path: Any, rate: float,
    work: Work,
) -> None:  # fmt: skip
    model.eval()
    value = score()
    model.train()
    mean = sum(state["since"]) / max(len(state["since"]), 1)
    row = {"step": state["step"], "epoch": epoch + 1, "loss": mean, "score": value, "learning_rate": rate}
    state["history"].append(row)
    state["since"] = []
    work.log.say(f"  epoch {epoch + 1}: loss {mean:.4f}, validation {value:.4f}", kind="evaluation", **row)
    if value > state["best_score"]:
        state.update(best_score=value, best_step=state["step"], worse=0)
        checkpoint.save_weights(best_path, model)
    else:
        state["worse"] += 1


def _cannot_win(history: Sequence[dict[str, float]], total: int, bar: float | None) -> bool:
    """Whether even the last gain in score, repeated in every epoch left, would not reach `bar`."""
    if bar is None or len(history) < 2 or history[-1]["step"] < total / 2:
        return False
    gain = max(history[-1]["score"] - history[-2]["score"], 0.0)
    epochs_left = (total - history[-1]["step"]) / max(history[-1]["step"] - history[-2]["step"], 1)
    return history[-1]["score"] + gain * epochs_left < bar
