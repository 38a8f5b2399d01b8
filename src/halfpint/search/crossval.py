"""Few rows used whole: rivals are trained on parts of the training rows and asked the rest, until it shows which is
good enough or the time ends; and the chosen one is trained again on all rows that are not kept for the test."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from zipfile import BadZipFile

import numpy as np

from halfpint.bundle import Bundle
from halfpint.counts import Counts, IntArray
from halfpint.engines import open_engine
from halfpint.errors import DeadlineError, HalfpintError
from halfpint.files import written
from halfpint.outputs import joined, per_text
from halfpint.pipeline import Made, Pipeline
from halfpint.search.choose import Choice, floors
from halfpint.search.compare import Answers
from halfpint.search.tries import Tries
from halfpint.stage import Stage
from halfpint.task import LabelTask, Split

FOLDS = 5
ENOUGH = 5000
"""Validation rows that are enough to choose by: no training rows are asked then."""
_DAMAGED = (OSError, ValueError, KeyError, EOFError, BadZipFile)


@dataclass
class CrossValidation:
    """Answers to training rows by models that did not learn from them.

    Args:
        tries: the candidates; choose_again: chooses by what is known so far.
        deadline: `time.monotonic()` at which it ends.
    """

    tries: Tries
    choose_again: Callable[[], Choice]
    deadline: float
    seed: int = 0
    left_out: set[str] = field(default_factory=set)

    def run(self) -> Choice:
        """Ask one part after the other of those candidates between which the choice is open."""
        choice = self.choose_again()
        split = self.tries.pipeline.split
        if len(split.validation) >= ENOUGH or len(split.train) < 2 * FOLDS:
            return choice
        parts = folds(self.tries.task, split.train, FOLDS, self.seed)
        asked: dict[str, set[int]] = {}
        enough = 1 if self.tries.limits.floor and self.tries.limits.keep is None else 2
        while len(rivals := self._rivals(choice)) >= enough:
            open_parts = (n for n in range(FOLDS) if any(n not in asked.get(name, ()) for name in rivals))
            number = next(open_parts, None)
            if number is None:
                break
            todo = [name for name in rivals if number not in asked.get(name, ())]
            able = todo[: self._affordable(todo)]
            self.left_out |= set(todo[len(able) :])
            if len([name for name in rivals if name not in self.left_out]) < enough:
                break
            if not asked:
                self.tries.log.say(
                    f"{len(split.validation):,} validation rows leave open which is good enough: "
                    "training rows are asked too, of models that did not learn from them",
                    kind="crossval",
                )
            try:
                found = self._ask(able, parts[number], number)
            except DeadlineError:
                break
            for name, counts in found.items():
                asked.setdefault(name, set()).add(number)
                self._add(name, parts[number], counts)
            choice = self.choose_again()
            self._tell(choice, number)
        return choice

    def _rivals(self, choice: Choice) -> list[str]:
        """The best candidate, and those beside it that are undecided; where quality is asked for, the undecided."""
        limits, top = self.tries.limits, choice.top if choice.top and not self.tries.limits.asks else choice.best
        first = [top["name"]] if top and choice.undecided and not (limits.floor and limits.keep is None) else []
        names = [name for name in choice.undecided if name not in (*first, *self.left_out)]
        return [] if first and first[0] in self.left_out else [*first, *names]

    def _affordable(self, names: Sequence[str]) -> int:
        """How many of `names`, from the first on, there is time for: by what their stages took before."""
        left = self.deadline - time.monotonic()
        known: set[tuple[Stage, ...]] = set()
        for number, name in enumerate(names):
            made = self.tries.made[name]
            for at, entry in enumerate(made.bundle.card["stages"]):
                chain = made.stages[: at + 1]
                if chain[-1].uses_data and chain not in known:
                    known.add(chain)
                    left -= float(entry.get("seconds", 0.0))
            if left < 0:
                return number
        return len(names)

    def _ask(self, names: Sequence[str], rows: IntArray, number: int) -> dict[str, Counts]:
        """The counts of candidates on a part of the training rows, by models that learned from the others."""
        pipeline, task = self.tries.pipeline, self.tries.task
        split = pipeline.split
        others = np.setdiff1d(np.arange(len(split.train)), rows)
        part = Split(
            train=[split.train[index] for index in others], validation=split.validation,
            key=f"{split.key} without part {number + 1} of {FOLDS} by {self.seed}",
        )  # fmt: skip
        folder = pipeline.folder / f"part-{number + 1}"
        apart = Pipeline(part, folder, task, self.tries.primary, pipeline.log, pipeline.labels)
        examples = [split.train[index] for index in rows]
        texts = task.texts(examples)
        found = {}
        for name in names:
            made = self.tries.made[name]
            cached = pipeline.folder / f"{made.bundle.path.name}.part-{number + 1}.npy"
            units = task.units(texts)
            try:
                with suppress(*_DAMAGED):
                    values = per_text(np.load(cached, allow_pickle=False), units)
                    found[name] = task.counts(examples, task.decode(texts, values, pipeline.labels), pipeline.labels)
                    continue
                start, stages = self._from_base(made)
                bundle = apart.make(stages, start=start, deadline=self.deadline).bundle
                outputs = open_engine(bundle).probabilities(texts)
            except DeadlineError:
                raise
            except HalfpintError as error:  # such as a blend that is no better: what it is without this step is unknown
                self.tries.log.say(f"  {name}: no answers to part {number + 1}: {error}", kind="crossval")
                self.left_out.add(name)
                continue
            with written(cached) as file:
                np.save(file, joined(outputs, len(pipeline.labels)), allow_pickle=False)
            found[name] = task.counts(examples, task.decode(texts, outputs, pipeline.labels), pipeline.labels)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def _from_base(self, made: Made) -> tuple[Bundle | None, tuple[Stage, ...]]:
        """What comes before a chain learns from data, made already, and the rest of the chain."""
        first = next(number for number, stage in enumerate(made.stages) if stage.uses_data)
        return (self.tries.pipeline.make(made.stages[:first]).bundle if first else None), made.stages[first:]

    def _add(self, name: str, rows: IntArray, counts: Counts) -> None:
        """Add answers to training rows; their numbers come after those of validation."""
        tries, split = self.tries, self.tries.pipeline.split
        known = tries.answers[name]
        numbers = np.concatenate([known.rows, rows + len(split.validation)])
        both = Counts(
            np.concatenate([known.counts.which, counts.which + len(known.counts.rows)]),
            np.concatenate([known.counts.rows, counts.rows]),
        )
        order = np.argsort(numbers)
        examples = [*split.validation, *split.train]
        groups = [tries.task.group(examples[number]) for number in numbers[order].tolist()]
        tries.answers[name] = Answers(numbers[order], both.part(order).in_groups(groups))
        found = next(one for one in tries.candidates if one["name"] == name)
        found["asked_rows"], found["asked_score"] = len(numbers), tries.task.metrics[tries.primary](both)
        found["floors"] = floors(tries.answers[name], tries.limits, tries.task)

    def _tell(self, choice: Choice, number: int) -> None:
        chosen = choice.chosen["name"] if choice.chosen else "none yet"
        still = f"; open: {', '.join(choice.undecided)}" if choice.undecided else ""
        self.tries.log.say(f"  after part {number + 1} of {FOLDS}: {chosen}{still}", kind="crossval")


def folds(task: LabelTask[Any], examples: Sequence[Any], parts: int, seed: int) -> list[IntArray]:
    """The examples in parts of like size, each stratum in proportion, groups whole: rising numbers of each part."""
    groups: dict[int, list[int]] = {}
    for number, example in enumerate(examples):
        group = task.group(example)
        groups.setdefault(group if group >= 0 else -1 - number, []).append(number)
    members = list(groups.values())
    order = np.random.default_rng(seed).permutation(len(members)).tolist()
    order.sort(key=lambda one: task.stratum(examples[members[one][0]]))
    sides: list[list[int]] = [[] for _ in range(parts)]
    for one in order:
        min(sides, key=len).extend(members[one])
    return [np.array(sorted(side), dtype=np.int64) for side in sides]


def trained_on_all(tries: Tries, made: Made, deadline: float) -> Made | None:
    """The chosen candidate trained again, with what was chosen for it, on the rows of training and validation together.

    None where there is no time for it, where it turns out over the limits, or where it fails: the one that was chosen
    is kept then.
    """
    pipeline = tries.pipeline
    split = pipeline.split
    expected = sum(
        float(entry.get("seconds", 0.0))
        for stage, entry in zip(made.stages, made.bundle.card["stages"], strict=True)
        if stage.uses_data
    ) * (1 + len(split.validation) / max(1, len(split.train)))
    if deadline - time.monotonic() < expected + tries.export_s:
        tries.log.say(f"no time left to train on all rows: it would take about {expected:.0f} s", kind="all rows")
        return None
    together = split.together()
    growth = len(together.train) / len(split.train)
    stages = tuple(
        stage.settled(entry, growth) for stage, entry in zip(made.stages, made.bundle.card["stages"], strict=True)
    )
    whole = Pipeline(together, pipeline.folder, tries.task, tries.primary, tries.log, pipeline.labels)
    tries.log.say(f"training the chosen candidate on all {len(together.train):,} rows", kind="all rows")
    try:
        again = whole.make(stages, deadline=deadline)
        figures = whole.assess(again).figures
    except HalfpintError as error:
        tries.log.say(f"  it stays as it was chosen: {error}", kind="all rows")
        return None
    missed = replace(tries.limits, floor={}).misses(figures)
    if missed:
        tries.log.say(f"  it stays as it was chosen: trained on all rows, {'; '.join(missed)}", kind="all rows")
        return None
    return again
