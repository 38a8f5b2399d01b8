"""Heads: the networks of tasks on top of an encoder. A file of this room with `build` is one; tasks name theirs.

- `AUTO`: the Auto class of transformers that opens it.
- `INPUTS`: the names of its inputs, each int64 of shape (texts, tokens): `input_ids`, `attention_mask`, and what else a
  task's `encode` gives for each token.
- `build(encoder, labels, max_tokens, dropout, like)`: a new model with `encoder` and `classifier`; the last layer is
  zero. `encoder` is the encoder's configuration as a dictionary with `model_type`, `like` the configuration of a model
  whose other settings are taken.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from halfpint import registry
from halfpint.bundle import read_json
from halfpint.errors import HalfpintError
from halfpint.models.architectures import need_transformers
from halfpint.task import Task

_OURS = "halfpint_"
"""What the model types of our own architectures begin with; the file's name follows."""


def head_of(task: Task[Any], place: str) -> ModuleType:
    """The head of a task.

    Raises:
        HalfpintError: it has none, or PyTorch is not installed.
    """
    if task.head is None:
        raise HalfpintError(place, wanted="a task with a head on an encoder", got=f"the task {task.name!r}")
    return _load(task.head, place)


def head_in(folder: Path) -> ModuleType:
    """The head of the model in a folder.

    Raises:
        HalfpintError: it has none that is known here, or PyTorch is not installed.
    """
    name = str(read_json(folder / "config.json").get("model_type"))
    if not name.startswith(_OURS):
        raise HalfpintError(str(folder), wanted="an encoder with the head of a task", got=f"a {name}")
    return _load(name.removeprefix(_OURS), f"{folder}/config.json: model_type")


def _load(name: str, place: str) -> ModuleType:
    need_transformers("an encoder with a head")
    module = registry.load("models", name, place)
    if not hasattr(module, "build"):
        raise HalfpintError(place, wanted="a head", got=repr(name))
    return module
