"""What a compressed language model is compared with: the whole model, with fewer bits alone, in no more bytes.

Steps that cut pay only beside a whole model that went through the *same* quantizer: beside rounding, better codes would
be taken for better cuts. Where there is no time for that, the comparison is with rounding, and what is said says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from halfpint.bundle import Bundle
from halfpint.commands._compress_bits import BITS, row_of
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.counts import INTERVAL
from halfpint.errors import HalfpintError, RefusedError
from halfpint.evaluate.kept import kl_difference, weight_bytes
from halfpint.export.gguf import CODES, Gguf
from halfpint.models.packed_gguf import PACKED_FILE
from halfpint.pipeline import Made
from halfpint.stage import Stage

if TYPE_CHECKING:
    from halfpint.commands._compression import Compression

ROUND = "round"
NOT_SO_SMALL = "Rounding alone cannot reach this size"
NOTHING_ELSE = "Nothing but rounding was done, so there is nothing to compare it with"
_SURELY = 0.95  # of the bytes that fewer bits should come to: what is more than allowed by then is not made
_LONGER, _PACKED_LONGER = 3, 12  # times a short rounding: a full one, and packing, which is tried several times
_CONTROLS = 3  # that are made, until one takes no more bytes
_ROOM = 1.005  # of the bytes: files of one size differ by what stands beside the weights


@dataclass(frozen=True)
class Control:
    """The comparison, or why there is none.

    Attributes:
        row: what the whole model kept; its "method" is the quantizer.
        why: in words, where there is no row, or where the quantizer is not that of the steps.
    """

    row: dict[str, Any] | None
    why: str = ""


def control_of(run: Compression, made: Made, row: Mapping[str, Any], stages: Sequence[Stage], took_s: float) -> Control:
    """The whole model, quantized to no more bytes: by the quantizer of `stages` where they cut besides, else rounded.

    Args:
        row: what `made` kept; took_s: how long it took to measure that.
    """
    try:
        packed = isinstance(stages[-1], Lossless)
        if not run.has_time(took_s + run.costs.exported + run.costs.rounding * (_PACKED_LONGER if packed else _LONGER)):
            raise HalfpintError("--minutes", wanted="time to make it, too", got="too little", todo="Give more.")
        tokens = int(row["windows"] * row["window"])
        last = next((stage for stage in stages if isinstance(stage, Quantize)), None)
        if last is not None and last.method == ROUND and not cuts(stages):
            return Control(None, NOTHING_ELSE)
        rounded = (_packed if packed else _plain)(run, int(row["file_bytes"]))
        if rounded is None:
            return Control(None, NOT_SO_SMALL)
        chosen, why = rounded, ""
        if last is not None and last.method != ROUND and cuts(stages):
            chosen, why = _by_the_same(run, made, last, rounded, int(row["file_bytes"]), took_s)
        bits = "as many bytes, packed" if packed else f"{chosen[0].bits:g} bits"
        found = row_of(run, f"{bits}, {chosen[0].method}", chosen[1], tokens=tokens)
        return Control({**found, "method": chosen[0].method}, why)
    except HalfpintError as error:  # what was made is there, whatever the comparison says
        run.log.say(f"  control: {error}", kind="refused")
        return Control(None, f"Not compared with quantizing alone: {error}".removesuffix("."))


def cuts(stages: Sequence[Stage]) -> bool:
    """Whether anything but quantizing is among the stages."""
    return any(not isinstance(stage, Quantize | Gguf | Lossless) for stage in stages)


_Found = tuple[Quantize, Bundle]


def _by_the_same(
    run: Compression, made: Made, last: Quantize, rounded: _Found, most_bytes: int, took_s: float
) -> tuple[_Found, str]:
    """The whole model by the quantizer of the steps, with the bits that rounding came down with; else the rounded one,
    and why."""
    needed_s = sum(float(entry["seconds"]) for entry in made.bundle.card["stages"] if entry["use"] == last.use)
    if not run.has_time(needed_s + took_s):
        return rounded, f"there was no time to quantize the whole model by {last.method} too; give more --minutes"
    wanted = replace(rounded[0], method=last.method, minutes=last.minutes, samples=last.samples, seed=last.seed)
    try:
        bundle = run.pipeline.make(
            [wanted, Gguf(type=CODES), *([Lossless()] if wanted.packed else [])], start=run.start,
            deadline=run.end - took_s,
        ).bundle  # fmt: skip
    except RefusedError as error:
        return rounded, f"the whole model cannot be quantized by {last.method}: {error}".removesuffix(".")
    if _bytes(bundle, packed=wanted.packed) > most_bytes * _ROOM:
        return rounded, f"the whole model by {last.method} comes to more bytes"
    return (wanted, bundle), ""


def _bytes(bundle: Bundle, *, packed: bool) -> int:
    return (bundle.path / PACKED_FILE).stat().st_size if packed else weight_bytes(bundle)


def _plain(run: Compression, most_bytes: int) -> _Found | None:
    """The whole model with as few bits, rounded, as give no more bytes; None where there is no such."""
    known = 0.0  # bytes of the last one for each bit
    for bits in BITS:
        if known and known * bits * _SURELY > most_bytes:
            continue
        stage = Quantize(bits=bits, method=ROUND)
        try:
            bundle = run.make(
                [stage, Gguf(type=CODES)], in_time=False
            ).bundle  # it is compared with: not in a quicker way
        except RefusedError as error:
            run.log.say(f"  control, {bits:g} bits, rounded: {error}", kind="refused")
            continue
        size = _bytes(bundle, packed=False)
        if size <= most_bytes * _ROOM:
            return stage, bundle
        known = size / bits
    return None


def _packed(run: Compression, most_bytes: int) -> _Found | None:
    """As `_plain`, where what was made is packed.

    Raises:
        RefusedError: llama.cpp says something else than the rounded model, as with one that says next to nothing.
    """
    wanted = most_bytes
    for _ in range(_CONTROLS):
        stage = Quantize(target_bytes=wanted, method=ROUND, packed=True, seed=run.asked.seed)
        bundle = run.make([stage, Gguf(type=CODES), Lossless()], in_time=False).bundle
        if (size := _bytes(bundle, packed=True)) <= most_bytes * _ROOM:
            return stage, bundle
        wanted = int(0.995 * wanted * most_bytes / size)  # bytes are planned with estimates
    return None


def compared(row: Mapping[str, Any], control: Control, stages: Sequence[Stage]) -> str:
    """One sentence on whether the whole model with fewer bits alone had kept as much; or why nobody knows."""
    other = control.row
    if other is None:
        return f"{control.why}."
    value, low, high = kl_difference(other, row)
    rounded = other["method"] == ROUND
    alone = "Rounding" if rounded else "Quantizing"
    told = (
        f"{alone} alone ({other['name']}, {other['file_bytes'] / 1e6:.1f} MB) has a KL of {other['kl']:.4f}, "
        f"{value:+.4f} ({INTERVAL} {low:+.4f} to {high:+.4f})"
    )
    if low > 0:
        told += ": " + ("the steps are worth it." if cuts(stages) and not control.why else "this is better.")
    elif high < 0:
        told += f": {alone.lower()} alone is better here; use it."
    else:
        told += f": this text does not tell the two apart, and {alone.lower()} alone is simpler."
    return f"{told} Whether the cuts pay is not known: {control.why}." if control.why else told
