"""The search for the fewest bits, on curves that are known: what it takes keeps enough, and little less would not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from halfpint.commands import _compress_bits
from halfpint.commands._compress_bits import BITS
from halfpint.commands.compress import Compress
from halfpint.compress.quantize import Quantize
from halfpint.errors import HalfpintError

ALLOWED = -math.log(0.98)


class Curve:
    """A run of which the loss at so many bits is known; counts what was tried."""

    def __init__(self, level: float, slope: float, *, plain: bool) -> None:
        self.level, self.slope, self.rounded = level, slope, 4.0
        self.asked = Compress(model="", data="", out=Path("out"), keep=0.98, plain=plain)
        self.made: list[float] = []

    def lost(self, bits: float) -> float:
        return self.level * self.slope**-bits

    def point(self, run: Any, stage: Quantize, tokens: int = 0) -> dict[str, Any]:
        lost = self.lost(stage.bits) * (self.rounded if stage.method == "round" else 1.0)
        if stage.method != "round":
            self.made.append(stage.bits)
        return {"ln_ppl_ratio": lost, "kl": 1.3 * lost, "file_bytes": 1e6 * stage.bits, "name": ""}


def found(curve: Curve, monkeypatch: pytest.MonkeyPatch) -> float:
    with monkeypatch.context() as patched:
        patched.setattr(_compress_bits, "_point", curve.point)
        stage = _compress_bits.fewest_bits(curve)[0]  # type: ignore[arg-type]
    assert isinstance(stage, Quantize)
    return stage.bits


@example(level=21.91796875, slope=4.6)  # 4.58 bits lose 0.0202008: of what is allowed, 0.0202027, nearly all
@given(level=st.floats(0.05, 60.0), slope=st.floats(2.5, 6.0))
def test_packed(level: float, slope: float) -> None:
    curve, allowed = Curve(level, slope, plain=False), ALLOWED
    with pytest.MonkeyPatch.context() as monkeypatch:
        if curve.lost(8.0) > allowed:
            with pytest.raises(HalfpintError, match="--keep: expected ln"):
                found(curve, monkeypatch)
            assert curve.made[-1] == 8.0
            return
        bits = found(curve, monkeypatch)
    assert curve.lost(bits) <= allowed and bits == min(one for one in curve.made if curve.lost(one) <= allowed)
    assert len(curve.made) == len(set(curve.made)) <= 5
    if len(curve.made) < 4:
        assert bits == 1.5 or curve.lost(bits - 0.8) > allowed


@example(level=3.322265625, slope=3.3222008813338206)
@given(level=st.floats(0.05, 60.0), slope=st.floats(2.5, 6.0))
def test_plain(level: float, slope: float) -> None:
    """Of the types that there are, the least that keeps enough."""
    curve, allowed = Curve(level, slope, plain=True), ALLOWED
    enough = [one for one in BITS if curve.lost(one) <= allowed]
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not enough:
            with pytest.raises(HalfpintError, match="--keep: expected ln"):
                found(curve, monkeypatch)
        else:
            assert found(curve, monkeypatch) == min(enough)
