"""Tables as HTML: cells, whole tables in a box that scrolls, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from halfpint.report import units

_SMALL_MATRIX = 20  # labels; a larger matrix is shown as a list of pairs and a picture without words
_PAIRS = 20


def _class(*names: str) -> str:
    """A class attribute with a space before it; empty when no name is given."""
    kept = " ".join(name for name in names if name)
    return f' class="{kept}"' if kept else ""


def cell(shown: str, value: object = None, *, figure: bool = False, style: str = "") -> str:
    """One cell; `shown` is HTML, `value` what sorting goes by (the text itself when None and not a figure)."""
    by = units.number(value)
    sort = f' data-v="{by:.10g}"' if by is not None else ' data-v=""' if figure else ""
    return f"<td{_class('n' if figure else '', style)}{sort}>{shown}</td>"


def table(
    name: str, head: Sequence[tuple[str, bool]], body: Sequence[Sequence[str]], *, sort: bool = False, style: str = ""
) -> str:
    """A table in its own scrolling box.

    Args:
        name: what the table is, for people who hear the page (plain text).
        head: titles (HTML) and whether the column holds figures.
        body: rows of cells; the first cell of each is plain HTML and becomes the row's heading.
        sort: whether the columns can be sorted by a click on their titles.
        style: a further class of the table.
    """
    titles = "".join(f'<th scope="col"{_class("n" if figures else "")}>{title}</th>' for title, figures in head)
    lines = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(row[1:])}</tr>' for row in body)
    return (
        f'<div{_class("scroll", style and f"of-{style}")} role="region" aria-label="{units.text(name)}" tabindex="0">'
        f"<table{_class('sort' if sort else '', style)}><thead><tr>{titles}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def _matrix(confusion: object) -> tuple[list[str], list[list[float]]] | None:
    """Labels and square matrix (rows: the true label, columns: the predicted one), or None when they do not agree."""
    found = units.mapping(confusion)
    labels = [str(label) for label in units.rows(found.get("labels"))]
    matrix = [[units.number(value) or 0.0 for value in units.rows(row)] for row in units.rows(found.get("matrix"))]
    if not labels or len(matrix) != len(labels) or any(len(row) != len(labels) for row in matrix):
        return None
    return labels, matrix


def _with_words(labels: list[str], matrix: list[list[float]]) -> str:
    head = "".join(f'<th scope="col"><span>{units.text(label, 22)}</span></th>' for label in labels)
    lines = []
    for at, row in enumerate(matrix):
        total, cells = sum(row), []
        for column, value in enumerate(row):
            share = value / total if total else 0.0
            kind = "hit" if column == at else "miss"
            look = f' class="{kind}" style="--s:{share:.3f}"' if value else ' class="none"'
            cells.append(f"<td{look}>{value:,.0f}</td>")
        lines.append(f'<tr><th scope="row">{units.text(labels[at], 32)}</th>{"".join(cells)}</tr>')
    return (
        '<p class="note">Rows: the true label. Columns: what was predicted.</p>'
        '<div class="scroll of-matrix" role="region" aria-label="Confusion matrix" tabindex="0"><table class="matrix">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _without_words(labels: list[str], matrix: list[list[float]]) -> str:
    cells = []
    for at, row in enumerate(matrix):
        total = sum(row)
        for column, value in enumerate(row):
            if value:
                share = math.sqrt(value / total)
                shape = f'x="{column}" y="{at}" width="1" height="1" fill-opacity="{0.3 + 0.7 * share:.2f}"'
                if column == at:
                    cells.append(f'<rect class="hit" {shape}/>')
                else:
                    words = f"{labels[at]} predicted as {labels[column]}: {value:,.0f} of {total:,.0f}"
                    cells.append(f'<rect class="miss" {shape}><title>{units.text(words)}</title></rect>')
    n = len(labels)
    wrong = sum(value for at, row in enumerate(matrix) for column, value in enumerate(row) if at != column)
    about = f"Heat map of {n} by {n} labels: {wrong:,.0f} of {sum(map(sum, matrix)):,.0f} texts lie off the diagonal."
    return (
        f'<figure class="heat"><svg viewBox="0 0 {n} {n}" role="img" aria-label="{units.text(about)}" '
        f'shape-rendering="crispEdges">{"".join(cells)}</svg>'
        "<figcaption>Rows: the true label, columns: what was predicted, in the same order. "
        "The stronger the colour, the larger the share of the row.</figcaption></figure>"
    )


def confused_pairs(labels: list[str], matrix: list[list[float]]) -> list[tuple[str, str, float, float]]:
    """(true label, predicted label, texts, share of the true label's texts), the most frequent first."""
    pairs = [
        (labels[at], labels[column], value, value / sum(row))
        for at, row in enumerate(matrix)
        for column, value in enumerate(row)
        if at != column and value > 0
    ]
    return sorted(pairs, key=lambda found: (-found[2], -found[3], found[0], found[1]))


def confusion(found: object) -> str:
    """The confusion matrix: a table with figures up to 20 labels, above that the commonest pairs and a picture."""
    read = _matrix(found)
    if read is None:
        return ""
    if len(read[0]) <= _SMALL_MATRIX:
        return _with_words(*read)
    pairs = confused_pairs(*read)
    if not pairs:
        return f"<p>No text was labelled wrongly.</p>{_without_words(*read)}"
    lines = "".join(
        f"<li><span><b>{units.text(true, 60)}</b> predicted as <b>{units.text(predicted, 60)}</b></span>"
        f'<span class="n">{texts:,.0f} <small>({units.quality("accuracy", share)})</small></span></li>'
        for true, predicted, texts, share in pairs[:_PAIRS]
    )
    title = f"The {min(_PAIRS, len(pairs))} most frequent confusions"
    note = "How many texts, and the share of the true label's texts."
    return (
        f'<div class="split"><div><h3>{title}</h3><p class="note">{note}</p><ol class="pairs">{lines}</ol></div>'
        f"<div><h3>All {len(read[0])} labels</h3>{_without_words(*read)}</div></div>"
    )


def per_class(found: object) -> str:
    """Precision, recall, F1 and support of each label, the weakest first, folded away under its three weakest."""
    lines = [units.mapping(row) for row in units.rows(found)]
    if not lines:
        return ""
    lines.sort(
        key=lambda row: (units.number(row.get("f1")) is None, units.number(row.get("f1")), str(row.get("label")))
    )
    weakest = ", ".join(
        f"{units.text(row.get('label'), 60)} ({units.quality('f1', row.get('f1'))})" for row in lines[:3]
    )

    def line(row: dict[str, Any]) -> list[str]:
        scores = [
            cell(units.quality("f1", row.get(key)), row.get(key), figure=True) for key in ("precision", "recall", "f1")
        ]
        return [
            units.text(row.get("label")),
            *scores,
            cell(units.count(row.get("support")), row.get("support"), figure=True),
        ]

    head = [("Label", False), ("Precision", True), ("Recall", True), ("F1", True), ("Texts", True)]
    shown = table("Scores of each label", head, [line(row) for row in lines], sort=True)
    return f"<p>Weakest by F1: {weakest}.</p><details><summary>All {len(lines)} labels</summary>{shown}</details>"
