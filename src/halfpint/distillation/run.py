"""`distil`: a student from a teacher, and the same student without one, compared; the student becomes a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from halfpint.bundle import CARD, Bundle, file_sha256, read_json, write_json
from halfpint.distillation.classifier import Classifiers
from halfpint.distillation.language import Languages
from halfpint.distillation.request import Request, teacher_bundle
from halfpint.energy import energy_spent, metered
from halfpint.errors import HalfpintError, need_installed
from halfpint.language import base_bundle
from halfpint.machine import describe
from halfpint.models.sources import catalogue
from halfpint.progress import Log
from halfpint.search.output import copy_bundle, disk_errors, refuse_other_files
from halfpint.task import LabelTask, open_task

REPORT = "report.json"
_UNFINISHED = ".unfinished"


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
    refuse_other_files(request.out, force=request.force)
    work = request.work or request.out.with_name(request.out.name + _UNFINISHED)
    fresh, before, events = not work.exists(), log.events, work / "events.jsonl"
    with disk_errors(request.out):
        try:
            with metered(log):
                run = _opened(request, work, log, fresh=fresh)
                log.events = events
                report = run.report()
            energy = energy_spent(events)
            report |= {
                "methods": list(run.methods), "bundle": str(request.out), "machine": describe(),
                "stages": [{"use": stage.use, **stage.settings()} for stage in run.student.stages],
                "seconds": round(energy["seconds"], 1),
                "energy": {name: energy[name] for name in ("wh", "co2e_g", "source")},
            }  # fmt: skip
            log.event("done", verdict=report["verdict"])
        finally:
            log.events = before
        _write(run.student.bundle, request.out, report)
        if request.work is None:
            shutil.rmtree(work, ignore_errors=True)
    return report


def _opened(request: Request, work: Path, log: Log, *, fresh: bool) -> Classifiers | Languages:
    """The teachers, and the data; what was begun in `work` is taken away again where they cannot be had."""
    try:
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
    except HalfpintError:
        if fresh:
            shutil.rmtree(work, ignore_errors=True)
        raise
    return run


def _teacher(name: str, work: Path, log: Log) -> Bundle:
    """A bundle's folder, OUT of `fit`, or a base language model by its name."""
    if name in catalogue("language") or ((Path(name) / "config.json").is_file() and not (Path(name) / CARD).is_file()):
        return base_bundle(name, work / "teacher", log)
    return teacher_bundle(name)


def _write(student: Bundle, out: Path, report: dict[str, Any]) -> None:
    """The student's bundle with the report in it."""
    copy_bundle(student.path, out)
    write_json(out / REPORT, report)
    card = read_json(out / CARD)
    card["files"][REPORT] = file_sha256(out / REPORT)
    write_json(out / CARD, card)
