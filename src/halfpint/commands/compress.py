"""`halfpint compress`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Group, Result, named_after, option, positional
from halfpint.commands._table import ReadsTable
from halfpint.errors import EXIT_INFEASIBLE, HalfpintError
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
class Compress(ReadsTable):
    """Make a model smaller by pruning, low rank and quantization, and report the quality that it kept.

    The result is compared with quantizing alone.

    Args:
        model: Bundle, base model, or OUT of fit or run.
        data: Text to calibrate on, for a classifier labelled texts; a part of it is kept for the comparison.
        out: Output folder, with report.json (default: BUNDLE-compressed).
        prune: depth=0.2, width=0.25, ffn=0.25, heads=0.25, hidden=0.25 or sparse=0.5; repeatable.
        low_rank: Share of the weights to save by low-rank factors.
        vocab: Drop tokens that the data does not use (classifiers).
        heal: Distil from the original after pruning: minutes (classifiers: passes over the data).
        lora: Heal with low-rank adapters (LoRA) instead of all weights.
        quantize: Bits per weight, such as 4, or types, such as q4_0,embeddings=q8_0.
        static: Static int8 for classifiers: calibrated once, so an answer does not depend on its batch.
        method: Quantization method: round, gptq or tuned.
        importance: Importance matrix of llama.cpp (GGUF), for --method round.
        minutes: Time limit besides --heal: fewer rows, less tuning, a shorter comparison or none where it is short.
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
    synonyms: ClassVar[tuple[str, ...]] = ("quantize", "quantise", "prune", "shrink", "low-rank")
    resumes: ClassVar[bool] = True

    model: str = positional(metavar="BUNDLE")
    data: str = option(metavar="DATA")
    out: Path | None = option(None, metavar="FOLDER")
    prune: tuple[str, ...] = option((), metavar="KIND=SHARE")
    low_rank: float = option(0.0, metavar="SHARE", least=0, most=0.99)
    vocab: bool = False
    heal: float = option(0.0, least=0)
    lora: bool = False
    quantize: str = option("", metavar="BITS")
    static: bool = False
    method: str = "tuned"
    importance: str = option("", metavar="FILE")
    minutes: float = 20.0
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

    @property
    def target_bytes(self) -> int:
        """The bytes of `target`; 0 where there is none."""
        from halfpint.search.limits import parse_size

        return parse_size(self.target, "--target") if self.target else 0

    def run(self, log: Log) -> Compressed:
        """Make the model smaller, tell what it kept after each step, and compare with fewer bits alone.

        The bundle goes to `out`, with report.json beside its weights. What is unfinished is kept in the folder's name
        with ".unfinished", and the same call goes on from there; seconds and energy are those of all parts together.

        Raises:
            HalfpintError: no such model or data, nothing to do, a step that does not fit, or an `out` that holds
                something else.
            RefusedError: a step that saves nothing, or an export that does not say what the model says.
        """
        from halfpint.commands._compress_classifier import compress_classifier
        from halfpint.commands._compress_language import compress_language
        from halfpint.commands._compress_refusals import refuse_test_split
        from halfpint.commands._compress_steps import steps_of
        from halfpint.commands._compression import is_classifier, opened
        from halfpint.energy import metered
        from halfpint.export.onnx import Onnx
        from halfpint.search.limits import parse_share
        from halfpint.task import LabelTask
        from halfpint.workspace import open_workspace

        out = self.out or named_after(self.model, "compressed")
        limits = parse_share(self.keep), self.target_bytes  # what is neither a share nor a size is refused first
        with open_workspace(out, log, force=self.force) as space:
            refuse_test_split(self.data)
            stages = steps_of(self, is_classifier=is_classifier(self.model))  # refuses settings that cannot be
            if all(isinstance(one, Onnx) for one in stages) and not any(limits):
                raise HalfpintError(
                    "halfpint compress", wanted="--prune, --low-rank, --vocab, --quantize, --target or --keep",
                    got="none of them",
                    said="Say what to do: --prune, --low-rank, --vocab, --quantize, --target or --keep.",
                )  # fmt: skip
            with metered(log):
                run = opened(self, space.folder, log)
                space.begin()
                is_labelled = isinstance(run.pipeline.task, LabelTask)
                made, report = compress_classifier(run) if is_labelled else compress_language(run)
            told = [{"use": stage.use, **stage.settings()} for stage in made.stages]
            report = space.finish(made.bundle, {**report, "model": self.model, "stages": told})
            space.clear()
        return Compressed(out, report["verdict"], report.get("is_met"), report)
