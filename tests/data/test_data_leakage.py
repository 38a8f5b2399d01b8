"""What gives a test text away is not learned from, and said; where it is, no sentence says otherwise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from halfpint.data.dedup import normalise
from halfpint.data.examples import Example
from halfpint.data.leakage import EXACT, NEAR, PART, leaks
from halfpint.data.prepare import Data, prepare
from halfpint.data.split import split_with
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT, Log
from halfpint.report.sections import leaked, results, right

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath"]
WORDS += ["inlet", "joule", "knoll", "larch", "maple", "north", "olive", "pearl"]


def text(number: int) -> str:
    """Eight words, in an order that no other number below 4,000 shares half of."""
    return " ".join(WORDS[(number * step + number // step) % 16] + str(number * step % 97) for step in range(3, 11))


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("text,label\n" + "".join(f'"{one}",{label}\n' for one, label in rows), encoding="utf-8")
    return str(path)


def plain(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(text(number), "ab"[number % 2]) for number in range(start, start + count)]


def test_what_leaks_a_text_is_named_by_how() -> None:
    held = ["It never came, and nobody answers me", "where is my card now", "thank you so much"]
    ours = [
        "it never came and nobody answers me!", "It never came and nobody answers mee",
        "please tell where is my card now",
        "nobody answers me", "and nobody answers me", "something else by itself here", "",
        *(f"{word} thank you so much" for word in WORDS[:9]),
    ]  # fmt: skip
    assert leaks(ours, held) == {EXACT: [0], NEAR: [1], PART: [2, 4]}  # three words are anybody's, and so is thanking
    assert leaks(ours[:-1], held)[PART] == [2, 4, *range(7, 15)]
    assert leaks(held, ours)[PART] == [1, 2]  # part of many test texts: given all the same
    assert leaks(ours, []) == {EXACT: [], NEAR: [], PART: []}


def test_what_gives_a_test_text_away_is_neither_learned_nor_chosen_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = plain(120)
    test = [(rows[0][0], "a"), (f"{rows[1][0]} indeed", "b"), (" ".join(rows[2][0].split()[:5]), "a"), *plain(20, 500)]
    data = Data(source=written(tmp_path / "d.csv", rows), test=written(tmp_path / "t.csv", test))
    split = prepare(data, Log(), probe_labels=False)
    seen = {normalise(one.text) for one in (*split.train, *split.validation)}
    assert len(seen) == 117 and not seen & {normalise(rows[number][0]) for number in range(3)}
    assert len(split.test) == 23
    told = {one["kind"]: one["count"] for one in split.facts["dropped"]}
    assert told.pop("leakage_exact") == 1 and sum(told.values()) == 2 and set(told) <= {NEAR, PART}
    assert "dropped: texts that are in the test set: 1 row (2)" in capsys.readouterr().err
    assert leaked({"data": split.facts}) == 0


def judged(facts: dict[str, object]) -> dict[str, object]:
    return {"data": facts, "chosen": "one", "test": {"one": {"metrics": {"accuracy": 0.9}, "rows": 5}}}


def test_a_label_without_other_rows_keeps_them_and_no_sentence_says_unseen(tmp_path: Path) -> None:
    rows = [*plain(120), *((f"{text(n)} rare", "c") for n in range(300, 305))]
    test = [*((f"{one} indeed", "c") for one, label in rows if label == "c"), *plain(20, 500)]
    data = Data(source=written(tmp_path / "d.csv", rows), test=written(tmp_path / "t.csv", test))
    facts = prepare(data, SILENT, probe_labels=False).facts
    kinds = {one["kind"]: one["count"] for one in facts["findings"]}
    assert kinds["leakage_kept"] == 2 and kinds.get(NEAR, 0) + kinds.get(PART, 0) == 3
    assert facts["labels"]["c"] >= 1
    report = judged(facts)
    assert "never" not in right(report) and "nearly the same as training texts" in right(report)
    assert "no candidate saw" not in results(report).html and "2 rows that are nearly the same" in results(report).html
    clean = judged({**facts, "findings": [], "dropped": []})
    assert "it had never seen" in right(clean) and "no candidate saw before" in results(clean).html


def test_an_older_run_that_kept_them_says_so_in_its_report() -> None:
    findings = [{"kind": "leakage_near", "count": 7}, {"kind": "leakage_exact", "count": 3}]
    assert leaked({"data": {"findings": findings, "dropped": [{"kind": "leakage_exact", "count": 3}]}}) == 7


def test_a_test_file_made_of_the_training_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    rows = plain(60)
    test = [(f"{one} indeed", label) for one, label in rows]
    data = Data(source=written(tmp_path / "d.csv", rows), test=written(tmp_path / "t.csv", test))
    with pytest.raises(HalfpintError, match=r"two usable examples.*; texts .*test"):
        prepare(data, SILENT, probe_labels=False)


def test_texts_under_several_labels_are_judged_by_but_not_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*plain(200), *((one, label) for one, _ in plain(100, 1000) for label in "ab")]
    split = prepare(Data(source=written(tmp_path / "d.csv", rows)), Log(), probe_labels=False)
    doubtful = {one for one, _ in plain(100, 1000)}
    assert not doubtful & {one.text for one in split.train}
    assert not doubtful & {one.text for one in split.together().train}
    for side in (split.validation, split.test):
        found = Counter(one.text for one in side if one.text in doubtful)
        assert set(found.values()) == {2} and 0.4 < sum(found.values()) / len(side) < 0.6
    assert not {one.text for one in split.validation} & {one.text for one in split.test}
    (note,) = [one for one in split.facts["findings"] if one["kind"] == "contradictory"]
    assert f"30 of {len(split.test)} test rows are texts that stand there under different labels" in note["message"]
    assert note["message"] in capsys.readouterr().err
    one_label = prepare(Data(source=written(tmp_path / "e.csv", plain(200))), SILENT, probe_labels=False)
    assert "contradictory" not in {one["kind"] for one in one_label.facts["findings"]}


def test_contradictions_of_a_test_file_are_counted(tmp_path: Path) -> None:
    test = [*plain(20, 500), ("is it this or that one", "a"), ("Is it this, or that one?", "b")]
    data = Data(source=written(tmp_path / "d.csv", plain(120)), test=written(tmp_path / "t.csv", test))
    (note,) = [
        one for one in prepare(data, SILENT, probe_labels=False).facts["findings"] if one["kind"] == "contradictory"
    ]
    assert note["message"].startswith("2 of 22 test rows")


def test_doubtful_rows_follow_the_examples_that_they_are_like() -> None:
    examples = [Example(text(number), "ab"[number % 2], number) for number in range(60)]
    doubtful = [Example(f"{one.text} indeed", label, 100 + one.row) for one in examples for label in "ab"]
    parts = split_with(examples, doubtful, fractions=(0.6, 0.2, 0.2), seed=0)
    assert all(one.row < 100 for one in parts.train)
    for side in (parts.validation, parts.test):
        ours = {one.row for one in side if one.row < 100}
        assert ours and {one.row - 100 for one in side if one.row >= 100} == ours
