"""`halfpint run`."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint import __version__
from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import HalfpintError
from halfpint.progress import Log, plain

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.engines import ScoredText
    from halfpint.pipeline import Made, Pipeline
    from halfpint.recipe import Recipe
    from halfpint.task import Split

RESULT, RECIPE, EVENTS = "result.json", "recipe.resolved.toml", "events.jsonl"


@dataclass(frozen=True)
class Ran(Result):
    """What a recipe gave.

    Attributes:
        bundle: the folder of the model.
        figures: what it was measured at: "validation" and, on labelled texts, "test"; and the seconds it took.
    """

    bundle: Path
    figures: Mapping[str, Any] = field(repr=False)

    def as_json(self) -> str:
        """All figures in one object."""
        return json.dumps(plain(dict(self.figures)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.terminal import ran

        return ran(self.figures)


@dataclass(frozen=True, kw_only=True)
class Run(Command):
    """Run a recipe; finished stages are kept, an interrupted stage resumes.

    A recipe with several [[variant]] makes each of them and compares them.

    Args:
        recipe: Recipe (TOML).
        set: Change a setting of the recipe, such as stage.2.epochs=3; repeatable.
        out: Output folder (default: the recipe's name).
        force: Write into a folder that holds other files.
        quiet: Hide progress.
        json: Print JSON on standard output; progress goes to standard error.
    """

    group: ClassVar[Group] = Group.RUNS
    synonyms: ClassVar[tuple[str, ...]] = ("resume",)
    resumes: ClassVar[bool] = True
    starts_over: ClassVar[bool] = True
    is_quiet_with_json: ClassVar[bool] = False

    recipe: Path = positional(metavar="RECIPE")
    set: tuple[str, ...] = option((), metavar="PART.KEY=VALUE")
    out: Path | None = option(None, metavar="FOLDER")
    force: bool = False
    quiet: bool = False
    json: bool = False

    def run(self, log: Log) -> Ran:
        """Run the stages that are not done yet."""
        from halfpint.recipe import check_recipe, read_content
        from halfpint.search.variants import PART, check_variants

        content, out = read_content(self.recipe, list(self.set)), self.out or Path(self.recipe.stem)
        if PART in content:
            from halfpint.commands._comparing import compare

            result = compare(check_variants(content, str(self.recipe)), out, log, force=self.force)
        else:
            result = run_recipe(check_recipe(content, str(self.recipe)), out, log, force=self.force)
        return Ran(Path(result["bundle"]), result)


def run_recipe(recipe: Recipe, out: Path, log: Log, *, force: bool = False) -> dict[str, Any]:
    """Run `recipe` in folder `out`: the bundle goes to OUT/best, report and resolved recipe beside it.

    Finished stages are not run again, an interrupted one resumes. Gives the result: "validation" (figures of the last
    stage) and, of labelled texts, "test" (those of `evaluate`), among others.

    Raises:
        HalfpintError: bad data, a stage that cannot run, or an `out` that holds something else.
    """
    from halfpint.bundle import write_json
    from halfpint.commands._learning import apart
    from halfpint.energy import metered
    from halfpint.files import clear_temporary, locked
    from halfpint.pipeline import Pipeline
    from halfpint.task import LabelTask
    from halfpint.workspace import copy_bundle, disk_errors, write_figures

    started = time.monotonic()
    with disk_errors(out), locked(out):
        refuse_other_files(out, force=force)
        check_end(recipe)
        for stage in recipe.stages:
            stage.check()
        clear_temporary(out / "work")
        split = read_data(recipe, out / "work" / "corpus", log)
        split, judged = apart(recipe.task, split, recipe.stages)
        out.mkdir(parents=True, exist_ok=True)
        log.events = out / EVENTS
        recipe.write(out / RECIPE)
        primary = recipe.metric or recipe.task.primary(split.train)
        if recipe.all_rows:
            split = split.together()
            log.say("the validation rows are learned from too: only the figures of the test count", kind="data")
        pipeline = Pipeline(split, out / "work", recipe.task, primary, log)
        with metered(log):
            made = pipeline.make(recipe.stages)
            key = _key(made.key, primary, pipeline)
            found = result_in(out)
            if found.get("key") == key:
                log.say("nothing to do: this recipe's result is there already", kind="cached")
                return found
            scores: list[ScoredText] = []
            figures = _figures(pipeline, made, primary, judged, scores, log)
        if recipe.all_rows:
            figures["validation"] = {**figures["validation"], "learned_from": True}
        copy_bundle(made.bundle.path, out / "best")
        if isinstance(recipe.task, LabelTask):
            validation, test, told = figures["validation"], figures["test"], recipe.task.headline
            write_figures(out / "best", primary, validation, test, split.key, told)
        _report(recipe, split, made, figures, primary, out, time.monotonic() - started, judged, scores, log)
        result = {
            "key": key,
            "primary_metric": primary,
            **figures,
            "bundle": str(out / "best"),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(out / RESULT, result)
    return result


def refuse_other_files(out: Path, *, force: bool) -> None:
    """Refuse a folder that holds what halfpint did not write."""
    from halfpint.bundle import CARD, Bundle, other_files

    best = out / "best"
    theirs = other_files(Bundle(best)) if (best / CARD).is_file() else list(best.glob("*"))
    if theirs:
        raise HalfpintError(
            f"--out {out}", wanted="a folder whose `best` is a bundle and nothing else", got=f"{theirs[0]} besides",
            todo="Move it away, or give another --out.",
            said=f"--force would remove {theirs[0]} in {out}, which halfpint did not write.",
        )  # fmt: skip
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECIPE).is_file())) and not force:
        raise HalfpintError(
            f"--out {out}", wanted="an empty folder, or one that `halfpint run` wrote", got="other files",
            todo="Give another --out, or --force.",
            said=f"The folder {out} is not empty, and `halfpint run` did not write it.",
        )  # fmt: skip


def result_in(out: Path) -> dict[str, Any]:
    """What an earlier run of a recipe found; nothing where there was none, or its file is damaged."""
    from halfpint.bundle import read_json
    from halfpint.errors import DamagedError

    try:
        return read_json(out / RESULT) if (out / RESULT).is_file() else {}
    except DamagedError:
        return {}


def check_end(recipe: Recipe) -> None:
    """Refuse stages whose result does not do the recipe's task."""
    from halfpint.pipeline import kind_after

    kind = kind_after(recipe.stages)
    if kind not in recipe.task.ends:
        raise HalfpintError(
            f"stage {len(recipe.stages)} ({recipe.stages[-1].use})",
            wanted=f"stages that end with what does the task {recipe.task.name!r}",
            got=f"a bundle of the kind '{kind}'", todo="Add a stage, or give [task] another name.",
        )  # fmt: skip


def read_data(recipe: Recipe, folder: Path, log: Log) -> Split[Any]:
    """The data of a recipe; a fault in it leaves nothing behind."""
    try:
        return recipe.task.read(recipe.data, folder, log)
    except HalfpintError:
        for made in (folder, folder.parent, folder.parent.parent):
            with suppress(OSError):  # what is not empty stays
                made.rmdir()
        raise


def _figures(
    pipeline: Pipeline, made: Made, primary: str, judged: Sequence[str], scores: list[ScoredText], log: Log
) -> dict[str, Any]:  # fmt: skip
    """ "validation", and of labelled texts "test"; of running text that of the documents that are `judged` by, whose
    scores go into `scores`."""
    from halfpint.evaluate.evaluate import evaluate
    from halfpint.evaluate.text import judge
    from halfpint.report.language import taught
    from halfpint.task import LabelTask

    task, split = pipeline.task, pipeline.split
    if isinstance(task, LabelTask):
        return {
            "validation": pipeline.assess(made).figures,
            "test": evaluate(made.bundle, split.test, primary=primary, log=log),
        }
    if not task.of_text:
        return {"validation": taught(made.bundle.card) or None}
    return {"validation": judge(made.bundle, judged, log, scores) if len(judged) else None}


def _report(
    recipe: Recipe, split: Split[Any], made: Made, figures: Mapping[str, Any], primary: str, out: Path,
    seconds: float, judged: Sequence[str], scores: Sequence[ScoredText], log: Log,
) -> None:  # fmt: skip
    """Write report.json and report.html."""
    from halfpint.bundle import open_bundle
    from halfpint.energy import energy_spent
    from halfpint.report.html import write_report
    from halfpint.report.learning import trainings
    from halfpint.search.language_report import write_language_report
    from halfpint.task import LabelTask

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
        seconds=seconds, judged=judged, scores=scores, log=log,
    )  # fmt: skip


def _classifier_report(
    best: Bundle, made: Made, figures: Mapping[str, Any], primary: str, out: Path
) -> dict[str, Any]:  # fmt: skip
    """The report as that of `fit`, with one candidate."""
    from halfpint.machine import describe
    from halfpint.search.limits import Limits
    from halfpint.search.verdict import on_test

    found, test, name = figures["validation"], dict(figures["test"]), out.resolve().name
    test["metrics"] = {key: test[key] for key in found["metrics"]}
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
        "verdict": on_test(candidate, test, primary, Limits())
        + (
            " The validation rows were learned from too: their figures prove nothing."
            if "learned_from" in found
            else ""
        ),
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
