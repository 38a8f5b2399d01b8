"""Quantising when the time is short or over: quicker ways are taken and said, and all is there in the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="quantising needs torch")

import torch

from halfpint.bundle import Bundle
from halfpint.commands._compress_time import Costs, need_minutes
from halfpint.compress._codes import TYPES, _nearest, round_to
from halfpint.compress._gptq import LateError, gptq
from halfpint.compress._in_time import Rounding
from halfpint.compress._matrices import matrices_of
from halfpint.compress.depth import Depth
from halfpint.compress.quantize import Quantize
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.export.gguf import CODES, Gguf
from halfpint.models.block_codes import read_types
from halfpint.progress import Log
from halfpint.stage import Work

PAST = -math.inf


@pytest.mark.parametrize("name", ["iq4_nl", "mxfp4"])
def test_the_nearest_value_of_an_uneven_table(name: str) -> None:
    """As a search in the table says, at the very middle between two values too."""
    kind = TYPES[name]
    table = torch.tensor(kind.table, dtype=torch.float32)
    values = torch.cat([torch.arange(-600, 600) / 4, torch.randn(5000) * 60, torch.tensor([math.inf, -math.inf])])
    assert torch.equal(_nearest(kind, values), torch.bucketize(values, (table[1:] + table[:-1]) / 2).to(torch.uint8))


def test_a_short_search_is_near_a_full_one() -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    for name in ("q4_0", "q4_1", "iq4_nl"):
        full, short = (
            float((round_to(TYPES[name], values, quick=quick).values() - values).square().mean())
            for quick in (False, True)
        )
        assert full <= short < 1.2 * full


def test_gptq_looks_at_the_clock() -> None:
    with pytest.raises(LateError):
        gptq(TYPES["q4_0"], torch.randn(8, 64), torch.eye(64), 0.01, until=PAST)


def test_rounding_takes_a_short_search_where_a_full_one_does_not_fit(loud: Bundle) -> None:
    matrices = matrices_of(load_model(loud.path, "causal"))
    kinds = {one.name: TYPES["q4_0"] for one in matrices}
    first = matrices[-1]
    calm, late = (Rounding(matrices, kinds, deadline) for deadline in (math.inf, time.monotonic()))
    assert not calm.is_late and late.is_late and calm.seconds() == 0.0 < late.seconds()
    for rounding, quick in ((calm, False), (late, True)):
        found = rounding(first.name, first.read())
        assert torch.equal(found.codes, round_to(TYPES["q4_0"], first.read(), quick=quick).codes)
        assert rounding.short == quick
    before = late.seconds()
    late.done(one.name for one in matrices)
    assert late.seconds() == 0.0 < before


@pytest.mark.parametrize("settings", [{"method": "gptq"}, {"method": "tuned"}, {"method": "round"}])
def test_with_the_time_over_the_bundle_is_whole(
    settings: dict[str, Any], loud: Bundle, text_work: Callable[..., Work], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    work = replace(text_work(tmp_path / "made"), deadline=time.monotonic(), log=Log())
    made = Quantize(types="q4_0", samples=16, tokens=32, **settings).run(loud, work)
    said = capsys.readouterr().err
    assert set(read_types(made.path)) == {one.name for one in matrices_of(load_model(loud.path, "causal"))}
    count = len(read_types(made.path))
    assert f"a short search of scales for {count} of {count} matrices" in said
    if settings["method"] != "round":
        assert f"{count} of {count} matrices are rounded, as no time was left for more" in said
    if settings["method"] == "tuned":
        assert made.card["stages"][-1]["tuning"]["steps"] == 0 and "not tuned: no time was left" in said


def test_minutes_that_do_not_do_are_refused_with_those_that_would() -> None:
    costs = Costs(loading=2.0, window=1.0, rounding=20.0)
    steps = [Quantize(method="gptq"), Gguf(type=CODES)]
    need_minutes(costs, steps, 10.0, 2.0, searches=False)
    for more, others, searches in ((400.0, steps, False), (0.0, [Depth(), *steps] * 3, False), (0.0, steps, True)):
        with pytest.raises(HalfpintError, match=r"--minutes: expected about (\d+) .* got 1\. Give --minutes \1"):
            need_minutes(costs, others, more, 1.0, searches=searches)
    need_minutes(replace(costs, loading=0.1, window=0.1, rounding=1.0), steps, 0.0, 1e-6, searches=False)
