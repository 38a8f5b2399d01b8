"""The minutes of `halfpint compress` on a language model: what has to be kept for the end, and what does not fit.

It is told by trying a little on the machine as it is now: other programs want it, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from halfpint.compress.quantize import Quantize
from halfpint.errors import HalfpintError
from halfpint.evaluate.kept import FEWEST_WINDOWS
from halfpint.stage import Stage

_ALWAYS_S = 30.0  # what takes no longer is never refused
_WRITING_S = 8.0  # that measuring how fast a model writes takes, besides its start
_WEIGHED = 70  # windows that weighing errors takes, where bits are shared out
_CALIBRATED = tuple(f"compress/{name}" for name in ("depth", "width", "hidden", "low_rank", "sparse"))
_READ = 64  # windows that these read, each block twice
_ROUNDINGS = 4  # of the whole model, then


@dataclass(frozen=True)
class Costs:
    """What parts of the work take here, in seconds.

    Attributes:
        loading: the model into memory.
        window: reading one window of text.
        rounding: the whole model, with a short search of scales.
    """

    loading: float
    window: float
    rounding: float

    @property
    def written(self) -> float:
        """Measuring how fast a model writes, in a process of its own."""
        return self.loading + _WRITING_S

    @property
    def judged(self) -> float:
        """Judging a file by as little text as can be: it and the original read each window."""
        return self.loading + 2 * FEWEST_WINDOWS * self.window

    @property
    def exported(self) -> float:
        """Writing a file, and trying it in a process of its own."""
        return 3 * self.loading + 2 * self.window

    @property
    def ending(self) -> float:
        """What comes after quantising."""
        return self.exported + self.judged + self.written

    def least(self, stages: Sequence[Stage], *, searches: bool) -> float:
        """The seconds from now on without which there is no end: everything in its quickest way."""
        found = self.ending
        for stage in stages:
            found += self.loading
            if stage.use in _CALIBRATED:
                found += _READ * self.window
            if isinstance(stage, Quantize):
                shares = bool(stage.packed or stage.target_bytes or searches)
                found += self.rounding * (_ROUNDINGS if shares else 1) + shares * _WEIGHED * self.window
        return found


NOTHING = Costs(0.0, 0.0, 0.0)
"""Where nobody looks at the clock."""


def need_minutes(costs: Costs, stages: Sequence[Stage], spent: float, minutes: float, *, searches: bool) -> None:
    """Refuse minutes in which there is no end, before any work.

    Args:
        spent: seconds so far.

    Raises:
        HalfpintError: with the minutes that would do.
    """
    seconds = spent + costs.least(stages, searches=searches)
    if seconds > max(60 * minutes, _ALWAYS_S):
        enough = math.ceil(1.5 * seconds / 60)
        raise HalfpintError(
            "--minutes", wanted=f"about {enough} for this model on this machine as busy as it is now",
            got=f"{minutes:g}", todo=f"Give --minutes {enough}, or a smaller model.",
        )  # fmt: skip
