"""From a table on disk to what training takes: read, checked, cleaned, split, each step said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from halfpint.data.check import CONFLICT, check, clean, find_missing, leaks_told, raise_if_unusable
from halfpint.data.columns import Columns, find_columns
from halfpint.data.dedup import normalise
from halfpint.data.examples import Example, fingerprint, is_missing_label, labelled
from halfpint.data.read import read_table
from halfpint.data.rows import ending_of
from halfpint.data.split import alike, grouped, split_with
from halfpint.data.table import Form, Table, shown
from halfpint.errors import HalfpintError, SettingError
from halfpint.progress import Log
from halfpint.settings import LATER
from halfpint.task import Finding, Split
from halfpint.terminal import amount

_SHOWN_ROWS = 20
_SMALL = 500


@dataclass(frozen=True, kw_only=True)
class Data:
    """The [data] table of a recipe.

    Args:
        source: a file (CSV, TSV, JSONL, Parquet, .gz), a folder of `datasets`, or a Hub name.
        test: labelled texts for the final test; empty takes them out of `source`.
        text: the column with the texts; empty guesses it and says so.
        label: the column with the labels; empty guesses it and says so.
        header: yes or no: whether the first row of the file names the columns; empty finds out.
        delimiter: between the cells of the file: a character, or comma, semicolon, tab or pipe; empty finds out.
        encoding: of the file, such as cp1252; empty finds out.
        sheet: of a workbook; empty takes the first.
        validation_share: share of the rows that choices are made on.
        test_share: share for the final test when no test file is given.
        drop_missing: drop rows without a label instead of stopping there.
        seed: of the split.
    """

    source: str
    test: str = ""
    text: str = ""
    label: str = ""
    header: str = field(default="", metadata=LATER)
    delimiter: str = field(default="", metadata=LATER)
    encoding: str = field(default="", metadata=LATER)
    sheet: str = field(default="", metadata=LATER)
    validation_share: float = 0.15
    test_share: float = 0.15
    drop_missing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.header not in ("", "yes", "no"):
            raise SettingError("data.header", wanted="yes, no, or nothing", got=repr(self.header))

    def table(self) -> Table:
        """The table at `source`."""
        names = tuple(name for name in (self.text, self.label) if name)
        return read_table(self.source, form=replace(self._form, names=names))

    def test_table(self, columns: Columns | None = None) -> Table:
        """The table at `test`, which is written as `source` is where both have the same ending."""
        names = (columns.text, columns.label) if columns is not None else (self.text, self.label)
        alike = ending_of(self.test) == ending_of(self.source)
        return read_table(self.test, form=replace(self._form if alike else Form(), names=tuple(filter(None, names))))

    @property
    def _form(self) -> Form:
        header = {"yes": True, "no": False}.get(self.header)
        return Form(header=header, delimiter=self.delimiter, encoding=self.encoding, sheet=self.sheet)


Prepared = Split[Example]
"""Examples ready for training; the facts say what happened to the rest."""


def prepare(settings: Data, log: Log, *, probe_labels: bool = True) -> Prepared:
    """Read, check, clean and split.

    Raises:
        HalfpintError: the data cannot be read or cannot be learned from.
    """
    if settings.seed < 0:
        raise SettingError("seed", wanted="0 or more", got=str(settings.seed))
    for name in ("validation_share", "test_share"):
        if not 0 < getattr(settings, name) < 0.9:
            raise SettingError(f"data.{name}", wanted="a share between 0 and 0.9", got=str(getattr(settings, name)))
    table = settings.table()
    columns = find_columns(table, text=settings.text or None, label=settings.label or None)
    examples = labelled(table, columns)
    log.say(f"{settings.source}: {amount(len(examples), 'row')}; {columns.said}", kind="data")
    for note in table.notes:
        log.say(f"  {note}", kind="data")
    unlabelled: list[Finding] = []
    if settings.drop_missing:
        unlabelled = [replace(one, drop=True) for one in find_missing(examples) if one.kind == "missing_label"]
        examples, _ = clean(examples, unlabelled)
    test = read_test(settings, columns) if settings.test else []
    test = grouped(test, alike([example.text for example in test]))
    findings = check(examples, test=test or None, probe_labels=probe_labels)
    raise_if_unusable(findings, settings.source)
    kept, dropped = clean(examples, findings)
    doubtful = _doubtful(examples, dropped)
    findings, dropped = [*unlabelled, *findings], [*unlabelled, *dropped]
    for finding in dropped:
        word = "left out of training" if finding.kind == CONFLICT else "dropped"
        log.say(f"  {word}: {finding.message}", kind="dropped")
    for finding in findings:
        if finding not in dropped:
            log.say(f"  {finding.severity}: {finding.message}", kind="finding")
    if test:
        unknown = sorted({example.label for example in test} - {example.label for example in kept})
        if unknown:
            raise HalfpintError(
                settings.test, wanted="labels that the training data has", got=f"also {', '.join(unknown[:5])}",
                todo="Check that both files are for the same task and that the label column is right.",
                said=f"{settings.test} has labels that the training data does not have: {', '.join(unknown[:5])}.",
            )  # fmt: skip
    test_share = 0.0 if test else settings.test_share
    shares = (1 - settings.validation_share - test_share, settings.validation_share, test_share)
    parts = split_with(kept, doubtful, fractions=shares, seed=settings.seed)
    if not parts.validation or not (test or parts.test):
        told = "; ".join([amount(len(kept), "row"), *leaks_told(findings)])
        raise HalfpintError(
            settings.source, wanted="enough rows to keep some for validation and test", got=told,
            todo="Give more rows, or a test file with --test.",
            said=f"{settings.source} has too few rows to keep some for validation and test: {told}.",
        )  # fmt: skip
    test = test or parts.test
    log.say(
        f"  {len(parts.train):,} for training, {len(parts.validation):,} for choosing a model, {len(test):,} for the "
        "final test"
    )
    for finding in contradictions(parts.validation, test):
        log.say(f"  {finding.severity}: {finding.message}", kind="finding")
        findings.append(finding)
    if len(parts.validation) < _SMALL:
        log.say("  few validation rows: expect wide intervals", kind="finding")
    key = data_key(parts.train, parts.validation)
    sides = {"train": parts.train, "validation": parts.validation, "test": test}
    labels = dict(sorted(Counter(example.label for example in parts.train).items()))
    facts = {
        **sources(settings, sides), "labels": labels, "columns": {"text": columns.text, "label": columns.label},
        **findings_told(table.notes, findings, dropped), "fingerprint": key,
    }  # fmt: skip
    rows = {example.row for example in doubtful}
    judged_only = frozenset(at for at, example in enumerate(parts.validation) if example.row in rows)
    return Split(**sides, key=key, proof=fingerprint(test), facts=facts, judged_only=judged_only)


def _doubtful(examples: Sequence[Example], dropped: Sequence[Finding]) -> list[Example]:
    """The examples that are left out of training for nothing but that their texts stand under several labels."""
    conflicting = {row for finding in dropped if finding.kind == CONFLICT for row in finding.rows}
    others = {row for finding in dropped if finding.kind != CONFLICT for row in finding.rows}
    return [example for example in examples if example.row in conflicting - others]


def contradictions(validation: Sequence[Example], test: Sequence[Example]) -> list[Finding]:
    """That rows which are judged on stand under several labels, where some do: what is reached on them is for texts as
    they come, and 1 is out of reach."""
    counts = []
    for side, examples in (("validation", validation), ("test", test)):
        labels: dict[str, set[str]] = defaultdict(set)
        for example in examples:
            labels[normalise(example.text)].add(example.label)
        rows = sum(len(labels[normalise(example.text)]) > 1 for example in examples)
        if rows:
            counts.append(f"{rows:,} of {len(examples):,} {side} rows")
    if not counts:
        return []
    message = f"{' and '.join(counts)} are texts that stand there under different labels: no model is right about all"
    return [Finding(kind="contradictory", severity="note", message=message)]


def sources(settings: Any, sides: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The facts of a split: where it is from, and how many rows each side has."""
    counts = {side: len(examples) for side, examples in sides.items()}
    return {
        "source": settings.source, "test_source": settings.test or None, "rows": sum(counts.values()), **counts,
    }  # fmt: skip


def findings_told(
    notes: Sequence[str], findings: Sequence[Finding], dropped: Sequence[Finding]
) -> dict[str, Any]:  # fmt: skip
    """The facts of what was found in the rows and what was dropped of them."""
    return {
        "notes": list(notes),
        "dropped": [
            {"kind": f.kind, "count": len(f.rows), "rows": list(f.rows[:_SHOWN_ROWS]), "message": f.message}
            for f in dropped
        ],
        "findings": [
            {
                "kind": f.kind,
                "severity": f.severity,
                "message": f.message,
                "count": len(f.rows),
                "rows": list(f.rows[:_SHOWN_ROWS]),
            }
            for f in findings
        ],
    }


def read_test(settings: Data, columns: Columns) -> list[Example]:
    """The examples of the test file, which has the same columns; rows without a text or a label are an error."""
    table = settings.test_table(columns)
    names = columns
    if columns.text not in table.columns or columns.label not in table.columns:
        names = find_columns(table, text=settings.text or None, label=settings.label or None)
    test = labelled(table, names)
    bad = [example.row for example in test if not example.text.strip() or is_missing_label(example.label)]
    if bad:
        raise HalfpintError(
            settings.test, wanted="a text and a label in every row of the test file",
            got=f"{len(bad)} rows without (rows {shown(bad)})", todo="Complete or remove those rows.",
            said=f"{settings.test}: {amount(len(bad), 'row')} without a text or a label (rows {shown(bad)}).",
        )  # fmt: skip
    return test


def data_key(train: Sequence[Example], validation: Sequence[Example]) -> str:
    """The hash of what training sees."""
    return sha256(f"{fingerprint(train)} {fingerprint(validation)}".encode()).hexdigest()
