"""Several figures of a few models side by side: a panel of bars each, as one SVG with its own colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from halfpint.report import units
from halfpint.report.pareto import NARROW, WIDE
from halfpint.report.place import text_width

_LONGEST_NAME = 24  # characters


@dataclass(frozen=True)
class Panel:
    """One figure of every model.

    Attributes:
        title: what it is, and which way is better.
        values: one for each model; None where there is none.
        shown: the values in words.
        ends: the ends of their intervals, where there are any.
    """

    title: str
    values: Sequence[float | None]
    shown: Sequence[str]
    ends: Sequence[tuple[float, float] | None] = ()


def bars_svg(names: Sequence[str], panels: Sequence[Panel], best: str, width: int = WIDE) -> str:
    """The panels, two in a row or, on a narrow picture, one below the other; every axis begins at 0.

    Args:
        names: of the models, in the order of the values.
        best: the one whose bars stand out.
        width: width of the picture in its own units; `NARROW` suits a phone.
    """
    is_wide = width >= (WIDE + NARROW) / 2
    font, columns = (12.0, 2) if is_wide else (10.5, 1)
    row, gap = font * 1.9, 16.0
    high = font * 2.6 + row * len(names) + font
    wide = (width - gap * (columns + 1)) / columns
    body = []
    for number, panel in enumerate(panels):
        left, top = gap + (number % columns) * (wide + gap), font + (number // columns) * high
        body += _panel(names, panel, best, left, top, wide, font, row)
    height = font + -(-len(panels) // columns) * high
    about = "; ".join(
        f"{panel.title}: " + ", ".join(f"{name} {shown}" for name, shown in zip(names, panel.shown, strict=True))
        for panel in panels
    )
    style = files(__package__).joinpath("bars.css").read_text("utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="hp-bars" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" font-size="{font:g}" role="img" aria-labelledby="bars-{width}-t bars-{width}-d">'
        f'<title id="bars-{width}-t">The models side by side</title>'
        f'<desc id="bars-{width}-d">{units.text(about)}</desc>'
        f'<style>{style}</style><rect class="bg" width="{width}" height="{height:.0f}" rx="10"/>{"".join(body)}</svg>'
    )


def _panel(
    names: Sequence[str], panel: Panel, best: str, left: float, top: float, wide: float, font: float, row: float
) -> list[str]:
    short = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]
    begin = left + max(text_width(name, font) for name in short) + 8
    room = left + wide - begin - max(text_width(shown, font) for shown in panel.shown) - 10
    ends = panel.ends or [None] * len(names)
    most = max([0.0, *(value for value in panel.values if value is not None), *(end[1] for end in ends if end)]) or 1.0
    out = [f'<text class="b" x="{left:.1f}" y="{top + font * 1.1:.1f}">{units.text(panel.title)}</text>']
    for at, (name, whole, value, shown, end) in enumerate(
        zip(short, names, panel.values, panel.shown, ends, strict=True)
    ):
        y = top + font * 2.1 + at * row
        middle = y + row * 0.42
        size = 0.0 if value is None else max(0.0, value) / most * room
        reach = max(size, end[1] / most * room if end else 0.0)
        look = "best" if whole == best else "other"
        parts = [f"<title>{units.text(f'{whole}: {shown}')}</title>"]
        if value is not None:
            parts.append(
                f'<rect class="{look}" x="{begin:.1f}" y="{y:.1f}" width="{size:.1f}" height="{row * 0.7:.1f}" rx="2"/>'
            )
        if end:
            low, high = (begin + edge / most * room for edge in end)
            parts.append(f'<path class="ends" d="M{low:.1f} {middle - 1:.1f}H{high:.1f}"/>')
        base = middle + font * 0.3
        parts.append(f'<text x="{begin - 6:.1f}" y="{base:.1f}" text-anchor="end">{units.text(name)}</text>')
        parts.append(f'<text class="soft" x="{begin + reach + 6:.1f}" y="{base:.1f}">{units.text(shown)}</text>')
        out.append(f"<g>{''.join(parts)}</g>")
    return out
