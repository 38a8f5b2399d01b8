"""`halfpint check`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from halfpint.command import Group, Result, option, positional
from halfpint.commands._table import ReadsTable
from halfpint.progress import Log
from halfpint.terminal import amount

if TYPE_CHECKING:
    from halfpint.task import Finding


@dataclass(frozen=True)
class Checked(Result):
    """What `check` found.

    Attributes:
        source: the data.
        rows: its number of rows.
        labels: its number of labels.
        columns: which columns were taken, and why.
        notes: how the file was read.
        findings: the problems, errors first; each has kind, severity, message, rows and drop.
    """

    source: str
    rows: int
    labels: int
    columns: str
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """1 where there are errors."""
        return int(self.errors > 0)

    def as_json(self) -> str:
        """One object with the findings."""
        findings = [vars(finding) for finding in self.findings]
        report = {"source": self.source, "rows": self.rows, "errors": self.errors, "findings": findings}
        return json.dumps(report, ensure_ascii=False)

    def __str__(self) -> str:
        lines = [f"{self.source}: {amount(self.rows, 'row')}, {amount(self.labels, 'label')}; {self.columns}"]
        lines += [f"  {note}" for note in self.notes]
        for one in self.findings:
            left_out = " [left out of training]" if one.drop else ""
            lines.append(f"{one.severity:>8}  {one.kind}: {one.message}{left_out}")
        others = len(self.findings) - self.errors
        lines.append(f"errors: {self.errors}; other findings: {others}" if self.findings else "no faults found")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from halfpint.report import notebook

        rows = [(one.severity, one.kind, one.message) for one in self.findings]
        head = (
            f"{self.source}: {amount(self.rows, 'row')}, {amount(self.labels, 'label')}, {amount(self.errors, 'error')}"
        )
        return notebook.shown(
            notebook.paragraph(head, strong=True),
            notebook.table(("severity", "kind", "finding"), rows) if rows else notebook.paragraph("No problems."),
        )


@dataclass(frozen=True, kw_only=True)
class Check(ReadsTable):
    """Look for problems in labelled texts: missing labels, duplicates, leaks into the test set, personal data.

    The exit code is 1 when there are errors.

    Args:
        data: Labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder, a Hub name, or another form of the task.
        task: What the labels are (default: guessed from the data, and said).
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Test set; texts that are also in DATA are reported.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.CLASSIFY
    synonyms: ClassVar[tuple[str, ...]] = ("validate", "inspect", "clean")

    data: str = positional(metavar="DATA")
    task: str = option("", metavar="TASK")
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    test: str = option("", metavar="DATA")
    json: bool = False

    def run(self, log: Log) -> Checked:
        """Read the tables and look."""
        from halfpint.lookup import find_task
        from halfpint.task import label_task, settings_of

        task = label_task(find_task(self.data, self.task, self.word(), log), "halfpint check")
        data = dict(source=self.data, test=self.test, text=self.text, label=self.label, **self.written)
        found = task.check(settings_of(task, **data))
        return Checked(self.data, found.rows, found.labels, found.said, tuple(found.notes), tuple(found.findings))
