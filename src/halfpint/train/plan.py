"""What the steps of a training run are made of: which batches, how many, and when the model is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from halfpint.train.batches import epoch_batches
from halfpint.train.schedule import WSD_DECAY

_FIRST_LOOK = 64  # a step of so many tells of the speed
_LEAST_CHANGE = 0.02  # of the steps: less is within what a machine's speed varies by


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Args:
        total: how many.
        step: the epoch of a step (from 0) and its batches, whose gradients are added up; a pure function of the step,
            so that an interrupted run goes on exactly.
        size: texts (or rows) and tokens in a batch.
        evaluate_every: steps between evaluations; 0 evaluates at the end of each epoch.
        seconds: time that the whole run should take: the steps are counted anew from the speed so far, at each
            evaluation and a few times before the first. Infinite keeps `total`.
        told: the speed as it stands in the progress line, from tokens a second; empty tells texts a second.
    """

    total: int
    step: Callable[[int], tuple[int, Sequence[Any]]]
    size: Callable[[Any], tuple[int, int]]
    evaluate_every: int = 0
    seconds: float = math.inf
    told: Callable[[float], str] = lambda tokens_per_s: ""

    def evaluates(self, done: int) -> bool:
        """Whether the model is evaluated when so many steps are done."""
        if self.evaluate_every:
            return done % self.evaluate_every == 0
        return done < self.total and self.step(done)[0] != self.step(done - 1)[0]

    def refits(self, done: int, total: int) -> bool:
        """Whether the steps are counted anew when so many of so many are done."""
        early = done & (done - 1) == 0 and done * _FIRST_LOOK >= total
        return math.isfinite(self.seconds) and (early or self.evaluates(done))

    def refitted(self, schedule: str, done: int, total: int, spent: float) -> int:
        """The steps that fit into the time when `done` of `total` took `spent` seconds.

        What falls at the end of the schedule "wsd" is not stretched any more once it falls.
        """
        falling = schedule == "wsd" and done >= total * (1 - WSD_DECAY)
        if not math.isfinite(self.seconds) or falling:
            return total
        fitting = done + max(1, int((self.seconds - spent) / (spent / done)))
        return fitting if abs(fitting - total) > _LEAST_CHANGE * total else total


class _Epochs(Protocol):
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def batch_tokens(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def seed(self) -> int: ...


def epochs(lengths: Sequence[int], settings: _Epochs) -> Plan:
    """So many passes over examples of these lengths (in tokens), shuffled and batched by length anew in each."""
    steps: list[tuple[int, Sequence[Any]]] = []
    for epoch in range(settings.epochs):
        batches = epoch_batches(
            lengths, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens, seed=settings.seed, epoch=epoch
        )
        width = settings.accumulate
        steps += [(epoch, batches[start : start + width]) for start in range(0, len(batches), width)]

    def size(batch: Any) -> tuple[int, int]:
        return len(batch), sum(lengths[index] for index in batch)

    return Plan(total=len(steps), step=steps.__getitem__, size=size)
