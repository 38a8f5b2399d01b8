"""`fit`: from a table to the smallest model that meets the limits, proven on texts that nothing was chosen by."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halfpint import __version__
from halfpint.bundle import Bundle, open_bundle
from halfpint.energy import energy_spent, metered
from halfpint.errors import HalfpintError, need_installed
from halfpint.evaluate.evaluate import evaluate
from halfpint.files import clear_temporary, locked, new_folder
from halfpint.machine import describe
from halfpint.models.sources import locate
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.report.html import write_report
from halfpint.search.choose import Choice, choose
from halfpint.search.crossval import ENOUGH, CrossValidation, trained_on_all
from halfpint.search.encoder import try_encoder
from halfpint.search.limits import Limits, bytes_text
from halfpint.search.planner import say_encoder
from halfpint.search.space import cheap_groups
from halfpint.search.tries import Tries
from halfpint.search.verdict import on_test, rare
from halfpint.settings import identity
from halfpint.stage import Stage
from halfpint.task import LabelTask, Split
from halfpint.terminal import amount
from halfpint.train.loop import Training
from halfpint.workspace import check_output, disk_errors, open_output, write_figures

NO_BASE = "none"
_RESERVE_S, _RESERVE_SHARE = 45.0, 0.2  # for the last evaluation and the report, the less of the two
_CROSSED_SHARE = 0.3  # of the time, for asking training rows too where validation has few, and for the one after
_FEWEST = 5  # rows to choose by, and for the test: of fewer even all right proves next to nothing
_AGAIN_SHARE = 0.1  # for training the chosen one on all rows
BEST, STRONGEST = "best", "strongest"
"""Folders of the chosen bundle, and of the one with the best score whatever the limits."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `fit` is asked for.

    Args:
        task: the task; data: the [data] settings, of its type; limits: what the model has to meet.
        out: the folder to write.
        base: the encoder to start from, or "none" for candidates without one.
        metric: what choices are made on; empty lets the data choose.
        seed: of training; command: the line to repeat it, for the report.
    """

    task: LabelTask[Any]
    data: Any
    limits: Limits
    out: Path
    base: str = "all-minilm-l6-v2"
    metric: str = ""
    seed: int = 0
    command: str = ""
    force: bool = False

    def identity(self) -> dict[str, Any]:
        """What makes two requests the same run; settings that came later count where they are given."""
        parts = {"task": self.task.name, "data": identity(self.data), "limits": identity(self.limits)}
        more = {"base": self.base, "metric": self.metric, "seed": self.seed, "halfpint": __version__}
        return {**parts, **more}


def fit(request: Request, log: Log) -> dict[str, Any]:
    """Search, choose on validation, prove on test, write OUT/best, report and recipe; gives the report.

    Raises:
        HalfpintError: bad input or data. An infeasible request is no error here: the report's "chosen" is None.
    """
    for package in ("sklearn", "onnx"):
        need_installed(package, "halfpint fit")
    started = time.monotonic()
    request.task.check_metric(request.metric, "--metric")
    with disk_errors(request.out), locked(request.out):
        # Nothing is written, or replaced, before it is known that the data can be learned from and the base be had.
        if check_output(request.out, request.identity(), force=request.force):
            log.say(f"going on with the unfinished run in {request.out}", kind="resume")
            clear_temporary(request.out / "work")
        with metered(log):
            split = request.task.read(request.data, request.out / "work" / "data", log)
            _need_rows(request.data, split)
            if request.base != NO_BASE:
                need_installed("torch", "candidates with an encoder (--base none leaves them out)")
                say_encoder(request.base, request.task.texts(split.train), request.limits.minutes, log)
                locate(request.base, log)
            open_output(request.out, request.identity(), force=request.force)
            log.events = request.out / "events.jsonl"
            primary = request.metric or next(iter(request.limits.floor), "") or request.task.primary(split.train)
            pipeline = Pipeline(split, request.out / "work", request.task, primary, log)
            tries = Tries(request.task, request.limits, pipeline, primary, log, started, _deadline(request, started))
            choice = _search(request, tries, split)
            tests = _prove(request, tries, choice, split)
        report = _report(request, tries, choice, tests, split)
        spent = energy_spent(request.out / "events.jsonl")
        report |= {"energy": spent, "seconds": round(spent["seconds"], 1)}
        write_report(report, request.out)
    log.event("done", chosen=report["chosen"], verdict=report["verdict"])
    return report


def _need_rows(data: Any, split: Split[Any]) -> None:
    """Raise HalfpintError where too few rows are left to choose by, or for a test that was taken out of the data."""
    held = {"to choose a model by": len(split.validation)}
    if not data.test:
        held["for the final test"] = len(split.test)
    if min(held.values()) >= _FEWEST:
        return
    rows = len(split.train) + sum(held.values())
    left = " and ".join(f"{count} {what}" for what, count in held.items())
    share = data.validation_share if data.test else min(data.validation_share, data.test_share)
    raise HalfpintError(
        data.source, wanted=f"{_FEWEST} rows or more {' and '.join(held)}", got=left,
        todo=f"Give {max(math.ceil(_FEWEST / share), rows + 1):,} rows or more, at least three of each label.",
        said=f"{data.source} has too few rows: of {amount(rows, 'usable row')}, {left} would be left, and fewer than "
        f"{_FEWEST} prove nothing.",
    )  # fmt: skip


def _deadline(request: Request, started: float) -> float:
    """When all has to be done but the last evaluation and the report."""
    seconds = request.limits.minutes * 60
    return started + seconds - min(_RESERVE_S, _RESERVE_SHARE * seconds)


def _search(request: Request, tries: Tries, split: Split[Any]) -> Choice:
    """Try candidates, then ask more rows where that can decide between them."""
    end, whole = tries.deadline, tries.deadline - tries.started
    before_again = end - _AGAIN_SHARE * whole
    tries.deadline = end - _CROSSED_SHARE * whole if len(split.validation) < ENOUGH else before_again
    for group in cheap_groups(request.task):
        tries.try_group(group)
    if request.base != NO_BASE:
        try_encoder(tries, request.base, request.out / "plan.json", request.seed)

    def choose_again() -> Choice:
        return choose(
            tries.candidates, request.limits, tries.primary, request.task, tries.answers, minutes=tries.minutes_needed
        )  # fmt: skip

    choice = CrossValidation(tries, choose_again, before_again, request.seed).run()
    tries.deadline = before_again
    if tries.late and tries.seconds_left > tries.export_s:  # asking more rows did not take what was kept for it
        tries.try_late()
        choice = choose_again()
    tries.deadline = end
    return choice


def _prove(request: Request, tries: Tries, choice: Choice, split: Split[Any]) -> dict[str, Any]:
    """The one look at the test texts: the chosen candidate, the strongest, the baselines. Writes OUT/best with its
    recipe, and OUT/strongest."""
    task = request.task
    counting = [one for one in tries.candidates if one["family"] in task.counting and one["name"] in tries.made]
    cheap = max(counting, key=lambda one: one["metrics"][tries.primary], default=None)
    baselines = [one.name for one in task.candidates() if one.baseline]
    names = [one["name"] for one in (choice.chosen, choice.best, cheap) if one]
    bundles = {name: tries.made[name].bundle for name in [*names, *baselines] if name in tries.made}
    again: Made | None = None
    if choice.chosen is not None:
        chosen = choice.chosen["name"]
        again = trained_on_all(tries, tries.made[chosen], tries.deadline)
        if again is not None:
            bundles[chosen] = again.bundle
            choice.chosen["trained_on"] = len(split.together().train)
            choice.chosen["size_bytes"] = again.bundle.size_bytes
    tests = {}
    for name, bundle in bundles.items():
        tests[name] = evaluate(bundle, split.test, primary=tries.primary, log=tries.log)
        tests[name]["metrics"] = {key: tests[name][key] for key in next(iter(tries.candidates))["metrics"]}
    for one, place in ((choice.best, STRONGEST), (choice.chosen, BEST)):
        if one is not None:
            keep(request.out / place, bundles[one["name"]], one, tests[one["name"]], tries.primary, split.key, task)
    if choice.chosen is not None:
        # Where both come from, so that another candidate can take their place (`by_hand`), and be replaced again.
        choice.chosen["measured_bundle"] = choice.chosen["bundle"]
        choice.chosen["final_bundle"] = str(bundles[choice.chosen["name"]].path.relative_to(request.out))
        choice.chosen["bundle"] = BEST
        stages = repeatable(again or tries.made[choice.chosen["name"]])
        Recipe(request.data, task, tries.primary, stages, again is not None).write(request.out / "recipe.toml")
    return tests


def keep(
    folder: Path, bundle: Bundle, candidate: Mapping[str, Any], test: dict[str, Any], primary: str, key: str,
    task: LabelTask[Any],
) -> None:  # fmt: skip
    """Copy a candidate's bundle to `folder`, with its figures in the card: whole or not at all."""
    with new_folder(folder) as made:
        shutil.copytree(bundle.path, made, dirs_exist_ok=True)
        write_figures(made, primary, candidate, test, key, task.headline)


def repeatable(made: Made) -> tuple[Stage, ...]:
    """The stages that made a bundle, so that running them again gives it again.

    A training that was stopped (by the clock, or because it could not win) is told to stop at the same step.
    """
    stages: list[Stage] = []
    for stage, entry in zip(made.stages, made.bundle.card["stages"], strict=True):
        if isinstance(stage, Training) and entry.get("stopped") and entry["steps"] < entry["total_steps"]:
            again: Any = stage
            stages.append(replace(again, stop_after_steps=entry["steps"]))
        else:
            stages.append(stage)
    return tuple(stages)


def _report(request: Request, tries: Tries, choice: Choice, tests: dict[str, Any], split: Split[Any]) -> dict[str, Any]:
    limits = request.limits
    words = [choice.verdict, rare(request.task, split.validation, tries.primary)]
    if choice.chosen is not None:
        made = tries.made.get(choice.chosen["name"])
        stages = made.stages if made else ()
        if "trained_on" in choice.chosen:
            rows, size = choice.chosen["trained_on"], bytes_text(choice.chosen["size_bytes"])
            words.append(
                f"It was then trained again on all {rows:,} rows outside the test set{drawn(stages, rows)} ({size})."
            )
        else:
            rows = len(split.train)
            words.append(
                f"It learned from the {rows:,} training rows{drawn(stages, rows)}, and not from those of validation."
            )
        words.append(on_test(choice.chosen, tests[choice.chosen["name"]], tries.primary, limits))
    recipe = request.out / "recipe.toml"
    return {
        "halfpint": __version__,
        "task": request.task.name,
        "data": {**split.summary(), "test_fingerprint": split.proof},
        "limits": {**asdict(limits), "floor": dict(limits.floor) or None},
        "primary_metric": tries.primary,
        "candidates": tries.candidates,
        "chosen": choice.chosen["name"] if choice.chosen else None,
        "chosen_by": "fit" if choice.chosen else None,
        "closest": choice.closest["name"] if choice.closest else None,
        "strongest": choice.best["name"] if choice.best else None,
        "verdict": " ".join(filter(None, words)),
        "test": tests or None,
        "machine": describe(),
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        "command": request.command,
        "out": str(request.out),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def drawn(stages: Sequence[Stage], rows: int) -> str:
    """That what learns from an encoder's vectors, or the encoder itself, saw some of the rows, where it did."""
    some = [count for stage in stages if 0 < (count := getattr(stage, "train_texts", 0)) < rows]
    return f" (what is neural in it from {min(some):,} of them, drawn)" if some else ""


def best_bundle(out: Path) -> Bundle:
    """The chosen bundle of a finished run."""
    return open_bundle(out / "best")
