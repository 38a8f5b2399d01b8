"""The report page: safe, whole, alone, and tolerant of what is missing."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.errors import HalfpintError
from halfpint.report import units
from halfpint.report.html import as_json, plain, render, write_report
from halfpint.report.pareto import NARROW, pareto_svg
from halfpint.report.sections import results
from halfpint.report.terminal import summary

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>\"' & </style><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "br", "img", "input", "hr"}


def candidate(name: str, quality: float | None, size: int | None, latency: float | None, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "family": "encoder",
        "precision": "int8",
        "metrics": {} if quality is None else {"accuracy": quality, "f1_macro": quality - 0.01},
        "interval": None if quality is None else [quality - 0.02, quality + 0.02],
        "size_bytes": size,
        "latency_p50_ms": latency,
        "latency_p95_ms": latency and latency * 2,
        "throughput_per_s": latency and 1000 / latency,
        "energy_wh_per_1000": latency and latency / 100,
        "co2e_g_per_1000": latency and latency / 300,
        "energy_source": "modelled",
        "train_s": 12.0,
        "feasible": True,
        "why": "",
        "status": "measured",
        "bundle": None,
    }
    return row | more


def judged(quality: float, labels: list[str]) -> dict[str, Any]:
    n = len(labels)
    matrix = [[30 if i == j else 3 if j == (i + 1) % n else 0 for j in range(n)] for i in range(n)]
    return {
        "metrics": {"accuracy": quality, "f1_macro": quality - 0.01, "calibration_error": 0.03},
        "interval": [quality - 0.01, quality + 0.01],
        "per_class": [{"label": label, "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 33} for label in labels],
        "confusion": {"labels": labels, "matrix": matrix},
        "worst": [{"text": EVIL, "label": labels[0], "predicted": labels[1], "probability": 0.98, "row": 17}],
    }


def sample(n_labels: int = 5) -> dict[str, Any]:
    labels = [f"label {i}" for i in range(n_labels - 1)] + [EVIL]
    return {
        "halfpint": "0.1.0",
        "task": "classify",
        "data": {
            "source": "tickets.csv",
            "test_source": "more tickets.csv",
            "rows": 1000,
            "train": 700,
            "validation": 100,
            "test": 200,
            "labels": {label: 10 + i for i, label in enumerate(labels)},
            "columns": {"text": "text", "label": EVIL},
            "dropped": [{"kind": "empty", "count": 2, "rows": [3, 4], "message": "The text is empty."}],
            "findings": [{"kind": "conflict", "severity": "error", "message": EVIL, "rows": list(range(40))}],
            "fingerprint": "sha256:12ab",
        },
        "limits": {"max_size_bytes": 25_000_000, "max_latency_ms": 10.0, "floor": {"accuracy": 0.8}, "keep": None},
        "primary_metric": "accuracy",
        "candidates": [
            candidate("majority", 0.02, 4000, 0.004, feasible=False, why="accuracy 2.0% is below the floor"),
            candidate("tfidf", 0.86, 4_900_000, 0.24),
            candidate("small", 0.90, 7_600_000, 1.1),
            candidate("picked", 0.93, 22_900_000, 4.1, bundle="runs/my tickets/picked"),
            candidate("large", 0.94, 90_900_000, 11.3, feasible=False, why="90.9 MB is over 25 MB"),
            candidate("unlucky", None, None, None, status="refused", feasible=False, why="refused: lost 30 points"),
            candidate(EVIL, 0.88, 9_000_000, 3.0, family=EVIL, precision=None),
        ],
        "chosen": "picked",
        "verdict": EVIL,
        "test": {"picked": judged(0.931, labels), "tfidf": judged(0.87, labels)},
        "machine": {
            "cpu": EVIL,
            "cores": 2,
            "memory_bytes": 2**34,
            "os": "Linux",
            "python": "3.11",
            "packages": {"a": "1"},
        },
        "energy": {"wh": 12.4, "co2e_g": 4.7, "source": "modelled", "seconds": 1602},
        "recipe": f"[data]\nsource = '{EVIL}'\n",
        "command": f"halfpint fit {EVIL}",
        "seconds": 1634.2,
        "finished": "2025-01-15T10:22:04Z",
        "a key of the future": {"ignored": True},
    }


def infeasible() -> dict[str, Any]:
    report = sample()
    report |= {"chosen": None, "test": None}
    for row in report["candidates"]:
        row["feasible"] = False
    return report


REPORTS = {"whole": sample(), "many labels": sample(30), "infeasible": infeasible(), "empty": {}}
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())


class Page(HTMLParser):
    """Reads a page and keeps its elements, attributes and words; an unbalanced tag fails."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)


@every_report
def test_the_page_is_balanced_and_runs_only_its_own_script(report: dict[str, Any]) -> None:
    page = Page(render(report))
    assert page.tags.count("script") == 1
    assert page.tags.count("main") == 1 and page.tags.count("h1") == 1
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointed = {ref for _, name, value in page.attributes if name == "aria-labelledby" for ref in value.split()}
    assert pointed <= set(ids)


@every_report
def test_the_page_asks_nothing_of_the_network(report: dict[str, Any]) -> None:
    words = render(report)
    assert "http://" not in words and "https://" not in words
    for _, name, value in Page(words).attributes:
        if name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href"):
            assert value.startswith("#") or value == "data:,"
    for name in ("page.css", "pareto.css"):
        style = files("halfpint.report").joinpath(name).read_text("utf-8")
        assert "url(" not in style and "@import" not in style


def test_links_of_the_page_lead_somewhere() -> None:
    page = Page(render(sample()))
    ids = {value for _, name, value in page.attributes if name == "id"}
    links = [value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")]
    assert len(links) > 8 and set(links) <= ids


def test_the_policy_allows_exactly_the_script_inside() -> None:
    words = render(sample())
    script = re.search(r"<script>(.*?)</script>", words, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    policy = next(value for _, name, value in Page(words).attributes if name == "content" and "default-src" in value)
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_every_candidate_is_named_with_what_became_of_it() -> None:
    words = "".join(Page(render(sample())).words)
    for row in sample()["candidates"]:
        assert row["name"] in words
    assert "90.9 MB is over 25 MB" in words
    assert "refused" in words and "lost 30 points" in words and "refused: lost" not in words


def test_the_parts_come_in_the_order_of_reading() -> None:
    keys = re.findall(r'<section[^>]* id="([a-z]+)"', render(sample()))
    wanted = "verdict next picture candidates test confusion labels errors data energy machine recipe"
    assert keys == wanted.split()
    assert re.findall(r'<section[^>]* id="([a-z]+)"', render({})) == ["verdict"]


def test_the_answer_shows_the_figures_of_the_chosen() -> None:
    words = "".join(Page(render(sample())).words).replace("\u00a0", " ")
    for figure in ("93.1%", "interval 92.1 to 94.1%", "22.9 MB", "4.10 ms", "limit 25 MB", "limit 10 ms", "0.0410 Wh"):
        assert figure in words
    assert "halfpint serve 'runs/my tickets/picked'" in words
    assert "halfpint evaluate 'runs/my tickets/picked' 'more tickets.csv'" in words


def test_without_a_chosen_one_the_page_says_so() -> None:
    words = "".join(Page(render(infeasible())).words)
    assert "No candidate meets the limits" in words and "halfpint serve" not in words
    report = sample() | {"test": None}
    assert "Accuracy on validation" in "".join(Page(render(report)).words)


texts = st.text(st.characters(), max_size=30)  # every code point, surrogates and controls too


@settings(max_examples=15, deadline=None)
@given(texts, texts)
def test_text_from_data_stays_text(words: str, label: str) -> None:
    report = sample()
    report["verdict"] = report["chosen"] = report["candidates"][3]["name"] = words
    report["test"] = {words: judged(0.9, [label, "other"])}
    report["test"][words]["worst"][0]["text"] = words
    report["data"]["labels"] = {label: 3}
    page = Page(render(report))
    assert page.tags.count("script") == 1 and "img" not in page.tags
    shown = Page(f"<p>{units.text(words)}</p>").words
    assert not words.strip() or "".join(shown).strip() in "".join(page.words)
    for width in (760, NARROW):
        assert ET.fromstring(pareto_svg(report, width)).tag == f"{SVG}svg"


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """The sample with a value somewhere inside taken away or replaced by one of the wrong kind."""
    report: Any = copy.deepcopy(sample(draw(st.sampled_from([3, 25]))))
    for _ in range(draw(st.integers(1, 6))):
        inside = report
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inside[key], dict | list) and draw(st.booleans()):
                inside = inside[key]
                continue
            wrong = [None, "words", -1, 0, 3.5, math.nan, math.inf, [], {}, [None], {"a": None}, True]
            inside[key] = draw(st.sampled_from(wrong))
            break
    return report


@settings(max_examples=30, deadline=None)
@given(broken())
def test_a_report_with_holes_still_makes_a_page(report: dict[str, Any]) -> None:
    Page(render(report))
    ET.fromstring(pareto_svg(report))
    json.loads(as_json(report))


@every_report
def test_the_picture_is_well_formed_and_names_itself(report: dict[str, Any]) -> None:
    for width in (760, NARROW):
        svg = ET.fromstring(pareto_svg(report, width))
        assert svg.get("role") == "img"
        named = (svg.get("aria-labelledby") or "").split()
        assert [part.get("id") for part in svg if part.get("id")] == named
        assert "prefers-color-scheme" in (svg.findtext(f"{SVG}style") or "")


def test_the_picture_marks_chosen_outside_and_far_below() -> None:
    svg = ET.fromstring(pareto_svg(sample()))
    words = ["".join(part.itertext()) for part in svg.iter(f"{SVG}text")]
    assert "picked" in words and "majority ↓ 2.0%" in words
    assert any("at most 25" in word for word in words) and "at least 80%" in words
    circles = {
        "".join(group.find(f"{SVG}title").itertext()).split(":")[0]: group.findall(f"{SVG}circle")  # type: ignore[union-attr]
        for group in svg.iter(f"{SVG}g")
        if group.find(f"{SVG}title") is not None
    }
    assert "unlucky" not in circles and len(circles) == 6
    assert [circle.get("class") for circle in circles["picked"]] == ["dot", "pick"]
    assert [circle.get("class") for circle in circles["large"]] == ["hole"]
    place_of = {name: float(found[0].get("cx") or 0) for name, found in circles.items()}
    assert place_of["majority"] < place_of["tfidf"] < place_of["small"] < place_of["picked"] < place_of["large"]
    height = {name: float(found[0].get("cy") or 0) for name, found in circles.items()}
    assert height["majority"] > height["tfidf"] > height["small"] > height["picked"] > height["large"]


def test_the_picture_draws_the_share_to_keep() -> None:
    report = sample()
    report["limits"] = {"keep": 0.98}
    assert "98% of the best" in pareto_svg(report)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    report = sample()
    page = write_report(report, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert page.read_text("utf-8") == render(report)
    assert json.loads((page.parent / "report.json").read_text("utf-8")) == report
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]
    write_report({}, page.parent)
    assert json.loads((page.parent / "report.json").read_text("utf-8")) == {}


def test_json_holds_no_nan_and_takes_numpy_and_broken_text(tmp_path: Path) -> None:
    report = {
        "seconds": math.nan,
        "energy": {"wh": math.inf, "co2e_g": np.float32(1.5)},
        "data": {"rows": np.int64(3), "source": Path("a"), "labels": {"b": 1, "a": 2}},
        "chosen": "lone \ud800 surrogate",
        "candidates": ({"interval": np.array([0.5, np.nan])},),
    }
    write_report(report, tmp_path)
    words = (tmp_path / "report.json").read_text("utf-8")
    assert "NaN" not in words and "Infinity" not in words
    read = json.loads(words)
    assert read["seconds"] is None and read["energy"] == {"wh": None, "co2e_g": 1.5}
    assert read["data"]["rows"] == 3 and list(read["data"]["labels"]) == ["a", "b"]
    assert read["chosen"] == report["chosen"] and read["candidates"][0]["interval"] == [0.5, None]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_json_round_trip(report: dict[str, Any]) -> None:
    assert json.loads(as_json(report)) == report


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(sample(), tmp_path)
    before = page.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(HalfpintError, match="No space left"):
        write_report({}, tmp_path)
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_bad_folder_and_a_bad_value_are_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(HalfpintError, match="a folder that can be written"):
        write_report({}, tmp_path / "taken")
    with pytest.raises(HalfpintError, match=r"at machine.*builtins\.object"):
        plain({"machine": object()})


def test_the_title_says_how_often_it_is_right() -> None:
    report = sample()
    report["test"]["picked"]["metrics"]["accuracy"] = 0.82
    report["test"]["majority"] = {"metrics": {"accuracy": 0.63, "f1_macro": 0.1}}
    report["data"]["labels"] = {"positive": 5, "negative": 9}
    words = Page(render(report)).words
    assert "Right for 82 of 100 texts it had never seen (always guessing “negative”: 63)" in words
    assert any("ccuracy on test" in word and "82.0%" in word for word in words)
    assert "2 labels, 5 to 9 texts each" in words and "Texts" in words
    report["data"]["labels_of"] = "spans"
    assert {"2 labels, 5 to 9 spans each", "Spans"} <= set(Page(render(report)).words)
    del report["test"]["majority"]
    assert "Right for 82 of 100 texts it had never seen" in Page(render(report)).words
    assert "Right for 82 of 100 texts it had never seen." in summary(report)


def test_energy_is_said_to_be_measured_or_modelled_wherever_it_stands() -> None:
    report = sample()
    assert "Wh/1000 modelled" in summary(report)
    assert "Wh<small>modelled</small>" in results(report).html
    report["candidates"][3]["energy_source"] = "measured"
    said = summary(report)
    assert "Wh/1000 m" not in said and "0.0410 measured" in said and "0.0024 modelled" in said
