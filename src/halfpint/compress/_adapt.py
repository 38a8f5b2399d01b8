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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from halfpint.compress._calibration import blocks_of
from halfpint.compress._tune import Distiller
from halfpint.errors import RefusedError, need

STEP_TOKENS = 1024
RATE = 1e-4
_NORMS = 10.0  # times the rate, in units of their mean size, for norms and biases
_WARMUP = 8  # steps
_WORTH = 0.05  # nats that the embeddings' codes have to cost: beside less, what single batches teach is noise
_EMBEDDINGS_COUNT = 4.0  # blocks that their errors are worth in time
_BETAS = (0.9, 0.95)
_FACTS = "facts"


@dataclass
class Adaptation:
    """Trains the blocks to come; called with how many are quantised.

    Args:
        distiller: of the model; tells what it should say.
        minutes: in all; tokens: that are learned from in all, where minutes do not count (0: they do).
        scratch: where what was learned is kept, so that a stopped run goes on.

    Attributes:
        facts: what was done, for the card: steps, seconds, divergence (nats, rows not learned from) before and after
            the first training, whether that was kept (False where nothing was trained).
    """

    distiller: Distiller
    minutes: float
    tokens: int
    scratch: Path
    facts: dict[str, Any] = field(default_factory=lambda: {"steps": 0, "seconds": 0.0, "kept": True})

    def __post_init__(self) -> None:
        model = self.distiller.model
        self._blocks = blocks_of(model)
        inside = list(self._blocks.parameters())
        known = {id(one) for one in inside}
        self._weights = [one for one in model.parameters() if one.ndim == 1 and id(one) not in known] + inside
        groups = [{"params": [one], "lr": RATE * _size(one)} for one in self._weights]
        self._rates = [group["lr"] for group in groups]
        self._optimiser = need("torch", "quantising").optim.Adam(groups, betas=_BETAS, fused=True)
        self._order: list[int] = []
        self._random = np.random.default_rng(self.distiller.seed)

    @property
    def is_on(self) -> bool:
        """Whether it goes on: where the first training did harm it does not."""
        return bool(self.facts["kept"])

    def __call__(self, done: int) -> None:
        """Train what is behind the first `done` blocks, or find it as it was trained before."""
        found = sorted(self.scratch.glob("rest-*.safetensors"))
        last = int(found[-1].stem.split("-")[1]) if found else -1
        if done < last or not self.is_on or done >= len(self._blocks):
            return
        used = {id(one) for one in self._blocks[:done].parameters()}
        rest = [one for one in self._weights if id(one) not in used]
        if done == last:
            self._read(found[-1], rest)
            return
        if done:
            self._train(rest, 1.0)
        else:
            self._try(rest)
        self._write(self.scratch / f"rest-{done:03d}.safetensors", rest if self.is_on else [])
        for one in found:
            one.unlink()

    def _try(self, rest: Sequence[Any]) -> None:
        """Train once where there is enough to make up for; what did harm is taken back."""
        self.facts["kl_before"] = self.distiller.divergence()
        if self.facts["kl_before"] < _WORTH:
            self.facts["kept"] = False
            return
        before = [one.detach().clone() for one in rest]
        self._train(rest, _EMBEDDINGS_COUNT)
        self.facts["kl_after"] = self.distiller.divergence()
        self.facts["kept"] = self.facts["kl_after"] < self.facts["kl_before"]
        if not self.is_on:
            with need("torch", "quantising").no_grad():
                for one, values in zip(rest, before, strict=True):
                    one.copy_(values)

    def _train(self, rest: Sequence[Any], count_as: float) -> None:
        from halfpint.models.quick_passes import quick_passes

        started, distiller = time.monotonic(), self.distiller
        rows, _ = distiller.rows()
        share = count_as / (_EMBEDDINGS_COUNT + len(self._blocks) - 1)
        at_once = max(1, round(STEP_TOKENS / distiller.row_tokens))
        steps = max(1, round(self.tokens * share / (at_once * distiller.row_tokens))) if self.tokens else 0
        wanted = {id(one) for one in rest}
        for one in distiller.model.parameters():
            one.requires_grad_(id(one) in wanted)
            if id(one) not in wanted:
                self._optimiser.state.pop(one, None)
        count = 0
        with quick_passes(distiller.model):
            while count < steps if steps else not count or self._has_time(started, count, share):
                if len(self._order) < at_once:
                    self._order += self._random.permutation(len(rows)).tolist()
                some, self._order = self._order[:at_once], self._order[at_once:]
                loss = distiller.mean([rows[number] for number in some])
                if not math.isfinite(loss):
                    raise RefusedError(
                        "adapting", wanted="a loss that is a number", got=str(loss), todo="Set adapting=0."
                    )
                count += 1
                self.facts["steps"] += 1
                for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
                    group["lr"] = rate * min(1.0, self.facts["steps"] / _WARMUP)
                self._optimiser.step()
                self._optimiser.zero_grad(set_to_none=True)
        for one in distiller.model.parameters():
            one.requires_grad_(False)
        self.facts["seconds"] = round(self.facts["seconds"] + time.monotonic() - started, 1)

    def _has_time(self, started: float, count: int, share: float) -> bool:
        """Whether half of another step fits into the share of the minutes."""
        return (time.monotonic() - started) * (1 + 0.5 / count) < 60 * self.minutes * share

    def _write(self, file: Path, rest: Sequence[Any]) -> None:
        """What is learned so far, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        tensors = {f"{number:05d}": one.detach().contiguous() for number, one in enumerate(rest)}
        facts = {_FACTS: json.dumps(self.facts)}
        need("safetensors.torch", "quantising").save_file(tensors, part, metadata=facts)
        part.replace(file)

    def _read(self, file: Path, rest: Sequence[Any]) -> None:
        no_grad = need("torch", "quantising").no_grad()
        with need("safetensors", "quantising").safe_open(file, framework="pt") as held, no_grad:
            self.facts = json.loads(held.metadata()[_FACTS])
            for number, one in enumerate(rest if self.is_on else []):
                one.copy_(held.get_tensor(f"{number:05d}"))


def _size(weight: Any) -> float:
    """What a step of a weight is measured in: norms and biases have few numbers, and learn quicker."""
    return 1.0 if weight.ndim > 1 else _NORMS * (float(weight.detach().abs().mean()) or 1.0)
