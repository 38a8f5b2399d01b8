"""`init`: a recipe for a table, with its columns found, ready to run or to change."""

from __future__ import annotations

from pathlib import Path

from halfpint.bundle import write_text
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.data.columns import find_columns
from halfpint.data.prepare import Data
from halfpint.data.read import read_table
from halfpint.errors import HalfpintError
from halfpint.export.onnx import Onnx
from halfpint.models.pull import Pull
from halfpint.recipe import Recipe
from halfpint.task import default_task
from halfpint.train.finetune import Finetune
from halfpint.train.frozen_linear import FrozenLinear


def init_recipe(data: str, *, text: str, label: str, test: str, out: Path, force: bool) -> str:
    """Write a recipe that fine-tunes the default encoder on `data` and exports it in int8; gives what to say.

    Raises:
        HalfpintError: the data cannot be read, or `out` is there already.
    """
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
