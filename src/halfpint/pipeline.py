"""Stages in order, each done once: a finished stage is found again by its key, an interrupted one resumes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from halfpint.bundle import Bundle, Kind, open_bundle, read_json, write_json
from halfpint.counts import Counts
from halfpint.engines import open_engine
from halfpint.errors import DamagedError, HalfpintError, is_out_of_memory
from halfpint.evaluate.evaluate import score
from halfpint.evaluate.parity import check_parity
from halfpint.files import written
from halfpint.outputs import Outputs, joined, per_text
from halfpint.progress import Log
from halfpint.stage import Stage, Work
from halfpint.task import LabelTask, Split, Task, label_task

_NAMED_BY = 12  # characters of a key that name a folder
_ASSESSMENT = ".assessment.json"
_DAMAGED = (HalfpintError, OSError, ValueError, KeyError, EOFError, BadZipFile)
"""What reading a measurement raises that is not there, or was cut off: it is made again."""


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


@dataclass(frozen=True)
class Assessment:
    """How a bundle did on the validation examples: figures that JSON can hold, and one row of counts per example."""

    figures: dict[str, Any]
    counts: Counts


def recorded(folder: Path) -> Assessment | None:
    """What `Pipeline.assess` wrote beside the bundle in `folder`, with the "fingerprint" of that bundle and the hash of
    its "data" among the figures; None where there is nothing, or it is damaged."""
    cached = folder.with_name(f"{folder.name}{_ASSESSMENT}")
    with suppress(*_DAMAGED):
        figures = read_json(cached)
        with np.load(cached.with_suffix(".npz"), allow_pickle=False) as arrays:
            groups = arrays["groups"] if arrays["groups"].size else None
            return Assessment(figures, Counts(arrays["which"], arrays["rows"], groups))
    return None


def kind_after(stages: Sequence[Stage], kind: Kind = Kind.NOTHING) -> Kind:
    """The kind of bundle that `stages` end with, where the first one begins with `kind`."""
    for stage in stages:
        kind = kind if stage.gives == Kind.SAME else stage.gives
    return kind


def faults_in_order(stages: Sequence[Stage], places: Sequence[str], kind: Kind = Kind.NOTHING) -> list[str]:
    """What is wrong with the order of `stages`: each needs what those before it gave, the first one `kind`."""
    faults = []
    for stage, place in zip(stages, places, strict=True):
        if kind not in stage.needs:
            before = "no stage before it" if kind == Kind.NOTHING else f"a bundle of the kind '{kind}' before it"
            needs = " or ".join(f"'{one}'" for one in stage.needs)
            faults.append(f"{place}: {stage.use} needs {needs}, got {before}")
        kind = kind_after([stage], kind)
    if not stages:
        faults.append("there is no [[stage]]")
    return faults


class Pipeline:
    """Runs stages for one split of data in one folder.

    Args:
        split: the data.
        folder: where bundles, checkpoints and measurements go.
        task: the task.
        primary: the metric that choices are made on.
        labels: of the model that is gone on from; None takes those of the data.
    """

    def __init__(
        self, split: Split[Any], folder: Path, task: Task[Any], primary: str, log: Log,
        labels: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        self.split, self.folder, self.task, self.primary, self.log = split, folder, task, primary, log
        self.labels: tuple[str, ...] = task.labels(split.train) if labels is None else labels

    @property
    def labelled(self) -> LabelTask[Any]:
        """The task, which gives labels.

        Raises:
            HalfpintError: it does not.
        """
        return label_task(self.task, "pipeline")

    @cached_property
    def held_texts(self) -> list[str]:
        """The texts that choices are made on."""
        return self.labelled.texts(self.split.validation)

    def make(
        self,
        stages: Sequence[Stage],
        *,
        start: Bundle | None = None,
        deadline: float | None = None,
        bar_to_beat: float | None = None,
    ) -> Made:
        """The bundle that `stages` make, one after the other, from the cache where they were done before.

        Args:
            start: a bundle to go on from.
        """
        kind = start.kind if start else Kind.NOTHING
        faults = faults_in_order(stages, [f"stage {number + 1}" for number in range(len(stages))], kind)
        if faults:
            raise HalfpintError("stages", wanted="stages that fit together", got="; ".join(faults))
        bundle = start
        key = start.fingerprint if start else ""
        for stage in stages:
            key = stage.key(key, f"{self.split.key} {self.primary}")  # stages choose by the metric
            name = f"{stage.use.replace('/', '-')}-{key[:_NAMED_BY]}"
            target = self.folder / name
            bundle_there = self._finished(target)
            if bundle_there is None:
                work = Work(
                    target=target, scratch=self.folder / f"unfinished-{name}", task=self.task, split=self.split,
                    labels=self.labels, primary=self.primary, log=self.log, deadline=deadline,
                    bar_to_beat=bar_to_beat, make=lambda others: self.make(others).bundle,
                )  # fmt: skip
                self.log.event("stage", use=stage.use, settings=stage.settings(), key=key)
                started = time.monotonic()
                self._run(stage, bundle, work)
                shutil.rmtree(work.scratch, ignore_errors=True)
                self.log.event("stage done", use=stage.use, seconds=time.monotonic() - started, bundle=target)
                bundle_there = open_bundle(target)
            bundle = bundle_there
        assert bundle is not None
        return Made(bundle, key, tuple(stages))

    def _finished(self, target: Path) -> Bundle | None:
        """The bundle at `target`; None where there is none, or a damaged one, which is made again."""
        if not target.exists():
            return None
        try:
            return open_bundle(target)
        except HalfpintError as error:
            self.log.say(f"{target.name} is damaged and is made again: {error}", kind="damaged", bundle=target)
            shutil.rmtree(target)
            return None

    def _run(self, stage: Stage, bundle: Bundle | None, work: Work) -> None:
        """Run a stage; where unfinished work that it goes on from turns out to be damaged, from its beginning."""
        resumes = work.scratch.exists()
        try:
            stage.run(bundle, work)
        except Exception as error:
            is_ours = not isinstance(error, HalfpintError | OSError) and not is_out_of_memory(error)
            if not resumes or not (is_ours or isinstance(error, DamagedError)):
                raise
            said = f"the unfinished work of {stage.use} is damaged, so that it begins again: {error}"
            self.log.say(said, kind="damaged", folder=work.scratch)
            shutil.rmtree(work.scratch)
            stage.run(bundle, work)

    def assess(self, made: Made) -> Assessment:
        """How a bundle does on the validation examples, in a fresh process; cached in the pipeline's folder.

        The figures are "metrics", "interval" of the primary metric, those of `Measurement`, and "parity" where the
        bundle is an export.

        Raises:
            RefusedError: an export that does not pass the parity gate.
        """
        # A bundle from elsewhere may have been assessed on other data, and its folder is not ours to write to.
        inside = made.bundle.path.parent == self.folder
        name = made.bundle.path.name if inside else f"given-{made.bundle.fingerprint[:_NAMED_BY]}"
        cached = self.folder / f"{name}{_ASSESSMENT}"
        rows = cached.with_suffix(".npz")
        before = recorded(self.folder / name)
        if before is not None:
            found = before.figures
            same_data = found.pop("data", self.split.key) == self.split.key  # earlier versions did not write it
            if same_data and (found.get("fingerprint"), found.get("primary")) == (
                made.bundle.fingerprint, self.primary,
            ):  # fmt: skip
                return before
        one = score(made.bundle, self.labelled, self.split.validation, self.labels, self.primary, log=self.log)
        figures = {
            "fingerprint": made.bundle.fingerprint,
            "primary": self.primary,
            "metrics": dict(one.metrics),
            "interval": list(one.interval),
            **one.costs,
            "parity": self._parity(made, one.outputs),
        }
        with written(rows) as file:
            groups = np.zeros(0, dtype=np.int64) if one.counts.groups is None else one.counts.groups
            np.savez_compressed(file, which=one.counts.which, rows=one.counts.rows, groups=groups)
        write_json(cached, {**figures, "data": self.split.key})
        return Assessment(figures, one.counts)

    def _parity(self, made: Made, outputs: Outputs) -> dict[str, float] | None:
        exports = [number for number, stage in enumerate(made.stages) if stage.use.startswith("export/")]
        if not exports:
            return None
        trained = made.stages[: exports[0]]
        return check_parity(
            made.bundle.path.name,
            self.labelled,
            self.split.validation,
            self.labels,
            self._reference(self.make(trained)),
            outputs,
            # Exact is a bare export; what is cut or quantised besides is judged by its metric.
            exact=exports == [len(made.stages) - 1],
            primary=self.primary,
        )

    def _reference(self, trained: Made) -> Outputs:
        """What the trained bundle says, by its own engine; cached beside it."""
        path = trained.bundle.path
        texts = sha256("\0".join(self.held_texts).encode("utf-8", "surrogatepass")).hexdigest()[:_NAMED_BY]
        cached = path.with_name(f"{path.name}.reference-{texts}.npy")
        units = self.labelled.units(self.held_texts)
        with suppress(*_DAMAGED):
            return per_text(np.load(cached, allow_pickle=False), units)
        outputs = open_engine(trained.bundle).probabilities(self.held_texts)
        with written(cached) as file:
            np.save(file, joined(outputs, len(self.labels)), allow_pickle=False)
        return outputs
