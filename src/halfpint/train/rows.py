"""The rows that pre-training learns from and is judged on, step by step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from halfpint.bundle import read_json, write_json
from halfpint.data.packing import ALONE, Packed
from halfpint.data.streams import Streams
from halfpint.data.token_store import TokenStore
from halfpint.errors import HalfpintError
from halfpint.models import sizes
from halfpint.stage import Work
from halfpint.train import ranks
from halfpint.train._masking import counted, masked
from halfpint.train.loop import device
from halfpint.train.plan import Plan
from halfpint.train.special import Special

if TYPE_CHECKING:
    from halfpint.train.pretrain import Pretrain

_CACHED_TOKENS = 1024  # on a CPU
SEGMENTS = "segments"
"""The packing of models that remember: rows go on from step to step."""
_BEFORE = "before.json"
_BEFORE_SHARE = 0.1  # of the time, for the score of the base


class Part(NamedTuple):
    """Rows whose loss is computed at once: their arrays, and what the summed loss is multiplied by."""

    arrays: dict[str, Any]
    share: float


def part_rows(rows: int, context: int) -> int:
    """Rows whose gradients are got at once: on a CPU so few that what passes between layers stays in its cache."""
    return rows if device().type != "cpu" else min(rows, max(1, _CACHED_TOKENS // context))


def rows_of(
    stage: Pretrain, store: TokenStore, rows: int, special: Special, *, seed: int = 0, shuffle: bool = True
) -> Packed | Streams:
    """The rows of a stage's batches: packed, or such that each goes on from step to step."""
    if stage.packing == SEGMENTS:
        return Streams(store, length=stage.context, batch_size=rows, seed=seed, shuffle=shuffle)
    return Packed(
        store, length=stage.context, batch_size=rows, mode=stage.packing, seed=seed, pad=special.pad, shuffle=shuffle
    )


class Batches:
    """What each step trains on: a pure function of the seed and the step."""

    def __init__(self, stage: Pretrain, store: TokenStore, objective: str, special: Special, rows: int) -> None:
        self._masking = special.masking(stage.mask_share) if objective == sizes.MASKED else None
        self._seed, self._parts = stage.seed, stage.accumulate
        self._packed = rows_of(stage, store, rows, special, seed=stage.seed)
        self._rank, self._world = ranks.join()
        if self._world > 1 and stage.packing == ALONE:  # the batches have other numbers of rows
            raise HalfpintError(
                f"{stage.use}: packing", wanted="fit or stream in several processes", got=ALONE,
                todo="Start it without torchrun, or take an architecture that keeps the documents of a row apart.",
            )  # fmt: skip
        if rows < self._world:
            raise HalfpintError(
                f"{stage.use}: batch_tokens", wanted=f"a sequence for each of the {self._world} processes",
                got=f"{rows}", todo=f"Give {self._world * stage.context:,} or more.",
            )  # fmt: skip
        self.tokens_a_step = self._packed.tokens_a_step * stage.accumulate
        self.steps_per_epoch = max(1, len(self._packed) // stage.accumulate)

    def step(self, step: int) -> tuple[int, list[Part]]:
        """The epoch of a step and its batches, which share its loss by the labels they have."""
        found = []
        for number in range(step * self._parts, (step + 1) * self._parts):
            arrays = self._packed.batch(number)._asdict()
            if self._masking:
                arrays = masked(arrays, self._masking, np.random.default_rng([self._seed, 1, number]))
            found.append(arrays)
        labels = sum(counted(arrays) for arrays in found)
        parts = [part for arrays in found for part in self._split(arrays)]
        share = len(parts) * self._world / max(labels, 1)  # the loop takes the mean over batches and processes
        return step // self.steps_per_epoch, [Part(arrays, share) for arrays in parts]

    def _split(self, arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """This process' rows, in parts."""
        own = {name: array[self._rank :: self._world] for name, array in arrays.items()}
        rows, width = own["input_ids"].shape
        at_once = part_rows(rows, width)
        for start in range(0, rows, at_once):
            yield {name: array[start : start + at_once] for name, array in own.items()}

    def size(self, part: Part) -> tuple[int, int]:
        """Rows and tokens (padding left out) of a batch, with what the other processes have meanwhile."""
        tokens = int((part.arrays["sequence_ids"] >= 0).sum())
        return len(part.arrays["input_ids"]) * self._world, tokens * self._world


class HeldOut:
    """Validation rows and a model's loss on them.

    Args:
        batches: arrays of packed rows.
        of: the unit of the loss, in words.

    Attributes:
        names: what the mean loss before and after training is called in a card.
    """

    names = "nats_before", "nats_per_token"

    def __init__(self, learner: Any, batches: Sequence[dict[str, Any]], of: str) -> None:
        self._learner, self._batches, self.of = learner, list(batches), of

    @property
    def tokens(self) -> int:
        """Tokens of the rows, padding included."""
        return sum(int(arrays["input_ids"].size) for arrays in self._batches)

    def loss(self) -> tuple[float, int]:
        """The summed loss in nats over the labels, and how many there are."""
        found: tuple[float, int] = self._learner.held_out(self._batches)
        return found

    def before(self, work: Work, seconds: float) -> float:
        """Nats a label of the base, kept in scratch. `seconds` is what all of the training may take.

        What there is no time for is left out, here and in what follows.
        """
        path = work.scratch / _BEFORE
        if not path.is_file():
            until = time.monotonic() + _BEFORE_SHARE * seconds
            nats, count, done = 0.0, 0, 0
            while done < len(self._batches) and (not done or time.monotonic() < until):
                more = self._learner.held_out(self._batches[done : done + 1])
                nats, count, done = nats + more[0], count + more[1], done + 1
            mean = nats / max(count, 1)
            write_json(path, {"nats": mean, "batches": done})
            less = f" (on {done} of {len(self._batches)} batches: there is no time for more)"
            work.log.say(
                f"  before: validation {mean:.4f} {self.of}" + (less if done < len(self._batches) else ""),
                kind="before", nats=mean, batches=done,
            )  # fmt: skip
        found = read_json(path)
        self._batches = self._batches[: int(found["batches"])]
        return float(found["nats"])


class Judge(HeldOut):
    """The validation score as the loop asks for it: minus the nats a token, and what else there is to tell."""

    def __init__(self, stage: Pretrain, learner: Any, store: TokenStore, special: Special, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        packed = rows_of(stage, store, stage.rows(), special, shuffle=len(store.tokens) > stage.evaluation_tokens)
        steps = max(1, min(len(packed), stage.evaluation_tokens // packed.tokens_a_step))
        batches = [packed.batch(step)._asdict() for step in range(steps)]
        if masks := learner.objective == sizes.MASKED:
            masking, random = special.masking(stage.mask_share), np.random.default_rng([0, 2])
            batches = [masked(arrays, masking, random) for arrays in batches]
        super().__init__(learner, batches, "nats per masked token" if masks else "nats per token")
        self._tokens_per_byte = len(store.tokens) / max(store.text_bytes, 1)
        self._done, self._since = 0, time.monotonic()

    def count(self, plan: Plan) -> Callable[[int, float], None]:
        """What the loop calls after each step, for the speed between two evaluations."""
        tokens = sum(plan.size(part)[1] for part in plan.step(0)[1])  # each step has about as many
        self._since = time.monotonic()

        def on_step(step: int, loss: float) -> None:
            self._done += tokens

        return on_step

    def __call__(self) -> tuple[float, dict[str, Any]]:
        from halfpint.train.learner import bits_per_byte

        speed = self._done / max(time.monotonic() - self._since, 1e-9)
        nats, count = self.loss()
        mean = nats / max(count, 1)
        bits = bits_per_byte(nats, count, self._tokens_per_byte)
        found: dict[str, Any] = {"nats_per_token": mean, "bits_per_byte": bits, "tokens_per_s": round(speed, 1)}
        found["said"] = f"validation {mean:.4f} {self.of}, {bits:.4f} bits per byte"
        if self._learner.objective == sizes.CAUSAL:
            found["sample"] = self._learner.sample(self._tokenizer)
            found["said"] += f": {json.dumps(found['sample'][:80], ensure_ascii=False)}"
        self._done, self._since = 0, time.monotonic()
        return -mean, found
