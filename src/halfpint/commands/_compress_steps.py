"""The stages that `halfpint compress` comes to, in their order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.compress.depth import Depth
from halfpint.compress.hidden import Hidden
from halfpint.compress.lossless import Lossless
from halfpint.compress.low_rank import LowRank
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.compress.onnx_static import OnnxStatic
from halfpint.compress.quantize import Quantize
from halfpint.compress.sparse import Sparse
from halfpint.compress.vocab import Vocab
from halfpint.compress.width import Width
from halfpint.distil.heal import Heal
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.export.gguf import CODES, Gguf
from halfpint.export.onnx import Onnx
from halfpint.stage import Stage

if TYPE_CHECKING:
    from halfpint.commands.compress import Compress

PRUNINGS = ("depth", "width", "ffn", "heads", "hidden", "sparse")


def steps_of(asked: Compress, teacher: str = "", *, is_classifier: bool = False) -> list[Stage]:
    """The stages of what was asked for, in the order prune, low rank, vocabulary, heal, quantise.

    Args:
        teacher: the folder of the whole model, to heal from.

    Raises:
        HalfpintError: an unknown kind of pruning, a share out of range, or settings that do not go together.
    """
    finds = "--target" if asked.target_bytes else "--keep" if asked.keep else ""
    given = (
        ("--prune", asked.prune), ("--low-rank", asked.low_rank), ("--vocab", asked.vocab),
        ("--quantize", asked.quantize), ("--keep", finds == "--target" and asked.keep),
        ("--heal", finds == "--keep" and asked.heal),
    )  # fmt: skip
    for name, value in given if finds else ():
        if value:
            raise HalfpintError(
                finds, wanted=f"it without {name}", got="both",
                todo=f"{finds} finds the steps by itself; leave one of the two out.",
            )  # fmt: skip
    if finds:
        Quantize(method=asked.method, minutes=asked.minutes)  # refuses what it would refuse later
    if asked.plain and asked.packed:
        raise HalfpintError("--plain", wanted="it without --packed", got="both", todo="Leave one of the two out.")
    if asked.keep and not 0 < asked.keep < 1:
        raise SettingError("--keep", wanted="a share between 0 and 1, such as 0.98", got=f"{asked.keep:g}")
    if asked.static and asked.quantize != "8":
        raise HalfpintError("--static", wanted="--quantize 8 with it", got=repr(asked.quantize))
    stages: list[Stage] = [_pruning(one) for one in asked.prune]
    if asked.low_rank:
        stages.append(LowRank(share=asked.low_rank))
    if asked.heal and not (stages or finds):
        raise HalfpintError(
            "--heal", wanted="--prune or --low-rank with it", got="neither",
            todo="Quantising is distilled by itself, for --minutes; leave --heal out.",
        )  # fmt: skip
    if asked.lora and not (asked.heal or asked.target_bytes):
        raise HalfpintError("--lora", wanted="--heal with it", got="no --heal", todo="Leave it out, or add --heal 5.")
    if asked.lora and any(one.startswith("sparse") for one in asked.prune):
        raise HalfpintError(
            "--lora", wanted="weights that were not pruned to zero, which merging would fill", got="--prune sparse"
        )
    if asked.importance and (is_classifier or finds or stages or not asked.quantize):
        raise HalfpintError(
            "--importance", wanted="a language model, and --quantize alone with it: it is of the model as it is",
            got="a classifier" if is_classifier else finds or ("something cut before" if stages else "no --quantize"),
        )  # fmt: skip
    if asked.importance and not Path(asked.importance).is_file():
        raise HalfpintError("--importance", wanted="an importance matrix (GGUF)", got=asked.importance)
    if asked.heal and stages:
        stages.append(healing(asked, teacher))
    if is_classifier:
        stages.append(Onnx())
        if asked.vocab:
            stages.append(Vocab(size=1))
        if asked.quantize:
            if asked.quantize != "8":
                raise HalfpintError("--quantize", wanted="8 for a classifier", got=asked.quantize)
            stages.append(OnnxStatic(seed=asked.seed) if asked.static else OnnxInt8())
        return stages
    if asked.vocab:
        stages.append(Vocab(size=1))
    if asked.quantize:
        stages += quantising(asked.quantize, asked)
    return stages


def healing(asked: Compress, teacher: str) -> Stage:
    """Distillation from the whole model, for as long as was asked for."""
    passes = max(1, round(asked.heal))
    return Heal(teacher=teacher, minutes=asked.heal or asked.minutes, epochs=passes, lora=asked.lora, seed=asked.seed)


def quantising(bits_or_types: str, asked: Compress, method: str = "") -> list[Stage]:
    """The stages that quantise a language model, write it for llama.cpp, and pack it if that was asked for."""
    settings: dict[str, Any] = {
        "method": method or asked.method, "minutes": asked.minutes, "seed": asked.seed, "packed": asked.packed,
        "importance": asked.importance,
    }  # fmt: skip
    try:
        bits = float(bits_or_types)
    except ValueError:
        stage = Quantize(types=bits_or_types, **settings)
    else:
        stage = Quantize(bits=bits if asked.packed else _from_four(bits), **settings)
    return [stage, Gguf(type=CODES), *([Lossless()] if asked.packed else [])]


def _from_four(bits: float) -> float:
    """What "4 bits" means: with the scale of its block a weight has 4.5; of 8 bits 8.5."""
    return bits + 0.5 if bits in (4.0, 8.0, 5.0) else bits


def _pruning(asked: str) -> Stage:
    name, equals, value = asked.partition("=")
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if name not in PRUNINGS or not equals or not 0 < share < 1:
        raise SettingError(
            "--prune", wanted="depth=0.2, width=0.25, ffn=0.25, heads=0.25, hidden=0.25 or sparse=0.5", got=repr(asked),
            todo=nearest(name, PRUNINGS),
        )  # fmt: skip
    if name == "depth":
        return Depth(share=share)
    if name == "hidden":
        return Hidden(share=share)
    if name == "sparse":
        return Sparse(share=share)
    return Width(ffn=share if name != "heads" else 0.0, heads=share if name != "ffn" else 0.0)
