"""Quantising in the time that there is: how many rows a machine reads, and how long it rounds, told by trying."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from halfpint.bundle import read_json, write_json
from halfpint.compress._calibration import Rows, fast
from halfpint.compress._codes import BlockType, Coded, round_to
from halfpint.compress._matrices import Matrix
from halfpint.errors import need
from halfpint.stage import Work

if TYPE_CHECKING:
    from halfpint.compress._rates import Pace

_SHARE = 0.4  # of the time left that is read in: codes are fitted, and tuned, in the rest
_PASSES = 3  # over each row: the states behind the last block, and each block before and after it is quantised
_LEAST = (8, 0, 1)  # rows that codes are fitted on, that tuning learns from besides, and that it is judged by
_FULL = 3.0  # times as long as a short search of scales a full one takes
_SPARE = 1.5  # times as long as tried it may take: other programs want the machine, too


class Rounding:
    """Rounds matrices, with a short search of scales where no time is left for a full one.

    Args:
        matrices: of the model; kinds: the type of each that is quantised.
        deadline: when all of them should have codes, by the monotonic clock.
        pace: the steps of all rows, where codes are packed.

    Attributes:
        short: how many matrices had a short search.
    """

    def __init__(
        self, matrices: Sequence[Matrix], kinds: Mapping[str, BlockType], deadline: float, pace: Pace | None = None
    ) -> None:
        self._kinds, self._deadline, self._pace = kinds, deadline, pace
        self._left = {matrix.name: matrix.size for matrix in matrices if matrix.name in kinds}
        self.short, self._a_weight = 0, 0.0
        if math.isfinite(deadline) and self._left:
            smallest = min((one for one in matrices if one.name in kinds), key=lambda one: one.size)
            started = time.monotonic()
            self._codes(smallest.name, smallest.read(), None, quick=True)
            self._a_weight = (time.monotonic() - started) / smallest.size

    @property
    def until(self) -> float:
        """When the rest has to be begun, to be done by the deadline."""
        return self._deadline - self.seconds()

    @property
    def is_late(self) -> bool:
        """Whether there is just time for the rest."""
        return time.monotonic() > self.until

    def seconds(self) -> float:
        """About the seconds that a short search takes for the rest."""
        return _SPARE * self._a_weight * sum(self._left.values())

    def done(self, names: Iterable[str]) -> None:
        """These have codes."""
        for name in names:
            self._left.pop(name, None)

    def __call__(self, name: str, values: Any, importance: Any = None) -> Coded:
        """The codes of a matrix; `importance` as of `round_to`."""
        quick = time.monotonic() + _FULL * self.seconds() > self._deadline
        self.short += quick and self._pace is None
        self.done([name])
        return self._codes(name, values, importance, quick=quick)

    def _codes(self, name: str, values: Any, importance: Any, *, quick: bool) -> Coded:
        if self._pace is not None:
            return self._pace.alone(name, values)
        return round_to(self._kinds[name], values, importance, quick=quick)


def rows_in_time(drawn: Sequence[Rows], model: Any, work: Work) -> tuple[Rows, ...]:
    """The first rows of each of `drawn` that are read before the deadline; all of them where there is none.

    A resumed run takes as many as it began with, as what is kept of it belongs to those.
    """
    if work.deadline is None:
        return tuple(drawn)
    kept = work.scratch / "rows.json"
    if not kept.is_file():
        seconds = seconds_a_token(model, len(drawn[0][0])) * _PASSES * sum(len(row) for rows in drawn for row in rows)
        share = min(1.0, _SHARE * max(work.seconds_left(), 0.0) / max(seconds, 1e-9))
        counts = [max(min(len(rows), least), int(share * len(rows))) for rows, least in zip(drawn, _LEAST, strict=True)]
        work.scratch.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"counts": counts})
        if share < 1:
            work.log.say(
                f"  {sum(counts)} of {sum(map(len, drawn))} rows of text are read, as more take too long", kind="plan"
            )
    return tuple(rows[:count] for rows, count in zip(drawn, read_json(kept)["counts"], strict=True))


def seconds_a_token(model: Any, tokens: int) -> float:
    """Seconds that a model reads a token in, told by reading so many of them, twice."""
    torch = need("torch", "quantising")
    ids = torch.zeros((1, tokens), dtype=torch.int64)
    spent = 0.0
    with torch.no_grad(), fast():
        for _ in range(2):  # in the first one memory is got and kernels are chosen
            started = time.monotonic()
            model.base_model(input_ids=ids, use_cache=False)
            spent = time.monotonic() - started
    return spent / tokens
