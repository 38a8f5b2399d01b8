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
        data: Labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder, a Hub name, or another form of the task.
        task: What the labels are (default: guessed from the data, and said).
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Labelled texts for the final test.
        out: Recipe to write.
        force: Replace the recipe if it exists.
    """

    group: ClassVar[Group] = Group.RUNS
    synonyms: ClassVar[tuple[str, ...]] = ("recipe", "new")

    data: str = positional(metavar="DATA")
    task: str = option("", metavar="TASK")
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    test: str = option("", metavar="DATA")
    out: Path = option(Path("recipe.toml"), metavar="FILE")
    force: bool = False

    def run(self, log: Log) -> Drafted:
        """Find the columns and write a recipe that fine-tunes the default encoder and exports it in int8.

        Raises:
            HalfpintError: the data cannot be read, or `out` is there already.
        """
        from halfpint.compress.onnx_int8 import OnnxInt8
        from halfpint.export.onnx import Onnx
        from halfpint.files import write_text
        from halfpint.lookup import find_task
        from halfpint.models.pull import Pull
        from halfpint.recipe import Recipe
        from halfpint.stage import stage_class
        from halfpint.task import label_task, settings_of
        from halfpint.train.finetune import Finetune

        if self.out.exists() and not self.force:
            raise HalfpintError(
                f"--out {self.out}",
                wanted="a new file",
                got="one that is there",
                todo="Give --force or another.",
                said=f"The file {self.out} exists already.",
            )
        task = label_task(find_task(self.data, self.task, self.word(), log), "halfpint init")
        given = {"source": self.data, "test": self.test}
        columns, said = task.columns_of(settings_of(task, **given, text=self.text, label=self.label))
        frozen = [stage_class(task.frozen, "halfpint init")()] if task.frozen else []
        stages = (Pull(), *frozen, Finetune(**task.tuning), Onnx(), OnnxInt8())
        recipe = Recipe(settings_of(task, **given, **columns), task, "", stages)
        head = "# A recipe of halfpint: every setting with its default, to be changed or left out.\n"
        write_text(self.out, head + recipe.toml())
        return Drafted(self.out, f"wrote {self.out}: {said}\nnext: halfpint run {self.out}")
