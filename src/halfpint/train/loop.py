"""The one training loop. A method supplies a loss for a batch and what is trainable; the loop does the rest."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from halfpint.errors import SettingError, TrainingStoppedError, nearest
from halfpint.machine import describe
from halfpint.stage import Work
from halfpint.train import checkpoint, ranks
from halfpint.train.plan import Plan, epochs
from halfpint.train.schedule import SCHEDULES, factor

if TYPE_CHECKING:
    import torch

OPTIMIZERS = ("adamw", "muon")
_CHECKPOINT_EVERY_S = 60.0
_RECENT = 64  # losses that tell what is usual
_LATEST = 8  # losses whose median says whether training has blown up: one odd batch is no explosion


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of the loop.

    Args:
        optimizer: adamw; or muon, whose steps for the matrices inside the network are orthogonalised: about twice as
            good where training is short, for a fifth more time (Jordan et al. 2024).
        learning_rate: peak rate.
        head_learning_rate: peak rate of the task's head; 0 takes learning_rate.
        schedule: linear, cosine, wsd or constant.
        warmup: share of the steps over which the rate rises.
        epochs: passes over the training data.
        stop_after_steps: stop there without changing the schedule; 0 never.
        batch_size: most texts in a batch.
        batch_tokens: most padded tokens in a batch.
        accumulate: batches whose gradients are added up before a step.
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
        weight_decay: AdamW's, on matrices alone (no norms, no biases).
        precision: fp32, bf16 (autocast), or auto: bf16 where the machine computes it.
        patience: evaluations without a better score before stopping; 0 never stops.
        seed: of order, dropout and new weights.
    """

    optimizer: str = "adamw"
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

    def with_rate(self, learning_rate: float) -> Training:
        """These settings alone, without what a stage has besides, and with the peak rate that was chosen."""
        held = {item.name: getattr(self, item.name) for item in fields(Training)}
        return Training(**{**held, "learning_rate": learning_rate})


@dataclass(frozen=True)
class Outcome:
    """What a training run came to.

    `history` has one row an evaluation: step, epoch, tokens read so far, loss (mean since the last one, nats), score,
    rate, and what else the score came with. `total_steps` is what the schedule was made for.
    """

    steps: int
    total_steps: int
    best_step: int
    best_score: float
    history: list[dict[str, float]]
    seconds: float
    texts_per_s: float
    tokens_per_s: float
    stopped: str


def check_settings(settings: Training, place: str, *, may_be_zero: Sequence[str] = ()) -> None:
    """Raise a HalfpintError for the first setting that cannot be; a zero may stand for a choice to be made."""
    if settings.schedule not in SCHEDULES:
        raise SettingError(
            f"{place}: schedule", wanted=f"one of {', '.join(SCHEDULES)}", got=repr(settings.schedule),
            todo=nearest(settings.schedule, SCHEDULES),
        )  # fmt: skip
    if settings.optimizer not in OPTIMIZERS:
        raise SettingError(
            f"{place}: optimizer", wanted=" or ".join(OPTIMIZERS), got=repr(settings.optimizer),
            todo=nearest(settings.optimizer, OPTIMIZERS),
        )  # fmt: skip
    check_precision(settings.precision, place)
    for name, fits, wanted in (
        ("seed", settings.seed >= 0, "0 or more"),
        ("warmup", 0 <= settings.warmup <= 1, "a share from 0 to 1"),
        ("weight_decay", settings.weight_decay >= 0, "0 or more"),
        ("clip_norm", settings.clip_norm >= 0, "0 or more"),
        ("head_learning_rate", settings.head_learning_rate >= 0, "0 or more"),
    ):
        if not fits:
            raise SettingError(f"{place}: {name}", wanted=wanted, got=str(getattr(settings, name)))
    for name in ("learning_rate", "epochs", "batch_size", "batch_tokens", "accumulate"):
        value = getattr(settings, name)
        if value < 0 or (value == 0 and name not in may_be_zero):
            raise SettingError(f"{place}: {name}", wanted="a number above 0", got=str(value))


def device() -> torch.device:
    """The device to train on: the first GPU, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_precision(precision: str, place: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        HalfpintError: with those that there are.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise SettingError(f"{place}: precision", wanted="auto, fp32 or bf16", got=repr(precision))


def use_bf16(precision: str) -> bool:
    """Whether to autocast to bfloat16: when asked to, or by "auto" where the hardware multiplies it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool({"avx512_bf16", "amx_bf16"} & set(describe()["instructions"]))


def optimiser_groups(model: torch.nn.Module, settings: Training, head: str = "classifier.") -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, norms and biases do not; parameters under `head` have their own rate.

    With muon the matrices inside the network are groups with "muon" true; embeddings and output layers are not.
    """
    inside = _inner_matrices(model) if settings.optimizer == "muon" else set()
    groups: dict[tuple[bool, bool, bool], list[Any]] = {}
    for name, parameter in checkpoint.trainable(model).items():
        kind = (name.startswith(head), parameter.ndim >= 2, id(parameter) in inside)
        groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": (settings.head_learning_rate or settings.learning_rate) if is_head else settings.learning_rate,
            "weight_decay": settings.weight_decay if decays else 0.0,
            **({"muon": True} if is_inside else {}),
        }
        for (is_head, decays, is_inside), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _inner_matrices(model: Any) -> set[int]:
    """Which parameters are matrices between two hidden states: what they give and take are both learned directions."""
    import torch

    outside = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    if hasattr(model, "get_output_embeddings"):
        outside.add(id(getattr(model.get_output_embeddings(), "weight", None)))
    return {id(parameter) for parameter in model.parameters() if parameter.ndim == 2} - outside


def _optimiser(model: torch.nn.Module, settings: Training, betas: tuple[float, float]) -> torch.optim.Optimizer:
    import torch

    groups = optimiser_groups(model, settings)
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": betas, "eps": 1e-8, "fused": True}
    if settings.optimizer == "muon":
        from halfpint.train._muon import Muon

        return Muon(groups, **options)
    return torch.optim.AdamW(groups, **options)


def train(
    model: torch.nn.Module,
    lengths: Sequence[int] | Plan,
    batch_loss: Callable[[Any], torch.Tensor],
    score: Callable[[], float | tuple[float, dict[str, Any]]],
    settings: Training,
    work: Work,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    guess: float = math.inf,
    on_step: Callable[[int, float], None] | None = None,
    checkpoint_every_s: float = _CHECKPOINT_EVERY_S,
) -> Outcome:
    """Train `model` in place and leave it with the weights of its best evaluation.

    It is evaluated once an epoch, or as often as the plan says, and at the end.

    Args:
        model: with `requires_grad` set on what is trainable, already on its device.
        lengths: tokens of each training example, which the batches are made by; or a plan of the steps.
        batch_loss: the mean loss (scalar, nats) of the examples with the given indices, or of a batch of the plan.
        score: the validation score of the model as it is now, higher is better; with it, if wanted, other figures for
            the history (a text under "said" is told).
        work: gives scratch (checkpoints), log, deadline and bar_to_beat.
        betas: decay of AdamW's two moments.
        guess: the loss of guessing evenly (ln of the number of classes); a run that stays above it has exploded.
        on_step: called after each step with its number and loss.
        checkpoint_every_s: seconds between checkpoints; each evaluation makes one too.

    Raises:
        TrainingStoppedError: the loss is not finite or exploded; the last good checkpoint stays in `work.scratch`.
    """
    import torch

    optimiser = _optimiser(model, settings, betas)
    plan = lengths if isinstance(lengths, Plan) else epochs(lengths, settings)
    torch.manual_seed(settings.seed)
    state = checkpoint.load(work.scratch, model, optimiser) or {
        "step": 0, "best_step": 0, "best_score": -math.inf, "history": [], "recent": [], "seconds": 0.0, "texts": 0,
        "tokens": 0, "since": [], "worse": 0, "ended": "", "total": plan.total,
    }  # fmt: skip
    total = state["total"]
    if state["step"]:
        work.log.say(f"resuming at step {state['step']} of {total}", kind="resume", step=state["step"])
    best_path = work.scratch / "best.safetensors"
    bf16 = use_bf16(settings.precision)
    kind = device().type
    saved = started = time.monotonic()
    before = state["seconds"]

    def keep() -> None:
        state["seconds"] = before + time.monotonic() - started
        if not ranks.is_first():
            return
        checkpoint.save(work.scratch, model, optimiser, state)

    model.train()
    with work.log.bar("training", total) as bar:
        bar.resume(state["step"])
        while state["step"] < total and not state["ended"]:
            step = state["step"]
            epoch, batches = plan.step(step)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor(settings.schedule, step, total, settings.warmup)
            loss = 0.0
            with torch.autocast(kind, torch.bfloat16, enabled=bf16):  # around all: weights are turned once a step
                for batch in batches:
                    part = batch_loss(batch) / len(batches)
                    with torch.autocast(kind, enabled=False):
                        part.backward()  # type: ignore[no-untyped-call]
                    loss += float(part.detach())
            loss = ranks.mean(loss, device())
            ranks.average(p for g in optimiser.param_groups for p in g["params"])
            _check_loss(loss, state["recent"], guess, step, settings, work)
            norm = torch.nn.utils.clip_grad_norm_(
                [p for g in optimiser.param_groups for p in g["params"]], settings.clip_norm or math.inf
            )
            _check_loss(float(norm), [], math.inf, step, settings, work, "gradient")
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            state["step"] += 1
            for batch in batches:
                texts, tokens = plan.size(batch)
                state["texts"] += texts
                state["tokens"] += tokens
            state["since"].append(loss)
            state["recent"] = [*state["recent"], loss][-_RECENT:]
            seconds = max(before + time.monotonic() - started, 1e-9)
            speed = plan.told(state["tokens"] / seconds) or f"{state['texts'] / seconds:.0f} texts/s"
            bar.advance(1, f"loss {loss:.3f}  {speed}")
            rate = optimiser.param_groups[0]["lr"]
            work.log.event("step", step=state["step"], loss=loss, learning_rate=rate, tokens=state["tokens"])
            if on_step:
                on_step(state["step"], loss)
            last = state["step"] == total or state["step"] == settings.stop_after_steps
            out_of_time = work.deadline is not None and ranks.decided(work.seconds_left() <= 0)
            if last or out_of_time or plan.evaluates(state["step"]):
                _evaluate(model, score, state, epoch, best_path, optimiser.param_groups[0]["lr"], work, plan)
                if out_of_time and not last:
                    state["ended"] = "the time limit was reached"
                elif state["step"] == settings.stop_after_steps:
                    state["ended"] = "stop_after_steps was reached"
                elif settings.patience and state["worse"] >= settings.patience and not last:
                    state["ended"] = f"no better score in {settings.patience} evaluations"
                elif not last and _cannot_win(state["history"], total, work.bar_to_beat):
                    state["ended"] = "it cannot reach the best candidate any more"
            if not last and not state["ended"] and plan.refits(state["step"], total):
                spent = before + time.monotonic() - started
                total = state["total"] = ranks.decided(plan.refitted(settings.schedule, state["step"], total, spent))
                bar.total = total
            if time.monotonic() - saved >= checkpoint_every_s or (
                state["history"][-1:] and (state["history"][-1]["step"] == state["step"])
            ):
                keep()
                saved = time.monotonic()
    seconds = before + time.monotonic() - started
    ranks.wait()
    checkpoint.load_weights(best_path, model)
    return Outcome(
        steps=state["step"], total_steps=total, best_step=state["best_step"], best_score=state["best_score"],
        history=state["history"], seconds=seconds, texts_per_s=state["texts"] / max(seconds, 1e-9),
        tokens_per_s=state["tokens"] / max(seconds, 1e-9), stopped=state["ended"],
    )  # fmt: skip


def _check_loss(
    value: float, recent: Sequence[float], guess: float, step: int, settings: Training, work: Work, what: str = "loss"
) -> None:
    latest = statistics.median([*recent[-_LATEST + 1 :], value])
    exploded = len(recent) == _RECENT and latest > max(1.2 * guess, 2 * statistics.median(recent))
    if math.isfinite(value) and not exploded:
        return
    cause = "exploded" if exploded else "is not a finite number"
    work.log.event("stopped", step=step, value=value, cause=cause)
    kept = f"; the last good checkpoint is kept in {work.scratch}" if checkpoint.exists(work.scratch) else ""
    raise TrainingStoppedError(
        f"training, step {step + 1}",
        wanted="a finite loss that falls",
        got=f"a {what} that {cause} ({value:.4g} at learning rate {settings.learning_rate:g})",
        todo=f"Lower learning_rate (try {settings.learning_rate / 4:g}), raise warmup, or check the data{kept}.",
    )


def _evaluate(
    model: torch.nn.Module, score: Callable[[], float | tuple[float, dict[str, Any]]], state: dict[str, Any],
    epoch: int, best_path: Any, rate: float, work: Work, plan: Plan,
) -> None:  # fmt: skip
    model.eval()
    found = score()
    model.train()
    value, figures = found if isinstance(found, tuple) else (found, {})
    mean = sum(state["since"]) / max(len(state["since"]), 1)
    row = {"step": state["step"], "epoch": epoch + 1, "loss": mean, "score": value, "learning_rate": rate}
    row["tokens"] = state["tokens"]
    said = figures.pop("said", f"validation {value:.4f}")
    state["history"].append({**row, **figures})
    state["since"] = []
    when = f"step {state['step']}" if plan.evaluate_every else f"epoch {epoch + 1}"
    work.log.say(f"  {when}: loss {mean:.4f}, {said}", kind="evaluation", **row, **figures)
    if value > state["best_score"]:
        state.update(best_score=value, best_step=state["step"], worse=0)
        if ranks.is_first():
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
