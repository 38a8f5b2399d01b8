"""Public sets beside the repository, read and looked at as a user would; skipped where they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfpint.data.check import check, clean
from halfpint.data.columns import find_columns
from halfpint.data.examples import Example, labelled
from halfpint.data.read import Table, read_table
from halfpint.data.split import split

SETS = Path(__file__).resolve().parents[3] / "shared" / "data"


def read(name: str) -> Table:
    if not (SETS / name).exists():
        pytest.skip(f"{name} is not beside the repository")
    return read_table(str(SETS / name))


def examples_of(name: str) -> list[Example]:
    table = read(name)
    return labelled(table, find_columns(table))


@pytest.mark.parametrize(
    ("name", "rows", "first_row", "columns", "labels"),
    [
        ("banking77/train.csv", 10_003, 2, ("text", "category"), 77),
        ("sst2/train.tsv.gz", 67_349, 2, ("sentence", "label"), 2),
        ("sst2/test_labelled.tsv", 1_821, 1, ("column_1", "column_2"), 2),
        ("sms_spam/SMSSpamCollection.tsv", 5_574, 1, ("column_2", "column_1"), 2),
        ("ag_news/train_10k.tsv.gz", 10_001, 1, ("column_1", "column_2"), 4),
    ],
)
def test_rows_and_columns(name: str, rows: int, first_row: int, columns: tuple[str, str], labels: int) -> None:
    table = read(name)
    found = find_columns(table)
    assert (len(table), table.rows[0], (found.text, found.label)) == (rows, first_row, columns)
    assert len({example.label for example in labelled(table, found)}) == labels


def test_banking77_findings_and_split() -> None:
    examples = examples_of("banking77/train.csv")
    findings = {f.kind: f for f in check(examples, test=examples_of("banking77/test.csv"), probe_labels=False)}
    assert not [finding for finding in findings.values() if finding.severity == "error"]
    assert {"exact_duplicate", "conflicting_labels", "leakage_exact", "leakage_near", "imbalance"} <= findings.keys()
    kept, _ = clean(examples, list(findings.values()))
    splits = split(kept)
    for part, share in ((splits.train, 0.7), (splits.validation, 0.15), (splits.test, 0.15)):
        assert abs(len(part) / len(kept) - share) < 0.01
        assert len({example.label for example in part}) == 77
