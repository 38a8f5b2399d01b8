"""Calibration in the time that there is: how many rows a machine reads, told by reading one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from halfpint.bundle import read_json, write_json
from halfpint.compress._calibration import Rows, fast
from halfpint.errors import need
from halfpint.stage import Work

_SHARE = 0.4  # of the time left that is read in: codes are fitted, and tuned, in the rest
_PASSES = 3  # over each row: the states behind the last block, and each block before and after it is quantised
_LEAST = (8, 0, 1)  # rows that codes are fitted on, that tuning learns from besides, and that it is judged by


def rows_in_time(drawn: Sequence[Rows], model: Any, work: Work) -> tuple[Rows, ...]:
    """The first rows of each of `drawn` that are read before the deadline; all of them where there is none.

    A resumed run takes as many as it began with, as what is kept of it belongs to those.
    """
    if work.deadline is None:
        return tuple(drawn)
    kept = work.scratch / "rows.json"
    if not kept.is_file():
        seconds = _seconds_a_token(model, drawn[0][0]) * _PASSES * sum(len(row) for rows in drawn for row in rows)
        share = min(1.0, _SHARE * max(work.seconds_left(), 0.0) / max(seconds, 1e-9))
        counts = [max(min(len(rows), least), int(share * len(rows))) for rows, least in zip(drawn, _LEAST, strict=True)]
        work.scratch.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"counts": counts})
        if share < 1:
            work.log.say(
                f"  {sum(counts)} of {sum(map(len, drawn))} rows of text are read, as more take too long", kind="plan"
            )
    return tuple(rows[:count] for rows, count in zip(drawn, read_json(kept)["counts"], strict=True))


def _seconds_a_token(model: Any, row: Any) -> float:
    torch = need("torch", "quantising")
    ids = torch.from_numpy(row)[None]
    spent = 0.0
    with torch.no_grad(), fast():
        for _ in range(2):  # in the first one memory is got and kernels are chosen
            started = time.monotonic()
            model.base_model(input_ids=ids, use_cache=False)
            spent = time.monotonic() - started
    return spent / len(row)
