"""What is not quantised yet learns to make up for what is.

Once the embeddings have their codes, and after each block, the weights of the blocks to come are trained for a while
towards what the unquantised model says; then the next block is quantised as it has become. An error is so made up for
by many times the weights that any correction of it alone could move (in the order of A. Zhou et al., "Incremental
Network Quantization", 2017, and with the loss of `_tune`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from halfpint.compress._calibration import blocks_of
from halfpint.compress._matrices import Matrix
from halfpint.compress._tune import Distiller
from halfpint.errors import RefusedError, need
from halfpint.files import new_file

STEP_TOKENS = 1024
"""Tokens of a step: few, since few steps fit between two blocks."""
RATE = 1e-4
"""Of matrices (Adam): at 2e-4 single batches taught SmolLM2 more noise than use."""
_NORMS = 10.0  # times the rate, in units of their mean size, for norms and biases
_WARMUP = 8  # steps
WORTH = 0.05
"""Nats that the embeddings' codes have to cost: beside less, what single batches teach is noise."""
_HARM = 1.1  # of the divergence before: beside the embeddings' errors alone, a first training may gain nothing yet
_MADE_UP = 0.037  # of what an error costs, that each block behind it makes up for: with SmolLM2 at 2 bits
_EMBEDDINGS_COUNT = 4.0  # blocks that their errors are worth in time
_BETAS = (0.9, 0.95)
_FACTS = "facts"


@dataclass
class Adaptation:
    """Trains the blocks to come; called with how many are quantised.

    Args:
        distiller: of the model; tells what it should say.
        coded: the weights that get codes: those of finished blocks are kept by others.
        minutes: in all; tokens: that are learned from in all, where minutes do not count (0: they do).
        scratch: where what was learned is kept, so that a stopped run goes on.

    Attributes:
        facts: what was done, for the card: steps, seconds, divergence (nats, rows not learned from) before and after
            the first training, whether that was kept, and whether there were others.
    """

    distiller: Distiller
    coded: Sequence[Any]
    minutes: float
    tokens: int
    scratch: Path
    facts: dict[str, Any] = field(default_factory=lambda: {"steps": 0, "seconds": 0.0, "kept": True, "goes_on": True})

    def __post_init__(self) -> None:
        model = self.distiller.model
        self._blocks = blocks_of(model)
        self._inside = list(self._blocks.parameters())
        known = {id(one) for one in self._inside}
        self._outside = [one for one in model.parameters() if one.ndim == 1 and id(one) not in known]
        weights = [*self._outside, *self._inside]
        groups: list[dict[str, Any]] = [{"params": [one], "lr": RATE * _size(one)} for one in weights]
        self._rates = [group["lr"] for group in groups]
        self._optimiser = need("torch", "quantising").optim.Adam(groups, betas=_BETAS, fused=True)
        self._order: list[int] = []
        self._random = np.random.default_rng(self.distiller.seed)
        self._steps, self._resumed, self._a_step = 0, -1, 0.0

    @property
    def is_on(self) -> bool:
        """Whether it goes on: where the first training did harm it does not."""
        return bool(self.facts["goes_on"])

    def __call__(self, done: int) -> None:
        """Train what is behind the first `done` blocks; what was learned in an earlier run is taken from there."""
        found = sorted(self.scratch.glob("rest-*.safetensors"))
        if not done and found:
            self._resumed = int(found[-1].stem.split("-")[1])
            self._read(found[-1])
        if done <= self._resumed or not self.is_on or done >= len(self._blocks):
            return
        used = {id(one) for one in self._blocks[:done].parameters()}
        rest = [one for one in self._inside if id(one) not in used]
        if done:
            self._train(rest, done)
        else:  # what is outside may come before the first block, and that is walked through only once
            self._try([*self._outside, *rest])
        self._write(self.scratch / f"rest-{done:03d}.safetensors", self._kept(done))
        for one in found:
            one.unlink()
        if not self.is_on or done + 1 == len(self._blocks):
            self._optimiser.state.clear()

    def _kept(self, done: int) -> list[Any]:
        """What nobody else keeps once so many blocks are done: all but the coded matrices of those."""
        coded = {id(one) for one in self.coded}
        theirs = {id(one) for one in self._blocks[:done].parameters()} & coded
        return [one for one in [*self._outside, *self._inside] if id(one) not in theirs]

    def _try(self, rest: Sequence[Any]) -> None:
        """Train once; what gained nothing is taken back, and where it did harm no more is trained."""
        self.facts["kl_before"] = self.distiller.divergence()
        before = [one.detach().clone() for one in rest]
        try:
            self._train(rest, 0)
            after = self.distiller.divergence()
        except RefusedError:
            after = math.nan
        if math.isfinite(after):  # a card holds numbers alone
            self.facts["kl_after"] = after
        self.facts["kept"] = after < self.facts["kl_before"]
        self.facts["goes_on"] = after < _HARM * self.facts["kl_before"]
        if not self.facts["kept"]:
            self._optimiser.state.clear()
            with need("torch", "quantising").no_grad():
                for one, values in zip(rest, before, strict=True):
                    one.copy_(values)

    def _train(self, rest: Sequence[Any], done: int) -> None:
        from halfpint.models.quick_passes import quick_passes

        started, before, distiller = time.monotonic(), self.facts["seconds"], self.distiller
        rows, _ = distiller.rows()
        wanted = {id(one) for one in rest}
        for one in distiller.model.parameters():
            one.requires_grad_(id(one) in wanted)
            if id(one) not in wanted:
                self._optimiser.state.pop(one, None)
        at_once = max(1, round(STEP_TOKENS / distiller.row_tokens))
        try:
            with quick_passes(distiller.model):
                while self._has_room(done, at_once):
                    if len(self._order) < at_once:
                        self._order += self._random.permutation(len(rows)).tolist()
                    some, self._order = self._order[:at_once], self._order[at_once:]
                    self._step([rows[number] for number in some])
                    spent = before + time.monotonic() - started
                    self._a_step, self.facts["seconds"] = spent - self.facts["seconds"], spent
        finally:
            for one in distiller.model.parameters():
                one.requires_grad_(False)
                one.grad = None
        self.facts["seconds"] = round(self.facts["seconds"], 1)

    def _step(self, rows: Sequence[tuple[int, int]]) -> None:
        loss = self.distiller.mean(rows)
        if not math.isfinite(loss):
            raise RefusedError(
                "adapting", wanted="a loss that is a number", got=str(loss), todo="Take the method gptq."
            )
        self._steps += 1
        self.facts["steps"] += 1
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * min(1.0, self._steps / _WARMUP)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def _has_room(self, done: int, at_once: int) -> bool:
        """Whether half of another step fits into what may have been spent by now; the first step always does."""
        if not self.facts["steps"]:
            return True
        share = (_EMBEDDINGS_COUNT + done) / (_EMBEDDINGS_COUNT + len(self._blocks) - 1)
        if self.tokens:
            due = self.tokens * share / (at_once * self.distiller.row_tokens)
            return bool(self.facts["steps"] + 0.5 <= due)
        return bool(self.facts["seconds"] + 0.5 * self._a_step <= 60 * self.minutes * share)

    def _write(self, file: Path, weights: Sequence[Any]) -> None:
        """What is learned so far, whole or not at all."""
        tensors = {f"{number:05d}": one.detach().contiguous() for number, one in enumerate(weights)}
        facts = {_FACTS: json.dumps(self.facts)}
        with new_file(file) as part:
            need("safetensors.torch", "quantising").save_file(tensors if self.is_on else {}, part, metadata=facts)

    def _read(self, file: Path) -> None:
        no_grad = need("torch", "quantising").no_grad()
        with need("safetensors", "quantising").safe_open(file, framework="pt") as held, no_grad:
            self.facts = json.loads(held.metadata()[_FACTS])
            for number, one in enumerate(self._kept(self._resumed) if self.is_on else []):
                one.copy_(held.get_tensor(f"{number:05d}"))


def as_made_up_for(matrices: Sequence[Matrix], sensitivity: Mapping[str, Any]) -> dict[str, Any]:
    """Sensitivities, each (outputs,) by matrix, as they are where blocks make up for those before them: what is done
    first costs least in the end, so that bits are better spent on what comes last."""
    last = max((matrix.block or 0 for matrix in matrices), default=0)
    behind = {matrix.name: 0 if matrix.block is None else last - matrix.block for matrix in matrices}
    return {name: sensitivity[name] * (1 - _MADE_UP) ** count for name, count in behind.items()}


def _size(weight: Any) -> float:
    """What a step of a weight is measured in: norms and biases have few numbers, and learn quicker."""
    return 1.0 if weight.ndim > 1 else _NORMS * (float(weight.detach().abs().mean()) or 1.0)
