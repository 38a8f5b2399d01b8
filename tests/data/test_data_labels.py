"""Labels as names: those that look alike, those that one of two files has, those that stand in their texts."""

from __future__ import annotations

import pytest

from halfpint.data.check import check
from halfpint.data.examples import Example
from halfpint.data.labels import label_findings, look
from halfpint.task import Finding


def examples(*labels: str, text: str = "some words {}") -> list[Example]:
    return [Example(text.format(at), label, at + 2) for at, label in enumerate(labels)]


def found(kind: str, findings: list[Finding]) -> Finding:
    (one,) = (finding for finding in findings if finding.kind == kind)
    return one


@pytest.mark.parametrize(
    ("one", "other"),
    [("Billing", "billing"), ("é", "e\u0301"), ("IT support", "IT\xa0support"), ("a  b", "a_b"), ("1", "1.0")],
)
def test_labels_that_look_alike_are_named(one: str, other: str) -> None:
    assert look(one) == look(other)
    finding = found("similar_labels", check(examples(one, one, other, "more"), probe_labels=False))
    assert finding.severity == "warning"
    assert finding.rows == (4,)
    assert "(2) = " in finding.message and "(1); write each in one way" in finding.message


def test_labels_that_differ_are_not_alike() -> None:
    assert not label_findings(examples("one", "two", "1.5", "1", "v1.0", "v1"), None)


def test_labels_of_train_and_test_are_compared() -> None:
    findings = check(examples("1", "1", "2", "2"), test=examples("1.0", "2", text="others {}"), probe_labels=False)
    finding = found("unknown_test_label", findings)
    assert finding.severity == "error"
    assert "'1.0' (like '1'); rows 2 of it" in finding.message
    assert "'1'" in found("untested_label", findings).message
    assert not label_findings(examples("1", "2"), examples("2", "1"))


def test_labels_that_stand_in_their_texts() -> None:
    rows = [Example(f"my Cancelled Flightled number {n}", "Cancelled Flight", n) for n in range(12)]
    rows += [Example(f"no words of it {n}", "Cancelled Flight", n) for n in range(12, 20)]
    rows += [Example(f"it is late {n}", "late", n) for n in range(20, 40)]
    rows += [Example(f"also late {n}", "other", n) for n in range(40, 60)]
    finding = found("label_in_text", label_findings(rows, None))
    assert "'Cancelled Flight' in 12 of its 20" in finding.message and "'late'" not in finding.message
    assert finding.rows == tuple(range(12))


def test_findings_say_how_many_rows_are_not_listed() -> None:
    finding = found("missing_label", check(examples(*[""] * 30, "a", "a", "b", "b"), probe_labels=False))
    assert "30 rows (2, 3, 4, 5, 6, 7, 8, 9 and 22 more)" in finding.message
