"""Run a recipe: prepare the data, make the stages, prove the result on texts it has not learned from."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from halfpint.bundle import read_json, write_json
from halfpint.data.corpus import Corpus, CorpusData, prepare_corpus
from halfpint.data.examples import fingerprint
from halfpint.data.prepare import Prepared, prepare
from halfpint.errors import HalfpintError
from halfpint.evaluate.evaluate import evaluate
from halfpint.language import RunningText, judge
from halfpint.pipeline import Pipeline
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.search.output import copy_bundle, disk_errors

RESULT, RECIPE = "result.json", "recipe.resolved.toml"


def run_recipe(recipe: Recipe, out: Path, log: Log, *, force: bool = False) -> dict[str, Any]:
    """Run `recipe` in folder `out`: the bundle goes to OUT/best, the resolved recipe beside it; gives the result.

    Finished stages are not run again, an interrupted one resumes. The result holds "validation" (figures of the last
    stage) and, of labelled texts, "test" (those of `evaluate`).

    Raises:
        HalfpintError: bad data, a stage that cannot run, or an `out` that holds something else.
    """
    started = time.monotonic()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECIPE).is_file())) and not force:
        raise HalfpintError(
            f"--out {out}", wanted="an empty folder, or one that `halfpint run` wrote", got="other files",
            todo="Give another --out, or --force.",
        )  # fmt: skip
    for stage in recipe.stages:
        stage.check()
    with disk_errors(out):
        prepared: Prepared | RunningText
        if isinstance(recipe.data, CorpusData):
            prepared = RunningText(_corpus(recipe.data, out / "work" / "corpus", log))
        else:
            prepared = prepare(recipe.data, log)  # first: a fault in the data leaves nothing behind
        out.mkdir(parents=True, exist_ok=True)
        log.events = out / "events.jsonl"
        recipe.write(out / RECIPE)
        primary = recipe.metric or recipe.task.primary_metric(prepared.train)
        pipeline = Pipeline(prepared, out / "work", recipe.task, primary, log)
        made = pipeline.make(recipe.stages)
        if (out / RESULT).is_file() and (found := read_json(out / RESULT)).get("key") == _key(
            made.key, primary, prepared
        ):
            log.say("nothing to do: this recipe's result is there already", kind="cached")
            return found
        figures: dict[str, Any]
        if isinstance(prepared, Prepared):
            assessment = pipeline.assess(made)
            assessment.pop("predicted")
            test = evaluate(made.bundle, prepared.test, primary=primary, log=log)
            figures = {"validation": assessment, "test": test}
        else:
            held = prepared.corpus.validation if isinstance(prepared.corpus, Corpus) else ()
            figures = {"validation": judge(made.bundle, held, log) if len(held) else None}
        copy_bundle(made.bundle.path, out / "best")
        result = {
            "key": _key(made.key, primary, prepared),
            "primary_metric": primary,
            **figures,
            "bundle": str(out / "best"),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(out / RESULT, result)
    return result


def _corpus(data: CorpusData, folder: Path, log: Log) -> Corpus:
    """The corpus of a recipe; a fault in it leaves nothing behind."""
    try:
        return prepare_corpus(data, folder, log)
    except HalfpintError:
        for made in (folder, folder.parent, folder.parent.parent):
            with suppress(OSError):  # what is not empty stays
                made.rmdir()
        raise


def _key(stages: str, primary: str, prepared: Prepared | RunningText) -> str:
    proof = fingerprint(prepared.test) if isinstance(prepared, Prepared) else ""
    return f"{stages} {primary} {proof}".rstrip()
