"""Every kind of finding, each with its rows; cleaning; refusing what no classifier can learn from."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from halfpint.data.check import check, clean, raise_if_unusable
from halfpint.data.dedup import normalise
from halfpint.data.examples import Example
from halfpint.data.prepare import Data, prepare
from halfpint.data.wrong_labels import probable_wrong_labels
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT
from halfpint.task import Finding

PLACES = ["river", "mountain", "forest", "beach", "island", "desert", "valley", "harbour"]
FOODS = ["soup", "bread", "cheese", "apple", "noodle", "pepper", "sausage", "butter"]
FILLERS = ["today", "we", "saw", "some", "very", "nice", "old", "cheap", "big", "small", "plain", "good"]


def made(count: int = 40, seed: int = 0) -> list[Example]:
    """Two labels that their words tell apart, the same number of each, no two texts alike."""
    source = random.Random(seed)
    texts: dict[str, str] = {}
    while len(texts) < count:
        label, words = (("place", PLACES), ("food", FOODS))[len(texts) % 2]
        parts = source.sample(words, 3) + source.sample(FILLERS, 4)
        source.shuffle(parts)
        texts.setdefault(" ".join(parts), label)
    return [Example(text, label, row) for row, (text, label) in enumerate(texts.items(), start=2)]


def only(findings: Sequence[Finding], kind: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.kind == kind]
    return finding


def found(examples: Sequence[Example], kind: str, **options: object) -> Finding:
    return only(check(examples, probe_labels=False, **options), kind)  # type: ignore[arg-type]


def test_a_clean_set_has_no_findings() -> None:
    assert check(made(), probe_labels=False) == []


def test_missing_text_and_label() -> None:
    examples = [*made(), Example("  ", "food", 90), Example("some words", "NaN", 91), Example("more words", "", 92)]
    text, label = (found(examples, kind) for kind in ("missing_text", "missing_label"))
    assert (text.severity, text.rows, text.drop) == ("error", (90,), True)
    assert (label.severity, label.rows, label.drop) == ("error", (91, 92), False)
    with pytest.raises(HalfpintError, match=r"t\.csv.*no label: 2 rows \(91, 92\)"):
        raise_if_unusable([text, label], "t.csv")


def test_one_class_and_single_examples() -> None:
    only_food = [example for example in made() if example.label == "food"]
    assert found(only_food, "one_class").severity == "error"
    assert "no row with a text and a label" in found([], "one_class").message
    rare = [*made(), Example("a lonely line", "rare", 90), Example("twice said", "twin", 91)]
    rare.append(Example("Twice said!", "twin", 92))
    finding = found(rare, "single_example_label")
    assert finding.rows == (90, 91, 92)
    assert "2 labels with fewer than two usable examples ('rare', 'twin')" in finding.message
    with pytest.raises(HalfpintError, match="'rare', 'twin'"):
        raise_if_unusable(check(rare, probe_labels=False), "t.csv")
    raise_if_unusable(check(made(), probe_labels=False), "t.csv")


def test_duplicates_and_conflicts_are_dropped() -> None:
    examples = made()
    first, second = examples[0], examples[1]
    examples += [Example(first.text.upper() + "!", first.label, 90), Example(second.text, "other", 91)]
    findings = check(examples, probe_labels=False)
    assert only(findings, "exact_duplicate").rows == (90,)
    assert only(findings, "conflicting_labels").rows == (second.row, 91)
    kept, dropping = clean(examples, findings)
    assert [example.row for example in kept] == [example.row for example in made() if example.row != second.row]
    assert {finding.kind for finding in dropping} == {"exact_duplicate", "conflicting_labels"}
    assert clean(kept, check(kept, probe_labels=False)) == (kept, [])


def test_near_duplicates_and_leakage() -> None:
    examples = made()
    long = " ".join(example.text for example in examples[:5])
    examples += [Example(long, "food", 90), Example(long + "s", "food", 91), Example("a word. " + long, "food", 92)]
    test = [Example(examples[3].text.title(), "place", 1), Example(long.replace("s ", "s, ") + " x", "food", 2)]
    test.append(Example(long + "s.", "food", 3))
    findings = check(examples, test=test, probe_labels=False)
    near = only(findings, "near_duplicate")
    assert (near.rows, near.drop, near.severity) == ((90, 91, 92), False, "warning")
    assert only(findings, "leakage_exact").rows == (examples[3].row, 91)
    assert only(findings, "leakage_near").rows == (90, 92)
    kept, _ = clean(examples, findings)
    assert not {normalise(example.text) for example in kept} & {normalise(example.text) for example in test}


@pytest.mark.parametrize(("count", "severity"), [(3, None), (4, "note"), (10, "warning")])
def test_imbalance(count: int, severity: str | None) -> None:
    pool = made(60)
    few = [example for example in pool if example.label == "food"][:3]
    many = [example for example in pool if example.label == "place"][: 3 * count]
    findings = [finding for finding in check(few + many, probe_labels=False) if finding.kind == "imbalance"]
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_long_texts_by_estimate_and_by_counter() -> None:
    examples = [*made(), Example(" ".join(map(str, range(300))), "food", 90)]
    assert found(examples, "long_text").rows == (90,)
    assert "about 390" in found(examples, "long_text").message
    by_chars = found(examples, "long_text", count_tokens=lambda texts: [len(text) for text in texts], max_tokens=1000)
    assert by_chars.rows == (90,)
    assert by_chars.severity == "note"


@pytest.mark.parametrize(
    "text",
    [
        "dÃ©jÃ vu",
        "itâ€™s",
        "30Â°",
        "what\ufffd",
        "that\x92s it",
        "smile \u00f0\u0178\u02dc\u20ac now",
        "\u00e2\u201a\u00ac 5",
    ],
)
def test_mojibake(text: str) -> None:
    assert found([*made(), Example(text, "food", 90)], "mojibake").rows == (90,)


@pytest.mark.parametrize(
    "text",
    ["déjà vu", "it\u2019s 30° \u2014 \u201cfine\u201d", "São Paulo", "Âme et château", "日本語 \U0001f600", "NÃO"],
)
def test_no_mojibake(text: str) -> None:
    assert check([*made(), Example(text, "food", 90)], probe_labels=False) == []


def test_personal_data_is_never_printed_whole() -> None:
    examples = [*made(), Example("me@example.com and 4111 1111 1111 1111", "food", 90), Example("x@y.org", "food", 91)]
    mail, card = sorted(
        (finding for finding in check(examples, probe_labels=False) if finding.kind == "personal_data"),
        key=lambda finding: -len(finding.rows),
    )
    assert (mail.rows, card.rows) == ((90, 91), (90,))
    assert "m…om" in mail.message
    assert not any(secret in mail.message + card.message for secret in ("me@", "example", "4111", "1111"))


def test_messages_are_one_line_and_errors_come_first() -> None:
    examples = [*made(), Example("", "food", 90), Example("a b", "odd\nlabel", 91)]
    examples += [Example(f"me{i}@example.com {i} {PLACES[i % 8] * i}", "food", 100 + i) for i in range(20)]
    findings = check(examples, probe_labels=False)
    assert all("\n" not in finding.message for finding in findings)
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    mails = only(findings, "personal_data")
    assert len(mails.rows) == 20
    assert "20 rows (100, 101, 102, 103, 104, 105, 106, 107 and 12 more)" in mails.message


def test_probable_wrong_labels_are_found() -> None:
    pytest.importorskip("cleanlab")
    examples = made(200)
    wrong = [Example(examples[i].text, "food" if examples[i].label == "place" else "place", i + 2) for i in (20, 77)]
    for example in wrong:
        examples[example.row - 2] = example
    finding = only(check(examples), "probable_wrong_label")
    assert finding.severity == "warning"
    assert {22, 79} <= set(finding.rows)
    assert len(finding.rows) <= 6
    assert "reads like" in finding.message
    assert probable_wrong_labels(examples, max_rows=100) == probable_wrong_labels(examples, max_rows=100)


def test_the_core_alone_checks_and_says_what_it_left_out() -> None:
    absent = ("torch", "transformers", "scipy", "sklearn", "pyarrow", "datasets", "cleanlab")
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n"
        "from halfpint.data.check import check\nfrom halfpint.data.examples import Example\n"
        "from halfpint.data.split import split\n"
        "made = [Example(f'words {i * i} of {i}', 'ab'[i % 2], i) for i in range(60)]\n"
        "print(len(split(made).test), *(f.message for f in check(made)), sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    test, message = done.stdout.strip().split("|")
    assert 7 <= int(test) <= 11
    assert "labels were not checked for mistakes" in message
    assert "pip install 'halfpint[train]'" in message


def test_where_labels_cannot_be_probed_a_note_says_so() -> None:
    pytest.importorskip("cleanlab")
    assert "labels were not checked for mistakes" in only(check(made(10)), "probable_wrong_label").message
    source = random.Random(0)
    noise = [Example(example.text, source.choice(["a", "b"]), example.row) for example in made(200)]
    finding = only(check(noise), "probable_wrong_label")
    assert (finding.severity, finding.rows) == ("note", ())
    assert "a simple model can guess" in finding.message


def test_without_a_test_file_nothing_is_said_of_its_labels(tmp_path: Path) -> None:
    rows = "".join(f"{one} {other},{one in FOODS}\n" for one in (*PLACES, *FOODS) for other in PLACES)
    (tmp_path / "rows.csv").write_text("text,label\n" + rows, encoding="utf-8")
    data = prepare(Data(source=str(tmp_path / "rows.csv")), SILENT, probe_labels=False)
    assert "untested_label" not in {finding["kind"] for finding in data.facts["findings"]}
