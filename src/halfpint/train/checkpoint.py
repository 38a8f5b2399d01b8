"""Checkpoints of a training run: safetensors and JSON, whole or not at all, so that a run resumes exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.bundle import read_json, safetensors_header
from halfpint.errors import DamagedError
from halfpint.files import new_file, new_folder, write_text

if TYPE_CHECKING:
    import torch

_NAME, _TENSORS, _STATE = "checkpoint", "tensors.safetensors", "state.json"


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def save(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write weights, optimiser, random state and `state` (JSON) to `folder`/checkpoint."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor.detach().cpu().contiguous() for name, tensor in trainable(model).items()}
    moments = optimiser.state_dict()["state"]
    for number, entry in moments.items():
        for key, value in entry.items():
            tensors[f"optimiser.{number}.{key}"] = torch.as_tensor(value).cpu().contiguous()
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    with new_folder(folder / _NAME) as made:
        save_file(tensors, made / _TENSORS)
        write_text(made / _STATE, json.dumps(state))


def exists(folder: Path) -> bool:
    """Whether a checkpoint is in `folder`."""
    return (folder / _NAME).exists()


def load(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the checkpoint in `folder` back and give its `state`; None where there is none.

    Raises:
        DamagedError: a file of it is cut off, or of another model.
    """
    import torch
    from safetensors.torch import load_file

    path = folder / _NAME
    if not (path / _STATE).is_file():
        return None
    safetensors_header(path / _TENSORS)
    state = read_json(path / _STATE)
    tensors = load_file(path / _TENSORS)
    _copied(path, model, {name.removeprefix("model."): one for name, one in tensors.items()})
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".", 2)
            entries.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return state


def save_weights(path: Path, model: torch.nn.Module) -> None:
    """Write the trainable weights alone, whole or not at all."""
    from safetensors.torch import save_file

    with new_file(path) as scratch:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in trainable(model).items()}, scratch)


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Put weights written by `save_weights` back.

    Raises:
        DamagedError: the file is cut off, or of another model.
    """
    from safetensors.torch import load_file

    safetensors_header(path)
    _copied(path, model, load_file(path))


def _copied(path: Path, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors into the trainable weights; one of another shape would be stretched to fit, and is refused."""
    import torch

    with torch.no_grad():
        for name, parameter in trainable(model).items():
            found = tensors.get(name)
            if found is None or found.shape != parameter.shape:
                raise DamagedError(
                    f"{path}: {name}", wanted=f"a tensor of shape {tuple(parameter.shape)}",
                    got="none" if found is None else f"one of shape {tuple(found.shape)}",
                    todo="Remove the unfinished work.",
                )  # fmt: skip
            parameter.copy_(found)
