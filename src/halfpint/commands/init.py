"""`halfpint init`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import HalfpintError
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
        text = init_recipe(self.data, text=self.text, label=self.label, test=self.test, out=self.out, force=self.force)
        return Drafted(self.out, text)


def init_recipe(data: str, *, text: str, label: str, test: str, out: Path, force: bool) -> str:
    """Write a recipe that fine-tunes the default encoder on `data` and exports it in int8; gives what to say.

    Raises:
        HalfpintError: the data cannot be read, or `out` is there already.
    """
    from halfpint.compress.onnx_int8 import OnnxInt8
    from halfpint.data.columns import find_columns
    from halfpint.data.prepare import Data
    from halfpint.data.read import read_table
    from halfpint.export.onnx import Onnx
    from halfpint.files import write_text
    from halfpint.lookup import default_task
    from halfpint.models.pull import Pull
    from halfpint.recipe import Recipe
    from halfpint.train.finetune import Finetune
    from halfpint.train.frozen_linear import FrozenLinear

    if out.exists() and not force:
        raise HalfpintError(
            f"--out {out}", wanted="a new file", got="one that is there", todo="Give --force or another."
        )
    columns = find_columns(read_table(data), text=text or None, label=label or None)
    settings = Data(source=data, test=test, text=columns.text, label=columns.label)
    stages = (Pull(), FrozenLinear(), Finetune(), Onnx(), OnnxInt8())
    recipe = Recipe(settings, default_task(), "", stages)
    head = "# A recipe of halfpint: every setting with its default, to be changed or left out.\n"
    write_text(out, head + recipe.toml())
    return f"wrote {out}: {columns.said}\nnext: halfpint run {out}"
