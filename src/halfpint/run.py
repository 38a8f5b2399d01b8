"""Run a recipe: prepare the data, make the stages, prove the result on the test texts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from halfpint.bundle import read_json, write_json
from halfpint.data.prepare import prepare
from halfpint.errors import HalfpintError
from halfpint.evaluate.evaluate import evaluate
from halfpint.pipeline import Pipeline
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.search.output import copy_bundle, disk_errors

RESULT, RECIPE = "result.json", "recipe.resolved.toml"


def run_recipe(recipe: Recipe, out: Path, log: Log, *, force: bool = False) -> dict[str, Any]:
    """Run `recipe` in folder `out`: the bundle goes to OUT/best, the resolved recipe beside it; gives the result.

    Finished stages are not run again, an interrupted one resumes. The result holds "validation" (figures of the last
    stage) and "test" (those of `evaluate`).

    Raises:
        HalfpintError: bad data, a stage that cannot run, or an `out` that holds something else.
    """
    started = time.monotonic()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECIPE).is_file())) and not force:
        raise HalfpintError(
            f"--out {out}", wanted="an empty folder, or one that `halfpint run` wrote", got="other files",
            todo="Give another --out, or --force.",
        )  # fmt: skip
    with disk_errors(out):
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
        assessment = pipeline.assess(made)
        assessment.pop("predicted")
        copy_bundle(made.bundle.path, out / "best")
        result = {
            "key": _key(made.key, primary, prepared),
            "primary_metric": primary,
            "validation": assessment,
            "test": evaluate(made.bundle, prepared.test, primary=primary, log=log),
            "bundle": str(out / "best"),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(out / RESULT, result)
    return result


def _key(stages: str, primary: str, prepared: Any) -> str:
    from halfpint.data.examples import fingerprint

    return f"{stages} {primary} {fingerprint(prepared.test)}"
