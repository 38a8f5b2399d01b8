"""Run a recipe: prepare the data, make the stages, prove the result on texts it has not learned from."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halfpint import __version__
from halfpint.bundle import Bundle, open_bundle, read_json, write_json
from halfpint.energy import energy_spent, metered
from halfpint.errors import HalfpintError
from halfpint.evaluate.evaluate import evaluate
from halfpint.evaluate.text import judge
from halfpint.machine import describe
from halfpint.pipeline import Made, Pipeline, kind_after
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.report.html import write_report
from halfpint.report.language import taught
from halfpint.report.learning import trainings
from halfpint.search.language_report import write_language_report
from halfpint.task import LabelTask, Split
from halfpint.workspace import copy_bundle, disk_errors, write_figures

RESULT, RECIPE, EVENTS = "result.json", "recipe.resolved.toml", "events.jsonl"


def run_recipe(recipe: Recipe, out: Path, log: Log, *, force: bool = False) -> dict[str, Any]:
    """Run `recipe` in folder `out`: the bundle goes to OUT/best, report and resolved recipe beside it.

    Finished stages are not run again, an interrupted one resumes. Gives the result: "validation" (figures of the last
    stage) and, of labelled texts, "test" (those of `evaluate`), among others.

    Raises:
        HalfpintError: bad data, a stage that cannot run, or an `out` that holds something else.
    """
    started = time.monotonic()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECIPE).is_file())) and not force:
        raise HalfpintError(
            f"--out {out}", wanted="an empty folder, or one that `halfpint run` wrote", got="other files",
            todo="Give another --out, or --force.",
        )  # fmt: skip
    _check_end(recipe)
    for stage in recipe.stages:
        stage.check()
    with disk_errors(out):
        split = _data(recipe, out / "work" / "corpus", log)
        out.mkdir(parents=True, exist_ok=True)
        log.events = out / EVENTS
        recipe.write(out / RECIPE)
        primary = recipe.metric or recipe.task.primary(split.train)
        pipeline = Pipeline(split, out / "work", recipe.task, primary, log)
        with metered(log):
            made = pipeline.make(recipe.stages)
            key = _key(made.key, primary, pipeline)
            if (out / RESULT).is_file() and (found := read_json(out / RESULT)).get("key") == key:
                log.say("nothing to do: this recipe's result is there already", kind="cached")
                return found
            figures = _figures(pipeline, made, primary, log)
        copy_bundle(made.bundle.path, out / "best")
        if isinstance(recipe.task, LabelTask):
            validation, test, told = figures["validation"], figures["test"], recipe.task.headline
            write_figures(out / "best", primary, validation, test, split.key, told)
        _report(recipe, split, made, figures, primary, out, time.monotonic() - started, log)
        result = {
            "key": key,
            "primary_metric": primary,
            **figures,
            "bundle": str(out / "best"),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(out / RESULT, result)
    return result


def _check_end(recipe: Recipe) -> None:
    """Refuse stages whose result does not do the recipe's task."""
    kind = kind_after(recipe.stages)
    if kind not in recipe.task.ends:
        raise HalfpintError(
            f"stage {len(recipe.stages)} ({recipe.stages[-1].use})",
            wanted=f"stages that end with what does the task {recipe.task.name!r}",
            got=f"a bundle of the kind '{kind}'", todo="Add a stage, or give [task] another name.",
        )  # fmt: skip


def _data(recipe: Recipe, folder: Path, log: Log) -> Split[Any]:
    """The data of a recipe; a fault in it leaves nothing behind."""
    try:
        return recipe.task.read(recipe.data, folder, log)
    except HalfpintError:
        for made in (folder, folder.parent, folder.parent.parent):
            with suppress(OSError):  # what is not empty stays
                made.rmdir()
        raise


def _figures(pipeline: Pipeline, made: Made, primary: str, log: Log) -> dict[str, Any]:
    """ "validation", and of labelled texts "test"."""
    task, split = pipeline.task, pipeline.split
    if isinstance(task, LabelTask):
        return {
            "validation": pipeline.assess(made).figures,
            "test": evaluate(made.bundle, split.test, primary=primary, log=log),
        }
    if not task.of_text:
        return {"validation": taught(made.bundle.card) or None}
    held = split.validation
    return {"validation": judge(made.bundle, held, log) if len(held) else None}


def _report(
    recipe: Recipe, split: Split[Any], made: Made, figures: Mapping[str, Any], primary: str, out: Path,
    seconds: float, log: Log,
) -> None:  # fmt: skip
    """Write report.json and report.html."""
    events, command = out / EVENTS, f"halfpint run {shlex.quote(str(out / RECIPE))}"
    best = open_bundle(out / "best")
    if isinstance(recipe.task, LabelTask):
        report = _classifier_report(best, made, figures, primary, out)
        more = {
            "task": recipe.task.name, "data": split.summary(), "training": trainings(best.card, events),
            "energy": energy_spent(events), "recipe": recipe.toml(), "command": command, "seconds": round(seconds, 1),
        }  # fmt: skip
        write_report({**report, **more}, out)
        return
    write_language_report(
        best, split, figures["validation"], out=out, events=events, recipe=recipe.toml(), command=command,
        seconds=seconds, log=log,
    )  # fmt: skip


def _classifier_report(
    best: Bundle, made: Made, figures: Mapping[str, Any], primary: str, out: Path
) -> dict[str, Any]:  # fmt: skip
    """The report as that of `fit`, with one candidate."""
    found, test, name = figures["validation"], dict(figures["test"]), out.resolve().name
    test["metrics"] = {key: test[key] for key in found["metrics"]}
    low, high = test["interval"]
    candidate = {
        **{key: value for key, value in found.items() if key not in ("fingerprint", "primary", "parity")},
        "name": name, "family": made.stages[-1].use, "precision": "int8" if _quantised(made) else "fp32",
        "status": "measured", "why": "", "feasible": True, "bundle": "best", "train_s": made.seconds,
    }  # fmt: skip
    return {
        "halfpint": __version__,
        "limits": {},
        "primary_metric": primary,
        "candidates": [candidate],
        "chosen": name,
        "verdict": f"On {test['rows']:,} test texts: {primary} {test[primary]:.4f} ({low:.4f} to {high:.4f}).",
        "test": {name: test},
        "machine": describe(),
        "out": str(out),
        "recipe_file": RECIPE,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _quantised(made: Made) -> bool:
    return any("int8" in stage.use for stage in made.stages)


def _key(stages: str, primary: str, pipeline: Pipeline) -> str:
    """What a result depends on: the stages with their data, and the examples that it was proved on."""
    return f"{stages} {primary} {pipeline.split.proof}".rstrip()
