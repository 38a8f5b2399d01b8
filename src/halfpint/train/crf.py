"""Stage: a conditional random field over words, what was best before networks and is small and fast still."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from halfpint.bundle import Bundle, Kind, write_json
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.models.crf import Crf, from_pairs
from halfpint.models.word_attributes import attributes
from halfpint.outputs import NO_LABEL, Floats, Ints
from halfpint.stage import Stage, Work
from halfpint.train import encoders

_TRIED = 4  # steps that tell what one takes


@dataclass(frozen=True, kw_only=True)
class CrfTraining(Stage):
    """Words, their forms, endings and neighbours into a linear-chain conditional random field, by L-BFGS (CRFsuite).

    Args:
        l1: how much the sum of the weights' sizes costs: most become zero, and the model small.
        l2: how much the sum of their squares costs.
        iterations: steps at most.
        train_texts: learn from so many texts, drawn with `seed`; 0 takes all.
        smallest: weights nearer to zero are left out.
        time_share: share of the time that is left which training may take: it makes fewer steps where there is less.
        seed: of the texts drawn.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.READY

    l1: float = 0.1
    l2: float = 0.01
    iterations: int = 100
    train_texts: int = 0
    smallest: float = 0.01
    time_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("l1", "l2", "train_texts", "smallest", "seed"):
            if getattr(self, name) < 0:
                raise SettingError(f"{self.use}: {name}", wanted="0 or more", got=str(getattr(self, name)))
        if self.iterations < 1:
            raise SettingError(f"{self.use}: iterations", wanted="1 or more", got=str(self.iterations))
        if not 0 < self.time_share <= 1:
            raise SettingError(f"{self.use}: time_share", wanted="a share above 0, at most 1", got=str(self.time_share))

    def check(self) -> None:
        """Refuse to begin without CRFsuite."""
        need("pycrfsuite", "training a conditional random field")

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train, keep the weights that count."""
        started = time.monotonic()
        task = work.labelled
        examples = encoders.drawn(work.train, self.train_texts, self.seed)
        texts = task.texts(examples)
        targets = task.targets(examples, work.labels)
        sizes = task.units(texts)
        if sizes is None:
            raise HalfpintError(
                self.use, wanted="a task that labels words", got=f"the task {task.name!r}: {task.about}"
            )
        split = np.split(targets, np.cumsum(sizes)[:-1])
        field, steps = self._fit(texts, split, len(work.labels), work)
        with self.new_bundle(work) as (folder, card):
            write_json(folder / "config.json", {"model_type": "crf", "id2label": dict(enumerate(work.labels))})
            field.write(folder)
            card.update(task=task.name, engine="crf")
            card["stages"].append(
                self.entry(started, steps=steps, attributes=len(field.names), weights=len(field.weights))
            )
        return Bundle(work.target)

    def _fit(self, texts: Sequence[str], targets: Sequence[Ints], tags: int, work: Work) -> tuple[Crf, int]:
        """CRFsuite's field, as arrays, and the steps that it took."""
        crfsuite = need("pycrfsuite", "training a conditional random field")
        end = time.monotonic() + work.seconds_left() * self.time_share
        bar: Any = None
        steps_at: list[float] = []

        class Told(crfsuite.Trainer):  # type: ignore[misc, name-defined]
            def message(self, message: str) -> None:
                if "Iteration #" in message:
                    steps_at.append(time.monotonic())
                    if bar:
                        bar.advance(1)

        trainer: Any = Told(algorithm="lbfgs", verbose=False)
        trainer.set_params({"c1": self.l1, "c2": self.l2, "feature.possible_transitions": True})
        # Attributes and tags go in as numbers: CRFsuite tells its weights in text, where names could be mistaken.
        numbers: dict[str, int] = {}
        for text, wanted in zip(texts, targets, strict=True):
            if len(wanted) and (wanted != NO_LABEL).all():
                given = [[str(numbers.setdefault(one, len(numbers))) for one in word] for word in attributes(text)]
                trainer.append(crfsuite.ItemSequence(given), [str(tag) for tag in wanted])
        if not numbers:
            raise HalfpintError(self.use, wanted="texts with labelled words", got="none")
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "field")
            steps = self.iterations
            if not math.isinf(end):
                began = time.monotonic()
                trainer.set_params({"max_iterations": _TRIED})
                trainer.train(file)
                steps = self._affordable([began, *steps_at], end - time.monotonic())
            tried = len(steps_at)
            with work.log.bar("Training a conditional random field", steps) as bar:
                trainer.set_params({"max_iterations": steps})
                trainer.train(file)
            tagger = crfsuite.Tagger()
            tagger.open(file)
            told = tagger.info()
            tagger.close()
        transitions: Floats = np.zeros((tags, tags), dtype=np.float32)
        for (one, other), weight in told.transitions.items():
            transitions[int(one), int(other)] = weight
        pairs = ((int(name), int(tag), weight) for (name, tag), weight in told.state_features.items())
        return from_pairs(list(numbers), pairs, transitions, self.smallest), len(steps_at) - tried

    def _affordable(self, times: Sequence[float], seconds: float) -> int:
        """How many steps there is time for, one at least; `times`: the beginning, and the ends of a few steps."""
        pace = (times[-1] - times[1]) / (len(times) - 2) if len(times) > 2 else 0.0
        over = seconds - (times[1] - times[0]) if len(times) > 1 else seconds
        return max(1, min(self.iterations, 1 + int(over / pace))) if pace > 0 else self.iterations
