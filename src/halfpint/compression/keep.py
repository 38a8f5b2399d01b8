"""The fewest bits with which a language model keeps what was asked for.

Rounding alone, which takes moments, tells about where that is; the method that was asked for needs fewer bits, so it
begins below. An error of quantising falls by 6 dB a bit, so what a point lost says how far from it the next one has to
be. Each point is measured on text that nothing was fitted on.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.compression.points import BITS, PROBED_TOKENS, file_bytes, row_of
from halfpint.compression.request import Run
from halfpint.errors import HalfpintError
from halfpint.export.gguf import CODES, Gguf
from halfpint.stage import Stage

_FIRST, _FEWEST, _MOST = 5.0, 1.5, 8.0  # bits of a packed file
_ROUNDED, _MADE = 3, 3  # points
_BETTER = 0.9  # bits that the methods save beside rounding, as it was with SmolLM2
_ROOM = 0.1  # bits that are not worth another try
_SPARED = 0.05  # bits more than worked out, where the last point lost too much


def fewest_bits(run: Run) -> list[Stage]:
    """The stages of the smallest file that was found to keep `run.request.keep`; all points go into `run.points`.

    Raises:
        HalfpintError: none of them keeps so much.
    """
    request = run.request
    allowed = -math.log(request.keep)
    bits = _FIRST
    for _ in range(_ROUNDED):
        row = _point(run, bits, "round", PROBED_TOKENS)
        step = _bits_away(row, allowed)
        bits = _held(bits + step)
        if abs(step) < 2 * _ROOM or request.plain:
            break
    bits = _held(bits - (_BETTER if request.method != "round" else 0.0))
    best, least, tried = None, math.inf, set[float]()
    for _ in range(len(BITS) if request.plain else _MADE):
        bits = _allowed(bits, plain=request.plain)
        if bits in tried or (best is not None and bits > best - _ROOM):
            break
        tried.add(bits)
        row = _point(run, bits, request.method)
        step = _bits_away(row, allowed)
        least = min(least, row["ln_ppl_ratio"])
        if row["ln_ppl_ratio"] <= allowed:
            best = bits if best is None else min(best, bits)
            bits += min(step, -_ROOM)
        else:
            bits += max(step + _SPARED, _ROOM)
        bits = _held(bits)
    if best is None:
        raise HalfpintError(
            "--keep", wanted=f"ln(PPL/PPL0) of at most {allowed:.4f}", got=f"{least:.4f} at the best",
            todo="Ask for less, or take --quantize 8.",
        )  # fmt: skip
    return [_stage(run, best, request.method), Gguf(type=CODES), *([] if request.plain else [Lossless()])]


def _stage(run: Run, bits: float, method: str) -> Quantize:
    request = run.request
    stage = Quantize(bits=bits, method=method, minutes=request.minutes, packed=not request.plain, seed=request.seed)
    return replace(stage, minutes=Quantize.minutes) if method == "round" else stage


def _point(run: Run, bits: float, method: str, tokens: int = 0) -> dict[str, Any]:
    """What so many bits keep."""
    bundle = run.make([_stage(run, bits, method)]).bundle
    judged_by = {"tokens": tokens} if tokens else {}
    row = row_of(run, f"{bits:g} bits, {method}", bundle, is_timed=False, **judged_by)
    row["file_bytes"] = file_bytes(bundle, packed=not run.request.plain)
    run.points.append(row)
    run.log.say(
        f"  {row['name']}: {row['file_bytes'] / 1e6:.1f} MB, ln(PPL/PPL0) {row['ln_ppl_ratio']:.4f}",
        kind="point",
        **row,
    )
    return row


def _bits_away(row: dict[str, Any], allowed: float) -> float:
    """How many bits more, or fewer, lose about what is allowed.

    The divergence is there besides since a perplexity may stay by chance.
    """
    lost = max(row["ln_ppl_ratio"], row["kl"] / 2, 1e-6)
    return math.log(lost / allowed, 4)


def _held(bits: float) -> float:
    return round(min(max(bits, _FEWEST), _MOST), 2)


def _allowed(bits: float, *, plain: bool) -> float:
    """The fewest bits that there are from `bits` on."""
    return min((one for one in BITS if one >= bits), default=max(BITS)) if plain else bits
