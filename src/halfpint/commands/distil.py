"""`halfpint distil`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.progress import Log, plain


@dataclass(frozen=True)
class Distilled(Result):
    """A student that was trained by a teacher, compared with both.

    Attributes:
        bundle: its folder.
        verdict: what the teacher was good for, in words.
        report: all figures, as in report.json.
    """

    bundle: Path
    verdict: str
    report: Mapping[str, Any] = field(repr=False)

    def as_json(self) -> str:
        """The report in one object."""
        return json.dumps(plain(dict(self.report)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.distilled import distilled

        return distilled(self.report)


@dataclass(frozen=True, kw_only=True)
class Distil(Command):
    """Train a smaller model to imitate a larger one, and compare it with the same model trained without a teacher.

    Args:
        teacher: Bundle, or OUT of fit or run; several, separated by commas, answer together.
        data: Labelled texts (CSV, TSV, JSONL, Parquet); running text for language models.
        student: layers=N or layers=1,6 of the teacher's layers, size=5M for new weights, a bundle, or a base model.
        out: Output folder, with report.json.
        method: Methods in order, separated by commas. Classifiers: hidden, logits, sequence (default:
            hidden,logits). Language models: hidden, logits, sequence, on_policy, uld (default: logits).
        epochs: Passes over the data per method; 0 takes the method's default.
        minutes: Time limit per method, for language models.
        tokens: Number of tokens per method, such as 2M, instead of --minutes, for language models.
        temperature: Temperature of the softmax; 0 takes 2 for classifiers, 1 for language models.
        divergence: forward, reverse or js (default: forward; js for on_policy).
        js_beta: Weight of js: near 0 it is like forward, near 1 like reverse.
        label_share: Weight of the true labels in the loss; -1 takes the method's default.
        rate: Learning rate; 0 takes the method's default.
        match: What hidden imitates: relations or states.
        unlabelled: Table with more texts, without labels.
        copies: Augmented copies of each text for the teacher to label.
        train_texts: Train on this many texts; 0 takes all.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Test set for the comparison (default: a part of DATA).
        no_control: Skip the control: the same student trained without a teacher.
        work: Folder for intermediate results, such as the teacher's answers; it is kept.
        seed: Random seed of the split and the training.
        force: Replace an earlier model in the output folder.
        quiet: Hide progress.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.SMALLER
    resumes: ClassVar[bool] = True

    teacher: str = positional(metavar="TEACHER")
    data: str = positional(metavar="DATA")
    student: str = option(metavar="STUDENT")
    out: Path = option(metavar="FOLDER")
    method: str = ""
    epochs: int = option(0, least=0)
    minutes: float = option(10.0, least=0)
    tokens: str = option("", metavar="NUMBER")
    temperature: float = 0.0
    divergence: str = ""
    js_beta: float = 0.5
    label_share: float = -1.0
    rate: float = option(0.0, least=0)
    match: str = "relations"
    unlabelled: str = option("", metavar="DATA")
    copies: int = option(0, least=0)
    train_texts: int = option(0, least=0)
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    test: str = option("", metavar="DATA")
    no_control: bool = False
    work: Path | None = option(None, metavar="FOLDER")
    seed: int = 0
    force: bool = False
    quiet: bool = False
    json: bool = False

    def run(self, log: Log) -> Distilled:
        """Train the student and its control, and compare."""
        from halfpint.distil.teachers import folders
        from halfpint.distillation.request import Request
        from halfpint.distillation.run import distil
        from halfpint.models.sizes import parse_parameters

        request = Request(
            teachers=tuple(folders(self.teacher)), source=self.data, student=self.student, out=self.out,
            text=self.text, label=self.label, test=self.test,
            methods=tuple(name.strip() for name in self.method.split(",") if name.strip()), work=self.work,
            epochs=self.epochs, minutes=self.minutes, tokens=parse_parameters(self.tokens) if self.tokens else 0,
            temperature=self.temperature, divergence=self.divergence, js_beta=self.js_beta,
            label_share=self.label_share, learning_rate=self.rate, match=self.match, unlabelled=self.unlabelled,
            copies=self.copies, train_texts=self.train_texts, control=not self.no_control, seed=self.seed,
            force=self.force,
        )  # fmt: skip
        report = distil(request, log)
        return Distilled(self.out, report["verdict"], report)
