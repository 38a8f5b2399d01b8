"""`halfpint choose`: another measured candidate of a finished run becomes its best one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import halfpint
from halfpint.bundle import CARD, file_sha256, open_bundle, read_json
from halfpint.errors import HalfpintError
from halfpint.files import locked
from halfpint.search import by_hand

MANY = 160


def table(path: Path) -> Path:
    """Short made-up texts of two labels; one in six has no word that tells its label."""
    generator = np.random.default_rng(0)
    told = {"good": ["fine", "great", "lovely", "warm"], "bad": ["poor", "cold", "broken", "late"]}
    plain = ["the", "room", "train", "soup", "was", "very", "a", "bit", "today", "again"]
    lines = []
    for number in range(MANY):
        label = ("good", "bad")[number % 2]
        words = generator.choice(plain, 6).tolist()
        if generator.random() > 1 / 6:
            words.insert(int(generator.integers(0, 6)), str(generator.choice(told[label])))
        lines.append(json.dumps({"text": f"{' '.join(words)} {number}", "label": label}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, which no test writes to; the data lies beside it."""
    folder = tmp_path_factory.mktemp("fitted")
    data = table(folder / "table.jsonl")
    report = halfpint.fit(data, base="none", minutes=2.0, out=folder / "out", quiet=True).report
    assert "trained_on" in candidate(report, report["chosen"])
    return folder / "out"


@pytest.fixture
def out(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with data of its own."""
    shutil.copytree(fitted, tmp_path / "out")
    shutil.copyfile(fitted.parent / "table.jsonl", tmp_path / "table.jsonl")
    change(
        tmp_path / "out" / "request.json", lambda request: request["data"].update(source=str(tmp_path / "table.jsonl"))
    )
    return tmp_path / "out"


@pytest.fixture
def other(fitted: Path) -> str:
    """A measured candidate that was not tested."""
    report = read_json(fitted / "report.json")
    return next(str(one["name"]) for one in report["candidates"] if one["name"] not in report["test"])


def candidate(report: Any, name: str) -> dict[str, Any]:
    return next(one for one in report["candidates"] if one["name"] == name)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def change(path: Path, how: Callable[[Any], object]) -> None:
    content = read_json(path)
    how(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_another_candidate_becomes_the_best(out: Path, other: str, tmp_path: Path) -> None:
    before, work = read_json(out / "report.json"), files(out / "work")
    fits = before["chosen"]
    found = halfpint.choose(out, other, quiet=True)
    report = read_json(out / "report.json")
    assert found.report == report and found.chosen == report["chosen"] == other and found.exit_code == 0
    assert report["chosen_by"] == "hand" and before["chosen_by"] == "fit"
    assert report["by_fit"]["chosen"] == fits and report["by_fit"]["verdict"] == before["verdict"]
    one, first = candidate(report, other), candidate(report, fits)
    assert one["bundle"] == "best" and open_bundle(out / first["bundle"]).path.parent == out / "work"
    assert files(out / "work") == work and set(report["test"]) == {*before["test"], other}

    best = open_bundle(out / "best")
    assert best.fingerprint == open_bundle(out / candidate(before, other)["bundle"]).fingerprint
    figures, test = best.card["figures"], report["test"][other]
    assert figures["test"]["accuracy"] == test["accuracy"] and figures["test"]["rows"] == before["data"]["test"]
    assert figures["validation"] == {"accuracy": one["metrics"]["accuracy"], "interval": one["interval"]}
    assert halfpint.load(out / "best")(["a lovely warm room"])[0].label == "good"

    apart = one["metrics"]["accuracy"] - first["metrics"]["accuracy"]
    said = "level with it" if apart == 0 else f"{abs(apart):.4f} {'above' if apart > 0 else 'below'} it"
    assert report["verdict"].startswith(f"Chosen by hand. {other}: accuracy ")
    assert f"fit had chosen {fits} (accuracy {first['metrics']['accuracy']:.4f}" in report["verdict"]
    assert f"on the {before['data']['validation']} validation rows {other} is {said} (95% interval" in report["verdict"]
    assert f"learned from the training rows only; {fits} had been trained again" in report["verdict"]
    assert "Figures on the test texts were known before this choice" in report["verdict"]
    assert "does not meet" not in report["verdict"]

    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<span class="tag pick">chosen by hand</span>' in page and "Chosen by hand." in page
    assert f"halfpint choose {out} {other}" in page and f"{out} {other}" in report["command"]
    assert f"halfpint choose {out} {fits}   to use the choice of fit instead" in str(found)

    recipe = (out / "recipe.toml").read_text(encoding="utf-8")
    assert "all_rows" not in recipe and report["recipe"] == recipe
    assert f'use = "{best.card["stages"][-1]["use"]}"' in recipe
    again = halfpint.run(out / "recipe.toml", out=tmp_path / "again", quiet=True)
    assert open_bundle(again.bundle).fingerprint == best.fingerprint


def test_the_choice_of_fit_comes_back_as_it_was(
    fitted: Path, out: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_json(out / "report.json")
    recipe, card = ((fitted / name).read_bytes() for name in ("recipe.toml", f"best/{CARD}"))
    halfpint.choose(out, other, quiet=True)
    assert (out / "best" / CARD).read_bytes() != card

    monkeypatch.setattr(by_hand, "evaluate", None)  # the test is not looked at again
    (out.parent / "table.jsonl").unlink()
    halfpint.choose(out, "majority", quiet=True)
    assert read_json(out / "best" / CARD)["engine"] == "majority"
    found = halfpint.choose(out, before["chosen"], quiet=True)
    assert (out / "best" / CARD).read_bytes() == card
    assert (out / "recipe.toml").read_bytes() == recipe.replace(str(fitted.parent).encode(), str(out.parent).encode())
    same = ("chosen", "chosen_by", "verdict", "command", "limits", "data", "strongest", "energy", "finished")
    assert {key: found.report.get(key) for key in same} == {key: before[key] for key in same}
    assert "by_fit" not in found.report and candidate(found.report, other)["bundle"].startswith("work/")
    assert candidate(found.report, before["chosen"]) == candidate(before, before["chosen"])
    assert halfpint.choose(out, other, quiet=True).chosen == other  # known too by now


def test_what_is_chosen_already_is_left_as_it_is(out: Path, typed: Callable[..., tuple[int, str, str]]) -> None:
    name = read_json(out / "report.json")["chosen"]
    before = files(out)
    code, said, _ = typed("choose", out, name)
    assert (code, said) == (0, f"{name} is chosen already; nothing was changed.\n")
    code, said, _ = typed("choose", out, name, "--json")
    assert code == 0 and json.loads(said)["chosen"] == name
    assert files(out) == before


def test_an_interrupted_choice_is_completed_or_not(out: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_json(out / "report.json")
    with monkeypatch.context() as patched:
        patched.setattr(by_hand, "write_report", None)
        with pytest.raises(TypeError):
            halfpint.choose(out, other, quiet=True)
    new = open_bundle(out / candidate(before, other)["bundle"]).fingerprint
    assert read_json(out / "report.json") == before and open_bundle(out / "best").fingerprint == new
    assert halfpint.choose(out, before["chosen"], quiet=True).changed
    assert open_bundle(out / "best").fingerprint != new
    assert halfpint.choose(out, other, quiet=True).changed
    assert open_bundle(out / "best").fingerprint == new


def test_runs_that_kept_no_path_of_their_best_are_chosen_from_too(out: Path, other: str) -> None:
    before = read_json(out / "report.json")
    fits, card = before["chosen"], (out / "best" / CARD).read_bytes()

    def older(report: Any) -> None:
        for key in ("final_bundle", "measured_bundle"):
            del candidate(report, fits)[key]
        del report["chosen_by"], report["data"]["test_fingerprint"]

    change(out / "report.json", older)
    found = halfpint.choose(out, other, quiet=True)
    assert candidate(found.report, fits)["bundle"] == candidate(before, fits)["final_bundle"]
    assert "validation rows" not in found.verdict  # what the one measured there answered is not known any more
    halfpint.choose(out, fits, quiet=True)
    assert (out / "best" / CARD).read_bytes() == card


def test_where_none_meets_the_limits_one_may_be_chosen(tmp_path: Path) -> None:
    data, out = table(tmp_path / "table.jsonl"), tmp_path / "out"
    none = halfpint.fit(data, base="none", minutes=2.0, max_size="1KB", out=out, quiet=True)
    assert none.exit_code == 3 and not (out / "best").exists() and not (out / "recipe.toml").exists()
    closest = none.report["closest"]
    assert f"halfpint choose {out} {closest}   to use the one closest to the limits instead" in str(none)
    found = halfpint.choose(out, closest, quiet=True)
    why = candidate(none.report, closest)["why"]
    assert found.exit_code == 0 and "fit had chosen none." in found.verdict and "over 1 KB" in why
    assert f"It does not meet the limits: {why}." in found.verdict
    assert open_bundle(out / "best").card["figures"]["test"]["rows"] == none.report["data"]["test"]
    assert (out / "recipe.toml").read_text(encoding="utf-8") == found.report["recipe"]


def test_taggers_are_chosen_too(tmp_path: Path) -> None:
    people = ["Ada", "Emmy", "Alan", "Grace", "Kurt", "Sofia"]
    places = ["Rome", "Oslo", "Cairo", "Lima", "Quito", "Riga"]
    generator, sentences = np.random.default_rng(1), []
    for number in range(70):
        person, place = str(generator.choice(people)), str(generator.choice(places))
        words = [(person, "B-PER"), ("went", "O"), ("to", "O"), (place, "B-LOC"), (f"on-day-{number}", "O")]
        sentences.append("\n".join(f"{word} {tag}" for word, tag in words))
    data, out = tmp_path / "spans.conll", tmp_path / "out"
    data.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    report = halfpint.fit(data, base="none", minutes=0.2, out=out, quiet=True).report
    assert report["task"] == "tag"
    other = "crf" if report["chosen"] == "dictionary" else "dictionary"
    found = halfpint.choose(out, other, quiet=True)
    assert open_bundle(out / "best").card["stages"][-1]["use"] == f"train/{other}"
    assert found.verdict.startswith(f"Chosen by hand. {other}: f1_strict ") and "validation rows" in found.verdict
    assert f'use = "train/{other}"' in (out / "recipe.toml").read_text(encoding="utf-8")


def refused(out: Path, name: str, words: str) -> str:
    """Choosing is refused with `words`, and nothing is changed; gives the whole message."""
    before = files(out) if out.is_dir() else {}
    with pytest.raises(HalfpintError) as found:
        halfpint.choose(out, name, quiet=True)
    assert words in str(found.value) and found.value.exit_code == 2
    assert (files(out) if out.is_dir() else {}) == before
    return str(found.value)


def test_names_that_are_no_measured_candidate(
    out: Path, other: str, typed: Callable[..., tuple[int, str, str]]
) -> None:
    said = refused(out, "tfidf-smal-int8", f"There is no candidate 'tfidf-smal-int8' in {out}.")
    assert said.endswith("Did you mean 'tfidf-small-int8'?")
    assert "There is: majority, " in refused(out, "zzz", "There is no candidate 'zzz'")
    change(out / "report.json", lambda report: candidate(report, other).update(status="refused", why="parity: 0.2"))
    refused(out, other, f"{other} was refused, so that there is no model to choose: parity: 0.2.")
    change(
        out / "report.json", lambda report: candidate(report, other).update(status="skipped", why="no time left: 9 s")
    )
    assert refused(out, other, f"{other} was skipped").endswith("`halfpint fit` with more --minutes gives it time.")
    code, _, errors = typed("choose", out, "zzz")
    assert code == 2 and errors.startswith("error: There is no candidate 'zzz'")


def test_folders_that_are_no_finished_run(out: Path, other: str, tmp_path: Path) -> None:
    refused(tmp_path / "none", other, f"There is no file or folder {tmp_path / 'none'}.")
    assert not (tmp_path / "none").exists()
    refused(tmp_path / "table.jsonl", other, "is a file, not the output folder of `halfpint fit`")
    refused(tmp_path, other, f"{tmp_path} is not the output folder of `halfpint fit`.")
    assert refused(out / "best", other, "is not the output folder").endswith(f"Give {out}.")
    halfpint.run(out / "recipe.toml", out=tmp_path / "ran", quiet=True)
    refused(tmp_path / "ran", "ran", f"{tmp_path / 'ran'} is not the output folder of `halfpint fit`.")
    (out / "report.json").unlink()
    refused(out, other, f"`halfpint fit` has not finished in {out}. Give its command again")


CHANGED: dict[str, tuple[Callable[[Path, Path, str], object], str]] = {
    "bundle gone": (lambda out, kept, other: shutil.rmtree(kept), "is not there any more"),
    "bundle damaged": (lambda out, kept, other: (kept / "model.onnx").write_bytes(b"other"), "model.onnx"),
    "another bundle": (
        lambda out, kept, other: (shutil.rmtree(kept), shutil.copytree(out / "best", kept)),
        "not those that were measured",
    ),
    "figures": (
        lambda out, kept, other: change(
            out / "report.json", lambda report: candidate(report, other)["metrics"].update(accuracy=0.99)
        ),
        "not those that were measured",
    ),
    "a path elsewhere": (
        lambda out, kept, other: change(
            out / "report.json", lambda report: candidate(report, other).update(bundle="../out/strongest")
        ),
        "is not one in work",
    ),
    "no figures": (
        lambda out, kept, other: change(out / "report.json", lambda report: candidate(report, other).pop("interval")),
        "it is not a report of `halfpint fit`",
    ),
    "report damaged": (lambda out, kept, other: (out / "report.json").write_text("{"), "is damaged"),
    "stages": (
        lambda out, kept, other: change(kept / CARD, lambda card: card["stages"][0].pop("settings")),
        "its stages are not as they were written",
    ),
    "unknown stage": (
        lambda out, kept, other: change(kept / CARD, lambda card: card["stages"][0].update(use="train/none")),
        "train/none",
    ),
    "other files": (lambda out, kept, other: (out / "best" / "notes.txt").write_text("mine"), "would remove notes.txt"),
    "no data": (lambda out, kept, other: (out.parent / "table.jsonl").unlink(), "There is no file or folder"),
}  # fmt: skip


@pytest.mark.parametrize(("how", "words"), CHANGED.values(), ids=CHANGED)
def test_a_run_that_was_changed_by_hand(
    out: Path, other: str, how: Callable[[Path, Path, str], object], words: str
) -> None:
    how(out, out / candidate(read_json(out / "report.json"), other)["bundle"], other)
    refused(out, other, words)


@pytest.mark.parametrize("side", ["train", "test"])
def test_data_that_changed_since(out: Path, other: str, side: str) -> None:
    """Each row of the data is one of a side: what changed in any of them is seen."""
    from halfpint.lookup import open_task
    from halfpint.progress import SILENT
    from halfpint.task import label_task, settings_of

    data, task = out.parent / "table.jsonl", label_task(open_task("classify"), "here")
    split = task.read(settings_of(task, source=str(data)), out, SILENT)
    text = getattr(split, side)[0].text
    words = data.read_text(encoding="utf-8")
    data.write_text(words.replace(json.dumps(text)[:-1], json.dumps(text)[:-1] + " more"), encoding="utf-8")
    assert data.read_text(encoding="utf-8") != words
    which = "rows" if side == "train" else "test texts"
    assert f"its {which} are not those" in refused(out, other, "has changed since `halfpint fit` read it")


def test_two_at_once(out: Path, other: str) -> None:
    said = []

    def choose() -> None:
        try:
            halfpint.choose(out, other, quiet=True)
        except HalfpintError as error:
            said.append(str(error))

    before = files(out)
    with locked(out):
        thread = threading.Thread(target=choose)
        thread.start()
        thread.join(60)
    assert len(said) == 1 and f"{out} is in use" in said[0]
    assert files(out) == before
