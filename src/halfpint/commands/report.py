"""`halfpint report`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Command, Group, Result, positional
from halfpint.errors import HalfpintError
from halfpint.progress import Log


@dataclass(frozen=True)
class Reported(Result):
    """The report of a finished command.

    Attributes:
        report: all of it.
        page: report.html, written anew; None for `distil` and `compress`, which have none.
    """

    report: Mapping[str, Any] = field(repr=False)
    page: Path | None

    def as_json(self) -> str:
        """The report as it is."""
        return json.dumps(self.report, ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.distilled import shown
        from halfpint.report.terminal import summary

        return summary(self.report) if self.page else shown(self.report)


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Print the report of a finished command and write its page again.

    `distil` and `compress` have no page.

    Args:
        out: Output folder of fit, run, pretrain, finetune, distil or compress, or a bundle in it, such as OUT/best.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.RUNS
    synonyms: ClassVar[tuple[str, ...]] = ("show", "open", "results")

    out: Path = positional(metavar="OUT")
    json: bool = False

    def writes(self) -> tuple[Path, ...]:
        """What it reads is finished."""
        return ()

    def run(self, log: Log) -> Reported:
        """Read report.json and write report.html."""
        from halfpint.bundle import read_json
        from halfpint.report.comparison_page import KIND as COMPARISON
        from halfpint.report.html import write_report
        from halfpint.report.language import KIND

        out = self._folder()
        found = read_json(out / "report.json")
        if {"candidates", "verdict"} <= set(found) or found.get("kind") in (KIND, COMPARISON):
            return Reported(found, write_report(found, out))
        if not {"verdict", "bundle", "stages"} <= set(found):
            raise HalfpintError(
                f"{out}/report.json",
                wanted="a report of halfpint",
                got="another file",
                said=f"{out}/report.json is not a report of halfpint.",
            )
        return Reported(found, None)

    def _folder(self) -> Path:
        """The folder with report.json: OUT, or the one that a bundle such as OUT/best stands in."""
        from halfpint.bundle import CARD

        inside = not (self.out / "report.json").is_file() and (self.out / CARD).is_file()
        above = self.out.resolve().parent
        return above if inside and (above / "report.json").is_file() else self.out
