"""Rows of a table -> labelled examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from halfpint.data.columns import Columns
from halfpint.data.read import Table
from halfpint.errors import HalfpintError

_MISSING_LABELS = frozenset({"", "nan", "NaN"})


@dataclass(frozen=True)
class Example:
    """One text, its label ("" when it has none), and where a person finds it (see `Table.rows`).

    Attributes:
        group: the number of the texts that it is alike to in its data; below 0 where nobody has looked.
    """

    text: str
    label: str
    row: int
    group: int = field(default=-1, compare=False)


def labelled(table: Table, columns: Columns) -> list[Example]:
    """One example a row. A missing text or label is ""; a label 1.0 reads "1"; spaces around a label are dropped.

    Raises:
        HalfpintError: a cell holds a list, an object or bytes.
    """
    texts, labels = table.columns[columns.text], table.columns[columns.label]
    examples = []
    for row, text, label in zip(table.rows, texts, labels, strict=True):
        for name, value in ((columns.text, text), (columns.label, label)):
            if value is not None and not isinstance(value, (str, int, float)):
                raise HalfpintError(
                    f"{table.source}, row {row}, column {name!r}",
                    wanted="a text or a number",
                    got=f"a {type(value).__name__}: {value!r:.60}",
                    todo="Give one text and one label a row.",
                    said=f"{table.source}, row {row}: the column {name!r} holds a {type(value).__name__}, not a text "
                    f"or a number: {value!r:.60}.",
                )
        examples.append(Example(_as_text(text), label_text(label), row))
    return examples


def is_missing_label(label: str) -> bool:
    """Whether `label` stands for no label: empty, spaces, or a NaN written out."""
    return label.strip() in _MISSING_LABELS


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 (hex) over texts and labels in their order; row numbers do not count."""
    digest = hashlib.sha256()
    for example in examples:
        for part in (example.text, example.label):
            content = part.encode("utf-8", "surrogatepass")
            # The length in front keeps ("ab", "c") and ("a", "bc") apart.
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def _as_text(value: object) -> str:
    return "" if value is None else str(value)


def label_text(value: object) -> str:
    """A cell of labels as text: 1.0 reads "1", spaces around it are dropped, what is missing is ""."""
    if isinstance(value, float) and math.isfinite(value) and value == round(value):
        value = int(value)
    label = "" if value is None else str(value).strip()
    return "" if is_missing_label(label) else label
