"""`halfpint distil`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.command import Group, Result, named_after, option, positional
from halfpint.commands._table import ReadsTable
from halfpint.errors import HalfpintError, need_installed
from halfpint.progress import Log, plain

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.commands._distil_classifier import Classifiers
    from halfpint.commands._distil_language import Languages


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
class Distil(ReadsTable):
    """Train a smaller model to imitate a larger one, and compare it with the same model trained without a teacher.

    Args:
        teacher: Bundle, or OUT of fit or run; several, separated by commas, answer together.
        data: Labelled texts (CSV, TSV, JSONL, Parquet); running text for language models.
        student: layers=N or layers=1,6 of the teacher (of a base encoder, where the teacher has no layers), size=5M for
            new weights, a bundle, or a base model.
        out: Output folder, with report.json (default: TEACHER-distilled).
        method: Methods in order, separated by commas. Classifiers: hidden, logits, sequence (default:
            hidden,logits, or logits where the teacher has no layers). Language models: hidden, logits, sequence,
            on_policy, uld (default: logits).
        epochs: Passes over the data per method; 0 takes the method's default.
        minutes: Time limit, for language models: the student and the control share what the comparison leaves.
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
    synonyms: ClassVar[tuple[str, ...]] = ("distill",)
    resumes: ClassVar[bool] = True

    teacher: str = positional(metavar="TEACHER")
    data: str = positional(metavar="DATA")
    student: str = option(metavar="STUDENT")
    out: Path | None = option(None, metavar="FOLDER")
    method: str = ""
    epochs: int = option(0, least=0)
    minutes: float = option(25.0, least=0)
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

    @property
    def teachers(self) -> tuple[str, ...]:
        """The folders or names in `teacher`."""
        from halfpint.distil.teachers import folders

        return tuple(folders(self.teacher))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods in `method`, in order; empty takes those of the kind of model."""
        return tuple(name.strip() for name in self.method.split(",") if name.strip())

    @property
    def token_count(self) -> int:
        """The number in `tokens`; 0 where there is none."""
        from halfpint.models.sizes import parse_parameters

        return parse_parameters(self.tokens) if self.tokens else 0

    @property
    def has_control(self) -> bool:
        """Whether the same student is also trained without a teacher."""
        return not self.no_control

    @property
    def is_cut(self) -> bool:
        """Whether the student is made from the teacher."""
        return self.student.partition("=")[0] in ("layers", "size")

    @property
    def is_fresh(self) -> bool:
        """Whether the student begins with new weights."""
        return self.student.startswith("size=")

    def run(self, log: Log) -> Distilled:
        """Train a student of a teacher, and the same student without one, and compare the three.

        The student goes to `out` as a bundle, with report.json beside its weights. What is unfinished is kept in its
        folder's name with ".unfinished" (or in `work`), and the same call goes on from there; seconds and energy are
        those of all parts together.

        Raises:
            HalfpintError: no such teacher, student or data; a teacher of another task or other labels; a method that
                does not fit; or an `out` that holds something else.
        """
        from halfpint.energy import metered
        from halfpint.workspace import open_workspace

        self.token_count  # noqa: B018  (what is no number is refused first)
        need_installed("torch", "halfpint distil")
        out = self.out or named_after(next(iter(self.teachers), "model"), "distilled")
        with open_workspace(out, log, force=self.force, folder=self.work) as space:
            with metered(log):
                run = self._opened(space.folder, log)
                space.begin()
                report = run.report()
            log.event("done", verdict=report["verdict"])
            stages = [{"use": stage.use, **stage.settings()} for stage in run.student.stages]
            report = space.finish(run.student.bundle, {**report, "methods": list(run.methods), "stages": stages})
            if self.work is None:
                space.clear()
        return Distilled(out, report["verdict"], report)

    def _opened(self, work: Path, log: Log) -> Classifiers | Languages:
        """The teachers, and the data."""
        from halfpint.commands._before import refuse_unfit
        from halfpint.commands._distil_classifier import Classifiers
        from halfpint.commands._distil_language import Languages
        from halfpint.lookup import open_task
        from halfpint.task import LabelTask

        for name in self.teachers:
            refuse_unfit(name, "load")
        if not self.is_cut:
            refuse_unfit(self.student, "train")
        teachers = [_teacher(name, work, log) for name in self.teachers]
        if not teachers:
            raise HalfpintError(
                "TEACHER", wanted="the folder of a bundle", got="none", said="Name a teacher: the folder of a model."
            )
        tasks = {str(one.card.get("task")) for one in teachers}
        known = [open_task(name, "TEACHER") for name in sorted(tasks)]
        labelled = [task for task in known if isinstance(task, LabelTask)]
        if labelled and len(known) > 1:
            raise HalfpintError(
                "TEACHER",
                wanted="teachers of one task",
                got=f"of {', '.join(sorted(tasks))}",
                said=f"Teachers must do the same task, and these do {', '.join(sorted(tasks))}.",
            )
        kind = Classifiers if labelled else Languages
        run: Classifiers | Languages = kind(self, teachers, log)
        run.open(work)
        return run


def _teacher(name: str, work: Path, log: Log) -> Bundle:
    """A bundle's folder, OUT of `fit`, or a base language model by its name."""
    from halfpint.bundle import CARD
    from halfpint.distil.teachers import teacher_bundle
    from halfpint.models.known import is_language_name
    from halfpint.models.pull_language import base_bundle

    if is_language_name(name) or ((Path(name) / "config.json").is_file() and not (Path(name) / CARD).is_file()):
        return base_bundle(name, work / "teacher", log)
    return teacher_bundle(name)
