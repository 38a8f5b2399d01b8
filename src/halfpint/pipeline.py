"""Stages in order, each done once: a finished stage is found again by its key, an interrupted one resumes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from halfpint import registry
from halfpint.bundle import CARD, Bundle, open_bundle, read_json, write_json
from halfpint.data.conversations import Conversations
from halfpint.data.corpus import Corpus
from halfpint.data.examples import Example
from halfpint.data.prepare import Texts
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.evaluate import classification
from halfpint.evaluate.intervals import bootstrap_interval
from halfpint.evaluate.measure import figures, measure
from halfpint.evaluate.parity import check_parity
from halfpint.progress import Log
from halfpint.stage import Stage, Work

_NAMED_BY = 12  # characters of a key that name a folder


@dataclass(frozen=True)
class Made:
    """A bundle made by stages: the last key, and the seconds that making it took, all stages together."""

    bundle: Bundle
    key: str
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        """Seconds of all stages, from the card."""
        return float(sum(stage.get("seconds", 0.0) for stage in self.bundle.card["stages"]))


def faults_in_order(stages: Sequence[Stage], places: Sequence[str], kind: str = "nothing") -> list[str]:
    """What is wrong with the order of `stages`: each needs what those before it gave, the first one `kind`."""
    faults = []
    for stage, place in zip(stages, places, strict=True):
        if kind not in stage.needs:
            before = "no stage before it" if kind == "nothing" else f"a bundle of the kind {kind!r} before it"
            faults.append(f"{place}: {stage.use} needs {' or '.join(map(repr, stage.needs))}, got {before}")
        kind = kind if stage.gives == "same" else stage.gives
    if not stages:
        faults.append("stage: wanted at least one [[stage]], got none")
    return faults


class Learnable(Protocol):
    """What a pipeline learns from: labelled examples, or a corpus of running text."""

    @property
    def train(self) -> Sequence[Example]:
        """Examples to learn from."""

    @property
    def validation(self) -> Sequence[Example]:
        """Examples to choose by."""

    @property
    def corpus(self) -> Corpus | Conversations | Texts | None:
        """Documents or conversations of both kinds; of labelled texts what they say."""

    @property
    def key(self) -> str:
        """The hash of what training sees."""


class Pipeline:
    """Runs stages for one prepared data set in one folder.

    Args:
        prepared: the data.
        folder: where bundles, checkpoints and measurements go.
        task: the task's module.
        primary: the metric that choices are made on.
    """

    def __init__(self, prepared: Learnable, folder: Path, task: ModuleType, primary: str, log: Log) -> None:
        self.prepared, self.folder, self.task, self.primary, self.log = prepared, folder, task, primary, log
        self.labels: tuple[str, ...] = task.labels_of(prepared.train)

    @cached_property
    def held_texts(self) -> list[str]:
        """The texts that choices are made on."""
        return [example.text for example in self.prepared.validation]

    @cached_property
    def held_targets(self) -> npt.NDArray[np.int64]:
        """Their labels: int64 of shape (texts,)."""
        targets: npt.NDArray[np.int64] = self.task.targets(self.prepared.validation, self.labels)
        return targets

    def make(
        self,
        stages: Sequence[Stage],
        *,
        start: Bundle | None = None,
        kind: str = "nothing",
        deadline: float | None = None,
        bar_to_beat: float | None = None,
    ) -> Made:
        """The bundle that `stages` make, one after the other, from the cache where they were done before.

        Args:
            start: a bundle to go on from; `kind` is what kind of one it is.
        """
        faults = faults_in_order(stages, [f"stage {number + 1}" for number in range(len(stages))], kind)
        if faults:
            raise HalfpintError("stages", wanted="stages that fit together", got="; ".join(faults))
        bundle = start
        key = start.fingerprint if start else ""
        for stage in stages:
            key = stage.key(key, f"{self.prepared.key} {self.primary}")  # stages choose by the metric
            name = f"{stage.use.replace('/', '-')}-{key[:_NAMED_BY]}"
            target = self.folder / name
            if not (target / CARD).is_file():
                work = Work(
                    target=target, scratch=self.folder / f"unfinished-{name}", task=self.task,
                    train=self.prepared.train,
                    validation=self.prepared.validation, labels=self.labels, primary=self.primary, log=self.log,
                    deadline=deadline, bar_to_beat=bar_to_beat, corpus=self.prepared.corpus,
                    make=lambda others: self.make(others).bundle,
                )  # fmt: skip
                self.log.event("stage", use=stage.use, settings=stage.settings(), key=key)
                started = time.monotonic()
                stage.run(bundle, work)
                shutil.rmtree(work.scratch, ignore_errors=True)
                self.log.event("stage done", use=stage.use, seconds=time.monotonic() - started, bundle=target)
            bundle = open_bundle(target)
        assert bundle is not None
        return Made(bundle, key, tuple(stages))

    def assess(self, made: Made) -> dict[str, Any]:
        """The figures of a bundle on the validation texts, in a fresh process; cached beside the bundle.

        Gives "metrics", "interval" of the primary metric, the figures of `Measurement`, "parity" where the bundle is
        an export, and under "predicted" the label index of each text.

        Raises:
            RefusedError: an export that does not pass the parity gate.
        """
        cached = made.bundle.path.with_name(made.bundle.path.name + ".assessment.json")
        if cached.is_file():
            found = read_json(cached)
            if found.get("fingerprint") == made.bundle.fingerprint and found.get("primary") == self.primary:
                return found
        measured = measure(made.bundle, self.held_texts, log=self.log)
        parity = self._parity(made, measured.probabilities)
        predicted = measured.probabilities.argmax(axis=1)
        result = {
            "fingerprint": made.bundle.fingerprint,
            "primary": self.primary,
            "metrics": classification.scores(self.held_targets, measured.probabilities),
            "interval": list(
                bootstrap_interval(self.held_targets, predicted, self.primary, n_classes=len(self.labels))
            ),
            **figures(measured),
            "parity": parity,
            "predicted": predicted.tolist(),
        }
        write_json(cached, result)
        return result

    def _parity(self, made: Made, probabilities: npt.NDArray[np.float32]) -> dict[str, float] | None:
        exports = [number for number, stage in enumerate(made.stages) if stage.gives == "onnx"]
        if not exports:
            return None
        trained = made.stages[: exports[0]]
        return check_parity(
            made.bundle.path.name,
            self.held_targets,
            self._reference(self.make(trained)),
            probabilities,
            # Exact is a bare export; what is cut or quantised besides is judged by its metric.
            exact=exports == [len(made.stages) - 1],
            primary=self.primary,
        )

    def _reference(self, trained: Made) -> npt.NDArray[np.float32]:
        """Probabilities of the trained bundle, by its own engine; cached beside it."""
        path = trained.bundle.path
        texts = sha256("\0".join(self.held_texts).encode("utf-8", "surrogatepass")).hexdigest()[:_NAMED_BY]
        cached = path.with_name(f"{path.name}.reference-{texts}.npy")
        if cached.is_file():
            found: npt.NDArray[np.float32] = np.load(cached, allow_pickle=False)
            return found
        probabilities = open_engine(trained.bundle).probabilities(self.held_texts)
        scratch = cached.with_name(cached.name + ".part.npy")
        np.save(scratch, probabilities, allow_pickle=False)
        scratch.replace(cached)
        return probabilities


def stage_class(use: str, place: str) -> type[Stage]:
    """The stage named "room/file".

    Raises:
        HalfpintError: there is none; the message has the nearest name.
    """
    rooms = ("models", "train", "compress", "distil", "export")
    known = {f"{room}/{name}": (room, name) for room in rooms for name in registry.variants(room)}
    if use not in known:
        from halfpint.errors import nearest

        raise HalfpintError(f"{place}: use", wanted="a stage (room/file)", got=repr(use), todo=nearest(use, known))
    module = registry.load(*known[use])
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Stage) and value.__module__ == module.__name__:
            return value
    raise HalfpintError(f"{place}: use", wanted="a stage (room/file)", got=f"{use!r}, which is no stage")
