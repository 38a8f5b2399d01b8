"""Where the names of points go in a picture so that they cover neither each other nor the points."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]  # left, top, right, bottom

_NEAR = [(1.0, 0.0), (-1.0, 0.0), (0.7, -0.7), (-0.7, -0.7), (0.7, 0.7), (-0.7, 0.7), (0.0, -1.0), (0.0, 1.0)]
_BETWEEN = [(x * side, y) for x, y in ((0.92, -0.38), (0.92, 0.38), (0.38, -0.92), (0.38, 0.92)) for side in (1, -1)]
_DIRECTIONS = _NEAR + _BETWEEN
_DISTANCES = (4.0, 9.0, 17.0, 27.0, 39.0, 53.0, 70.0, 90.0, 112.0)
_RING = 12.0  # what a step farther away costs, against square units of something faint covered
_LEADER_FROM = 15.0  # a name farther away than this needs a line back to its point


@dataclass(frozen=True, kw_only=True)
class Label:
    """A name to place: beside the point (x, y) of radius `r`, `width` by `height` large.

    `must`: placed even where it covers something; the others are left out then.
    """

    x: float
    y: float
    r: float
    width: float
    height: float
    must: bool = False


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where a name went: its box, and the line back to its point (None when it is near)."""

    box: Box
    leader: tuple[float, float, float, float] | None


def text_width(words: str, font_size: float, *, bold: bool = False) -> float:
    """An upper estimate of the width of `words` in a common sans-serif face, in the unit of `font_size`."""
    ems = sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.58 for char in words)
    return ems * font_size * (1.06 if bold else 1.0)


def _overlap(a: Box, b: Box) -> float:
    if a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]:
        return 0.0
    return (min(a[2], b[2]) - max(a[0], b[0])) * (min(a[3], b[3]) - max(a[1], b[1]))


def _box(label: Label, direction: tuple[float, float], distance: float) -> Box:
    reach = label.r + distance
    x, y = label.x + direction[0] * reach, label.y + direction[1] * reach
    side = (direction[0] > 0) - (direction[0] < 0)
    left = x if side > 0 else x - label.width if side < 0 else x - label.width / 2
    half = label.height / 2
    middle = y - half if direction[1] <= -1 else y + half if direction[1] >= 1 else y
    return left, middle - half, left + label.width, middle + half


def _leader(label: Label, box: Box) -> tuple[float, float, float, float]:
    x, y = min(max(label.x, box[0]), box[2]), min(max(label.y, box[1]), box[3])
    away = math.hypot(x - label.x, y - label.y) or 1.0
    share = (label.r + 1) / away
    return label.x + (x - label.x) * share, label.y + (y - label.y) * share, x, y


def _along(line: tuple[float, float, float, float]) -> list[Box]:
    """Small boxes along a line, so that it counts as something not to cover."""
    x0, y0, x1, y1 = line
    steps = max(2, int(math.hypot(x1 - x0, y1 - y0) / 5))
    at = [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)]
    return [(x - 1, y - 1, x + 1, y + 1) for x, y in at]


def _span(line: tuple[float, float, float, float]) -> Box:
    """The box that holds a line and the small boxes along it."""
    x0, y0, x1, y1 = line
    return min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1


def _hits(label: Label, spot: Spot, solid: Sequence[Box]) -> float:
    """How much of what must stay free the name and its line cover, in square units."""
    hits = sum(_overlap(spot.box, other) for other in solid)
    if spot.leader is None or hits:
        return hits
    span, r = _span(spot.leader), label.r + 3
    own = (label.x - r, label.y - r, label.x + r, label.y + r)
    passed = [other for other in solid if _overlap(span, other)]
    crossed = [part for part in _along(spot.leader) if not _overlap(part, own)]
    return 4 * sum(_overlap(part, other) for part in crossed for other in passed)


def _best(label: Label, frame: Box, solid: Sequence[Box], faint: Sequence[Box]) -> tuple[bool, Spot] | None:
    """The spot nearest to the point that covers nothing, or else the one that covers least; True for the latter."""
    best: tuple[bool, float, Spot] | None = None
    for ring, distance in enumerate(_DISTANCES):
        if best is not None and not best[0] and best[1] <= _RING * ring:  # no farther spot can be better
            break
        for order, direction in enumerate(_DIRECTIONS):
            box = _box(label, direction, distance)
            if box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]:
                continue
            spot = Spot(box=box, leader=_leader(label, box) if distance > _LEADER_FROM else None)
            hits = _hits(label, spot, solid)
            light = sum(_overlap(box, other) for other in faint)
            cost = 100 * hits + 1.5 * light + _RING * ring + order
            if best is None or (hits > 0, cost) < best[:2]:
                best = (hits > 0, cost, spot)
    return None if best is None else (best[0], best[2])


def place(labels: Sequence[Label], frame: Box, taken: Sequence[Box], faint: Sequence[Box] = ()) -> list[Spot | None]:
    """A spot for each label, in the order given (the earlier choose first); None for one with no free spot.

    Args:
        labels: the names, the most important first.
        frame: the box that no name leaves.
        taken: boxes that no name may cover: points, other writing.
        faint: boxes better not covered: error bars, lines.
    """
    solid, spots = list(taken), list[Spot | None]()
    for label in labels:
        best = _best(label, frame, solid, faint)
        if best is None or (best[0] and not label.must):
            spots.append(None)
            continue
        spot = best[1]
        spots.append(spot)
        solid.append((spot.box[0] - 2, spot.box[1] - 1, spot.box[2] + 2, spot.box[3] + 1))
        if spot.leader is not None:
            solid.extend(_along(spot.leader))
    return spots
