"""Lines of text that each begin with a label: fastText's, and those of TREC's questions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from halfpint.data.delimited import CLASSED
from halfpint.data.records import ROWS, text_of
from halfpint.data.table import Part
from halfpint.errors import HalfpintError


def fasttext_parts(blocks: Iterator[bytes], place: str) -> Iterator[Part]:
    """Text and label of lines such as `__label__spam Win a prize`.

    Raises:
        HalfpintError: a line without a label, or with several.
    """
    lines = text_of(blocks)
    row = 0
    while batch := list(islice(lines, ROWS)):
        rows, texts, labels = [], [], []
        for line in batch:
            row += 1
            if not line.strip():
                continue
            word, _, text = line.strip().partition(" ")
            if not word.startswith("__label__") or text.lstrip().startswith("__label__"):
                raise HalfpintError(
                    f"{place}, row {row}", wanted="one __label__ and a text in each line", got=repr(line.strip()[:60])
                )
            rows.append(row)
            texts.append(text.strip())
            labels.append(word.removeprefix("__label__"))
        if rows:
            yield Part(rows, {"text": texts, "label": labels}, sum(map(len, batch)))  # type: ignore[dict-item]


def classed_parts(blocks: Iterator[bytes], place: str) -> Iterator[Part]:
    """Text, label and finer label of lines such as `HUM:ind Who was the first?`.

    Raises:
        HalfpintError: a line that begins otherwise.
    """
    lines = text_of(blocks)
    row = 0
    while batch := list(islice(lines, ROWS)):
        rows: list[int] = []
        columns: dict[str, list[object]] = {"text": [], "label": [], "fine": []}
        for line in batch:
            row += 1
            if not line.strip():
                continue
            found = CLASSED.match(line)
            if found is None:
                got = repr(line.strip()[:60])
                raise HalfpintError(
                    f"{place}, row {row}", wanted="LABEL:finer and a text in each line", got=got,
                    said=f"{place}, row {row} does not begin with LABEL:finer as the other lines: {got}.",
                )  # fmt: skip
            rows.append(row)
            parts = (line[found.end() :].strip(), found[1], f"{found[1]}:{found[2]}")
            for column, value in zip(columns.values(), parts, strict=True):
                column.append(value)
        if rows:
            yield Part(rows, columns, sum(map(len, batch)))
