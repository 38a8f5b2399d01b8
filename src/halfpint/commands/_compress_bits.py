"""What bits cost: points between bytes and quality, the fewest bits that keep enough, the best way to so many bytes.

A point is what a compressed language model kept, and how large its file is.

The fewest bits: rounding alone, which takes moments, tells about where that is; the method that was asked for needs
fewer bits, so it begins below. An error of quantising falls by 6 dB a bit, so what a point lost says how far from it
the next one has to be. Each point is measured on text that nothing was fitted on.

The best way: each is tried with rounding alone, the best is then done well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from halfpint.bundle import Bundle
from halfpint.commands._compress_steps import healing
from halfpint.compress.depth import Depth
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.compress.width import Width
from halfpint.errors import HalfpintError
from halfpint.evaluate.kept import kept
from halfpint.evaluate.writing import writing
from halfpint.export.gguf import CODES, Gguf
from halfpint.models.block_codes import CODES_FILE
from halfpint.stage import Stage

if TYPE_CHECKING:
    from halfpint.commands._compression import Compression

KEPT_TOKENS = 16_384
"""Tokens of text that nothing was fitted on, to tell what was kept by."""
PROBED_TOKENS = 4096
"""Tokens that a point is judged by before it is worth more."""
PROBE_SAMPLES = 4
"""Rows of text that tell what counts, for a point that is only tried."""
BITS = (8.5, 6.0, 5.5, 5.0, 4.5, 4.25, 3.5, 2.7)
"""Bits per weight that are tried where llama.cpp's own file is wanted."""

_FIRST, _FEWEST, _MOST = 5.0, 1.5, 8.0  # bits of a packed file
_ROUNDED, _MADE = 3, 3  # points
_BETTER = 0.9  # bits that the methods save beside rounding, as it was with SmolLM2: where they begin
_ROOM = 0.1  # bits that are not worth another try
_SPARED = 0.05  # bits more than worked out, where the last point lost too much

_SHARES = (0.15, 0.3)  # that pruning takes
# Not among them: low rank, as no block type holds what two factors are, so nothing could be quantised behind it; and a
# narrower hidden size, which cost more than as many channels wherever it was tried, and takes minutes to try.
_CUTS: dict[str, Callable[[float], Stage]] = {
    "depth": lambda share: Depth(share=share),
    "ffn": lambda share: Width(ffn=share, heads=0.0),
    "heads": lambda share: Width(ffn=0.0, heads=share),
}
_ALONE = 0.95  # of what quantising alone loses another way has to lose less than: it takes longer
_COLLAPSED = 1.0  # nats: where rounding loses more, it says little of what codes that make up for each other lose
_CODED_SAMPLES = 32  # rows of text that such codes are tried with


def row_of(
    run: Compression, name: str, bundle: Bundle, *, tokens: int = KEPT_TOKENS, to_choose: bool = False
) -> dict[str, Any]:  # fmt: skip
    """What a bundle kept on text that nothing was chosen by, and how fast it writes; `to_choose`: what it kept on the
    validation text."""
    found = kept(
        run.start, bundle, run.held if to_choose else run.judged, tokens=tokens, until=run.judged_by(), log=run.log
    )
    reference_bytes = (run.start.path / "model.safetensors").stat().st_size
    speed = {} if to_choose or not run.has_time(run.costs.written) else writing(bundle)
    row = {"name": name, **found, "reference_bytes": reference_bytes, "asked_tokens": tokens, **speed}
    entry = bundle.card["stages"][-1]
    return row | ({"loaded_bytes": entry["bytes_before"]} if "bytes_before" in entry else {})


def file_bytes(bundle: Bundle, *, packed: bool) -> int:
    """About the bytes of the file that a quantised bundle comes to; it is written for the way that is taken alone."""
    if packed:
        return int(bundle.card["stages"][-1]["packed_bytes"]) + int(bundle.card["stages"][-1]["other_bytes"])
    return sum((bundle.path / file).stat().st_size for file in (CODES_FILE, "tokenizer.json"))


def fewest_bits(run: Compression) -> list[Stage]:
    """The stages of the smallest file that was found to keep `run.asked.keep`; all points go into `run.points`.

    Raises:
        HalfpintError: none of them keeps so much.
    """
    asked = run.asked
    assert asked.keep is not None
    allowed = -math.log(asked.keep)
    enough = _by_rounding(run, allowed)
    bits = _allowed(enough - (_BETTER if asked.method != "round" else 0.0), plain=asked.plain)
    best = failed = 0.0
    size = least = math.inf
    tried = set[float]()
    while bits not in tried and (asked.plain or not best or len(tried) < _MADE):
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
            bits = max(one for one in (0.0, *BITS) if one < bits) if asked.plain else bits + away
        if best:  # fewer than what kept enough, more than what did not
            bits = max(bits, failed + _ROOM if failed else 0.0)
            if bits > best - _ROOM:
                break
        bits = _allowed(bits, plain=asked.plain)
    if not best:
        raise HalfpintError(
            "--keep", wanted=f"ln(PPL/PPL0) of at most {allowed:.4f}", got=f"{least:.4f} at the best",
            todo="Ask for less, or take --quantize 8.",
        )  # fmt: skip
    return [_stage(run, best), Gguf(type=CODES), *([] if asked.plain else [Lossless()])]


def _by_rounding(run: Compression, allowed: float) -> float:
    """About the bits with which rounding alone keeps enough."""
    bits = _FIRST
    for _ in range(_ROUNDED):
        probe = replace(_stage(run, bits), method="round", samples=PROBE_SAMPLES, minutes=Quantize.minutes)
        step = _bits_away(_point(run, probe, PROBED_TOKENS), allowed)
        bits = min(max(bits + step, _FEWEST), _MOST)
        if abs(step) < 2 * _ROOM or run.asked.plain:
            break
    return bits


def _stage(run: Compression, bits: float) -> Quantize:
    asked = run.asked
    return Quantize(bits=bits, method=asked.method, minutes=asked.minutes, packed=not asked.plain, seed=asked.seed)


def _point(run: Compression, stage: Quantize, tokens: int = KEPT_TOKENS) -> dict[str, Any]:
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


@dataclass(frozen=True)
class _Way:
    """What is cut, how it is quantised then, and the divergence after that (nats)."""

    cut: Sequence[Stage]
    last: Quantize
    kl: float


def best_way(run: Compression) -> list[Stage]:
    """The stages that keep most at the target.

    Ways are quantising alone, and quantising after layers, channels or heads were cut by one share or another; where a
    small share loses more than the best way so far, no larger one is tried. Each takes the most bits that the target
    allows, packed unless a plain file was asked for. Where rounding alone leaves nothing of the model, the first and
    the best of the others are tried with GPTQ too.

    Raises:
        HalfpintError: none of them comes down to the target.
    """
    asked = run.asked
    cuts: list[tuple[str, list[Stage]]] = [("", [])]
    for share in _SHARES:
        cuts += [(kind, [make(share)]) for kind, make in _CUTS.items()]
    lost: set[str] = set()
    found: list[_Way] = []
    for kind, cut in cuts:
        if kind in lost:
            name = f"{cut[-1].use} {cut[-1].changed_settings()}"
            run.points.append({"name": name, "skipped": "a smaller share lost more than another way"})
            continue
        for last in [Quantize(bits=bits) for bits in BITS] if asked.plain else [_packed(run, PROBE_SAMPLES)]:
            kl = _tried(run, cut, replace(last, method="round"))
            if kl is None and "refused" in run.points[-1]:
                break
            if kl is None:
                continue
            if cut and any(kl > one.kl for one in found):
                lost.add(kind)
            found.append(_Way(cut, last, kl))
            break
    if not found:
        sizes = [one["file_bytes"] for one in run.points if "file_bytes" in one]
        refused = next((one["refused"] for one in run.points if "refused" in one), "nothing that can be made")
        least = f"{min(sizes):,} bytes at the least" if sizes else refused
        raise HalfpintError(
            "--target", wanted=f"at most {asked.target_bytes:,} bytes", got=least,
            todo="Give a larger target, or a smaller model.",
        )  # fmt: skip
    best = min(found, key=lambda one: one.kl * (1.0 if one.cut else _ALONE))
    if best.cut and not found[0].cut and found[0].kl > _COLLAPSED and asked.method != "round":
        alone, other = (
            _tried(run, one.cut, replace(one.last, method="gptq", samples=_CODED_SAMPLES)) for one in (found[0], best)
        )
        if alone is not None and other is not None and _ALONE * alone <= other:
            best = found[0]
    healed = [healing(asked, str(run.start.path))] if best.cut else []
    last = best.last if asked.plain else _packed(run)
    stage = replace(last, method=asked.method, minutes=asked.minutes, seed=asked.seed)
    return [*best.cut, *healed, stage, Gguf(type=CODES), *([] if asked.plain else [Lossless()])]


def _tried(run: Compression, cut: Sequence[Stage], last: Quantize) -> float | None:
    """The divergence after these steps, on validation text; None where they come to too many bytes, or cannot be."""
    bits = f"{last.bits:g} bits" if run.asked.plain else "packed"
    bits += "" if last.method == "round" else f" ({last.method})"
    name = " + ".join([*(f"{one.use} {one.changed_settings()}" for one in cut), bits])
    try:
        bundle = run.make([*cut, last]).bundle
    except HalfpintError as error:  # a way that this model does not allow
        run.points.append({"name": name, "refused": str(error)})
        return None
    size = file_bytes(bundle, packed=not run.asked.plain)
    if size > run.asked.target_bytes:
        run.points.append({"name": name, "file_bytes": size, "over": True})
        return None
    row = row_of(run, name, bundle, tokens=PROBED_TOKENS, to_choose=True) | {"file_bytes": size}
    run.points.append(row)
    run.log.say(f"  {name}: {size / 1e6:.1f} MB, KL {row['kl']:.4f}", kind="point", **row)
    return float(row["kl"])


def _packed(run: Compression, samples: int = Quantize.samples) -> Quantize:
    return Quantize(packed=True, target_bytes=run.asked.target_bytes, samples=samples, seed=run.asked.seed)
