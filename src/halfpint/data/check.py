"""What is wrong with a set of examples, in findings with their rows; and the set without what should be dropped."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from halfpint.data.dedup import near_duplicate_pairs, normalise
from halfpint.data.examples import Example, is_missing_label
from halfpint.data.labels import label_findings
from halfpint.data.leakage import EXACT, KEPT, NEAR, PART, THRESHOLD, leaks
from halfpint.data.personal import find_personal, mask
from halfpint.data.table import shown
from halfpint.data.terms import RUN_CHARACTER
from halfpint.data.wrong_labels import MOST_ROWS, probable_wrong_labels
from halfpint.errors import HalfpintError
from halfpint.task import Finding
from halfpint.terminal import amount

CONFLICT = "conflicting_labels"
"""The kind of finding of texts that stand under several labels."""
_FEWEST = 2  # examples of a label that training needs
_TOKENS_A_WORD = 1.3
_UNUSABLE = ("missing_label", "one_class", "single_example_label")
_KINDS = {"email": "e-mail addresses", "phone": "phone numbers", "card": "card numbers", "iban": "bank accounts"}
# What the bytes 0x80-0xBF read like in Windows-1252: after Â, Ã, â, ð they are UTF-8 read wrongly.
_TAIL = "\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c"
_TAIL += "\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
_MOJIBAKE = re.compile(
    rf"\ufffd|[\u0080-\u0084\u0086-\u009f]|[\u00c2\u00c3][{_TAIL}]|\u00e2\u20ac|\u00e2[{_TAIL}]{{2}}|\u00f0\u0178"
    r"|\u00ef\u00bf\u00bd|\u00ef\u00bb\u00bf"
)


def check(
    examples: Sequence[Example],
    *,
    test: Sequence[Example] | None = None,
    max_tokens: int = 256,
    count_tokens: Callable[[Sequence[str]], list[int]] | None = None,
    probe_labels: bool = True,
) -> list[Finding]:
    """Everything found in `examples`, errors first.

    Args:
        examples: what to train on; their row numbers must differ.
        test: what will be tested on; rows of `examples` that give one of its texts away are found.
        max_tokens: longer texts are noted.
        count_tokens: texts -> numbers of tokens; without it 1.3 a word, or one a character where there are no spaces.
        probe_labels: whether to look for probably wrong labels (needs scikit-learn and cleanlab).
    """
    findings = find_missing(examples)
    usable = [e for e in examples if e.text.strip() and not is_missing_label(e.label)]
    findings += _duplicates(usable)
    if test:
        findings += _leakage(usable, test, {row for finding in findings if finding.drop for row in finding.rows})
    dropped = {row for finding in findings if finding.drop for row in finding.rows}
    kept = [example for example in usable if example.row not in dropped]
    findings += label_findings(usable, test)
    findings += _class_counts(usable, kept)
    findings += _lengths(kept, max_tokens, count_tokens)
    findings += _damaged_and_personal(kept)
    if probe_labels and not any(finding.kind == "one_class" for finding in findings):
        findings += _wrong_labels(kept)
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def clean(examples: Sequence[Example], findings: Sequence[Finding]) -> tuple[list[Example], list[Finding]]:
    """The examples without the rows that findings drop, and those findings."""
    dropping = [finding for finding in findings if finding.drop and finding.rows]
    rows = {row for finding in dropping for row in finding.rows}
    return [example for example in examples if example.row not in rows], dropping


def leaks_told(findings: Sequence[Finding]) -> list[str]:
    """The messages of what is left out because it gives test texts away."""
    return [finding.message for finding in findings if finding.kind in (EXACT, NEAR, PART)]


def raise_if_unusable(findings: Sequence[Finding], source: str) -> None:
    """Raise all at once what makes a classifier impossible.

    Raises:
        HalfpintError: labels are missing, there are fewer than two, or one has fewer than two examples.
    """
    faults = [finding for finding in findings if finding.kind in _UNUSABLE]
    if faults:
        unlabelled = any(finding.kind == "missing_label" for finding in faults)
        told = "; ".join([*(finding.message for finding in faults), *leaks_told(findings)])  # they may be the reason
        raise HalfpintError(
            source,
            wanted="a label in every row, two labels or more, and two different texts or more for each",
            got=told,
            todo="Add what is missing or remove those rows"
            + (" (--drop-missing leaves out rows without a label)." if unlabelled else "."),
            said=f"{source} cannot be used as it is: {told}.",
        )


def _finding(kind: str, severity: str, what: str, rows: Iterable[int], *, drop: bool = False) -> list[Finding]:
    """A list with one finding, or none when no rows are concerned."""
    rows = tuple(rows)
    if not rows:
        return []
    message = f"{what}: {_shown(rows)}"
    return [Finding(kind=kind, severity=severity, message=message, rows=rows, drop=drop)]


def _shown(rows: Sequence[int]) -> str:
    return f"{amount(len(rows), 'row')} ({shown(rows)})"


def find_missing(examples: Sequence[Example]) -> list[Finding]:
    """Rows without a text, and rows without a label."""
    no_text = (example.row for example in examples if not example.text.strip())
    no_label = (example.row for example in examples if is_missing_label(example.label))
    return _finding("missing_text", "error", "no text", no_text, drop=True) + _finding(
        "missing_label", "error", "no label", no_label
    )


def _duplicates(usable: Sequence[Example]) -> list[Finding]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in usable:
        groups[normalise(example.text)].append(example)
    repeated, conflicting = [], []
    for group in groups.values():
        if len({example.label for example in group}) > 1:
            conflicting += [example.row for example in group]
        else:
            repeated += [example.row for example in group[1:]]
    keys = list(groups)
    near = {keys[one] for pair in near_duplicate_pairs(keys, threshold=THRESHOLD) for one in pair[:2]}
    near_rows = sorted(example.row for key in near for example in groups[key])
    return (
        _finding(CONFLICT, "warning", "the same text under different labels", sorted(conflicting), drop=True)
        + _finding("exact_duplicate", "warning", "repeats of an earlier text and label", sorted(repeated), drop=True)
        + _finding(
            "near_duplicate",
            "warning",
            "texts nearly the same as another; kept together, so that the test is fair",
            near_rows,
        )
    )


def _leakage(usable: Sequence[Example], test: Sequence[Example], dropped: set[int]) -> list[Finding]:
    """What gives a test text away and is dropped; but a label that would have fewer than two examples keeps as many of
    those that are only alike.

    Args:
        dropped: rows that go in any case.
    """
    found = leaks([example.text for example in usable], [example.text for example in test])
    gone = dropped | {usable[number].row for number in found[EXACT]}
    alike = [usable[number] for number in (*found[NEAR], *found[PART]) if usable[number].row not in gone]
    left = Counter(example.label for example in usable if example.row not in gone)
    left.subtract(Counter(example.label for example in alike))
    kept: set[int] = set()
    nothing_else = max(left.values(), default=0) < _FEWEST  # the test file is the training file, nearly
    for example in [] if nothing_else else sorted(alike, key=lambda example: example.row):
        if left[example.label] < _FEWEST:
            left[example.label] += 1
            kept.add(example.row)
    findings = []
    for kind, what in (
        (EXACT, "texts that are in the test set"),
        (NEAR, "texts nearly the same as one in the test set"),
        (PART, "texts that a test text is part of, or that are part of one"),
    ):
        rows = (usable[number].row for number in found[kind])
        findings += _finding(kind, "warning", what, sorted(row for row in rows if row not in kept), drop=True)
    what = "texts that give away one in the test set, kept because their labels have hardly any others"
    return findings + _finding(KEPT, "warning", what, sorted(kept))


def _class_counts(usable: Sequence[Example], kept: Sequence[Example]) -> list[Finding]:
    counts = Counter({example.label: 0 for example in usable})
    counts.update(example.label for example in kept)
    if len(counts) < 2:
        what = f"only the label {next(iter(counts))!r}" if counts else "no row with a text and a label"
        return [Finding(kind="one_class", severity="error", message=f"{what}, where two or more are needed")]
    few = sorted(label for label, count in counts.items() if count < _FEWEST)
    if few:
        names = shown(list(map(repr, few)))
        rows = [example.row for example in usable if example.label in set(few)]
        what = f"{amount(len(few), 'label')} with fewer than two usable examples ({names})"
        return _finding("single_example_label", "error", what, rows)
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    if largest < 4 * smallest:
        return []
    return [
        Finding(
            kind="imbalance",
            severity="warning" if largest >= 10 * smallest else "note",
            message=f"label {most!r} has {amount(largest, 'example')}, {least!r} has {smallest:,} "
            f"({largest / smallest:.0f} to 1)",
        )
    ]


def _lengths(
    kept: Sequence[Example], max_tokens: int, count_tokens: Callable[[Sequence[str]], list[int]] | None
) -> list[Finding]:
    if count_tokens is None:
        counts = [_about_tokens(example.text) for example in kept]
    else:
        counts = count_tokens([example.text for example in kept])
    long = [example.row for example, count in zip(kept, counts, strict=True) if count > max_tokens]
    how = "about " if count_tokens is None else ""
    read = "encoders cut them there" if count_tokens is None else "they are cut there"
    what = f"texts above {how}{max_tokens} tokens: {read} (the longest has {how}{max(counts, default=0):,})"
    return _finding("long_text", "note", what, long)


def _about_tokens(text: str) -> int:
    if text.isascii():
        return round(_TOKENS_A_WORD * len(text.split()))
    alone = len(RUN_CHARACTER.findall(text))  # of scripts without spaces a token is about a character
    return round(_TOKENS_A_WORD * len(RUN_CHARACTER.sub(" ", text).split())) + alone


def _damaged_and_personal(kept: Sequence[Example]) -> list[Finding]:
    damaged: list[int] = []
    personal: dict[str, list[int]] = defaultdict(list)
    sample: dict[str, str] = {}
    for example in kept:
        if not example.text.isascii() and _MOJIBAKE.search(example.text):
            damaged.append(example.row)
        for kind, match in dict(find_personal(example.text)).items():
            personal[kind].append(example.row)
            sample.setdefault(kind, mask(match))
    what = "damaged characters (UTF-8 read in another encoding, or U+FFFD)"
    findings = _finding("mojibake", "warning", what, damaged)
    for kind, rows in sorted(personal.items()):
        findings += _finding("personal_data", "warning", f"{_KINDS[kind]} such as {sample[kind]}", rows)
    return findings


def _wrong_labels(kept: Sequence[Example]) -> list[Finding]:
    try:
        doubtful = probable_wrong_labels(kept)
    except HalfpintError as error:
        message = f"labels were not checked for mistakes. {error}"
        return [Finding(kind="probable_wrong_label", severity="note", message=message)]
    if not doubtful:
        return []
    likeliest = ", ".join(f"row {e.row} {e.label!r} reads like {other!r}" for e, other in doubtful[:3])
    rows = tuple(example.row for example, _ in doubtful)
    some = f" (of {MOST_ROWS:,} rows drawn)" if len(kept) > MOST_ROWS else ""
    message = f"labels that are probably wrong{some}, the most doubtful first: {_shown(rows)}: {likeliest}"
    return [Finding(kind="probable_wrong_label", severity="warning", message=message, rows=rows)]
