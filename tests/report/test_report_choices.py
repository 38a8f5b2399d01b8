"""What a report says of the chosen candidate beside the strongest one, and what may be chosen instead."""

from __future__ import annotations

import copy
import re
from typing import Any

from halfpint.report.choices import others_to_choose, strongest_words
from halfpint.report.html import render
from halfpint.report.pareto import pareto_svg
from halfpint.report.terminal import summary


def candidate(name: str, accuracy: float, size: int) -> dict[str, Any]:
    return {
        "name": name, "status": "measured", "why": "", "feasible": True, "metrics": {"accuracy": accuracy},
        "interval": [accuracy - 0.01, accuracy + 0.01], "size_bytes": size, "latency_p50_ms": 1.5,
        "throughput_per_s": 100.0, "energy_wh_per_1000": 0.1, "energy_source": "modelled", "train_s": 2.0,
    }  # fmt: skip


REPORT: dict[str, Any] = {
    "task": "classify",
    "primary_metric": "accuracy",
    "candidates": [candidate("small", 0.90, 10_000), candidate("large", 0.94, 90_000_000)],
    "chosen": "small",
    "chosen_by": "fit",
    "strongest": "large",
    "closest": None,
    "verdict": "small it is.",
    "test": {
        "small": {"metrics": {"accuracy": 0.89}, "interval": [0.85, 0.92], "rows": 300},
        "large": {"metrics": {"accuracy": 0.93}, "interval": [0.9, 0.95], "rows": 300},
    },
    "out": "my run",
}


def report(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(REPORT) | changes


def test_the_strongest_is_named_beside_the_chosen_one() -> None:
    said = (
        "my run/strongest holds large, the best on validation: accuracy 0.9400 on validation, 0.9300 (0.9000 to 0.9500)"
        " on test, 90.0\u00a0MB, 1.50\u00a0ms per text."
    )
    command = "halfpint choose 'my run' large"
    assert strongest_words(report()) == said
    shown, page = summary(report()), render(report())
    assert said in shown and f"  {command}   to use the strongest of all candidates instead" in shown
    assert next(line for line in shown.splitlines() if "  large " in line).endswith("  strongest")
    assert said in page and command.replace("'", "&#x27;") in page
    assert len(re.findall('<span class="tag also">strongest</span>', page)) == 2  # of all candidates, and on test
    svg = pareto_svg(report())
    assert svg.count('class="top"') == 2 and ">strongest</text>" in svg  # the point and the legend
    untested = report(test={"small": REPORT["test"]["small"]})
    assert "0.9400 on validation, 90.0" in strongest_words(untested)


def test_where_the_chosen_one_is_the_strongest_nothing_is_said_of_another() -> None:
    for one in (report(chosen="large"), report(strongest=None), report(strongest="gone")):
        assert strongest_words(one) == "" and others_to_choose(one) == []
        assert "strongest holds" not in render(one) and "halfpint choose" not in summary(one)
        assert 'class="top"' not in pareto_svg(one)


def test_a_choice_by_hand_is_marked() -> None:
    marks = {}
    for by in ("fit", "hand"):
        page = render(report(chosen_by=by))
        marks[by] = [
            words in page for words in ("chosen by hand</span>", "chosen</span>", "it was chosen by hand when")
        ]
        assert (">chosen by hand</text>" in pareto_svg(report(chosen_by=by))) == (by == "hand")
    assert marks == {"fit": [False, True, False], "hand": [True, False, True]}


def test_what_may_be_chosen_instead() -> None:
    mine = report(candidates=[*REPORT["candidates"], candidate("mine", 0.8, 100)], chosen="mine", chosen_by="hand")
    mine["by_fit"] = {"chosen": "small", "verdict": "small it is.", "command": ""}
    assert [line.split()[-1] for _, line in others_to_choose(mine)] == ["small", "large"]
    assert others_to_choose(mine)[0][0] == "the choice of fit"
    assert others_to_choose(mine | {"strongest": "small"}) == [("the choice of fit", "halfpint choose 'my run' small")]
    none = report(chosen=None, closest="small")
    assert [what for what, _ in others_to_choose(none)] == [
        "the one closest to the limits", "the strongest of all candidates",
    ]  # fmt: skip
    assert "halfpint choose &#x27;my run&#x27; small" in render(none) and "halfpint choose 'my run' small" in summary(
        none
    )
    assert others_to_choose(report(chosen="small", closest="large", strongest=None)) == []


def test_what_had_no_time_is_one_line() -> None:
    """Eight rows of dashes say less than their number; other reasons are said of each."""
    reason = "no time left to export and measure it"
    late = [{"name": f"late-{number}", "status": "skipped", "why": reason, "metrics": {}} for number in range(8)]
    other = {"name": "vast", "status": "skipped", "why": "about 90 MB, over 25 MB", "metrics": {}}
    found = report(candidates=[*REPORT["candidates"], other, *late])
    shown, page = summary(found), render(found)
    assert "    8 more skipped for lack of time\n" in shown and "late-" not in shown
    assert "skipped: about 90 MB, over 25 MB" in shown
    assert "<summary>8 more skipped for lack of time</summary><p>late-0, late-1" in page and reason not in page
    assert "skipped for lack of time" not in summary(report()) + render(report())
