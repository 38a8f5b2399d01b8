"""What the picture of a run shows, as figures: the points, the Pareto front, the axes and the steps of colour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from halfpint.report import units
from halfpint.report.choices import all_candidates, strongest
from halfpint.report.place import Box


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured candidate; `about` is its figures in words, not escaped."""

    name: str
    size: float  # bytes
    quality: float
    ends: tuple[float, float] | None
    latency: float | None  # ms
    fits: bool
    chosen: bool
    strongest: bool  # and not chosen
    about: str


def points_of(report: dict[str, Any]) -> list[Point]:
    """The candidates that were measured and have both a size and a quality."""
    metric, top, found = units.primary(report), strongest(report), []
    for row in all_candidates(report):
        size, quality = units.number(row.get("size_bytes")), units.number(units.mapping(row.get("metrics")).get(metric))
        if size is None or size <= 0 or quality is None or row.get("status", "measured") != "measured":
            continue
        about = [
            f"{row.get('name')}: {units.quality(metric, quality)} {units.metric_name(metric)}",
            units.size(size),
            f"{units.milliseconds(row.get('latency_p50_ms'))} p50",
        ]
        fits = bool(row.get("feasible", True))
        why = row.get("why")
        found.append(
            Point(
                name=str(row.get("name")),
                size=size,
                quality=quality,
                ends=units.pair(row.get("interval")),
                latency=units.number(row.get("latency_p50_ms")),
                fits=fits,
                chosen=report.get("chosen") is not None and row.get("name") == report.get("chosen"),
                strongest=row is top and row.get("name") != report.get("chosen"),
                about=", ".join(about) + ("" if fits or not why else f". {why}"),
            )
        )
    return found


def front(points: list[tuple[float, float]]) -> list[int]:
    """The positions of the (size, quality) pairs that no other pair beats, the smallest size first."""
    best, kept = -math.inf, []
    for at in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[at][1] > best:
            best = points[at][1]
            kept.append(at)
    return kept


def round_numbers(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, `about` of them."""
    raw = max((high - low) / about, 1e-9)
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * 0.999)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def decade_numbers(low: float, high: float) -> list[float]:
    """The numbers 1, 2, 5 times a power of ten from `low` to `high`, both above 0."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    return [k * 10.0**p for p in powers for k in (1, 2, 5) if low <= k * 10.0**p <= high]


def latency_edges(values: list[float], limit: float | None) -> list[float]:
    """At most four round latencies (ms) that part `values` into steps of colour; the limit is one if it lies within."""
    values = [value for value in values if value > 0]
    if not values or min(values) == max(values):
        return []
    # From the quintiles, each moved to the nearest round number: one very fast baseline takes one step, not three.
    ranked = sorted(values)
    quintiles = [ranked[round(i * (len(ranked) - 1) / 5)] for i in range(1, 5)]
    steps = [edge for edge in decade_numbers(min(values), max(values)) if edge < max(values)]
    edges = sorted({min(steps, key=lambda edge: abs(math.log(edge / at))) for at in quintiles}) if steps else []
    if limit is not None and min(values) < limit < max(values) and limit not in edges:
        if len(edges) == 4:
            edges.remove(min(edges, key=lambda edge: abs(math.log(edge / limit))))
        edges.append(limit)
    return sorted(edges)


@dataclass(frozen=True, kw_only=True)
class Scales:
    """The plot's box and what its axes span: sizes in bytes (log), quality from `low` to `high`."""

    box: Box
    small: float
    large: float
    low: float
    high: float

    def x(self, size: float) -> float:
        """How far across a size in bytes lies."""
        share = math.log(size / self.small) / math.log(self.large / self.small)
        return self.box[0] + share * (self.box[2] - self.box[0])

    def y(self, quality: float) -> float:
        """How far down a quality lies; one outside the axis is drawn on its end."""
        share = (min(max(quality, self.low), self.high) - self.low) / (self.high - self.low)
        return self.box[3] - share * (self.box[3] - self.box[1])


def floors_of(report: dict[str, Any], points: list[Point]) -> list[tuple[float, str]]:
    """The lines that quality must reach on this axis, and what each is."""
    limits, metric = units.mapping(report.get("limits")), units.primary(report)
    floors = []
    floor = units.number(units.mapping(limits.get("floor")).get(str(metric)))
    if floor is not None:
        floors.append((floor, f"at least {units.trim(units.quality(metric, floor))}"))
    keep = units.number(limits.get("keep"))
    if keep is not None and 0 < keep <= 1:
        shown = units.trim(units.quality("accuracy", keep))
        floors.append((keep * max(point.quality for point in points), f"{shown} of the best"))
    return floors


def scales_for(points: list[Point], floors: list[tuple[float, str]], max_size: float | None, box: Box) -> Scales:
    """Axes that hold every point, error bar and limit, save the points far below all the others."""
    qualities = sorted((point.quality for point in points), reverse=True)
    best, median = qualities[0], qualities[len(qualities) // 2]
    # A trivial baseline far below would flatten all the others: it is drawn on the lower edge, with its value.
    cut = best - max(4 * (best - median), 0.05 * abs(best))
    shown = [quality for quality in qualities if quality >= cut] + [floor for floor, _ in floors]
    ends = [end for point in points if point.ends and point.quality >= cut for end in point.ends]
    low, high = min(shown + [max(end, cut) for end in ends]), max(shown + ends)
    room = (high - low) * 0.08 or 0.01 * (abs(high) or 1)
    low -= room * (2.2 if qualities[-1] < cut else 1)
    high = min(high + room, 1.0) if high <= 1.0 and high + room > 1.0 and high > 0.9 else high + room
    high = high if high > low else low + 1
    sizes = [point.size for point in points] + ([max_size] if max_size else [])
    pad = max(1.35, (max(sizes) / min(sizes)) ** 0.06)
    return Scales(box=box, small=min(sizes) / pad, large=max(sizes) * pad, low=low, high=high)
