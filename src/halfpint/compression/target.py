"""The way that keeps most at so many bytes: each is tried with rounding alone, the best is then done well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from halfpint.compress.depth import Depth
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.compress.width import Width
from halfpint.compression.points import BITS, PROBE_SAMPLES, PROBED_TOKENS, file_bytes, row_of
from halfpint.compression.request import Run, healing
from halfpint.errors import HalfpintError
from halfpint.export.gguf import CODES, Gguf
from halfpint.stage import Stage

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


@dataclass(frozen=True)
class _Way:
    """What is cut, how it is quantised then, and the divergence after that (nats)."""

    cut: Sequence[Stage]
    last: Quantize
    kl: float


def best_way(run: Run) -> list[Stage]:
    """The stages that keep most at the target.

    Ways are quantising alone, and quantising after layers, channels or heads were cut by one share or another; where a
    small share loses more than the best way so far, no larger one is tried. Each takes the most bits that the target
    allows, packed unless a plain file was asked for. Where rounding alone leaves nothing of the model, the first and
    the best of the others are tried with GPTQ too.

    Raises:
        HalfpintError: none of them comes down to the target.
    """
    request = run.request
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
        for last in [Quantize(bits=bits) for bits in BITS] if request.plain else [_packed(run, PROBE_SAMPLES)]:
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
            "--target", wanted=f"at most {request.target_bytes:,} bytes", got=least,
            todo="Give a larger target, or a smaller model.",
        )  # fmt: skip
    best = min(found, key=lambda one: one.kl * (1.0 if one.cut else _ALONE))
    if best.cut and not found[0].cut and found[0].kl > _COLLAPSED and request.method != "round":
        alone, other = (
            _tried(run, one.cut, replace(one.last, method="gptq", samples=_CODED_SAMPLES)) for one in (found[0], best)
        )
        if alone is not None and other is not None and _ALONE * alone <= other:
            best = found[0]
    healed = [healing(request, str(run.start.path))] if best.cut else []
    last = best.last if request.plain else _packed(run)
    stage = replace(last, method=request.method, minutes=request.minutes, seed=request.seed)
    return [*best.cut, *healed, stage, Gguf(type=CODES), *([] if request.plain else [Lossless()])]


def _tried(run: Run, cut: Sequence[Stage], last: Quantize) -> float | None:
    """The divergence after these steps, on text to choose by; None where they come to too many bytes, or cannot be."""
    bits = f"{last.bits:g} bits" if run.request.plain else "packed"
    bits += "" if last.method == "round" else f" ({last.method})"
    name = " + ".join([*(f"{one.use} {one.changed_settings()}" for one in cut), bits])
    try:
        bundle = run.make([*cut, last]).bundle
    except HalfpintError as error:  # a way that this model does not allow
        run.points.append({"name": name, "refused": str(error)})
        return None
    size = file_bytes(bundle, packed=not run.request.plain)
    if size > run.request.target_bytes:
        run.points.append({"name": name, "file_bytes": size, "over": True})
        return None
    row = row_of(run, name, bundle, tokens=PROBED_TOKENS, to_choose=True) | {"file_bytes": size}
    run.points.append(row)
    run.log.say(f"  {name}: {size / 1e6:.1f} MB, KL {row['kl']:.4f}", kind="point", **row)
    return float(row["kl"])


def _packed(run: Run, samples: int = Quantize.samples) -> Quantize:
    return Quantize(packed=True, target_bytes=run.request.target_bytes, samples=samples, seed=run.request.seed)
