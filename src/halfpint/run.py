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
from halfpint.data.conversations import ChatData, prepare_chat
from halfpint.data.corpus import Corpus, CorpusData, prepare_corpus
from halfpint.data.examples import fingerprint
from halfpint.data.prepare import Prepared, prepare
from halfpint.energy import energy_spent, metered
from halfpint.errors import HalfpintError
from halfpint.evaluate.evaluate import evaluate
from halfpint.language import RunningText, judge
from halfpint.machine import describe
from halfpint.metrics import METRICS
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.report.html import write_report
from halfpint.report.language import taught
from halfpint.report.learning import trainings
from halfpint.search.language_report import write_language_report
from halfpint.search.output import copy_bundle, disk_errors, write_figures

RESULT, RECIPE, EVENTS = "result.json", "recipe.resolved.toml", "events.jsonl"
_ANSWER_LABELS = ("classifier", "linear", "onnx", "ready")  # kinds of bundle that give labels
_UNFINISHED = ("nothing", "encoder")  # kinds that answer nothing


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
        prepared = _prepared(recipe, out, log)
        out.mkdir(parents=True, exist_ok=True)
        log.events = out / EVENTS
        recipe.write(out / RECIPE)
        primary = recipe.metric or recipe.task.primary_metric(prepared.train)
        pipeline = Pipeline(prepared, out / "work", recipe.task, primary, log)
        with metered(log):
            made = pipeline.make(recipe.stages)
            key = _key(made.key, primary, prepared)
            if (out / RESULT).is_file() and (found := read_json(out / RESULT)).get("key") == key:
                log.say("nothing to do: this recipe's result is there already", kind="cached")
                return found
            figures = _figures(pipeline, made, primary, log)
        copy_bundle(made.bundle.path, out / "best")
        if isinstance(prepared, Prepared):
            write_figures(out / "best", primary, figures["validation"], figures["test"], prepared.key)
        _report(recipe, prepared, made, figures, primary, out, time.monotonic() - started, log)
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
    kind = "nothing"
    for stage in recipe.stages:
        kind = kind if stage.gives == "same" else stage.gives
    labels = recipe.task.HEAD == "sequence-classification"
    if kind in _UNFINISHED or (kind in _ANSWER_LABELS) != labels:
        raise HalfpintError(
            f"stage {len(recipe.stages)} ({recipe.stages[-1].use})",
            wanted=f"stages that end with what does the task {recipe.task.NAME!r}",
            got=f"a bundle of the kind {kind!r}", todo="Add a stage, or give [task] another name.",
        )  # fmt: skip


def _prepared(recipe: Recipe, out: Path, log: Log) -> Prepared | RunningText:
    """The data of a recipe; a fault in it leaves nothing behind."""
    if isinstance(recipe.data, CorpusData):
        return RunningText(_corpus(recipe.data, out / "work" / "corpus", log))
    if isinstance(recipe.data, ChatData):
        return RunningText(prepare_chat(recipe.data, log))
    return prepare(recipe.data, log)


def _corpus(data: CorpusData, folder: Path, log: Log) -> Corpus:
    try:
        return prepare_corpus(data, folder, log)
    except HalfpintError:
        for made in (folder, folder.parent, folder.parent.parent):
            with suppress(OSError):  # what is not empty stays
                made.rmdir()
        raise


def _figures(pipeline: Pipeline, made: Made, primary: str, log: Log) -> dict[str, Any]:
    """ "validation", and of labelled texts "test"."""
    prepared = pipeline.prepared
    if isinstance(prepared, Prepared):
        assessment = pipeline.assess(made)
        assessment.pop("predicted")
        return {"validation": assessment, "test": evaluate(made.bundle, prepared.test, primary=primary, log=log)}
    if not isinstance(prepared.corpus, Corpus):
        return {"validation": taught(made.bundle.card) or None}
    held = prepared.corpus.validation
    return {"validation": judge(made.bundle, held, log) if len(held) else None}


def _report(
    recipe: Recipe, prepared: Prepared | RunningText, made: Made, figures: Mapping[str, Any], primary: str, out: Path,
    seconds: float, log: Log,
) -> None:  # fmt: skip
    """Write report.json and report.html."""
    events, command = out / EVENTS, f"halfpint run {shlex.quote(str(out / RECIPE))}"
    best = open_bundle(out / "best")
    if isinstance(prepared, Prepared):
        report = _classifier_report(best, made, figures, primary, out)
        more = {
            "task": recipe.task.NAME, "data": prepared.summary(), "training": trainings(best.card, events),
            "energy": energy_spent(events), "recipe": recipe.toml(), "command": command, "seconds": round(seconds, 1),
        }  # fmt: skip
        write_report({**report, **more}, out)
        return
    assert prepared.corpus is not None
    write_language_report(
        best, prepared.corpus, figures["validation"], out=out, events=events, recipe=recipe.toml(), command=command,
        seconds=seconds, log=log,
    )  # fmt: skip


def _classifier_report(
    best: Bundle, made: Made, figures: Mapping[str, Any], primary: str, out: Path
) -> dict[str, Any]:  # fmt: skip
    """The report as that of `fit`, with one candidate."""
    found, test, name = figures["validation"], dict(figures["test"]), out.resolve().name
    test["metrics"] = {key: test[key] for key in (*METRICS, "calibration_error", "log_loss")}
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


def _key(stages: str, primary: str, prepared: Prepared | RunningText) -> str:
    proof = fingerprint(prepared.test) if isinstance(prepared, Prepared) else ""
    return f"{stages} {primary} {proof}".rstrip()
