"""GPTQ: a layer's codes, column by column, where each column's error is made up for in the columns after it.

Sources: E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
sections 3.2 and 3.3 (lazy updates, Cholesky factor of the inverse). Departures: scales are searched when their block is
reached, for the weights as they are by then, an error in a column counting as much as it costs after all that later
columns make up for; and before that the weights are moved towards where, given what the changed layers before give,
the outputs are nearest to the unchanged model's (the least-squares solution; the error that Y. Li et al., "GPTAQ:
Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025, section 3, corrects column by column). They
are moved a part of the way: the solution answers noise with smaller weights, which adds up over the layers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from halfpint.compress._codes import BlockType, Coded, Scales, fit, nearest_codes, values_of
from halfpint.compress._dependent import Paths
from halfpint.errors import need

if TYPE_CHECKING:
    import torch

Find = Callable[["torch.Tensor"], Scales]
TOWARDS = 0.5
"""The part of the way: of 0, 0.15, 0.25, 0.35, 0.5 and 1 the best on models of two layers, where 1 is worse than 0."""
_COLUMNS = 128  # worked on at once
_LOOKED_EVERY = 32  # columns: at the clock
_MOST_WORTH = 4.0  # what a bit is worth in one column beside others


class LateError(Exception):
    """The time for it is over; what was begun is done in a quicker way."""


class Moments:
    """Sums over tokens of what comes into a layer.

    Attributes:
        square: sum of x xᵀ, float32 of shape (columns, columns).
        cross: sum of r xᵀ, r being what came into the layer in the unchanged model; None where that is x itself.
        tokens: how many.
    """

    def __init__(self, columns: int, *, crossed: bool) -> None:
        torch = need("torch", "quantising")
        self.square = torch.zeros(columns, columns)
        self.cross = torch.zeros(columns, columns) if crossed else None
        self.tokens = 0

    def add(self, inputs: torch.Tensor, reference: torch.Tensor | None = None) -> None:
        """Count inputs of shape (tokens, columns), and what they were in the unchanged model."""
        self.square.addmm_(inputs.T, inputs)
        if self.cross is not None and reference is not None:
            self.cross.addmm_(reference.T, inputs)
        self.tokens += len(inputs)


def damped(square: torch.Tensor, damping: float) -> Any:
    """`square` in float64 with `damping` times its mean diagonal added to the diagonal; columns never used get that
    mean, so that an inverse exists."""
    torch = need("torch", "quantising")
    found: Any = square.double()
    diagonal = found.diagonal()
    mean = float(diagonal.mean()) or 1.0
    diagonal += damping * mean + torch.where(diagonal == 0, mean, 0.0)
    return found


def towards_reference(weight: torch.Tensor, moments: Moments, damping: float) -> Any:
    """The weights, moved a part of the way to those whose outputs are nearest to the unchanged model's outputs.

    Args:
        weight: float32 of shape (outputs, columns).
    """
    torch = need("torch", "quantising")
    if moments.cross is None:
        return weight
    lower = torch.linalg.cholesky(damped(moments.square, damping))
    change = weight.double() @ (moments.cross.double() - moments.square.double())
    found: Any = weight + TOWARDS * torch.cholesky_solve(change.T, lower).T.float()
    return found


def factor(square: torch.Tensor, damping: float, block: int = 1) -> tuple[Any, Any]:
    """The order in which columns are best worked on, and the upper Cholesky factor of the inverse of `damped` in it.

    Columns that count most come first, since those after a column make up for its error (SmolLM2: 8 to 56 % less error
    a matrix than in the order of the matrix, LOG.md).

    Args:
        square, damping: as of `gptq`; block: columns that stay together, those that count most first among them too.

    Returns:
        int64 (columns,); and float32 (columns, columns): an error in the column that comes i-th costs, after all that
        later ones make up for, its square divided by the square of the i-th entry of the diagonal.
    """
    torch = need("torch", "quantising")
    found = damped(square, damping)
    blocks = found.diagonal().reshape(-1, block)
    first = blocks.mean(1).argsort(descending=True, stable=True)
    order = (first[:, None] * block + blocks.argsort(dim=1, descending=True, stable=True)[first]).flatten()
    lower = torch.linalg.cholesky(found[order][:, order])
    return order, torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).float()


def gptq(
    kind: BlockType, weight: torch.Tensor, square: torch.Tensor, damping: float, scales: Find | None = None,
    *, dependent: bool = False, until: float = math.inf,
) -> tuple[Coded, torch.Tensor]:  # fmt: skip
    """The codes of a layer, and the weights that each was rounded from.

    Args:
        weight: float32 of shape (outputs, columns), columns a multiple of the type's block.
        square: sum of x xᵀ over tokens, or what should count as it; (columns, columns).
        damping: share of the mean of its diagonal that is added to it.
        scales: finds those of a block of each row, (outputs, the type's block), before anything is changed; None
            searches for those of least error when the block is reached, and works block after block.
        dependent: codes depend on those of the rows before (`_dependent`); with `scales` alone.
        until: when to give it up, by the monotonic clock; it is looked at every 32 columns.

    Raises:
        LateError: it is that late.
    """
    torch = need("torch", "quantising")
    rows, columns = weight.shape
    order, upper = factor(square, damping, 1 if scales else kind.block)
    blocks = torch.split(weight, kind.block, 1)
    found = dict(enumerate(map(scales, blocks))) if scales else {}
    paths = Paths(kind, weight, _row_by_row(list(found.values()))) if dependent else None
    cheap = upper.diagonal().square()  # what counts less has fewer bits
    worth = (cheap / cheap.log().mean().exp()).clamp_(1 / _MOST_WORTH, _MOST_WORTH).tolist()
    left = weight.T[order].contiguous()  # (columns, rows): a column is worked on at once
    codes = torch.empty(columns, rows, dtype=torch.uint8)
    before = torch.empty(columns, rows)
    step = max(_COLUMNS, kind.block)
    for low in range(0, columns, step):
        high = min(low + step, columns)
        part, errors = left[low:high], torch.empty(high - low, rows)
        inner = upper[low:high, low:high]
        for place, number in enumerate(order[low:high].tolist()):
            if place % _LOOKED_EVERY == 0 and time.monotonic() > until:
                raise LateError
            which, column = number // kind.block, part[place]
            if which not in found:
                some = slice(place, place + kind.block)
                back = order[low:high][some].argsort()
                counts = inner.diagonal()[some][back].reciprocal().square()
                block = part[some][back].T.contiguous()
                found[which] = fit(kind, block, (counts / counts.mean()).expand_as(block))
            group = number % kind.block // kind.group
            scale = Scales(found[which].scale[:, group : group + 1], found[which].offset[:, group : group + 1])
            if paths:
                code, value = paths.column(column, scale.scale, worth[low + place])
            else:
                code, value = _one_column(kind, column, scale)
            codes[number], before[number] = code, column
            error = (column - value) / inner[place, place]
            errors[place] = error
            part[place + 1 :].addr_(inner[place, place + 1 :], error, alpha=-1.0)
        left[high:].addmm_(upper[low:high, high:].T, errors, alpha=-1.0)
    joined = _row_by_row([found[number] for number in range(len(found))])
    return Coded(kind, codes.T.contiguous(), joined), before.T.contiguous()


def _one_column(kind: BlockType, column: Any, scale: Scales) -> tuple[Any, Any]:
    """Codes and values of one weight of each row: each row has a group of its own."""
    one = BlockType(kind.name, 1, 1, 1, kind.table, kind.has_offset)
    code = nearest_codes(one, column, scale)
    return code, values_of(one, code, scale)


def _row_by_row(found: list[Scales]) -> Scales:
    """Scales of blocks side by side, each of all rows, in the order of a matrix read row after row."""
    torch = need("torch", "quantising")

    def joined(parts: list[Any]) -> Any:
        return torch.stack(parts, dim=1).reshape(-1, parts[0].shape[1])

    return Scales(
        joined([one.scale for one in found]), joined([one.offset for one in found]),
        {name: joined([one.stored[name] for one in found]) for name in found[0].stored},
    )  # fmt: skip
