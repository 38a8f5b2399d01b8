"""`halfpint fit`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Group, Result, option, positional, stem_of
from halfpint.commands._table import ReadsTable
from halfpint.errors import EXIT_INFEASIBLE, SettingError
from halfpint.progress import Log, plain

_LABEL = re.compile(r"[\w-]+")  # what of a label's name stands in that of a folder


@dataclass(frozen=True)
class Fitted(Result):
    """What `fit` found.

    Attributes:
        out: the folder with the report; the model is in its folder `best`.
        chosen: the name of the chosen candidate; None where none meets the limits.
        verdict: why it was chosen, and its score on the test texts, in words.
        report: all figures, as in report.json.
    """

    out: Path
    chosen: str | None
    verdict: str
    report: Mapping[str, Any] = field(repr=False)

    @property
    def best(self) -> Path:
        """The folder of the chosen model."""
        return self.out / "best"

    @property
    def exit_code(self) -> int:
        """3 where no candidate meets the limits."""
        return 0 if self.chosen is not None else EXIT_INFEASIBLE

    def as_json(self) -> str:
        """The report in one object."""
        return json.dumps(plain(dict(self.report)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.terminal import summary

        return summary(self.report)

    def _repr_html_(self) -> str:
        from halfpint.report import notebook
        from halfpint.report.units import size

        metric = self.report["primary_metric"]
        tried = [one for one in self.report["candidates"] if one["status"] == "measured"]
        rows = [
            (
                one["name"], round(one["metrics"][metric], 4), size(one["size_bytes"]),
                f"{one['latency_p50_ms']:.2f} ms", "" if one["feasible"] else one["why"],
            )
            for one in tried
        ]  # fmt: skip
        marked = next((at for at, one in enumerate(tried) if one["name"] == self.chosen), None)
        return notebook.shown(
            notebook.paragraph(self.verdict, strong=True),
            notebook.table(("candidate", metric, "size", "latency", ""), rows, marked=marked),
            notebook.paragraph(f"All figures: {self.out / 'report.html'}"),
        )


@dataclass(frozen=True, kw_only=True)
class Fit(ReadsTable):
    """Find the smallest model that meets your limits, and test it on texts that it has not seen.

    Args:
        data: Labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder, a Hub name, or another form of the task.
        task: What the labels are (default: guessed from the data, and said).
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Labelled texts for the final test (default: a part of DATA).
        max_size: Largest model size, such as 25MB.
        max_latency: Longest time per text (median), such as 10ms.
        floor: Lowest score to accept, such as f1_macro=0.85; repeatable.
        keep: Lowest share of the best candidate's score to accept, such as 0.98.
        within: How far below the best candidate the chosen one may be, in the metric; it has to be shown.
        minutes: Time limit of the search.
        out: Output folder (default: halfpint-DATA, with --label halfpint-DATA-LABEL).
        base: Pretrained encoder: a catalogue name, a Hub name or a folder; none leaves encoders out.
        metric: Metric that chooses the model (default: by the task; accuracy, or f1_macro where labels are unbalanced).
        drop_missing: Drop rows without a label.
        seed: Random seed of the split and the training.
        force: Replace an earlier run in the output folder.
        quiet: Hide progress.
        json: Print the report as JSON on standard output; progress goes to standard error.
    """

    group: ClassVar[Group] = Group.CLASSIFY
    synonyms: ClassVar[tuple[str, ...]] = ("train", "learn", "search", "classifying")
    resumes: ClassVar[bool] = True
    starts_over: ClassVar[bool] = True
    is_quiet_with_json: ClassVar[bool] = False

    data: str = positional(metavar="DATA")
    task: str = option("", metavar="TASK")
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    test: str = option("", metavar="DATA")
    max_size: str = option("", metavar="SIZE")
    max_latency: str = option("", metavar="TIME")
    floor: tuple[str, ...] = option((), metavar="METRIC=VALUE")
    keep: float | None = option(None, metavar="SHARE")
    within: float = option(0.01, metavar="MARGIN")
    minutes: float = 20.0
    out: Path | None = option(None, metavar="FOLDER")
    base: str = option("all-minilm-l6-v2", metavar="MODEL")
    metric: str = option("", metavar="METRIC")
    drop_missing: bool = False
    seed: int = 0
    force: bool = False
    quiet: bool = False
    json: bool = False

    def run(self, log: Log) -> Fitted:
        """Search, choose on validation texts, test once."""
        from halfpint.lookup import find_task
        from halfpint.search.fit import Request, fit
        from halfpint.search.limits import Limits, parse_floor, parse_latency, parse_share, parse_size, parse_within
        from halfpint.task import label_task, settings_of

        task = label_task(find_task(self.data, self.task, self.word(), log), "halfpint fit")
        limits = Limits(
            max_size_bytes=parse_size(self.max_size) if self.max_size else None,
            max_latency_ms=parse_latency(self.max_latency) if self.max_latency else None,
            floor=parse_floor(self.floor, task.metrics),
            keep=parse_share(self.keep),
            minutes=self.minutes,
            within=parse_within(self.within),
        )
        if not 0 < self.minutes < float("inf"):
            raise SettingError("--minutes", wanted="a number above 0", got=f"{self.minutes:g}")
        data = settings_of(
            task, source=self.data, test=self.test, text=self.text, label=self.label, drop_missing=self.drop_missing,
            seed=self.seed, **self.written,
        )  # fmt: skip
        out = self.out or Path("-".join(("halfpint", stem_of(self.data), *_LABEL.findall(self.label))))
        request = Request(
            task=task, data=data, limits=limits, out=out, base=self.base, metric=self.metric, seed=self.seed,
            command=self.line(), force=self.force,
        )  # fmt: skip
        report = fit(request, log)
        return Fitted(out, report["chosen"], report["verdict"], report)
