"""Checkpoints of a training run: safetensors and JSON, whole or not at all, so that a run resumes exactly."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.bundle import replace_folder

if TYPE_CHECKING:
    import torch

_NAME = "checkpoint"


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def save(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write weights, optimiser, random state and `state` (JSON) to `folder`/checkpoint."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".halfpint-", dir=folder))
    try:
        tensors = {f"model.{name}": tensor.detach().cpu().contiguous() for name, tensor in trainable(model).items()}
        moments = optimiser.state_dict()["state"]
        for number, entry in moments.items():
            for key, value in entry.items():
                tensors[f"optimiser.{number}.{key}"] = torch.as_tensor(value).cpu().contiguous()
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        save_file(tensors, scratch / "tensors.safetensors")
        (scratch / "state.json").write_text(json.dumps(state), encoding="utf-8")
        replace_folder(scratch, folder / _NAME)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def exists(folder: Path) -> bool:
    """Whether a checkpoint is in `folder`."""
    return (folder / _NAME).exists()


def load(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the checkpoint in `folder` back and give its `state`; None where there is none."""
    import torch
    from safetensors.torch import load_file

    path = folder / _NAME
    if not (path / "state.json").is_file():
        return None
    tensors = load_file(path / "tensors.safetensors")
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(tensors[f"model.{name}"])
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".", 2)
            entries.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def save_weights(path: Path, model: torch.nn.Module) -> None:
    """Write the trainable weights alone, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in trainable(model).items()}, scratch)
    scratch.replace(path)


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Put weights written by `save_weights` back."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(tensors[name])
