"""The report of a language model: what it reads out of a run's records, its words, and its page."""

from __future__ import annotations

import copy
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.bundle import Bundle, new_bundle, open_bundle
from halfpint.data.conversations import Conversations
from halfpint.data.corpus import BOTH, Corpus
from halfpint.energy import energy_spent, metered
from halfpint.evaluate.counted_baseline import counted_baseline
from halfpint.evaluate.text import judge
from halfpint.progress import SILENT, Log
from halfpint.report.curve import NARROW, curve_svg, shown_tokens
from halfpint.report.html import render, write_report
from halfpint.report.language import verdict
from halfpint.report.learning import trainings
from halfpint.report.terminal import summary
from halfpint.search.language_report import write_language_report

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>\"' & </style><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "br", "img"}
FIGURES = {
    "bits_per_byte": 1.92, "bits_per_byte_interval": [1.9, 1.94], "perplexity_per_token": 14.13,
    "perplexity_per_word": 85.2, "nats_per_token": 2.65, "documents": 21, "tokens_per_s": 4000.0,
}  # fmt: skip


class Page(HTMLParser):
    """The tags, ids and words of a page; an unbalanced tag fails."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.ids, self.pointed = [], [], "", [], []  # type: ignore[var-annotated]
        self.feed(page)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids)) and set(self.pointed) <= set(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            self.ids += [value] if name == "id" else []
            self.pointed += (value or "").split() if name == "aria-labelledby" else []
            self.pointed += [value[1:]] if name == "href" and value and value.startswith("#") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words += data.replace("\u00a0", " ")


def entry(use: str = "train/pretrain", name: str = "nats_per_token", looks: int = 4, **more: Any) -> dict[str, Any]:
    history = [
        {"step": 5 * n, "tokens": 500 * n, "loss": 6 - n / 2, name: 5.5 - n / 2, "sample": f"sample {n}"}
        for n in range(1, looks + 1)
    ]
    found = {"use": use, "settings": {"context": 64}, "seconds": 60.0, "history": history, "best_step": 5 * looks}
    return {**found, "steps": 5 * looks, "tokens_per_s": 1000.0, "train_tokens": 1000, "learning_rate": 1e-3, **more}


def sample(**more: Any) -> dict[str, Any]:
    report: dict[str, Any] = {
        "halfpint": "0.1.0", "kind": "language", "task": "predict", "objective": "causal", "out": "my out",
        "bundle": "my out/best", "verdict": "",
        "model": {"architecture": "llama", "parameters": 9_900_000, "vocabulary": 4096, "size_bytes": 39_600_000},
        "validation": dict(FIGURES), "taught": None,
        "baseline": {
            "bits_per_byte": 2.23, "perplexity_per_token": 23.0, "nats_per_token": 3.1, "order": 5,
            "difference": [-0.31, -0.33, -0.29],
            "train_tokens": 3_600_000, "train_share": 0.5, "seconds": 12.0,
        },
        "training": trainings({"stages": [entry()]}),
        "samples": [
            {"prompt": "Once", "text": f" {EVIL}"}, {"prompt": "a [MASK]", "word": EVIL, "filled": [["b", 0.5]]},
        ],
        "data": {
            "sources": [EVIL], "train": {"documents": 400, "bytes": 5_000_000, "words": 900_000},
            "validation": {"documents": 21, "bytes": 250_000, "words": 45_000}, "languages": {"en": 390},
            "dropped": [{"reason": "exact duplicate", "count": 7, "examples": [{"place": EVIL, "start": "x"}]}],
        },
        "stages": [{"use": "train/pretrain", "seconds": 60.0}],
        "energy": {"wh": 1.2, "co2e_g": 0.5, "seconds": 60.0, "source": "modelled", "method": "4 W a thread"},
        "machine": {"cpu": "a processor", "cores": 2}, "recipe": "[data]\n", "command": "halfpint pretrain x",
        "seconds": 66.0, "finished": "2025-01-15T10:22:04Z",
    }  # fmt: skip
    report |= more
    report["verdict"] = verdict(report)
    return report


def test_what_it_came_to_in_words() -> None:
    assert sample()["verdict"] == (
        "1.920 bits per byte on 21 validation documents (95% interval 1.900 to 1.940): 0.310 better than the "
        "n-gram baseline (2.230, 5-grams of the same tokens; 95% interval of the difference "
        "-0.330 to -0.290). Perplexity 14.13 per token, 85.2 per word."
    )
    grams: dict[str, Any] = {"bits_per_byte": 1.5, "order": 8}
    worse = sample(baseline={**grams, "difference": [0.42, 0.40, 0.44]})["verdict"]
    assert "0.420 worse than the n-gram baseline (1.500, 8-grams" in worse
    for unsure in ([0.01, -0.02, 0.04], [-0.01, -0.04, 0.02]):
        report = sample(baseline={**grams, "perplexity_per_token": 7.39, "difference": unsure})
        assert "not told apart from the n-gram baseline" in report["verdict"]
        assert "worse" not in report["verdict"] and "better" not in report["verdict"]
        assert "Worse" not in Page(render(report)).words
    sure = sample(baseline={**grams, "perplexity_per_token": 7.39, "difference": [0.42, 0.40, 0.44]})
    assert "Worse than counting: predicts" in Page(render(sure)).words
    unpaired = sample(baseline=grams)["verdict"]  # of an earlier version
    assert ", n-gram baseline 1.500, 8-grams of the same tokens. Perp" in unpaired and "better" not in unpaired
    chosen = ", by which its weights were chosen too"
    assert (
        chosen in sample(data={"choosing": BOTH})["verdict"] and chosen not in sample(data={"choosing": {}})["verdict"]
    )
    assert "counting" not in sample(baseline=None)["verdict"]
    masked = sample(objective="masked", baseline={"nats_per_token": 6.0})["verdict"]
    assert masked.startswith("2.650 nats per hidden token") and "against 6.000 by the token's frequency" in masked
    assert "bits per byte" not in masked and "worse" not in masked and "no less" not in masked
    assert (
        "On this text that is no less: train it"
        in sample(objective="masked", baseline={"nats_per_token": 2.0})["verdict"]
    )
    page = Page(render(sample(objective="masked", baseline={"nats_per_token": 2.0, "perplexity_per_token": 7.39})))
    assert (
        "Higher than by frequency: fills a gap as if choosing among 14.13 tokens (by frequency alone: 7.39)"
        in page.words
    )
    assert "halfpint fill 'my out/best' \"the [MASK] of\"" in page.words
    assert sample(validation=None)["verdict"] == "There was no validation text: evaluate it on other text."
    taught = {
        "nats_per_assistant_token": 0.84, "nats_per_assistant_token_before": 1.28,
        "perplexity_per_assistant_token": math.exp(0.84), "perplexity_per_assistant_token_before": math.exp(1.28),
    }  # fmt: skip
    said = sample(taught=taught)["verdict"]
    assert "by which its weights were chosen (before: 1.280)" in said and "better" not in said


def written(path: Path, *events: tuple[str, dict[str, Any]]) -> Path:
    log = Log(path, quiet=True)
    for kind, fields in events:
        log.event(kind, **fields)
    return path


def test_the_loss_of_each_step_is_that_of_the_last_run_of_the_stage(tmp_path: Path) -> None:
    """Steps that were done again after an interruption count once; other stages and earlier settings do not."""

    def steps(first: int, last: int, loss: float) -> list[tuple[str, dict[str, Any]]]:
        return [("step", {"step": n, "tokens": 100 * n, "loss": loss}) for n in range(first, last)]

    events = written(
        tmp_path / "events.jsonl",
        ("stage", {"use": "train/pretrain", "key": "old"}), *steps(1, 30, 9.0), ("stage done", {}),
        ("stage", {"use": "train/pretrain", "key": "new"}), *steps(1, 9, 5.0), ("speed", {"flops_per_token": 1e6}),
        ("stage", {"use": "train/pretrain", "key": "new"}), *steps(7, 11, 4.0),
        ("speed", {"flops_per_token": 6e6, "peak_flops_per_s": 6e10}), ("stage done", {}),
        ("stage", {"use": "train/chat", "key": "other"}), *steps(1, 30, 1.0),
    )  # fmt: skip
    with events.open("a", encoding="utf-8") as file:
        file.write('{"event": "step", "st')  # cut off
    found = trainings({"stages": [{"use": "models/pull"}, entry()]}, events)
    assert len(found) == 1
    assert found[0]["train"] == [[100.0 * n, 5.0 if n < 7 else 4.0] for n in range(1, 11)]
    assert found[0]["validation"] == [[500, 5.0], [1000, 4.5], [1500, 4.0], [2000, 3.5]]
    assert (found[0]["kept"], found[0]["unit"], found[0]["tokens"]) == (2000, "nats per token", 2000)
    assert found[0]["share_of_peak"] == pytest.approx(0.1)
    assert [one["text"] for one in found[0]["samples"]] == ["sample 1", "sample 3", "sample 4"]


def test_many_steps_are_drawn_as_means(tmp_path: Path) -> None:
    every = [("step", {"step": n, "tokens": n, "loss": float(n % 2)}) for n in range(1, 1001)]
    events = written(tmp_path / "events.jsonl", ("stage", {"use": "train/pretrain", "key": "a"}), *every)
    points = trainings({"stages": [entry()]}, events)[0]["train"]
    assert 100 < len(points) <= 240 and points[-1][0] == 1000
    assert all(abs(loss - 0.5) <= 0.2 for _, loss in points)


def test_without_events_the_card_tells_the_loss() -> None:
    found = trainings({"stages": [entry("train/chat", "nats_per_assistant_token", nats_before=6.0)]})[0]
    assert found["train"] == [[500, 5.5], [1000, 5.0], [1500, 4.5], [2000, 4.0]]
    assert found["unit"] == "nats per assistant token" and found["lines"] == [[6.0, "before"]]
    assert trainings({"stages": [entry(objective="masked")]})[0]["unit"] == "nats per masked token"
    assert trainings({"stages": [{"use": "train/finetune", "history": [{"step": 1, "loss": 1.0, "score": 0.5}]}]}) == []


def test_the_energy_of_a_run_in_parts(tmp_path: Path) -> None:
    part = {"wh": 1.0, "co2e_g": 0.4, "seconds": 30.0, "source": "measured", "method": "counters"}
    events = written(tmp_path / "e.jsonl", ("energy", part), ("step", {}), ("energy", {**part, "source": "modelled"}))
    spent = energy_spent(events)
    assert (spent["wh"], spent["seconds"], spent["source"]) == (2.0, 60.0, "modelled")
    assert energy_spent(tmp_path / "none.jsonl") == energy_spent(None) == {}
    log = Log(quiet=True)
    with metered(log):  # ended before there was a file: it is not the next run's
        pass
    log.events = tmp_path / "next.jsonl"
    with metered(log):
        pass
    assert log.events.read_text().count('"energy"') == 1


@pytest.mark.parametrize("width", [760, NARROW])
def test_the_curve(width: int) -> None:
    training = trainings({"stages": [entry(nats_before=2.0)]})[0]
    training["train"] = [[1, 400.0], *training["train"]]  # the beginning does not flatten the rest
    svg = ET.fromstring(curve_svg(training, width))
    named = (svg.get("aria-labelledby") or "").split()
    assert svg.get("role") == "img" and [part.get("id") for part in svg if part.get("id")] == named
    assert "the lowest is 3.5" in "".join(svg.itertext())
    circles = [float(one.get("cy") or 0) for one in svg.iter(f"{SVG}circle") if one.get("class") == "point"][:4]
    assert circles == sorted(circles) and circles[-1] - circles[0] > 60
    words = [str(part.text) for part in svg.iter(f"{SVG}text")]
    assert "nats per token" in words and "before 2.000" in words and "the weights kept" in words
    x = [float(one.get("x") or 0) for one in svg.iter(f"{SVG}text")]
    assert min(x) >= 0 and max(x) <= width


def test_a_curve_of_next_to_nothing() -> None:
    assert curve_svg({}) == curve_svg({"train": [[1, 2.0]], "validation": None}) == ""
    assert curve_svg({"train": [[1, 2.0], [2, 2.0]], "validation": [["x", 1]]})
    assert [shown_tokens(one) for one in (800, 120_000, 3_600_000, 2e9)] == ["800", "120K", "3.6M", "2B"]


def test_the_page_holds_everything() -> None:
    page = Page(render(sample()))
    for words in (
        "Predicts the next token as if choosing among 14.13 tokens",
        "0.310 better than the n-gram baseline", "How it learned", "n-gram baseline", "23",
        "50% of the documents", "Once", "sample 4", "9.9M parameters", "1.20 Wh", "4 W a thread", "exact duplicate",
        "400 documents", "halfpint generate 'my out/best'", "halfpint export 'my out/best' --to gguf", "halfpint serve",
        "halfpint pretrain x",
    ):  # fmt: skip
        assert words in page.words, words
    assert page.tags.count("script") == 1 and "img" not in page.tags and page.tags.count("h1") == 1
    assert page.tags.count("svg") == 2 and EVIL in page.words
    text = render(sample())
    assert "http://" not in text and "https://" not in text
    masked = Page(render(sample(objective="masked"))).words
    assert (
        "Fills a gap as if choosing among 14.13 tokens" in masked
        and "halfpint generate" not in masked
        and "Bits per byte" not in masked
    )


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_report_with_holes_still_makes_a_page(drawn: st.DataObject) -> None:
    report: Any = copy.deepcopy(sample())
    for _ in range(drawn.draw(st.integers(1, 5))):
        inside = report
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = drawn.draw(st.sampled_from(keys))
            if isinstance(inside[key], dict | list) and drawn.draw(st.booleans()):
                inside = inside[key]
                continue
            inside[key] = drawn.draw(st.sampled_from([None, "words", -1, 0, math.nan, [], {}, [None], {"a": None}]))
            break
    if report.get("kind") == "language":
        Page(render(report))


def test_a_trained_model_and_one_that_counts(bundles: Callable[[str], Bundle], corpus: Corpus, tmp_path: Path) -> None:
    for name in ("language", "ngram", "masked"):
        bundle = bundles(name)
        figures = judge(bundle, corpus.validation[:4], SILENT)
        report = write_language_report(bundle, corpus, figures, out=tmp_path / name, events=None, log=SILENT)
        assert json.loads((tmp_path / name / "report.json").read_text("utf-8"))["verdict"] == report["verdict"]
        page = Page((tmp_path / name / "report.html").read_text("utf-8"))
        assert ("n-gram baseline" in page.words) == (name != "ngram")
        assert ("How it learned" in page.words) == (name != "ngram")
        assert report["model"]["parameters"] == (None if name == "ngram" else bundle.card["stages"][0]["parameters"])
        assert len(report["samples"]) == 3 and report["data"] == corpus.summary()
        said = summary(report)
        assert report["verdict"] in said and f"halfpint evaluate {bundle.path} TEXT" in said
        write_report(json.loads((tmp_path / name / "report.json").read_text("utf-8")), tmp_path / name)


def test_a_taught_model(bundles: Callable[[str], Bundle], conversations: Conversations, tmp_path: Path) -> None:
    bundle = bundles("chat")
    report = write_language_report(bundle, conversations, None, out=tmp_path, events=None, log=SILENT)
    assert report["taught"]["nats_per_assistant_token"] < report["taught"]["nats_per_assistant_token_before"]
    assert [one["use"] for one in report["training"]] == ["train/pretrain", "train/chat"]
    words = Page((tmp_path / "report.html").read_text("utf-8")).words
    assert "Writes an answer as if choosing among" in words and "plus one?" in words and "before" in words


def test_a_report_is_no_part_of_its_bundle(bundles: Callable[[str], Bundle], tmp_path: Path) -> None:
    with new_bundle(tmp_path / "one", bundles("ngram")) as (folder, _):
        (folder / "config.json").write_text("{}", encoding="utf-8")
    before = open_bundle(tmp_path / "one")
    size, fingerprint = before.size_bytes, before.fingerprint
    write_report(sample(), tmp_path / "one")
    after = open_bundle(tmp_path / "one")
    assert (after.size_bytes, after.fingerprint) == (size, fingerprint)
    with new_bundle(tmp_path / "two", after) as (folder, _):
        for file in after.path.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    assert not (tmp_path / "two" / "report.json").exists() and not (tmp_path / "two" / "report.html").exists()


def test_a_model_is_compared_with_counting_document_by_document(
    bundles: Callable[[str], Bundle], corpus: Corpus
) -> None:
    scores: list[Any] = []
    held = corpus.validation[:4]
    figures = judge(bundles("language"), held, SILENT, scores)
    baseline = counted_baseline(bundles("language"), corpus.train, held, beside=scores)
    assert baseline is not None and len(scores) == len(held)
    value, low, high = baseline["difference"]
    assert value == pytest.approx(figures["bits_per_byte"] - baseline["bits_per_byte"]) and low <= value <= high
    alone = counted_baseline(bundles("language"), corpus.train, held)
    assert alone is not None and "difference" not in alone
