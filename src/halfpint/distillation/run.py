"""`distil`: a student from a teacher, and the same student without one, compared; the student becomes a bundle."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from halfpint.bundle import CARD, Bundle, file_sha256, read_json, write_json
from halfpint.distillation.classifier import Classifiers
from halfpint.distillation.language import Languages
from halfpint.distillation.request import Request, teacher_bundle
from halfpint.energy import EnergyMeter
from halfpint.errors import HalfpintError, need_installed
from halfpint.language import base_bundle
from halfpint.machine import describe
from halfpint.models.sources import catalogue
from halfpint.progress import Log
from halfpint.search.output import copy_bundle, disk_errors, refuse_other_files
from halfpint.tasks import classify

REPORT = "report.json"
_UNFINISHED = ".unfinished"


def distil(request: Request, log: Log) -> dict[str, Any]:
    """Train a student of a teacher, and the same student without one, and compare the three; gives the report.

    The student goes to `request.out` as a bundle, with report.json beside its weights. What is unfinished is kept in
    its folder's name with ".unfinished" (or in `request.work`), and the same call goes on from there.

    Raises:
        HalfpintError: no such teacher, student or data; a teacher of another task or other labels; a method that does
            not fit; or an `out` that holds something else.
    """
    started = time.monotonic()
    need_installed("torch", "halfpint distil")
    refuse_other_files(request.out, force=request.force)
    work = request.work or request.out.with_name(request.out.name + _UNFINISHED)
    fresh = not work.exists()
    before = log.events
    with disk_errors(request.out), EnergyMeter() as meter:
        try:
            teachers = [_teacher(name, work, log) for name in request.teachers]
            if not teachers:
                raise HalfpintError("TEACHER", wanted="the folder of a bundle", got="none")
            tasks = {str(one.card.get("task")) for one in teachers}
            if len(tasks - {"chat"}) + ("chat" in tasks and classify.NAME in tasks) > 1:
                raise HalfpintError("TEACHER", wanted="teachers of one task", got=f"of {', '.join(sorted(tasks))}")
            kind = Classifiers if tasks == {classify.NAME} else Languages
            run: Classifiers | Languages = kind(request, teachers, log)
            run.open(work)
        except HalfpintError:
            if fresh:
                shutil.rmtree(work, ignore_errors=True)
            raise
        log.events = work / "events.jsonl"
        try:
            report = {
                **run.report(), "methods": list(run.methods), "bundle": str(request.out), "machine": describe(),
                "stages": [{"use": stage.use, **stage.settings()} for stage in run.student.stages],
                "seconds": round(time.monotonic() - started, 1),
            }  # fmt: skip
        finally:
            log.events = before
        energy = meter.energy
        report["energy"] = {"wh": energy.wh, "co2e_g": energy.co2e_g, "source": energy.source}
        log.event("done", verdict=report["verdict"])
        _write(run.student.bundle, request.out, report)
        if request.work is None:
            shutil.rmtree(work, ignore_errors=True)
    return report


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
