"""The picture of a training: its loss and that on validation against the tokens read, as one SVG."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import count
from typing import Any

from halfpint.report import units
from halfpint.report.place import Box, text_width
from halfpint.report.scales import round_numbers

WIDE, NARROW = 760, 344
_PLOT_HEIGHT = 280.0
_BEGINNING = 0.03  # of the tokens: the loss falls steeply there, and would flatten all that comes after
_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))

Points = list[tuple[float, float]]


def points_of(value: object) -> Points:
    """Pairs of finite numbers out of a list of pairs, in the order of the first; others are left out."""
    found: Points = []
    for row in units.rows(value):
        pair = [units.number(one) for one in units.rows(row)]
        if len(pair) == 2 and pair[0] is not None and pair[1] is not None:
            found.append((pair[0], pair[1]))
    return sorted(found)


def shown_tokens(value: float) -> str:
    """A number of tokens in short: 3.6M, 120K, 800."""
    for factor, letter in _STEPS:
        if value >= factor * 0.9995:
            return units.trim(units.rate(value / factor)) + letter
    return f"{value:.0f}"


def curve_svg(training: dict[str, Any], width: int = WIDE) -> str:
    """The picture as a standalone SVG with its own colours, for white and for dark; empty where nothing was recorded.

    Args:
        training: "train" and "validation", lists of (tokens read, loss), "lines", a list of (loss, what it is) drawn
            across, "unit" of the loss, and "kept", the tokens at which the weights that were kept had been reached.
        width: width of the picture in its own units; `NARROW` suits a phone.
    """
    train, held = points_of(training.get("train")), points_of(training.get("validation"))
    if len(train) + len(held) < 2:
        return ""
    lines = [(value, str(words)) for value, words in _lines(training.get("lines"))]
    font = 12.0 if width >= (WIDE + NARROW) / 2 else 10.5
    box = (font * 3.6, font * 3.6, width - 20.0, font * 3.6 + _PLOT_HEIGHT)
    scene = _Scene(train, held, lines, box)
    unit = str(training.get("unit") or "nats per token")
    title = f"{training.get('title') or 'Training'}: loss against tokens read"
    body = [f'<text class="b" x="14" y="{font * 2:g}">{units.text(unit)}</text>', *scene.axes(font)]
    if train:
        body.append(f'<path class="train" d="{scene.path(train)}"/>')
    body += scene.across(font)
    if held:
        body.append(f'<path class="held" d="{scene.path(held)}"/>')
        body += scene.points(unit, units.number(training.get("kept")))
    kept = any('class="pick"' in part for part in body)
    legend, bottom = _legend(font, width, box[3] + font * 5, train=bool(train), held=bool(held), kept=kept)
    about = ""
    if held:
        about = f"On validation {held[0][1]:.4g} after {shown_tokens(held[0][0])} tokens, {held[-1][1]:.4g} after "
        about += f"{shown_tokens(held[-1][0])}; the lowest is {min(loss for _, loss in held):.4g} {unit}."
    style = files(__package__).joinpath("curve.css").read_text("utf-8")
    name = f"curve-{units.text(training.get('key') or 0)}-{width}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="hp-curve" viewBox="0 0 {width} {bottom:.0f}" width="{width}" '
        f'height="{bottom:.0f}" font-size="{font:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{units.text(title)}</title><desc id="{name}-d">{units.text(about)}</desc>'
        f'<style>{style}</style><rect class="bg" width="{width}" height="{bottom:.0f}" rx="10"/>'
        f"{''.join([*body, *legend])}</svg>"
    )


def _lines(value: object) -> list[tuple[float, str]]:
    pairs = [units.rows(row) for row in units.rows(value)]
    return [(at, str(row[1])) for row in pairs if len(row) == 2 and (at := units.number(row[0])) is not None]


class _Scene:
    """What is drawn, and where losses and tokens lie in the box."""

    def __init__(self, train: Points, held: Points, lines: Sequence[tuple[float, str]], box: Box) -> None:
        self.train, self.held, self.lines, self.box = train, held, list(lines), box
        self.last = max(at for at, _ in [*train, *held]) or 1.0
        later = [loss for at, loss in train if at >= _BEGINNING * self.last]
        shown = [*(later or [loss for _, loss in train]), *(loss for _, loss in held), *(value for value, _ in lines)]
        room = (max(shown) - min(shown)) * 0.06 or 0.05 * (abs(max(shown)) or 1.0)
        self.low, self.high = min(shown) - room, max(shown) + room

    def x(self, tokens: float) -> float:
        return self.box[0] + tokens / self.last * (self.box[2] - self.box[0])

    def y(self, loss: float) -> float:
        share = (min(max(loss, self.low), self.high) - self.low) / (self.high - self.low)
        return self.box[3] - share * (self.box[3] - self.box[1])

    def path(self, points: Points) -> str:
        """A line through the points; those above the picture at the beginning are left out."""
        first = next((place for place, (_, loss) in enumerate(points) if loss <= self.high), len(points) - 1)
        kept = points[max(first - 1, 0) :]
        return "M" + "L".join(f"{self.x(at):.1f} {self.y(loss):.1f}" for at, loss in kept)

    def axes(self, font: float) -> list[str]:
        left, top, right, bottom = self.box
        out = []
        for tick in round_numbers(self.low, self.high, 5):
            y = self.y(tick)
            out.append(f'<path class="grid" d="M{left:g} {y:.1f}H{right:g}"/>')
            shown = units.trim(f"{tick:.4g}")
            out.append(
                f'<text class="soft" x="{left - 8:g}" y="{y + font * 0.35:.1f}" text-anchor="end">{shown}</text>'
            )
        for tick in round_numbers(0.0, self.last, max(2, int((right - left) / (font * 7)))):
            x, anchor = self.x(tick), "start" if tick == 0 else "middle" if tick < 0.97 * self.last else "end"
            out.append(f'<path class="grid" d="M{x:.1f} {top:g}V{bottom:g}"/>')
            y = bottom + font * 1.5
            out.append(f'<text class="soft" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown_tokens(tick)}</text>')
        out.append(f'<path class="axis" d="M{left:g} {bottom:g}H{right:g}"/>')
        out.append(f'<text class="b" x="{right:g}" y="{bottom + font * 3.1:.1f}" text-anchor="end">Tokens read</text>')
        return out

    def across(self, font: float) -> list[str]:
        """The lines across, each with its words above its right end."""
        left, _, right, _ = self.box
        out = []
        for value, words in self.lines:
            y = self.y(value)
            out.append(f'<path class="beat" d="M{left:g} {y:.1f}H{right:g}"/>')
            shown = units.text(f"{words} {value:.3f}")
            out.append(
                f'<text class="beaten" x="{right - 4:g}" y="{y - font * 0.45:.1f}" text-anchor="end">{shown}</text>'
            )
        return out

    def points(self, unit: str, kept: float | None) -> list[str]:
        """The looks at validation, each with its figures on hovering; a ring around what was kept."""
        out = []
        radius = 3.5 if len(self.held) <= 40 else 2.5
        for at, loss in self.held:
            words = units.text(f"{shown_tokens(at)} tokens: {loss:.4f} {unit} on validation")
            x, y = self.x(at), self.y(loss)
            ring = f'<circle class="pick" cx="{x:.1f}" cy="{y:.1f}" r="{radius + 3.5:g}"/>' if at == kept else ""
            dot = f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'
            out.append(f"<g><title>{words}</title>{dot}{ring}</g>")
        return out


def _legend(
    font: float, width: int, top: float, *, train: bool, held: bool, kept: bool
) -> tuple[list[str], float]:  # fmt: skip
    signs = [
        ('<path class="train" d="M-7 0H7"/>', "training (mean of some steps)", train),
        ('<path class="held" d="M-7 0H7"/><circle class="point" r="3.5"/>', "validation", held),
        ('<circle class="pick" r="6"/>', "the weights kept", kept),
    ]
    out, x, y = [], 14.0, top
    places = count()
    for sign, words, is_there in signs:
        if not is_there:
            continue
        wide = text_width(words, font) * 0.95 + 30
        if next(places) and x + wide > width - 14:
            x, y = 14.0, y + font * 1.75
        out.append(f'<g transform="translate({x + 7:.1f} {y - font * 0.36:.1f})">{sign}</g>')
        out.append(f'<text class="soft" x="{x + 20:.1f}" y="{y:.1f}">{units.text(words)}</text>')
        x += wide
    return out, y + font
