"""What is wrong with texts and their spans, in findings with their rows; and the texts without what is dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from halfpint.data.dedup import normalise
from halfpint.data.leakage import EXACT, NEAR, PART, leaks
from halfpint.data.span_columns import shown
from halfpint.data.spans import Read, Span, TagExample, span_labels
from halfpint.data.words import words
from halfpint.errors import HalfpintError
from halfpint.task import Finding
from halfpint.terminal import amount

_ORDER = ("error", "warning", "note")
_FEW = 5
_SHOWN_LABELS = 8
_BYTES = 0.2


def find_faults(given: Read, others: Mapping[str, Read]) -> list[Finding]:
    """Everything found in the texts of `given`, errors first.

    Args:
        others: what will be judged on, by "validation" and "test".
    """
    findings = [*given.findings, *span_faults(given.examples)]
    for side, other in others.items():
        findings += [_of(finding, side) for finding in (*other.findings, *span_faults(other.examples))]
    bare = [example.row for example in given.examples if example.spans is None]
    findings += _finding("unlabelled", "warning", "texts that nobody has labelled: left out", bare, drop=True)
    findings += _repeats(given.examples, others) + _labels(given.examples, others)
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def cleaned(given: Read, findings: Sequence[Finding] | None = None) -> list[TagExample]:
    """The examples without the rows that findings drop, and with spans that can be learned from.

    Args:
        findings: None takes those of the examples alone.
    """
    findings = [*given.findings, *span_faults(given.examples)] if findings is None else findings
    rows = {row for finding in findings if finding.drop for row in finding.rows}
    return [mended(example) for example in given.examples if example.row not in rows]


def mended(example: TagExample) -> TagExample:
    """The example without spaces at the ends of spans, and of those that overlap with the longer (or first) alone."""
    if not example.spans:
        return example
    kept: list[Span] = []
    for span in sorted(example.spans, key=lambda one: (one.start - one.end, one)):
        piece = example.text[span.start : span.end]
        start = span.start + len(piece) - len(piece.lstrip())
        trimmed = Span(start, start + len(piece.strip()), span.label)
        if trimmed.start < trimmed.end and all(trimmed.end <= one.start or one.end <= trimmed.start for one in kept):
            kept.append(trimmed)
    return replace(example, spans=tuple(sorted(kept)))


def raise_if_unusable(findings: Sequence[Finding], source: str) -> None:
    """Raise all at once what makes training senseless.

    Raises:
        HalfpintError: no span at all, most texts have faults, or a file to judge on has labels that training has not.
    """
    senseless = ("no_spans", "mostly_faulty", "unknown_in_", "no_spans_in_")
    faults = [finding for finding in findings if finding.kind.startswith(senseless)]
    if faults:
        faults += [one for one in findings if one.severity == "error" and one not in faults]
        raise HalfpintError(
            source, wanted="texts with labelled spans", got="; ".join(finding.message for finding in faults),
            todo="Spans count characters from 0, not bytes or words; `halfpint check` lists all faults.",
        )  # fmt: skip


def _finding(kind: str, severity: str, what: str, rows: Iterable[int], *, drop: bool = False) -> list[Finding]:
    rows = tuple(dict.fromkeys(rows))
    if not rows:
        return []
    message = f"{what}: {amount(len(rows), 'text')} ({shown(rows)})"
    return [Finding(kind=kind, severity=severity, message=message, rows=rows, drop=drop)]


def _of(finding: Finding, side: str) -> Finding:
    """A finding in another file: its rows are none of the source's."""
    message = f"in {side}: {finding.message}"
    return Finding(kind=finding.kind, severity=finding.severity, message=message)


def span_faults(examples: Sequence[TagExample]) -> list[Finding]:
    """Spans that are no part of their text, that overlap, that begin or end in a word or in a space."""
    outside: list[int] = []
    overlapping: list[int] = []
    blank: list[int] = []
    spaced: list[int] = []
    inside: list[int] = []
    for example in examples:
        size, last = len(example.text), 0
        if not example.spans:
            continue
        spans = sorted(example.spans)
        if any(not 0 <= span.start < span.end <= size for span in spans):
            outside.append(example.row)
            continue
        borders: tuple[set[int], set[int]] | None = None
        for span in spans:
            piece = example.text[span.start : span.end]
            if span.start < last:
                overlapping.append(example.row)
            last = max(last, span.end)
            if piece != piece.strip():
                (spaced if piece.strip() else blank).append(example.row)
                continue
            if borders is None:
                ends = words(example.text)
                borders = {start for start, _ in ends}, {end for _, end in ends}
            if span.start not in borders[0] or span.end not in borders[1]:
                inside.append(example.row)
    total = sum(example.spans is not None for example in examples)
    found = _finding(
        "span_outside", "error", "spans that are no part of their text (left out with it)", outside, drop=True
    )
    if outside and len(outside) > _BYTES * total:
        found.append(
            Finding(
                kind="mostly_faulty", severity="error",
                message=f"{len(outside):,} of {total:,} texts have spans outside the text", rows=tuple(outside),
            )
        )  # fmt: skip
    found += _finding("overlapping", "warning", "overlapping spans; the longest is kept", overlapping)
    found += _finding("blank_span", "warning", "spans of nothing but spaces, which are left out", blank)
    found += _finding("span_spaces", "note", "spans with spaces at an end, which are cut off", spaced)
    what = "spans that begin or end inside a word; they are learned as whole words and never found exactly"
    return found + _finding("inside_word", "warning", what, inside)


def _repeats(examples: Sequence[TagExample], others: Mapping[str, Read]) -> list[Finding]:
    """Texts that are in what is judged on, texts that repeat, and equal texts with other spans."""
    groups: dict[str, list[TagExample]] = defaultdict(list)
    for example in examples:
        if example.spans is not None:
            groups[normalise(example.text)].append(example)
    conflicting, repeated = [], []
    for group in groups.values():
        by_text: dict[str, set[tuple[Span, ...] | None]] = defaultdict(set)
        for example in group:
            by_text[example.text].add(example.spans)
        if any(len(spans) > 1 for spans in by_text.values()):
            conflicting += [example.row for example in group]
        repeated += [example.row for example in group[1:]]
    repeated.sort()
    found = _finding("conflicting_spans", "warning", "the same text with other spans", sorted(conflicting))
    found += _finding("repeated", "note", "repeats of an earlier text (kept; a split puts them on one side)", repeated)
    for side, other in others.items():
        ours = [example for group in groups.values() for example in group]
        leaked = leaks([example.text for example in ours], [example.text for example in other.examples])
        for kind, name, what in (
            (EXACT, f"leakage_{side}", f"that are in {side}"),
            (NEAR, f"{NEAR}_{side}", f"nearly the same as one in {side}"),
            (PART, f"{PART}_{side}", f"that a text in {side} is part of, or that are part of one"),
        ):
            rows = sorted(ours[number].row for number in leaked[kind])
            found += _finding(name, "warning", f"texts {what}: left out of training", rows, drop=True)
    return found


def _labels(examples: Sequence[TagExample], others: Mapping[str, Read]) -> list[Finding]:
    counts = span_labels(examples)
    if not counts:
        return [Finding(kind="no_spans", severity="error", message="no span in any text")]
    found = []
    few = [label for label, count in counts.items() if count < _FEW]
    if few:
        message = f"labels with fewer than {_FEW} spans: {_named(few)}"
        found.append(Finding(kind="few_spans", severity="warning", message=message))
    for side, other in others.items():
        unknown = [label for label in span_labels(other.examples) if label not in counts]
        if unknown:
            rows = [one.row for one in other.examples if any(span.label in unknown for span in one.spans or ())]
            message = f"labels that are only in {side}: {_named(unknown)} ({amount(len(rows), 'text')}; {shown(rows)})"
            found.append(Finding(kind=f"unknown_in_{side}", severity="error", message=message))
        if not other.examples or not span_labels(other.examples):
            found.append(Finding(kind=f"no_spans_in_{side}", severity="error", message=f"no span in {side}"))
    return found


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN_LABELS} more" if len(labels) > _SHOWN_LABELS else ""
    return ", ".join(repr(label) for label in labels[:_SHOWN_LABELS]) + more
