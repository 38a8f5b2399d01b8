"""Which candidates stand out in a report: the chosen one, the strongest, and what may be chosen instead."""

from __future__ import annotations

import shlex
from typing import Any

from halfpint.report import units

_BY_HAND = "hand"


def all_candidates(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the candidates."""
    return [row for row in units.rows(report.get("candidates")) if isinstance(row, dict)]


def chosen(report: dict[str, Any]) -> dict[str, Any]:
    """The row of the chosen candidate; empty when there is none."""
    return _row(report, report.get("chosen"))


def strongest(report: dict[str, Any]) -> dict[str, Any]:
    """The row of the candidate with the best score on validation, whatever the limits; empty when it is not known."""
    return _row(report, report.get("strongest"))


def by_hand(report: dict[str, Any]) -> bool:
    """Whether a person chose, not `fit`."""
    return report.get("chosen_by") == _BY_HAND


def test_of(report: dict[str, Any], name: object) -> dict[str, Any]:
    """What the candidate `name` reached on the test rows; empty when it was not judged there."""
    return units.mapping(units.mapping(report.get("test")).get(str(name)))


def strongest_words(report: dict[str, Any]) -> str:
    """What OUT/strongest holds and how it did, as plain text; empty where it is what was chosen, or is not known."""
    row, metric = strongest(report), units.primary(report)
    value = units.number(units.mapping(row.get("metrics")).get(metric))
    if not row or row.get("name") == report.get("chosen") or value is None:
        return ""
    figures = [f"{metric} {value:.4f} on validation"]
    test = test_of(report, row.get("name"))
    reached, ends = units.number(units.mapping(test.get("metrics")).get(metric)), units.pair(test.get("interval"))
    if reached is not None:
        figures.append(f"{reached:.4f}{' ({:.4f} to {:.4f})'.format(*ends) if ends else ''} on test")
    costs = [units.size(row.get("size_bytes")), f"{units.milliseconds(row.get('latency_p50_ms'))} per text"]
    place = f"{str(report.get('out') or 'OUT').rstrip('/')}/strongest"
    return f"{place} holds {row.get('name')}, the best on validation: {', '.join([*figures, *costs])}."


def others_to_choose(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Candidates to choose instead, each with what it is in words and the command: the strongest; what `fit` had
    chosen, after a choice by hand; the one closest to the limits, where none meets them."""
    names = {
        "closest": None if chosen(report) else report.get("closest"),
        "the choice of fit": units.mapping(report.get("by_fit")).get("chosen"),
        "strongest": report.get("strongest"),
    }
    out, found = shlex.quote(str(report.get("out") or "OUT")), dict[str, str]()
    for what, name in names.items():
        if name not in (None, report.get("chosen")) and str(name) not in found and _row(report, name):
            about = f"the {what} of all candidates" if what == "strongest" else what
            found[str(name)] = "the one closest to the limits" if what == "closest" else about
    return [(what, f"halfpint choose {out} {shlex.quote(name)}") for name, what in found.items()]


def _row(report: dict[str, Any], name: object) -> dict[str, Any]:
    return next((row for row in all_candidates(report) if name is not None and row.get("name") == name), {})
