"""Codes that depend on those before them (models/trellis): the path down a column that costs least.

What a number costs is its squared error, and its bits at what a bit is worth where steps are as fine as they are: with
an error of D a weight, a bit more of each would save 2 ln 2 D. The path is found by the Viterbi algorithm, all runs of
a column beside each other.

Sources: as in models/trellis; G. Forney, "The Viterbi Algorithm", 1973; T. Fischer & M. Wang, "Entropy-Constrained
Trellis-Coded Quantization", 1992.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.compress._codes import BlockType, Coded, Scales
from halfpint.errors import need
from halfpint.models.trellis import NEXT, RUN

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]

_STATES = len(NEXT)
_FROM = np.array(
    [[(one, odd) for one in range(_STATES) for odd in (0, 1) if NEXT[one, odd] == to] for to in range(_STATES)]
)
"""The two states that lead to each, and the parity of the place that does: shape (states, 2, 2)."""
_BEFORE = _FROM[:, :, 0].T.reshape(-1)  # first those of one way into each state, then those of the other
_SUBSET = (2 * (_FROM[:, :, 0] & 1) + _FROM[:, :, 1]).T.reshape(-1)
_OF_A_BIT = 2 * np.log(2.0)
_SAMPLED = 1 << 18  # weights that bits are estimated from
_FEWEST = 16  # columns of them
_CLASSES = 2  # of spread, in which it doubles
_ROUNDS = 2
_AT_ONCE = 1 << 21  # weights whose paths are found together
_FAR = 1e30


def steps_for(bits: float) -> float:
    """How wide a step of dependent codes is that take as many bits as single ones: a share of their step. Measured on
    normal weights, 1.5 to 4.25 bits."""
    return 0.505 + 0.05 * math.exp2(-bits / 2)


def most_of(kind: BlockType) -> int:
    """The largest number of a type, of either sign."""
    return min(kind.table[-1], -kind.table[0])


class Paths:
    """Finds the codes of columns.

    Args:
        kind: a type of whole numbers times a scale.
        weight: float32 of shape (rows, columns): what the codes are estimated to stand for.
        scales: of its blocks.
    """

    def __init__(self, kind: BlockType, weight: torch.Tensor, scales: Scales) -> None:
        self._kind = kind
        self._most = most_of(kind)
        rows, columns = weight.shape
        blocks = scales.scale.numpy().reshape(rows, -1)
        self._least = blocks.min(axis=1)
        wide = max(1, min(_FEWEST, _AT_ONCE // rows), _SAMPLED // rows)
        some = np.linspace(0, columns - 1, min(columns, wide)).round().astype(np.int64)
        sampled = weight.numpy()[:, some] / blocks[:, some // kind.block]
        spread = np.log2(np.abs(sampled).mean(axis=1) + 1e-6)
        self._class = np.unique(np.rint(_CLASSES * spread), return_inverse=True)[1]
        self._cost = np.zeros((int(self._class.max()) + 1, 2, self._most + 1), dtype=np.float32)
        counts = (blocks[:, some // kind.block] / self._least[:, None]) ** 2
        for _ in range(_ROUNDS):
            values, odd = self._found(sampled, counts)
            error = float((counts * (values - sampled) ** 2).mean())
            places = ((self._class[:, None] * 2 + odd) * (self._most + 1) + np.abs(values)).reshape(-1)
            often = np.bincount(places, minlength=self._cost.size).reshape(self._cost.shape) + 0.25
            often[:, :, 1:] /= 2  # a sign is a bit
            bits = np.log2(often.sum(axis=2, keepdims=True) + often[:, :, 1:].sum(axis=2, keepdims=True)) - np.log2(
                often
            )
            self._cost = (_OF_A_BIT * error * bits).astype(np.float32)

    def column(
        self, column: torch.Tensor, scale: torch.Tensor, worth: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and values of a column: uint8 and float32 of shape (rows,).

        Args:
            column: float32 of shape (rows,); scale: of each row, (rows, 1).
            worth: of a bit beside other columns.
        """
        torch = need("torch", "quantising")
        step = scale.numpy().reshape(-1)
        values, _ = self._found((column.numpy() / step)[:, None], ((step / self._least) ** 2)[:, None], worth)
        codes = torch.from_numpy((values[:, 0] - self._kind.table[0]).astype(np.uint8))
        return codes, torch.from_numpy(values[:, 0].astype(np.float32) * step)

    def whole(self, weight: torch.Tensor, scales: Scales) -> Coded:
        """All codes of a matrix at once, nothing made up for."""
        torch = need("torch", "quantising")
        rows, columns = weight.shape
        blocks = scales.scale.numpy().reshape(rows, -1)
        codes = np.empty((rows, columns), dtype=np.uint8)
        wide = max(1, _AT_ONCE // rows)
        for low in range(0, columns, wide):
            step = blocks[:, np.arange(low, min(low + wide, columns)) // self._kind.block]
            values, _ = self._found(weight.numpy()[:, low : low + wide] / step, (step / self._least[:, None]) ** 2)
            codes[:, low : low + wide] = values - self._kind.table[0]
        return Coded(self._kind, torch.from_numpy(codes), scales)

    def _found(
        self, x: Floats, counts: Floats, worth: float = 1.0
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
        """The numbers of the best paths, and whether their states are odd.

        Args:
            x: weights in units of their step, shape (rows, columns); counts: what a squared error counts, likewise.
        """
        rows, columns = x.shape
        runs = -(-rows // RUN)
        lanes = runs * columns
        values, costs = self._candidates(x, counts, worth)

        def in_runs(of: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if runs * RUN != rows:
                of = np.concatenate([of, np.zeros((4, runs * RUN - rows, columns), dtype=of.dtype)], axis=1)
            return of.reshape(4, runs, RUN, columns).transpose(0, 2, 1, 3).reshape(4, RUN, lanes)

        values, steps = in_runs(values), np.ascontiguousarray(in_runs(costs).transpose(1, 0, 2)[:, _SUBSET])
        total = np.full((_STATES, lanes), _FAR, dtype=np.float32)
        total[0] = 0.0
        both = np.empty((2 * _STATES, lanes), dtype=np.float32)
        second = np.empty((RUN, _STATES, lanes), dtype=bool)
        for number in range(RUN):
            np.take(total, _BEFORE, axis=0, out=both, mode="clip")
            np.add(both, steps[number], out=both)
            np.less(both[_STATES:], both[:_STATES], out=second[number])
            np.minimum(both[:_STATES], both[_STATES:], out=total)
        lane = np.arange(lanes)
        now = total.argmin(axis=0)
        subset = np.empty((RUN, lanes), dtype=np.int64)
        for number in reversed(range(RUN)):
            now += _STATES * second[number].reshape(-1)[now * lanes + lane]
            subset[number] = _SUBSET[now]
            now = _BEFORE[now]
        chosen = np.take_along_axis(values, subset[None], axis=0)[0]

        def in_rows(of: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return of.reshape(RUN, runs, columns).transpose(1, 0, 2).reshape(runs * RUN, columns)[:rows]

        return in_rows(chosen), in_rows(subset >> 1)

    def _candidates(self, x: Floats, counts: Floats, worth: float) -> tuple[npt.NDArray[np.int16], Floats]:
        """The nearest number of each of the four sets between which parity and state choose, and its cost: shape (4,
        rows, columns). Sets: even states with even and odd places, then odd states."""
        most = self._most
        ours = np.broadcast_to(self._class[:, None], x.shape)
        size, sign = np.abs(x), np.where(x < 0, -1, 1).astype(np.int16)
        values = np.empty((4, *x.shape), dtype=np.int16)
        values[0] = 4 * np.clip(np.rint(x / 4), -(most // 4), most // 4)
        values[1] = np.clip(4 * np.rint((x - 2) / 4) + 2, 2 - (most + 2) // 4 * 4, (most + 2) // 4 * 4 - 2)
        values[2] = sign * (4 * np.clip(np.rint((size - 3) / 4), 0, (most - 3) // 4) + 3)
        values[3] = sign * (4 * np.clip(np.rint((size - 1) / 4), 0, (most - 1) // 4) + 1)
        costs = (x - values).astype(np.float32)
        costs *= costs
        costs *= counts
        for number in range(4):
            costs[number] += worth * self._cost[ours, number >> 1, np.abs(values[number])]
        nothing = counts * x * x + worth * self._cost[ours, 1, 0]
        values[2] = np.where(nothing < costs[2], 0, values[2])
        costs[2] = np.minimum(nothing, costs[2])
        return values, costs
