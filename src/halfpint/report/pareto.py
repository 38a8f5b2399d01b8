"""The picture of a run: size against quality, latency as colour, the limits drawn in, as one SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any

from halfpint.report import units
from halfpint.report.choices import by_hand
from halfpint.report.place import Box, Label, place, text_width
from halfpint.report.scales import (
    Point,
    Scales,
    decade_numbers,
    floors_of,
    front,
    latency_edges,
    points_of,
    round_numbers,
    scales_for,
)

WIDE, NARROW = 760, 344
_PLOT_HEIGHT = 330.0
_LONGEST_NAME = 30  # characters


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """All that the parts of one picture share; lengths in the picture's own units."""

    points: list[Point]
    best: list[int]  # the points on the Pareto front, the smallest first
    scales: Scales
    metric: str
    font: float
    edges: list[float]  # latencies (ms) between the steps of colour
    floors: list[tuple[float, str]]
    max_size: float | None  # bytes
    max_latency: float | None  # ms
    chosen: str  # what the mark of the chosen one is called

    def at(self, point: Point) -> tuple[float, float]:
        """Where the point is drawn; one far below the others stands on the lower edge."""
        y = self.scales.y(point.quality)
        return self.scales.x(point.size), y - 8 if self.far(point) else y

    def far(self, point: Point) -> bool:
        """Whether the point lies below the part of the axis that is shown."""
        return point.quality < self.scales.low


def _step(at: int, edges: int) -> int:
    return round(at * 4 / edges) if edges else 0


def _colour(latency: float | None, edges: list[float]) -> str:
    return "cx" if latency is None else f"c{_step(sum(latency > edge for edge in edges), len(edges))}"


def _axes(scene: _Scene) -> list[str]:
    (left, top, right, bottom), font = scene.scales.box, scene.font
    out = []
    for tick in round_numbers(scene.scales.low, scene.scales.high, max(3, int((bottom - top) / 52))):
        y, shown = scene.scales.y(tick), units.text(units.trim(units.quality(scene.metric, tick)))
        out.append(f'<path class="grid" d="M{left:g} {y:.1f}H{right:g}"/>')
        out.append(f'<text class="soft" x="{left - 8:g}" y="{y + font * 0.35:.1f}" text-anchor="end">{shown}</text>')
    ticks = decade_numbers(scene.scales.small, scene.scales.large)
    if len(ticks) * font * 4.6 > right - left:
        ticks = [tick for tick in ticks if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-6)] or ticks[:1]
    every = max(1, math.ceil(len(ticks) * font * 4.6 / (right - left)))
    for tick in ticks[::every]:
        x, shown = scene.scales.x(tick), units.text(units.trim(units.size(tick)))
        out.append(f'<path class="grid" d="M{x:.1f} {top:g}V{bottom:g}"/>')
        out.append(f'<text class="soft" x="{x:.1f}" y="{bottom + font * 1.5:.1f}" text-anchor="middle">{shown}</text>')
    out.append(f'<path class="axis" d="M{left:g} {bottom:g}H{right:g}"/>')
    y = bottom + font * 3.1
    out.append(f'<text class="b" x="{right:g}" y="{y:.1f}" text-anchor="end">Size (log scale)</text>')
    return out


def _limits(scene: _Scene) -> tuple[list[str], list[Box]]:
    """The shaded regions outside the limits with their lines, and the boxes their writing takes."""
    (left, top, right, bottom), font = scene.scales.box, scene.font
    out, boxes = [], list[Box]()
    ledge = min((scene.scales.y(floor) for floor, _ in scene.floors), default=bottom)
    wall = scene.scales.x(scene.max_size) if scene.max_size else right
    if ledge < bottom or wall < right:
        out.append(
            f'<path class="out" d="M{left:g} {ledge:.1f}H{wall:.1f}V{top:g}H{right:g}V{bottom:g}H{left:g}Z"/>',
        )
    if scene.max_size:
        words = f"at most {units.trim(units.size(scene.max_size))}"
        half = text_width(words, font) / 2
        middle = min(max(wall, left + half), right - half)
        out.append(f'<path class="edge" d="M{wall:.1f} {top:g}V{bottom:g}"/>')
        out.append(f'<text class="limit" x="{middle:.1f}" y="{top - 7:g}" text-anchor="middle">{words}</text>')
        boxes.append((wall - 1.5, top, wall + 1.5, bottom))
    for floor, words in scene.floors:
        y = scene.scales.y(floor)
        out.append(f'<path class="edge" d="M{left:g} {y:.1f}H{right:g}"/>')
        out.append(f'<text class="limit" x="{left + 6:g}" y="{y + font * 1.2:.1f}">{words}</text>')
        boxes.append((left + 4, y, left + 8 + text_width(words, font), y + font * 1.4))
        boxes.append((left, y - 1, right, y + 1))
    return out, boxes


def _front(scene: _Scene) -> tuple[str, list[Box]]:
    """The Pareto front as a line of steps, the best quality to be had up to each size, and the boxes it takes."""
    at = [scene.at(scene.points[i]) for i in scene.best]
    right = scene.scales.box[2]
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in at[1:])
    boxes = [(x0, y0 - 1, x1, y0 + 1) for (x0, y0), (x1, _) in zip(at, [*at[1:], (right, 0.0)], strict=True)]
    boxes += [(x1 - 1, y1, x1 + 1, y0) for (_, y0), (x1, y1) in pairwise(at)]
    return f'<path class="front" d="M{at[0][0]:.1f} {at[0][1]:.1f}{steps}H{right:g}"/>', boxes


def _dots(scene: _Scene) -> tuple[list[str], list[Box], list[Box]]:
    """The points, the boxes they take and the boxes of their error bars; the chosen one is drawn last, on top."""
    out, taken, faint = [], list[Box](), list[Box]()
    for point in sorted(scene.points, key=lambda point: (point.chosen, point.fits)):
        x, y = scene.at(point)
        parts = [f"<title>{units.text(point.about)}</title>"]
        if point.ends and not scene.far(point):
            low, high = scene.scales.y(point.ends[0]), scene.scales.y(point.ends[1])
            parts.append(f'<path class="bar" d="M{x:.1f} {high:.1f}V{low:.1f}"/>')
            faint.append((x - 1.5, high, x + 1.5, low))
        radius, reach = (7.0, 12.0) if point.chosen else (5.5, 6.5)
        reach += 4.5 if point.strongest else 0.0
        parts.append(f'<circle class="{"dot" if point.fits else "hole"}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')
        if point.chosen:
            parts.append(f'<circle class="pick" cx="{x:.1f}" cy="{y:.1f}" r="11"/>')
        if point.strongest:
            parts.append(f'<circle class="top" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
        taken.append((x - reach, y - reach, x + reach, y + reach))
        out.append(f'<g class="{_colour(point.latency, scene.edges)}">{"".join(parts)}</g>')
    return out, taken, faint


def _lines(scene: _Scene, point: Point) -> list[str]:
    """What is written beside a point: its name, for the chosen one its figures below."""
    name = point.name if len(point.name) <= _LONGEST_NAME else point.name[: _LONGEST_NAME - 1] + "…"
    shown = units.quality(scene.metric, point.quality)
    if scene.far(point):
        name += f" ↓ {shown}"
    if not point.chosen:
        return [name]
    latency = [units.milliseconds(point.latency)] if point.latency is not None else []
    return [name, ", ".join([shown, units.size(point.size), *latency])]


def _names(scene: _Scene, taken: list[Box], faint: list[Box]) -> list[str]:
    """The names where they cover nothing: the chosen, the strongest, the front, then the others from the top."""
    font, points = scene.font, scene.points

    def turn(i: int) -> tuple[bool, bool, bool, float, float]:
        point = points[i]
        return not point.chosen, not point.strongest, i not in scene.best, -point.quality, point.size

    order = sorted(range(len(points)), key=turn)
    labels = []
    for point in (points[i] for i in order):
        lines = _lines(scene, point)
        wide = max(text_width(line, font, bold=point.chosen and not i) for i, line in enumerate(lines))
        x, y = scene.at(point)
        radius = 12 if point.chosen else 11 if point.strongest else 6.5
        high = font * 1.3 * len(lines)
        labels.append(Label(x=x, y=y, r=radius, width=wide, height=high, must=point.chosen))
    left, top, right, bottom = scene.scales.box
    out = []
    for i, label, spot in zip(order, labels, place(labels, (left, top, right + 14, bottom), taken, faint), strict=True):
        if spot is None:
            continue
        if spot.leader is not None:
            x0, y0, x1, y1 = spot.leader
            out.append(f'<path class="lead" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>')
        # The width is an estimate from above: the text is set from the side that faces its point.
        start, end = spot.box[0], spot.box[2]
        anchor, x = ("end", end) if end <= label.x else ("start", start)
        if start < label.x < end:
            anchor, x = "middle", (start + end) / 2
        for row, line in enumerate(_lines(scene, points[i])):
            look = ("name b" if row == 0 else "name soft") if points[i].chosen else "name"
            y = spot.box[1] + font * (1.0 + 1.3 * row)
            out.append(f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{units.text(line)}</text>')
    return out


def _signs(scene: _Scene) -> list[list[tuple[str, str]]]:
    """The legend's rows as (sign, words): the steps of colour, then the marks."""

    def ms(value: float) -> str:
        return units.trim(units.milliseconds(value))

    points, edges = scene.points, scene.edges
    limit = f" (limit {ms(scene.max_latency)})" if scene.max_latency is not None else ""
    colours, timed = [("", f"Latency p50{limit}")], [point.latency for point in points if point.latency is not None]
    if edges:
        bounds = [*(f"to {ms(edge)}" for edge in edges), f"over {ms(edges[-1])}"]
        colours += [(f'<circle class="dot c{_step(i, len(edges))}" r="5"/>', words) for i, words in enumerate(bounds)]
    elif timed:
        ends = dict.fromkeys((ms(min(timed)), ms(max(timed))))
        colours.append(('<circle class="dot c0" r="5"/>', " to ".join(ends)))
    if len(timed) < len(points):
        colours.append(('<circle class="dot cx" r="5"/>', "not timed"))
    marks = []
    if any(point.chosen for point in points):
        marks.append(('<circle class="pick" r="6"/>', scene.chosen))
    if any(point.strongest for point in points):
        marks.append(('<circle class="top" r="6"/>', "strongest"))
    if not all(point.fits for point in points):
        marks.append(('<circle class="hole cx" r="4.5"/>', "outside a limit"))
    marks.append(('<path class="front" d="M-7 4H0V-4H7"/>', "Pareto front"))
    if any(point.ends for point in points):
        marks.append(('<path class="bar cx" d="M0 -7V7"/>', "interval"))
    return [colours, marks]


def _legend(scene: _Scene, top: float, width: float) -> tuple[list[str], float]:
    """The signs with their words, flowing into rows from `top` down, and where the last row ends."""
    out, y, gap, font = [], top, 14.0, scene.font
    for row in _signs(scene):
        x = gap
        for sign, words in row:
            wide = text_width(words, font) * 0.95 + (18 if sign else 0)
            if x > gap and x + wide > width - gap:
                x, y = gap, y + font * 1.75
            if sign:
                out.append(f'<g transform="translate({x + 6:.1f} {y - font * 0.36:.1f})">{sign}</g>')
            start = x + 18 if sign else x
            out.append(f'<text class="soft" x="{start:.1f}" y="{y:.1f}">{units.text(words)}</text>')
            x += wide + 12
        y += font * 1.75
    return out, y - font * 0.75


def _svg(body: list[str], *, width: int, height: float, font: float, title: str, about: str) -> str:
    style = files(__package__).joinpath("pareto.css").read_text("utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="hp-pareto" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" font-size="{font:g}" role="img" aria-labelledby="pareto-{width}-t pareto-{width}-d">'
        f'<title id="pareto-{width}-t">{units.text(title)}</title>'
        f'<desc id="pareto-{width}-d">{units.text(about)}</desc><style>{style}</style>'
        f'<rect class="bg" width="{width}" height="{height:.0f}" rx="10"/>{"".join(body)}</svg>'
    )


def pareto_svg(report: dict[str, Any], width: int = WIDE) -> str:
    """The picture as a standalone SVG, readable on white and on dark: it brings its own background and colours.

    One point a measured candidate: size in bytes on a log scale across, the primary metric on validation upwards,
    latency as colour, hollow when outside a limit. A point far below the others is drawn on the lower edge with its
    value. The floor is drawn when it is on the primary metric; `keep` as that share of the best measured quality.

    Args:
        report: the report of a run; keys may be missing.
        width: width of the picture in its own units; `NARROW` suits a phone.
    """
    points, metric = points_of(report), units.primary(report)
    font = 12.0 if width >= (WIDE + NARROW) / 2 else 10.5
    title = f"Size against {units.metric_name(metric)} of every candidate"
    if not points:
        words = "No candidate was measured."
        alone = f'<text class="soft" x="{width / 2:g}" y="64" text-anchor="middle">{words}</text>'
        return _svg([alone], width=width, height=120, font=font, title=title, about=words)
    limits = units.mapping(report.get("limits"))
    max_size, max_latency = units.number(limits.get("max_size_bytes")), units.number(limits.get("max_latency_ms"))
    max_size = max_size if max_size and max_size > 0 else None
    floors = floors_of(report, points)
    box = (font * 4.4, font * 4.2, width - 20.0, font * 4.2 + _PLOT_HEIGHT)
    scene = _Scene(
        points=points,
        best=front([(point.size, point.quality) for point in points]),
        scales=scales_for(points, floors, max_size, box),
        metric=metric,
        font=font,
        edges=latency_edges([point.latency for point in points if point.latency is not None], max_latency),
        floors=floors,
        max_size=max_size,
        max_latency=max_latency,
        chosen="chosen by hand" if by_hand(report) else "chosen",
    )
    outside, writing = _limits(scene)
    steps, along = _front(scene)
    dots, taken, bars = _dots(scene)
    legend, bottom = _legend(scene, box[3] + font * 5, width)
    heading = f'<text class="b" x="14" y="{font * 2:g}">{units.text(units.metric_name(metric))} on validation</text>'
    shown = ", ".join(points[i].about for i in scene.best)
    about = f"{len(points)} candidates. On the Pareto front, the smallest first: {shown}."
    names = _names(scene, taken + writing, bars + along)
    body = [heading, *_axes(scene), *outside, steps, *dots, *names, *legend]
    return _svg(body, width=width, height=bottom, font=font, title=title, about=about)
