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
from halfpint.compression.points import BITS, KEPT_TOKENS, PROBE_SAMPLES, PROBED_TOKENS, file_bytes, row_of
from halfpint.compression.request import Run
from halfpint.errors import HalfpintError
from halfpint.export.gguf import CODES, Gguf
from halfpint.stage import Stage

_FIRST, _FEWEST, _MOST = 5.0, 1.5, 8.0  # bits of a packed file
_ROUNDED, _MADE = 3, 3  # points
_BETTER = 0.9  # bits that the methods save beside rounding, as it was with SmolLM2: where they begin
_ROOM = 0.1  # bits that are not worth another try
_SPARED = 0.05  # bits more than worked out, where the last point lost too much


def fewest_bits(run: Run) -> list[Stage]:
    """The stages of the smallest file that was found to keep `run.request.keep`; all points go into `run.points`.

    Raises:
        HalfpintError: none of them keeps so much.
    """
    request = run.request
    allowed = -math.log(request.keep)
    enough = _by_rounding(run, allowed)
    bits = _allowed(enough - (_BETTER if request.method != "round" else 0.0), plain=request.plain)
    best = failed = 0.0
    size = least = math.inf
    tried = set[float]()
    while bits not in tried and (request.plain or not best or len(tried) < _MADE):
        tried.add(bits)
        row = _point(run, _stage(run, bits))
        away, least = _bits_away(row, allowed), min(least, row["ln_ppl_ratio"])
        if row["ln_ppl_ratio"] > allowed:
            failed = bits
            bits += max(away + _SPARED, _ROOM)
            if len(tried) >= _MADE:  # what rounding said, then all there are
                bits = max(bits, enough if len(tried) == _MADE else _MOST)
        elif row["file_bytes"] >= size or away > -_ROOM:
            best = best if row["file_bytes"] >= size else bits
            break
        else:
            best, size = bits, row["file_bytes"]
            bits = max(one for one in (0.0, *BITS) if one < bits) if request.plain else bits + away
        if best:  # fewer than what kept enough, more than what did not
            bits = max(bits, failed + _ROOM if failed else 0.0)
            if bits > best - _ROOM:
                break
        bits = _allowed(bits, plain=request.plain)
    if not best:
        raise HalfpintError(
            "--keep", wanted=f"ln(PPL/PPL0) of at most {allowed:.4f}", got=f"{least:.4f} at the best",
            todo="Ask for less, or take --quantize 8.",
        )  # fmt: skip
    return [_stage(run, best), Gguf(type=CODES), *([] if request.plain else [Lossless()])]


def _by_rounding(run: Run, allowed: float) -> float:
    """About the bits with which rounding alone keeps enough."""
    bits = _FIRST
    for _ in range(_ROUNDED):
        probe = replace(_stage(run, bits), method="round", samples=PROBE_SAMPLES, minutes=Quantize.minutes)
        step = _bits_away(_point(run, probe, PROBED_TOKENS), allowed)
        bits = min(max(bits + step, _FEWEST), _MOST)
        if abs(step) < 2 * _ROOM or run.request.plain:
            break
    return bits


def _stage(run: Run, bits: float) -> Quantize:
    request = run.request
    return Quantize(
        bits=bits, method=request.method, minutes=request.minutes, packed=not request.plain, seed=request.seed
    )


def _point(run: Run, stage: Quantize, tokens: int = KEPT_TOKENS) -> dict[str, Any]:
    """What a stage keeps."""
    bundle = run.make([stage]).bundle
    row = row_of(run, f"{stage.bits:g} bits, {stage.method}", bundle, tokens=tokens, to_choose=True)
    row["file_bytes"] = file_bytes(bundle, packed=stage.packed)
    run.points.append(row)
    said = f"  {row['name']}: {row['file_bytes'] / 1e6:.1f} MB, ln(PPL/PPL0) {row['ln_ppl_ratio']:.4f}"
    run.log.say(said, kind="point", **row)
    return row


def _bits_away(row: dict[str, Any], allowed: float) -> float:
    """How many bits more, or fewer, lose about what is allowed.

    The divergence is there besides since a perplexity may stay by chance.
    """
    lost = max(row["ln_ppl_ratio"], row["kl"] / 2, 1e-6)
    return math.log(lost / allowed, 4)


def _allowed(bits: float, *, plain: bool) -> float:
    """The fewest bits that there are from `bits` on, or the most."""
    if plain:
        return min((one for one in BITS if one >= bits), default=max(BITS))
    return round(min(max(bits, _FEWEST), _MOST), 2)
