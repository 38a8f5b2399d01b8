"""Results as HTML for a notebook: a sentence, tables, a list of what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from halfpint.report.units import text


def shown(*parts: str) -> str:
    """Parts of HTML, one below the other; empty ones are left out."""
    return f"<div>{''.join(part for part in parts if part)}</div>"


def paragraph(words: object, *, strong: bool = False) -> str:
    """A paragraph of plain text."""
    inside = text(words).replace("\n", "<br>")
    return f"<p>{f'<b>{inside}</b>' if strong else inside}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, marked: int | None = None) -> str:
    """A table of plain values: numbers to the right; the row with the number `marked` is bold."""
    lines = []
    for number, row in enumerate(rows):
        cells = []
        for value in row:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            inside = text(f"{value:,}" if isinstance(value, int) and is_number else "" if value is None else value)
            style = ' style="text-align:right"' if is_number else ' style="text-align:left"'
            cells.append(f"<td{style}>{f'<b>{inside}</b>' if number == marked else inside}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    titles = "".join(f'<th style="text-align:left">{text(title)}</th>' for title in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
