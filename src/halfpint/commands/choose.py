"""`halfpint choose`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Command, Group, Result, positional
from halfpint.progress import Log, plain


@dataclass(frozen=True)
class Chosen(Result):
    """What `choose` made the best model.

    Attributes:
        out: the folder with the report; the model is in its folder `best`.
        chosen: the name of the chosen candidate.
        verdict: how it did, beside what `fit` had chosen, in words.
        report: all figures, as in report.json.
        changed: False where it was chosen already, so that nothing was done.
    """

    out: Path
    chosen: str
    verdict: str
    report: Mapping[str, Any] = field(repr=False)
    changed: bool

    @property
    def best(self) -> Path:
        """The folder of the chosen model."""
        return self.out / "best"

    def as_json(self) -> str:
        """The report in one object."""
        return json.dumps(plain(dict(self.report)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.terminal import summary

        if not self.changed:
            return f"{self.chosen} is chosen already; nothing was changed."
        return summary(self.report)


@dataclass(frozen=True, kw_only=True)
class Choose(Command):
    """Use another candidate of a finished `fit`: it becomes OUT/best.

    It is tested on the test texts, unless it was before; OUT/best, the report and the recipe are replaced, and the
    report says that the choice was made by hand. The data must be as `fit` read it. A candidate that does not meet the
    limits may be chosen too. The name of the one that `fit` chose brings that back.

    Args:
        out: Output folder of a finished fit.
        candidate: Name of a measured candidate, as the table of `halfpint report OUT` shows it.
        quiet: Hide progress.
        json: Print the report as JSON on standard output; progress goes to standard error.
    """

    group: ClassVar[Group] = Group.CLASSIFY
    is_quiet_with_json: ClassVar[bool] = False

    out: Path = positional(metavar="OUT")
    candidate: str = positional(metavar="CANDIDATE")
    quiet: bool = False
    json: bool = False

    def run(self, log: Log) -> Chosen:
        """Test the candidate, and put it in the place of the chosen one."""
        from halfpint.search.by_hand import choose_by_hand

        report, changed = choose_by_hand(self.out, self.candidate, log)
        return Chosen(self.out, report["chosen"], report["verdict"], report, changed)
