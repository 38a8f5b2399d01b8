"""`halfpint check`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.data.check import Finding


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
        lines = [f"{self.source}: {self.rows:,} rows, {self.labels} labels; {self.columns}"]
        lines += [f"  {note}" for note in self.notes]
        for one in self.findings:
            lines.append(f"{one.severity:>8}  {one.kind}: {one.message}" + (" [fit drops them]" if one.drop else ""))
        others = len(self.findings) - self.errors
        lines.append(f"errors: {self.errors}; other findings: {others}" if self.findings else "no faults found")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from halfpint.report import notebook

        rows = [(one.severity, one.kind, one.message) for one in self.findings]
        head = f"{self.source}: {self.rows:,} rows, {self.labels} labels, {self.errors} errors"
        return notebook.shown(
            notebook.paragraph(head, strong=True),
            notebook.table(("severity", "kind", "finding"), rows) if rows else notebook.paragraph("No problems."),
        )


@dataclass(frozen=True, kw_only=True)
class Check(Command):
    """Look for problems in labelled texts: missing labels, duplicates, leaks into the test set, personal data.

    The exit code is 1 when there are errors.

    Args:
        data: Table of labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder or a Hub name.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Test set; texts that are also in DATA are reported.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.CLASSIFY

    data: str = positional(metavar="DATA")
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    test: str = option("", metavar="DATA")
    json: bool = False

    def run(self, log: Log) -> Checked:
        """Read the tables and look."""
        from halfpint.data.check import check
        from halfpint.data.columns import find_columns
        from halfpint.data.examples import labelled
        from halfpint.data.read import read_table

        table = read_table(self.data)
        columns = find_columns(table, text=self.text or None, label=self.label or None)
        examples, others = labelled(table, columns), None
        if self.test:
            tests = read_table(self.test)
            others = labelled(tests, find_columns(tests, text=self.text or None, label=self.label or None))
        findings = check(examples, test=others)
        labels = len({example.label for example in examples})
        return Checked(self.data, len(examples), labels, columns.said, tuple(table.notes), tuple(findings))
