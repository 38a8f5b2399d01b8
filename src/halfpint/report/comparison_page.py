"""The page of a comparison of language models: each part takes the report and gives its HTML."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from halfpint.report import details, units
from halfpint.report.bars import Panel, bars_svg
from halfpint.report.curve import shown_tokens
from halfpint.report.details import facts_shown, said
from halfpint.report.pareto import NARROW, WIDE
from halfpint.report.sections import Part, figure, section, steps_shown, tile
from halfpint.report.tables import cell, table

KIND = "comparison"


def verdict_of(rows: Sequence[Mapping[str, Any]], best: str) -> str:
    """Which is the best, and of which others that is sure: those whose paired difference leaves out 0."""
    row = next(one for one in rows if one["name"] == best)
    others = [one for one in rows if one is not row]
    near = [str(one["name"]) for one in others if _reaches_zero(one.get("difference"))]
    beaten = [str(one["name"]) for one in others if str(one["name"]) not in near]
    said_ = f"{best} predicts best: {row['bits_per_byte']:.3f} bits per byte"
    if beaten:
        said_ += f", surely less than {_listed(beaten)}"
    if near:
        said_ += f"; the difference to {_listed(near)} is within the interval"
    return said_ + "."


def _reaches_zero(difference: object) -> bool:
    ends = units.rows(difference)
    return len(ends) != 3 or ends[1] <= 0


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _bits(value: object) -> str:
    found = units.number(value)
    return units.MISSING if found is None else f"{found:.3f}"


def _perplexity(value: object) -> str:
    found = units.number(value)
    return units.MISSING if found is None else units.rate(found) if found < 1e6 else f"{found:.1e}"


def _energies(values: Sequence[float | None]) -> list[str]:
    """Watt-hours in words, all in one unit, so that they compare."""
    most = max([value for value in values if value is not None], default=0.0)
    unit, factor = ("Wh", 1.0) if most >= 0.1 else ("mWh", 1000.0)
    return [units.MISSING if value is None else f"{units.rate(value * factor)} {unit}" for value in values]


def _variants(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, the best first."""
    rows = [units.mapping(row) for row in units.rows(report.get("variants"))]
    return sorted(rows, key=lambda row: units.number(row.get("bits_per_byte")) or 0.0)


def headline(report: dict[str, Any]) -> str:
    """The page's title, escaped: the best of how many."""
    return f"{units.text(report.get('best'))} is the best of {len(_variants(report))}"


def verdict(report: dict[str, Any]) -> Part:
    """The answer, and the best one's key figures."""
    best = next((row for row in _variants(report) if row.get("name") == report.get("best")), {})
    ends, spent = units.pair(best.get("bits_per_byte_interval")), units.mapping(best.get("energy"))
    between = f"{ends[0]:.3f} to {ends[1]:.3f} (95%)" if ends else ""
    tiles = (
        tile("Bits per byte", _bits(best.get("bits_per_byte")), between),
        tile("Perplexity per word", _perplexity(best.get("perplexity_per_word"))),
        tile("Peak memory of training", units.size(best.get("peak_memory_bytes"))),
        tile("Energy of training", units.watt_hours(spent.get("wh")), said(spent.get("source"))),
        tile("Size", units.size(best.get("size_bytes"))),
    )
    body = f'<p class="verdict">{units.text(report.get("verdict"))}</p><dl class="tiles">{"".join(tiles)}</dl>'
    over = f"Comparison of {len(_variants(report))} variants"
    html = f'<p class="over">{over}</p><h1>{headline(report)}</h1>{body}'
    return Part(html=f'<section class="answer" id="verdict" aria-label="Verdict">{html}</section>', key="verdict")


def picture(report: dict[str, Any]) -> Part:
    """Bits per byte, speed, memory and energy of all, side by side."""
    rows = _variants(report)
    if not rows:
        return Part(html="")

    def panel(title: str, key: str, shown: Any, ends: str = "") -> Panel:
        values = [units.number(row.get(key)) for row in rows]
        pairs = [units.pair(row.get(ends)) for row in rows] if ends else []
        return Panel(title, values, [shown(value) for value in values], pairs)

    energy = [units.number(units.mapping(row.get("energy")).get("wh")) for row in rows]
    panels = [
        panel("Bits per byte (less is better)", "bits_per_byte", _bits, "bits_per_byte_interval"),
        panel("Training, tokens per second", "tokens_per_s", units.rate),
        panel("Peak memory of training", "peak_memory_bytes", units.size),
        Panel("Energy of training", energy, _energies(energy)),
    ]
    names, best = [str(row.get("name")) for row in rows], str(report.get("best"))
    caption = "Lines across the bars are 95% intervals; a dash stands where nothing of the kind is measured."
    body = figure(bars_svg(names, panels, best, WIDE), bars_svg(names, panels, best, NARROW), caption)
    return section("picture", "Side by side", body, short="Picture")


def results(report: dict[str, Any]) -> Part:
    """All figures, the best first."""
    head = [
        ("Variant", False), ("Bits per byte", True), ("95% interval", True), ("More than the best", True),
        ("Perplexity per word", True), ("Parameters", True), ("Tokens seen", True), ("Tokens/s", True),
        ("Training time", True), ("Peak memory", True), ("Energy", True), ("Size", True),
    ]  # fmt: skip
    body = []
    for row in _variants(report):
        ends, energy = units.pair(row.get("bits_per_byte_interval")), units.mapping(row.get("energy")).get("wh")
        counts = [units.number(row.get(key)) for key in ("parameters", "tokens")]
        shown = [units.MISSING if count is None else shown_tokens(count) for count in counts]
        body.append([
            units.text(row.get("name")),
            cell(_bits(row.get("bits_per_byte")), row.get("bits_per_byte"), figure=True),
            cell(f"{ends[0]:.3f}–{ends[1]:.3f}" if ends else units.MISSING, figure=True),
            cell(_difference(row.get("difference")), (units.rows(row.get("difference")) or [0])[0], figure=True),
            cell(_perplexity(row.get("perplexity_per_word")), row.get("perplexity_per_word"), figure=True),
            *(cell(words, count, figure=True) for words, count in zip(shown, counts, strict=True)),
            cell(units.rate(row.get("tokens_per_s")), row.get("tokens_per_s"), figure=True),
            cell(units.seconds(row.get("train_s")), row.get("train_s"), figure=True),
            cell(units.size(row.get("peak_memory_bytes")), row.get("peak_memory_bytes"), figure=True),
            cell(units.watt_hours(energy), energy, figure=True),
            cell(units.size(row.get("size_bytes")), row.get("size_bytes"), figure=True),
        ])  # fmt: skip
    judged = units.mapping(report.get("judged"))
    unknown = [
        f"{units.text(row.get('name'))} does not know {units.number(row['unknown_share']):.1%} of its tokens"
        for row in _variants(report) if units.number(row.get("unknown_share"))
    ]  # fmt: skip
    lead = (
        f"All are judged on the same {units.count(judged.get('documents'))} validation documents "
        f"({units.size(judged.get('bytes'))}), which none chose its weights by; differences are paired over them. Each "
        "was trained in a process of its own: peak memory is that of the process, Python and PyTorch included."
    )
    if unknown:
        lead += f" {', '.join(unknown)}: those words are spelled out, by the frequencies of bytes in the training text."
    return section("results", "All figures", table("All figures", head, body, sort=True), lead, "Figures")


def _difference(value: object) -> str:
    ends = units.rows(value)
    return units.MISSING if len(ends) != 3 else f"{ends[0]:+.3f} ({ends[1]:+.3f} to {ends[2]:+.3f})"


def commands(report: dict[str, Any]) -> Part:
    """What to type next."""
    return steps_shown(commands_of(report))


def commands_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each command is for, and the command."""
    best = shlex.quote(f"{report.get('out', 'OUT')}/best")
    return [
        ("Judge the best on other text", f"halfpint evaluate {best} TEXT"),
        ("Let it write", f'halfpint generate {best} "Once"'),
        ("Do all of it again", str(report.get("command", ""))),
    ]


def cost(report: dict[str, Any]) -> Part:
    """What all of it took."""
    spent = units.mapping(report.get("energy"))
    facts = [
        ("Energy of all training", units.watt_hours(spent.get("wh")) if spent else ""),
        ("CO₂e", units.grams(spent.get("co2e_g")) if spent else ""),
        ("Source", said(spent.get("source"))),
        ("Time of the last call", units.seconds(report.get("seconds"))),
    ]
    lead = f"Energy is {said(spent.get('source'))}: {units.text(spent['method'])}." if spent.get("method") else ""
    return section("cost", "What it took", facts_shown(facts), lead, "Cost")


ORDER = (verdict, picture, results, commands, cost, details.machine, details.recipe)
"""The parts of the page, in the order of reading."""


def summary(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table of a terminal: a row of words for each variant, the best first, under a row of titles."""
    rows: list[tuple[str, ...]] = [
        ("", "variant", "bits/byte", "interval", "more than the best", "tokens/s", "peak memory", "energy")
    ]
    for row in _variants(report):
        ends = units.pair(row.get("bits_per_byte_interval")) or (0.0, 0.0)
        rows.append((
            "->" if row.get("name") == report.get("best") else "", str(row.get("name")),
            f"{row['bits_per_byte']:.4f}", f"{ends[0]:.3f}-{ends[1]:.3f}", _difference(row.get("difference")),
            units.rate(row.get("tokens_per_s")), units.size(row.get("peak_memory_bytes")),
            units.watt_hours(units.mapping(row.get("energy")).get("wh")),
        ))  # fmt: skip
    return rows
