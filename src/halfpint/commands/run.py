"""`halfpint run`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.progress import Log, plain


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

    Args:
        recipe: Recipe (TOML).
        set: Change a setting of the recipe, such as stage.2.epochs=3; repeatable.
        out: Output folder (default: the recipe's name).
        force: Write into a folder that holds other files.
        quiet: Hide progress.
        json: Print JSON on standard output; progress goes to standard error.
    """

    group: ClassVar[Group] = Group.RUNS
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
        from halfpint.recipe import read_recipe
        from halfpint.run import run_recipe

        recipe = read_recipe(self.recipe, list(self.set))
        result = run_recipe(recipe, self.out or Path(self.recipe.stem), log, force=self.force)
        return Ran(Path(result["bundle"]), result)
