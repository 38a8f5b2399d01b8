"""What `compress` is asked for, and the stages that it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfpint.bundle import Bundle
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
from halfpint.errors import HalfpintError, nearest
from halfpint.export.gguf import CODES, Gguf
from halfpint.export.onnx import Onnx
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.stage import Stage

PRUNINGS = ("depth", "width", "ffn", "heads", "hidden", "sparse")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `compress` is asked for.

    Args:
        model: a bundle, a base model, or what `fit` or `run` wrote.
        data: text to calibrate on, or the labelled texts of a classifier; part of it is held back to judge by.
        out: the folder of the bundle to write.
        prune: `depth=0.2`, `width=0.25` (feed-forward channels and heads), `ffn=…`, `heads=…`, `hidden=0.25`
            (what layers hand on) or `sparse=0.5`.
        low_rank: share of the weights that goes when matrices become products of two; 0 for none.
        vocab: drop the tokens that the data has not (a classifier's).
        heal: distil from the whole model after what was cut, so many minutes (a classifier: passes over the texts).
        lora: heal with adapters, merged in the end, instead of all weights.
        quantize: bits a weight, or types as of compress/quantize; for classifiers 8.
        static: ranges of a classifier's activations are fixed on its texts, with quantize = 8.
        method: of quantising: round, gptq or tuned.
        importance: an importance matrix (GGUF) for the method round.
        minutes: of tuning.
        target_bytes: find the best way to so few bytes; 0 takes the steps as they are given.
        keep: find the fewest bits with which the perplexity's inverse keeps this share; 0 for none.
        packed: what is quantised is packed without loss as well, and its bits are those of the packed file.
        plain: the file that `target_bytes` or `keep` is for is not packed.
        text, label: columns.
        test: of a classifier: the test file that `fit` was given, so that the same texts are held back.
        seed: of what is drawn.
        force: replace a bundle in `out`.
    """

    model: str
    data: str
    out: Path
    prune: tuple[str, ...] = ()
    low_rank: float = 0.0
    vocab: bool = False
    heal: float = 0.0
    lora: bool = False
    quantize: str = ""
    static: bool = False
    method: str = "tuned"
    importance: str = ""
    minutes: float = 10.0
    target_bytes: int = 0
    keep: float = 0.0
    packed: bool = False
    plain: bool = False
    text: str = ""
    label: str = ""
    test: str = ""
    seed: int = 0
    force: bool = False


@dataclass
class Run:
    """One run of `compress`: the model that it begins with, the data, and what was tried.

    Attributes:
        held, judged: text that nothing is fitted on, to choose by, and to judge what was chosen by.
    """

    request: Request
    pipeline: Pipeline
    start: Bundle
    log: Log
    held: Sequence[str] = ()
    judged: Sequence[str] = ()
    points: list[dict[str, Any]] = field(default_factory=list)

    def make(self, stages: Sequence[Stage]) -> Made:
        """What stages make of the model."""
        return self.pipeline.make(stages, start=self.start)


def steps_of(request: Request, teacher: str = "", *, is_classifier: bool = False) -> list[Stage]:
    """The stages of what was asked for, in the order prune, low rank, vocabulary, heal, quantise.

    Args:
        teacher: the folder of the whole model, to heal from.

    Raises:
        HalfpintError: an unknown kind of pruning, a share out of range, or settings that do not go together.
    """
    finds = "--target" if request.target_bytes else "--keep" if request.keep else ""
    given = (
        ("--prune", request.prune), ("--low-rank", request.low_rank), ("--vocab", request.vocab),
        ("--quantize", request.quantize), ("--keep", finds == "--target" and request.keep),
        ("--heal", finds == "--keep" and request.heal),
    )  # fmt: skip
    for name, value in given if finds else ():
        if value:
            raise HalfpintError(
                finds, wanted=f"it without {name}", got="both",
                todo=f"{finds} finds the steps by itself; leave one of the two out.",
            )  # fmt: skip
    if finds:
        Quantize(method=request.method, minutes=request.minutes)  # refuses what it would refuse later
    if request.plain and request.packed:
        raise HalfpintError("--plain", wanted="it without --packed", got="both", todo="Leave one of the two out.")
    if request.keep and not 0 < request.keep < 1:
        raise HalfpintError("--keep", wanted="a share between 0 and 1, such as 0.98", got=f"{request.keep:g}")
    if request.static and request.quantize != "8":
        raise HalfpintError("--static", wanted="--quantize 8 with it", got=repr(request.quantize))
    stages: list[Stage] = [_pruning(one) for one in request.prune]
    if request.low_rank:
        stages.append(LowRank(share=request.low_rank))
    if request.heal and not (stages or finds):
        raise HalfpintError(
            "--heal", wanted="--prune or --low-rank with it", got="neither",
            todo="Quantising is distilled by itself, for --minutes; leave --heal out.",
        )  # fmt: skip
    if request.lora and not (request.heal or request.target_bytes):
        raise HalfpintError("--lora", wanted="--heal with it", got="no --heal", todo="Leave it out, or add --heal 5.")
    if request.lora and any(one.startswith("sparse") for one in request.prune):
        raise HalfpintError(
            "--lora", wanted="weights that were not pruned to zero, which merging would fill", got="--prune sparse"
        )
    if request.importance and (is_classifier or finds or stages or not request.quantize):
        raise HalfpintError(
            "--importance", wanted="a language model, and --quantize alone with it: it is of the model as it is",
            got="a classifier" if is_classifier else finds or ("something cut before" if stages else "no --quantize"),
        )  # fmt: skip
    if request.importance and not Path(request.importance).is_file():
        raise HalfpintError("--importance", wanted="an importance matrix (GGUF)", got=request.importance)
    if request.heal and stages:
        stages.append(healing(request, teacher))
    if is_classifier:
        stages.append(Onnx())
        if request.vocab:
            stages.append(Vocab(size=1))
        if request.quantize:
            if request.quantize != "8":
                raise HalfpintError("--quantize", wanted="8 for a classifier", got=request.quantize)
            stages.append(OnnxStatic(seed=request.seed) if request.static else OnnxInt8())
        return stages
    if request.vocab:
        stages.append(Vocab(size=1))
    if request.quantize:
        stages += quantising(request.quantize, request)
    return stages


def healing(request: Request, teacher: str) -> Stage:
    """Distillation from the whole model, for as long as was asked for."""
    passes = max(1, round(request.heal))
    return Heal(
        teacher=teacher, minutes=request.heal or request.minutes, epochs=passes, lora=request.lora, seed=request.seed
    )


def quantising(asked: str, request: Request, method: str = "") -> list[Stage]:
    """The stages that quantise a language model, write it for llama.cpp, and pack it if that was asked for."""
    settings: dict[str, Any] = {
        "method": method or request.method, "minutes": request.minutes, "seed": request.seed, "packed": request.packed,
        "importance": request.importance,
    }  # fmt: skip
    try:
        bits = float(asked)
    except ValueError:
        stage = Quantize(types=asked, **settings)
    else:
        stage = Quantize(bits=bits if request.packed else _from_four(bits), **settings)
    return [stage, Gguf(type=CODES), *([Lossless()] if request.packed else [])]


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
        raise HalfpintError(
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
