"""`halfpint init`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.progress import Log


@dataclass(frozen=True)
class Drafted(Result):
    """A recipe that was written.

    Attributes:
        file: the recipe.
        text: which columns it names, and the next command.
    """

    file: Path
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Init(Command):
    """Write a recipe for DATA, to edit and to run with `halfpint run`.

    Args:
        data: Table of labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder or a Hub name.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Labelled texts for the final test.
        out: Recipe to write.
        force: Replace the recipe if it exists.
    """

    group: ClassVar[Group] = Group.RUNS

    data: str = positional(metavar="DATA")
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    test: str = option("", metavar="DATA")
    out: Path = option(Path("recipe.toml"), metavar="FILE")
    force: bool = False

    def run(self, log: Log) -> Drafted:
        """Find the columns and write the recipe."""
        from halfpint.init import init_recipe

        text = init_recipe(self.data, text=self.text, label=self.label, test=self.test, out=self.out, force=self.force)
        return Drafted(self.out, text)
