"""`halfpint compress`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import EXIT_INFEASIBLE
from halfpint.progress import Log, plain


@dataclass(frozen=True)
class Compressed(Result):
    """A smaller model, compared with its original.

    Attributes:
        bundle: its folder.
        verdict: what it kept, in words.
        is_met: whether it meets `target` or `keep`; None where neither was given.
        report: all figures, as in report.json.
    """

    bundle: Path
    verdict: str
    is_met: bool | None
    report: Mapping[str, Any] = field(repr=False)

    @property
    def exit_code(self) -> int:
        """3 where the model misses its target."""
        return EXIT_INFEASIBLE if self.is_met is False else 0

    def as_json(self) -> str:
        """The report in one object."""
        return json.dumps(plain(dict(self.report)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.compressed import compressed

        return compressed(self.report)


@dataclass(frozen=True, kw_only=True)
class Compress(Command):
    """Make a model smaller by pruning, low rank and quantization, and report the quality that it kept.

    The result is compared with quantizing alone.

    Args:
        model: Bundle, base model, or OUT of fit or run.
        data: Text to calibrate on, for a classifier labelled texts; a part of it is kept for the comparison.
        out: Output folder, with report.json.
        prune: depth=0.2, width=0.25, ffn=0.25, heads=0.25, hidden=0.25 or sparse=0.5; repeatable.
        low_rank: Share of the weights to save by low-rank factors.
        vocab: Drop tokens that the data does not use (classifiers).
        heal: Distil from the original after pruning: minutes (classifiers: passes over the data).
        lora: Heal with low-rank adapters (LoRA) instead of all weights.
        quantize: Bits per weight, such as 4, or types, such as q4_0,embeddings=q8_0.
        static: Static int8 for classifiers: calibrated once, so an answer does not depend on its batch.
        method: Quantization method: round, gptq or tuned.
        importance: Importance matrix of llama.cpp (GGUF), for --method round.
        minutes: Time limit of tuning.
        target: Find the best model of at most this size, such as 60MB.
        keep: Find the smallest model that keeps the perplexity within 1/KEEP of the original, such as 0.98.
        packed: Count the bits of --quantize in the packed file, which only halfpint reads.
        plain: Make the file of --target or --keep one that llama.cpp reads, not a packed one.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Test file that was given to fit, so that the same texts are kept apart (classifiers).
        seed: Random seed.
        force: Replace an earlier model in the output folder.
        quiet: Hide progress.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.SMALLER
    resumes: ClassVar[bool] = True

    model: str = positional(metavar="BUNDLE")
    data: str = option(metavar="DATA")
    out: Path = option(metavar="FOLDER")
    prune: tuple[str, ...] = option((), metavar="KIND=SHARE")
    low_rank: float = option(0.0, metavar="SHARE", least=0, most=0.99)
    vocab: bool = False
    heal: float = option(0.0, least=0)
    lora: bool = False
    quantize: str = option("", metavar="BITS")
    static: bool = False
    method: str = "tuned"
    importance: str = option("", metavar="FILE")
    minutes: float = 10.0
    target: str = option("", metavar="SIZE")
    keep: float | None = option(None, metavar="SHARE")
    packed: bool = False
    plain: bool = False
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    test: str = option("", metavar="FILE")
    seed: int = 0
    force: bool = False
    quiet: bool = False
    json: bool = False

    def run(self, log: Log) -> Compressed:
        """Compress and compare."""
        from halfpint.compression.request import Request
        from halfpint.compression.run import compress
        from halfpint.search.limits import parse_share, parse_size

        request = Request(
            model=self.model, data=self.data, out=self.out, prune=self.prune, low_rank=self.low_rank,
            vocab=self.vocab, heal=self.heal, quantize=self.quantize, method=self.method, minutes=self.minutes,
            text=self.text, label=self.label, test=self.test, seed=self.seed, force=self.force, static=self.static,
            packed=self.packed, plain=self.plain, lora=self.lora, importance=self.importance,
            keep=parse_share(self.keep) or 0.0,
            target_bytes=parse_size(self.target, "--target") if self.target else 0,
        )  # fmt: skip
        report = compress(request, log)
        return Compressed(self.out, report["verdict"], report.get("is_met"), report)
