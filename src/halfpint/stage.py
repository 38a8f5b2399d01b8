"""Stage: the one contract for everything that makes or changes a bundle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from halfpint import __version__, registry
from halfpint.bundle import Bundle, Kind, new_bundle
from halfpint.data.headers import is_numbered
from halfpint.data.learned import keep_learned_texts
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.progress import SILENT, Log
from halfpint.settings import identity
from halfpint.task import LabelTask, Split, Task, label_task

STAGE_ROOMS = ("models", "train", "compress", "distil", "export")
"""The rooms that hold stages."""
_LEARNING_ROOMS = ("train", "distil")


@dataclass
class Work:
    """What a stage works with besides its parent bundle.

    Args:
        target: the folder the new bundle goes to.
        scratch: a folder for checkpoints; it outlives an interruption and goes when the stage is done.
        task: the task.
        split: the examples to learn from and to choose by.
        labels: label names in the order of the model's outputs.
        primary: the metric that choices are made on.
        deadline: `time.monotonic()` at which the stage should be done; None has no limit.
        bar_to_beat: a validation score; training that cannot reach it any more may stop.
        make: makes another chain of stages on the same data, each stage once; None where there is no pipeline.
    """

    target: Path
    scratch: Path
    task: Task[Any]
    split: Split[Any]
    labels: tuple[str, ...]
    primary: str = "accuracy"
    log: Log = field(default=SILENT)
    deadline: float | None = None
    bar_to_beat: float | None = None
    make: Callable[[Sequence[Stage]], Bundle] | None = None

    @property
    def train(self) -> Sequence[Any]:
        """The examples to learn from."""
        return self.split.train

    @property
    def validation(self) -> Sequence[Any]:
        """The examples to choose by."""
        return self.split.validation

    @cached_property
    def documents(self) -> Split[str]:
        """The same data as running text."""
        return self.task.documents(self.split)

    @property
    def labelled(self) -> LabelTask[Any]:
        """The task, for stages that learn labels.

        Raises:
            HalfpintError: its data has none.
        """
        return label_task(self.task, "a stage that learns labels")

    def seconds_left(self) -> float:
        """Seconds until the deadline (infinite without one)."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Base of all stages; a subclass is a frozen keyword-only dataclass whose fields are its settings.

    `needs` and `gives` name kinds of bundle: "nothing", "encoder", "classifier", "linear", "onnx", "ready".
    A stage that leaves the kind as it was gives "same". `uses_data` tells whether the training data is part of what its
    result depends on.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.SAME
    uses_data: ClassVar[bool] = True

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Make a new bundle at `work.target` from `bundle`, which stays as it is."""
        raise TypeError(f"{type(self).__name__} does not say how it runs")

    def check(self) -> None:
        """Refuse settings that cannot be and that only a heavy package can tell; asked before any work starts.

        Raises:
            HalfpintError: with what would do.
        """

    def fits(self, bundle: Bundle) -> None:
        """Refuse a model that this stage will not take, though it is of the right kind; asked before any work starts,
        with the bundle that the first stage is given, where the stages between leave alone what this one looks at.

        Raises:
            HalfpintError: with what would do.
        """

    def settled(self, entry: Mapping[str, Any], growth: float) -> Stage:
        """The stage with what it chose, so that on more data it chooses nothing again.

        Args:
            entry: its entry in the card of what it made; growth: how many times as many examples there are now.
        """
        return self

    @property
    def use(self) -> str:
        """The stage's name in a recipe: room/file."""
        return "/".join(type(self).__module__.split(".")[-2:])

    def settings(self) -> dict[str, Any]:
        """All fields with their values."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def changed_settings(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) != item.default}

    def key(self, parent: str, data: str) -> str:
        """The hash that names this stage's result: its fields, its parent's key and, if it uses it, the data."""
        parts = [__version__, self.use, identity(self), parent, data if self.uses_data else ""]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def new_bundle(self, work: Work, parent: Bundle | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The folder and the card of the bundle that it makes, as `bundle.new_bundle` gives them.

        A bundle of a task with labels also keeps which texts it learned from, or was chosen by, and the name of the
        column of their labels ("label_column").
        """
        # Sparse weights are still a language model or a classifier to who opens them: only in a chain of stages must
        # nothing follow that would fill their zeros.
        with new_bundle(work.target, parent, Kind.SAME if self.gives == Kind.SPARSE else self.gives) as (folder, card):
            yield folder, card
            if isinstance(work.task, LabelTask):
                learns = self.use.partition("/")[0] in _LEARNING_ROOMS
                named = work.split.facts.get("columns", {}).get("label", "") if learns else ""
                column = named or (parent.card.get("label_column") if parent else "")
                if column and not is_numbered(column):
                    card["label_column"] = column
                texts = work.task.texts([*work.train, *work.validation]) if learns else []
                keep_learned_texts(folder, texts, work.split.key, parent)

    def entry(self, started: float, **figures: Any) -> dict[str, Any]:
        """The card's entry of this stage; `started` is a `time.monotonic()`."""
        return {
            "use": self.use,
            "settings": self.settings(),
            "seconds": round(time.monotonic() - started, 3),
            **figures,
        }


def stage_class(use: str, place: str) -> type[Stage]:
    """The stage named "room/file".

    Raises:
        HalfpintError: there is none; the message has the nearest name.
    """
    known = {f"{room}/{name}": (room, name) for room in STAGE_ROOMS for name in registry.variants(room)}
    if use not in known:
        raise SettingError(f"{place}: use", wanted="a stage (room/file)", got=repr(use), todo=nearest(use, known))
    module = registry.load(*known[use])
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Stage) and value.__module__ == module.__name__:
            return value
    raise HalfpintError(f"{place}: use", wanted="a stage (room/file)", got=f"{use!r}, which is no stage")
