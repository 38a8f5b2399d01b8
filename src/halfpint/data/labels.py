"""What is wrong with labels as names: some look alike, one of two files alone has them, they stand in their texts."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from halfpint.data.examples import Example
from halfpint.data.table import shown
from halfpint.task import Finding

_LEAST, _SHARE, _TIMES = 10, 0.5, 3.0  # texts with their label in them, of how many, against the other texts
_LETTERS = 3


def look(label: str) -> str:
    """How a label reads: without what case, spaces, Unicode's ways to write a character and a fraction of 0 change."""
    plain = " ".join(unicodedata.normalize("NFKC", label).casefold().replace("_", " ").split())
    whole, dot, fraction = plain.partition(".")
    return whole if dot and whole.lstrip("-").isdigit() and not fraction.strip("0") else plain


def label_findings(examples: Sequence[Example], test: Sequence[Example] | None) -> list[Finding]:
    """Labels that look alike, labels of one file alone, labels in the texts."""
    counts = Counter(example.label for example in examples)
    found = _alike(examples, counts) + _in_texts(examples, counts)
    return found + (_other_labels(counts, test) if test is not None else [])


def _alike(examples: Sequence[Example], counts: Mapping[str, int]) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[look(label)].append(label)
    several = [sorted(group, key=lambda label: -counts[label]) for group in groups.values() if len(group) > 1]
    if not several:
        return []
    # All but the most frequent of each group are likely mistakes.
    rare = {label for group in several for label in group[1:]}
    rows = tuple(example.row for example in examples if example.label in rare)
    named = [" = ".join(f"{spelled} ({counts[label]:,})" for spelled, label in _spelled(group)) for group in several]
    message = f"labels that look alike: {shown(named, 4)}; write each in one way"
    return [Finding(kind="similar_labels", severity="warning", message=message, rows=rows)]


def _spelled(group: Sequence[str]) -> list[tuple[str, str]]:
    """Labels as a person can tell them apart: by the codes of their characters where they print alike."""
    alike = len({" ".join(unicodedata.normalize("NFKC", label).split()) for label in group}) < len(group)
    return [(ascii(label) if alike else repr(label), label) for label in group]


def _other_labels(counts: Mapping[str, int], test: Sequence[Example]) -> list[Finding]:
    tested = Counter(example.label for example in test)
    unknown = sorted(tested.keys() - counts.keys() - {""})
    missing = sorted(counts.keys() - tested.keys() - {""})
    findings = []
    if unknown:
        known = {look(label): label for label in counts}
        named = [
            f"{label!r}" + (f" (like {known[look(label)]!r})" if look(label) in known else "") for label in unknown
        ]
        rows = [example.row for example in test if example.label in set(unknown)]
        what = f"labels of the test set that the training data does not have: {shown(named)}; rows {shown(rows)} of it"
        findings.append(Finding(kind="unknown_test_label", severity="error", message=what))
    if missing:
        what = f"labels that the test set does not have: {shown([repr(label) for label in missing])}"
        findings.append(Finding(kind="untested_label", severity="note", message=what))
    return findings


def _in_texts(examples: Sequence[Example], counts: Mapping[str, int]) -> list[Finding]:
    """Labels that stand in half of their own texts or more, and seldom in others: that may be all that is learned."""
    words = {label: label.casefold() for label in counts if sum(map(str.isalpha, label)) >= _LETTERS}
    rows: dict[str, list[int]] = defaultdict(list)
    for example in examples:
        if example.label in words and words[example.label] in example.text.casefold():
            rows[example.label].append(example.row)
    often = [label for label in rows if len(rows[label]) >= max(_LEAST, _SHARE * counts[label])]
    others = Counter[str]()
    for example in examples if often else ():
        text = example.text.casefold()
        others.update(label for label in often if label != example.label and words[label] in text)
    found = [
        label
        for label in often
        if len(rows[label]) * (len(examples) - counts[label]) > _TIMES * others[label] * counts[label]
    ]
    if not found:
        return []
    found.sort(key=lambda label: -len(rows[label]))
    named = [f"{label!r} in {len(rows[label]):,} of its {counts[label]:,}" for label in found]
    message = f"labels that stand in their texts, which a model may learn to look for: {shown(named, 4)}"
    at = tuple(sorted(row for label in found for row in rows[label]))
    return [Finding(kind="label_in_text", severity="note", message=message, rows=at)]
