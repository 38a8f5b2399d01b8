"""The first parts of the page: each takes the report and gives its HTML, empty when the report has nothing for it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from halfpint.report import units
from halfpint.report.choices import (
    all_candidates,
    by_hand,
    chosen,
    others_to_choose,
    strongest,
    strongest_words,
    test_of,
)
from halfpint.report.pareto import NARROW, WIDE, pareto_svg
from halfpint.report.tables import cell, table

_METRICS = ("accuracy", "f1_macro", "f1_weighted", "f1_micro", "precision_macro", "recall_macro", "calibration_error")
_HUNDRED = 100  # texts that a rate is said of; of fewer test texts their number
_GUESS = "majority"  # the candidate that always says the most frequent label
_Shown = Callable[[object], str]
# Title, key, how it reads; then the second figure of the same column.
_COLUMNS: list[tuple[str, str, _Shown, str, _Shown, str]] = [
    ("Size", "size_bytes", units.size, "peak_memory_bytes", units.size, "RAM {}"),
    ("Latency, p50", "latency_p50_ms", units.milliseconds, "latency_p95_ms", units.milliseconds, "p95 {}"),
    ("Texts/s", "throughput_per_s", units.rate, "cold_start_ms", units.milliseconds, "start {}"),
    ("Energy per 1,000", "energy_wh_per_1000", units.watt_hours, "co2e_g_per_1000", units.grams, "{} CO₂e"),
    ("Training", "train_s", units.seconds, "", units.seconds, ""),
]
_COSTS: list[tuple[str, str, _Shown]] = [
    ("Size", "size_bytes", units.size),
    ("Latency, p50", "latency_p50_ms", units.milliseconds),
    ("Energy, 1,000 texts", "energy_wh_per_1000", units.watt_hours),
]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the page: its HTML, the key of its anchor, and its name in the list of parts (empty: not listed)."""

    html: str
    key: str = ""
    short: str = ""


def section(key: str, title: str, body: str, lead: str = "", short: str = "") -> Part:
    """One section of the page with its heading; an empty one when there is no body."""
    if not body:
        return Part(html="")
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    html = f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{title}</h2>{lead}{body}</section>'
    return Part(html=html, key=key, short=short or title)


def limits(report: dict[str, Any]) -> list[str]:
    """The limits that were asked for, each as escaped words."""
    asked = units.mapping(report.get("limits"))
    found = []
    if units.number(asked.get("max_size_bytes")) is not None:
        found.append(f"size at most {units.trim(units.size(asked['max_size_bytes']))}")
    if units.number(asked.get("max_latency_ms")) is not None:
        found.append(f"latency at most {units.trim(units.milliseconds(asked['max_latency_ms']))}")
    for metric, floor in units.mapping(asked.get("floor")).items():
        found.append(f"{units.text(units.metric_name(metric))} at least {units.trim(units.quality(metric, floor))}")
    if units.number(asked.get("keep")) is not None:
        found.append(f"{units.trim(units.quality('accuracy', asked['keep']))} of the best quality kept")
    if units.number(asked.get("minutes")) is not None:
        found.append(f"{units.seconds((units.number(asked['minutes']) or 0) * 60)} to search")
    return found


def right(report: dict[str, Any]) -> str:
    """How often the chosen candidate was right on the test texts, and the most frequent label is; or nothing."""
    found = units.number(units.mapping(test_of(report, report.get("chosen")).get("metrics")).get("accuracy"))
    if report.get("chosen") is None or found is None:
        return ""
    rows = int(units.number(test_of(report, report["chosen"]).get("rows")) or _HUNDRED)
    of = min(rows, _HUNDRED)
    said = f"Right for {_of(found, of)} of {of} {'texts' if of > 1 else 'text'} it had never seen"
    if leaked(report):
        said = f"Right for {_of(found, of)} of {of} test texts, some of which are nearly the same as training texts"
    guess = units.number(units.mapping(test_of(report, _GUESS).get("metrics")).get("accuracy"))
    counts = {label: units.number(count) or 0 for label, count in units.mapping(_labels(report)).items()}
    if guess is None or not counts or report["chosen"] == _GUESS:
        return said
    return f"{said} (always guessing “{max(counts, key=lambda label: counts[label])}”: {_of(guess, of)})"


def _of(share: float, rows: int) -> str:
    """A share as so many of `rows`; all of them, and none, only where that is what it is."""
    shown = f"{share * rows:.0f}"
    if rows < _HUNDRED or (shown not in ("0", str(rows))) or share in (0.0, 1.0):
        return shown
    return f"{share * rows:.2f}"


def leaked(report: dict[str, Any]) -> int:
    """How many rows that give a test text away were kept to learn from or to choose by."""
    data = units.mapping(report.get("data"))
    gone = {units.mapping(row).get("kind") for row in units.rows(data.get("dropped"))}
    left = [row for row in map(units.mapping, units.rows(data.get("findings"))) if row.get("kind") not in gone]
    return sum(int(units.number(row.get("count")) or 1) for row in left if str(row.get("kind")).startswith("leakage"))


def _labels(report: dict[str, Any]) -> object:
    return units.mapping(report.get("data")).get("labels")


def _named_below(report: dict[str, Any]) -> str:
    """The candidate's name and its main metric, where the title says how often it is right."""
    if not right(report):
        return ""
    metric = units.primary(report)
    value = units.mapping(test_of(report, report["chosen"]).get("metrics")).get(metric)
    return (
        f'<p class="asked"><b>{units.text(report["chosen"], 80)}</b>, {units.text(units.metric_name(metric))} on test '
        f"{units.quality(metric, value)}</p>"
    )


def headline(report: dict[str, Any]) -> str:
    """The page's title, escaped: how often the chosen candidate is right, else its name, or that there is none."""
    if report.get("chosen") is not None:
        return units.text(right(report) or report["chosen"], 200)
    return "No candidate meets the limits" if limits(report) else "No candidate was chosen"


def tile(title: str, figure: str, *notes: str) -> str:
    """One of the figures at the top of the page, with what is said below it; all of it HTML."""
    below = "".join(f"<span>{note}</span>" for note in notes if note)
    return f"<div><dt>{title}</dt><dd><b>{figure}</b>{below}</dd></div>"


def _small(words: str) -> str:
    return f"<small>{words}</small>" if words else ""


def _named(row: dict[str, Any], key: str, shown: _Shown, words: str) -> str:
    """`words` with the figure under `key` in place of the braces; empty when there is no figure."""
    return words.format(shown(row[key])) if units.number(row.get(key)) is not None else ""


def _tiles(report: dict[str, Any]) -> str:
    row, asked, metric = chosen(report), units.mapping(report.get("limits")), units.primary(report)
    if not row:
        return ""
    found, where = test_of(report, row.get("name")), "on test"
    if units.number(units.mapping(found.get("metrics")).get(metric)) is None:
        found, where = row, "on validation"
    ends = units.interval(metric, found.get("interval"))
    value = units.quality(metric, units.mapping(found.get("metrics")).get(metric))
    source = units.text(row["energy_source"]) if row.get("energy_source") else ""
    tiles = [
        tile(f"{units.text(units.metric_name(metric))} {where}", value, f"interval {ends}" if ends else ""),
        tile(
            "Size",
            units.size(row.get("size_bytes")),
            units.trim(_named(asked, "max_size_bytes", units.size, "limit {}")),
            _named(row, "peak_memory_bytes", units.size, "memory {}"),
        ),
        tile(
            "Latency, p50",
            units.milliseconds(row.get("latency_p50_ms")),
            units.trim(_named(asked, "max_latency_ms", units.milliseconds, "limit {}")),
            units.latency_passes(row),
            _named(row, "latency_p95_ms", units.milliseconds, "p95 {}"),
        ),
        tile(
            "Throughput",
            units.rate(row.get("throughput_per_s")),
            "texts per second",
            _named(row, "cold_start_ms", units.milliseconds, "cold start {}"),
        ),
        tile(
            "Energy, 1,000 texts",
            units.watt_hours(row.get("energy_wh_per_1000")),
            ", ".join(filter(None, (_named(row, "co2e_g_per_1000", units.grams, "{} CO₂e"), source))),
        ),
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def verdict(report: dict[str, Any]) -> Part:
    """The answer: what was chosen, why, and its key figures."""
    data = units.mapping(report.get("data"))
    found = [f"{units.text(report.get('task') or 'run').capitalize()} report"]
    if data.get("source"):
        found.append(f'<span class="path">{units.text(data["source"])}</span>')
    words = f'<p class="verdict">{units.text(report["verdict"])}</p>' if report.get("verdict") else ""
    words = _named_below(report) + words
    beside = strongest_words(report)
    words += f'<p class="asked">{units.text(beside)}</p>' if beside else ""
    asked = limits(report)
    asked_for = f'<p class="asked"><b>Limits:</b> {"; ".join(asked)}.</p>' if asked else ""
    mark = "" if report.get("chosen") is not None else ' class="none"'
    html = f'<p class="over">{" · ".join(found)}</p><h1{mark}>{headline(report)}</h1>{words}{_tiles(report)}{asked_for}'
    return Part(html=f'<section class="answer" id="verdict" aria-label="Verdict">{html}</section>', key="verdict")


def commands(report: dict[str, Any]) -> Part:
    """Next steps, with the bundle that was chosen."""
    bundle, steps = chosen(report).get("bundle"), list[tuple[str, str]]()
    if bundle:
        folder = shlex.quote(str(PurePath(str(report.get("out") or ""), str(bundle))))
        steps += [
            ("Predict one text", f"halfpint predict {folder} 'a text of yours'"),
            ("Serve it over HTTP", f"halfpint serve {folder}"),
        ]
        judged = units.mapping(report.get("data")).get("test_source")  # never the source: it was trained on
        if judged:
            steps.append(("Evaluate it on labelled texts", f"halfpint evaluate {folder} {shlex.quote(str(judged))}"))
    steps += [(f"Use {units.text(what)} instead", line) for what, line in others_to_choose(report)]
    return steps_shown(steps)


def steps_shown(steps: Sequence[tuple[str, str]]) -> Part:
    """Next steps: what each command is for (HTML), and the command; empty where there is none."""
    lines = "".join(f"<li><span>{title}</span><pre><code>{units.text(line)}</code></pre></li>" for title, line in steps)
    return section("next", "Next steps", f'<ol class="steps">{lines}</ol>' if lines else "", short="Next")


def figure(wide: str, narrow: str, caption: str) -> str:
    """A picture (SVG) in a form for wide screens and one for phones, with words below (HTML)."""
    # The namespace is needed in a file of its own only; inside HTML it would be the page's one outside address.
    wide, narrow = (one.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1) for one in (wide, narrow))
    return (
        f'<figure class="pareto"><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def picture(report: dict[str, Any]) -> Part:
    """Size against quality, in a form for wide screens and one for phones; one candidate alone makes no picture."""
    if len(all_candidates(report)) < 2:
        return Part(html="")
    lead = "Up is better, left is smaller. Models below the dotted line are beaten by a smaller, better one."
    caption = "Hover over a point for details; all figures are in the table below."
    body = figure(pareto_svg(report, WIDE), pareto_svg(report, NARROW), caption)
    return section("picture", "Size against quality", body, lead, "Picture")


def _outcome(row: dict[str, Any], chosen: bool, by_hand: bool, strongest: bool) -> tuple[str, int]:
    """How a candidate ended, as HTML, and its place when sorted by it."""
    status = row.get("status") or "measured"
    kinds = {"skipped": ("skipped", "off", 3), "refused": ("refused", "bad", 4), "failed": ("failed", "bad", 5)}
    fits = ("fits", "good", 1) if row.get("feasible", True) else ("outside a limit", "bad", 2)
    words, look, rank = kinds.get(str(status), fits)
    if chosen:
        words, look, rank = f"chosen{' by hand' if by_hand else ''}", "pick", 0
    reason = str(row.get("why") or "")
    if reason.lower().startswith(f"{words}: "):  # the mark says so already
        reason = reason[len(words) + 2 :]
    why = f'<span class="why">{units.text(reason)}</span>' if reason else ""
    also = ' <span class="tag also">strongest</span>' if strongest else ""
    return f'<span class="tag {look}">{words}</span>{also}{why}', rank


def candidates(report: dict[str, Any]) -> Part:
    """Every candidate with its figures and how it ended; the chosen one first, then those that fit."""
    late = [row for row in all_candidates(report) if units.is_late(row)]
    metric, found = units.primary(report), [row for row in all_candidates(report) if not units.is_late(row)]
    second = "accuracy" if metric == "f1_macro" else "f1_macro"
    kept = [column for column in _COLUMNS if any(units.number(row.get(column[1])) is not None for row in found)]
    name = units.text(units.metric_name(metric))
    head = [
        ("Candidate", False),
        ("Outcome", False),
        ("Weights", False),
        (name, True),
        (units.text(units.metric_name(second)), True),
    ]
    head += [(column[0], True) for column in kept]
    lines, best, top = [], chosen(report), strongest(report)
    for row in found:
        outcome, rank = _outcome(row, row is best, by_hand(report), row is top)
        metrics = units.mapping(row.get("metrics"))
        ends = units.interval(metric, row.get("interval"))
        family = _small(units.text(row["family"], 40)) if row.get("family") else ""
        cells = [
            f"{units.text(row.get('name'), 60)}{family}",
            cell(outcome, rank),
            cell(units.text(row.get("precision"))),
            cell(
                units.quality(metric, metrics.get(metric)) + _small(ends),
                metrics.get(metric),
                figure=True,
            ),
            cell(units.quality(second, metrics.get(second)), metrics.get(second), figure=True),
            *(
                cell(
                    shown(row.get(key))
                    + (_small(units.latency_passes(row)) if key == "latency_p50_ms" else "")
                    + _small(_named(row, also, also_shown, words)),
                    row.get(key),
                    figure=True,
                )
                for _, key, shown, also, also_shown, words in kept
            ),
        ]
        lines.append((rank, cells))
    lines.sort(key=lambda line: line[0])
    body = table("Candidates", head, [cells for _, cells in lines], sort=True, style="candidates") if found else ""
    if late:
        names = ", ".join(units.text(row.get("name"), 60) for row in late)
        body += f"<details><summary>{len(late):,} more skipped for lack of time</summary><p>{names}</p></details>"
    sources: dict[str, list[str]] = {}
    for row in found:
        if row.get("energy_source"):
            sources.setdefault(str(row["energy_source"]), []).append(str(row.get("name")))
    said = [source + (f" for {', '.join(names)}" if len(sources) > 1 else "") for source, names in sources.items()]
    lead = "Quality on the validation rows, by which the model was chosen; the test rows below had no part in it. "
    if by_hand(report):
        lead = "Quality on the validation rows; it was chosen by hand when figures on the test rows were known. "
    lead += f"Energy is {units.text('; '.join(said))}." if said else ""
    return section("candidates", "Every candidate", body, lead.strip(), "Candidates")


def _metrics_in(metrics: list[dict[str, Any]], primary: str) -> list[str]:
    """The metrics that hold a figure, the primary one first, then the usual ones, then the others by name."""
    held = {str(key) for found in metrics for key, value in found.items() if units.number(value) is not None}
    first = [key for key in dict.fromkeys((primary, *_METRICS)) if key in held]
    return first + sorted(held - set(first))


def results(report: dict[str, Any]) -> Part:
    """The chosen candidate and the baselines on the test rows, side by side; the best of each line in bold."""
    tests = {str(name): units.mapping(found) for name, found in units.mapping(report.get("test")).items()}
    if not tests:
        return Part(html="")
    primary, pick = units.primary(report), report.get("chosen")
    rows = {str(row.get("name")): row for row in all_candidates(report)}
    names = sorted(tests, key=lambda name: (name != pick, list(rows).index(name) if name in rows else len(rows)))
    metrics = [units.mapping(tests[name].get("metrics")) for name in names]
    marks = {str(pick): f'<br><span class="tag pick">chosen{" by hand" if by_hand(report) else ""}</span>'}
    if top := strongest(report):
        marks[str(top["name"])] = marks.get(str(top["name"]), "") + '<br><span class="tag also">strongest</span>'
    head = [("Metric", False), *((units.text(name, 40) + marks.get(name, ""), True) for name in names)]
    lines = []
    for key in _metrics_in(metrics, primary):
        values = [units.number(found.get(key)) for found in metrics]
        real = [value for value in values if value is not None]
        best = (min if units.lower_is_better(key) else max)(real) if len(set(real)) > 1 else None
        line = [units.text(units.metric_name(key))]
        for name, value in zip(names, values, strict=True):
            shown = units.quality(key, value)
            ends = units.interval(key, tests[name].get("interval")) if key == primary else ""
            strong = f"<b>{shown}</b>" if value is not None and value == best else shown
            line.append(cell(strong + _small(ends), figure=True))
        lines.append(line)
    for title, key, units_of in _COSTS:
        cells = []
        for name in names:
            row = rows.get(name, {})
            source = row.get("energy_source") if key.startswith("energy") else None
            cells.append(cell(units_of(row.get(key)) + _small(units.text(source) if source else ""), figure=True))
        lines.append([title, *cells])
    body = table("Test results side by side", head, lines, style="side")
    n = units.number(units.mapping(report.get("data")).get("test"))
    lead = f"{units.count(n)} rows that no candidate saw before." if n else "Rows that no candidate saw before."
    if alike := leaked(report):
        lead = (
            f"{units.count(n)} rows. {alike:,} rows that are nearly the same as one of them, or part of one, were "
            "trained on: these figures are too good by what that gave away."
        )
    return section("test", "On the test rows", body, lead, "Test")
