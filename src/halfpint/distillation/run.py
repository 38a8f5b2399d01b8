"""`distil`: a student from a teacher, and the same student without one, compared; the student becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfpint.bundle import CARD, Bundle
from halfpint.distillation.classifier import Classifiers
from halfpint.distillation.language import Languages
from halfpint.distillation.request import Request, teacher_bundle
from halfpint.energy import metered
from halfpint.errors import HalfpintError, need_installed
from halfpint.models.pull_language import base_bundle
from halfpint.models.sources import catalogue
from halfpint.progress import Log
from halfpint.task import LabelTask, open_task
from halfpint.workspace import open_workspace


def distil(request: Request, log: Log) -> dict[str, Any]:
    """Train a student of a teacher, and the same student without one, and compare the three; gives the report.

    The student goes to `request.out` as a bundle, with report.json beside its weights. What is unfinished is kept in
    its folder's name with ".unfinished" (or in `request.work`), and the same call goes on from there; seconds
    and energy are those of all parts together.

    Raises:
        HalfpintError: no such teacher, student or data; a teacher of another task or other labels; a method that does
            not fit; or an `out` that holds something else.
    """
    need_installed("torch", "halfpint distil")
    with open_workspace(request.out, log, force=request.force, folder=request.work) as space:
        with metered(log):
            run = _opened(request, space.folder, log)
            space.begin()
            report = run.report()
        log.event("done", verdict=report["verdict"])
        stages = [{"use": stage.use, **stage.settings()} for stage in run.student.stages]
        report = space.finish(run.student.bundle, {**report, "methods": list(run.methods), "stages": stages})
        if request.work is None:
            space.clear()
    return report


def _opened(request: Request, work: Path, log: Log) -> Classifiers | Languages:
    """The teachers, and the data."""
    teachers = [_teacher(name, work, log) for name in request.teachers]
    if not teachers:
        raise HalfpintError("TEACHER", wanted="the folder of a bundle", got="none")
    tasks = {str(one.card.get("task")) for one in teachers}
    known = [open_task(name, "TEACHER") for name in sorted(tasks)]
    labelled = [task for task in known if isinstance(task, LabelTask)]
    if labelled and len(known) > 1:
        raise HalfpintError("TEACHER", wanted="teachers of one task", got=f"of {', '.join(sorted(tasks))}")
    kind = Classifiers if labelled else Languages
    run: Classifiers | Languages = kind(request, teachers, log)
    run.open(work)
    return run


def _teacher(name: str, work: Path, log: Log) -> Bundle:
    """A bundle's folder, OUT of `fit`, or a base language model by its name."""
    if name in catalogue("language") or ((Path(name) / "config.json").is_file() and not (Path(name) / CARD).is_file()):
        return base_bundle(name, work / "teacher", log)
    return teacher_bundle(name)
