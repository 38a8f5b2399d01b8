"""One variant of a comparison, made in a process of its own, whose peak of memory and energy are the variant's alone.

Run as `python -m halfpint.search.one_variant RECIPE FOLDER CORPUS`: the stages' bundles go to FOLDER, with events.jsonl
and made.json (the bundle's folder, seconds, bytes of memory), or error.json where it fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

from halfpint.bundle import write_json
from halfpint.data.corpus import Corpus, judging
from halfpint.energy import metered
from halfpint.errors import HalfpintError
from halfpint.machine import end_with_parent, peak_memory_bytes
from halfpint.pipeline import Pipeline
from halfpint.progress import Log
from halfpint.recipe import read_recipe

MADE, FAILED, EVENTS = "made.json", "error.json", "events.jsonl"


def make(recipe_file: Path, folder: Path, corpus: Path, *, quiet: bool = False) -> None:
    """Make the recipe's bundle in `folder`; what was done before is found there.

    Peak memory is that of the whole process, Python and PyTorch included, in bytes.
    """
    recipe = read_recipe(recipe_file)
    log = Log(quiet=quiet)
    text = recipe.task.read(recipe.data, corpus, Log(quiet=True))
    if not isinstance(text, Corpus):
        raise HalfpintError("data", wanted="running text", got=f"the data of the task {recipe.task.name!r}")
    split, _ = judging(text)
    folder.mkdir(parents=True, exist_ok=True)
    log.events = folder / EVENTS
    pipeline = Pipeline(split, folder, recipe.task, recipe.metric or recipe.task.primary(split.train), log)
    with metered(log):
        made = pipeline.make(recipe.stages)
    write_json(
        folder / MADE,
        {
            "recipe": recipe.toml(), "data": split.key, "bundle": made.bundle.path.name, "seconds": made.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        },
    )  # fmt: skip


def main(words: list[str]) -> int:
    """Exit code 0, or 2 where it failed for a reason that it can tell."""
    end_with_parent()
    recipe, folder, corpus = (Path(word) for word in words[:3])
    try:
        make(recipe, folder, corpus, quiet="--quiet" in words)
    except HalfpintError as error:
        write_json(folder / FAILED, {"said": str(error)})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
