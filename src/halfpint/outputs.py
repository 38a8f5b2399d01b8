"""What encoders read and what engines say: per text, or per part of a text that has a label of its own (a unit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Outputs = Floats | Sequence[Floats]
"""What an engine says of texts: per text an array of probabilities, float32 of shape (units, labels).

Where each text is one unit, all of it is one array of shape (texts, labels).
"""
NO_LABEL = -100
"""The target of a unit without a label; losses leave it out, as PyTorch's cross_entropy does."""


@dataclass(frozen=True)
class Encoded:
    """Texts as an encoder with a head reads them.

    A head answers per row (one label for a text) or per token (one for a word). What gets one label is a unit: units
    are numbered through all texts, in their order.

    Attributes:
        rows: per row the numbers of its tokens by field; "input_ids" is one of them. A long text may have several.
        units: the units that each row answers for, int64 of shape (units of the row,); None: row i is unit i.
        places: the token of each of them in the row, int64 of the same shape; None: the row as a whole.
        per_text: units per text, int64 of shape (texts,); None: one each.
    """

    rows: Sequence[Mapping[str, Sequence[int]]]
    units: Sequence[Ints] | None = None
    places: Sequence[Ints] | None = None
    per_text: Ints | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row["input_ids"]) for row in self.rows]

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return len(self.rows) if self.per_text is None else int(self.per_text.sum())

    def units_of(self, rows: npt.NDArray[np.int64]) -> Ints:
        """The units that some rows answer for, row after row."""
        if self.units is None:
            return rows
        return np.concatenate([self.units[row] for row in rows]) if len(rows) else rows

    def places_of(self, rows: npt.NDArray[np.int64]) -> tuple[Ints, Ints] | None:
        """For these units the place of their row among `rows`, and the token in it; None for rows as a whole."""
        if self.places is None:
            return None
        found = [self.places[row] for row in rows]
        which = np.repeat(np.arange(len(found)), [len(one) for one in found])
        return which, np.concatenate(found)


def joined(outputs: Outputs, labels: int) -> Floats:
    """The outputs of all texts as one array (units, labels)."""
    if isinstance(outputs, np.ndarray):
        return outputs
    return np.concatenate([np.zeros((0, labels), np.float32), *outputs])


def per_text(values: Floats, units: Ints | None) -> Outputs:
    """`values` (units, labels) as outputs: text by text, where a text may have any number of units."""
    return values if units is None else np.split(values, np.cumsum(units)[:-1]) if len(units) else []
