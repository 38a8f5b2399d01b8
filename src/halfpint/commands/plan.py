"""`halfpint plan`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import EXIT_INFEASIBLE, SettingError
from halfpint.progress import Log, plain


@dataclass(frozen=True)
class Forecast(Result):
    """What a model takes on this machine.

    Attributes:
        fits: whether something that was asked about fits this machine: training or adapting it, or serving it.
        figures: all of the plan, as in the JSON.
    """

    fits: bool
    figures: Mapping[str, Any] = field(repr=False)

    @property
    def exit_code(self) -> int:
        """3 where nothing fits."""
        return 0 if self.fits else EXIT_INFEASIBLE

    def as_json(self) -> str:
        """The plan in one object."""
        return json.dumps(plain(dict(self.figures)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.plan import shown

        return shown(self.figures)


@dataclass(frozen=True, kw_only=True)
class Plan(Command):
    """Say what a model takes on this machine before anything is downloaded: memory, tokens per second, hours, energy.

    The machine is measured for about ten seconds, once a day. Without a model it says which sizes this machine can
    train, adapt and serve.

    Args:
        model: Model in the catalogue, a Hub name (owner/model), or a folder.
        size: A new model instead, trained from scratch, with this many parameters, such as 30M.
        arch: Architecture of the new model.
        task: What it is for, such as chat or classify (default: chat for conversations, else predict).
        data: Text or conversations to train on; their tokens are estimated from the size of the files.
        tokens: Number of tokens to train on, such as 50M, instead of --data.
        epochs: Passes over the data; 0 takes 3 for conversations, 1 for text.
        minutes: Time limit of the training; 0 takes as long as the data takes.
        context: Context length in tokens; 0 takes the default of the training.
        again: Measure this machine again.
        quiet: Hide progress.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.RUNS
    synonyms: ClassVar[tuple[str, ...]] = ("estimate", "forecast", "cost", "memory", "fits")

    model: str = positional("", metavar="MODEL")
    size: str = option("", metavar="SIZE")
    arch: str = "llama"
    task: str = option("", metavar="TASK")
    data: str = option("", metavar="DATA")
    tokens: str = option("", metavar="NUMBER")
    epochs: int = option(0, least=0)
    minutes: float = option(0.0, least=0)
    context: int = option(0, least=0)
    again: bool = False
    quiet: bool = False
    json: bool = False

    def run(self, log: Log) -> Forecast:
        """Find the shape, measure the machine, work it out."""
        from halfpint.commands._plan import overview, planned

        if self.model and self.size:
            raise SettingError("--size", wanted="left out where a model is named", got=self.size)
        if not self.size:
            self.refuse("arch", wanted="--size", got="a model that is there" if self.model else "none")
        figures = planned(self, log) if self.model or self.size else overview(self, log)
        return Forecast(bool(figures["fits"]), figures)
