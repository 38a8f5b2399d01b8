"""Candidates that are left out: what the log says of them."""

from __future__ import annotations

import time

import pytest

from halfpint.lookup import open_task
from halfpint.progress import Log
from halfpint.search.limits import Limits
from halfpint.search.space import Group, Variant
from halfpint.search.tries import Tries
from halfpint.task import label_task


def test_a_group_without_time_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    now = time.monotonic()
    task, limits = label_task(open_task("classify"), "here"), Limits(max_size_bytes=25_000_000)
    nothing = None
    tries = Tries(task, limits, nothing, "accuracy", Log(), now, now + 1)  # type: ignore[arg-type]
    variants = tuple(Variant(f"frozen-{number}", "frozen", "int8", (), 10_000) for number in range(3))
    tries.try_group(Group("frozen", "frozen", (), variants, expected_s=30.0))
    tries.skip(Group("vast", "vast", (), (Variant("vast-fp32", "vast", "fp32", (), 10**9),)), "about 1 GB, over 25 MB")
    said = capsys.readouterr().err
    assert said == (
        "  frozen: 3 candidates skipped: no time left: training needs about 30 s\n"
        "  vast-fp32: skipped: about 1 GB, over 25 MB\n"
    )
    assert [one["why"] for one in tries.candidates] == ["no time left: training needs about 30 s"] * 3 + [
        "about 1 GB, over 25 MB"
    ]
