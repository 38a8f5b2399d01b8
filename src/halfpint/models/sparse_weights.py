"""The file of a model's weights with their zeros left out: of each sparse matrix which places hold a value, and these.

A bundle has it in the place of model.safetensors. `NAME.places` is a bit for each weight, the first in the lowest bit
of the first byte; `NAME.values` what is not zero, in order; the shapes are in the file's metadata. All other tensors
are as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from halfpint.errors import HalfpintError, need
from halfpint.models.architectures import need_transformers

if TYPE_CHECKING:
    import torch

SPARSE_FILE = "model.sparse.safetensors"
_SHAPES = "shapes"
_PLACES, _VALUES = ".places", ".values"


def write_sparse(path: Path, weights: Mapping[str, torch.Tensor], sparse: Collection[str]) -> None:
    """Write `weights`, those named in `sparse` without their zeros."""
    import torch

    tensors: dict[str, Any] = {}
    for name, tensor in weights.items():
        if name not in sparse:
            tensors[name] = tensor.contiguous()
            continue
        flat = tensor.contiguous().flatten()
        held = flat != 0
        tensors[name + _PLACES] = torch.from_numpy(np.packbits(held.numpy(), bitorder="little"))
        tensors[name + _VALUES] = flat[held]
    shapes = json.dumps({name: list(weights[name].shape) for name in sparse})
    need("safetensors.torch", "sparse weights").save_file(tensors, path, metadata={_SHAPES: shapes, "format": "pt"})


def read_sparse(path: Path) -> dict[str, torch.Tensor]:
    """All weights by name with their zeros, as they were given to `write_sparse`.

    Raises:
        HalfpintError: the file is damaged.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    with need("safetensors", "sparse weights").safe_open(path, framework="pt") as held:
        shapes: dict[str, list[int]] = json.loads(held.metadata()[_SHAPES])
        for name in held.keys():  # noqa: SIM118 - no dict
            if name.removesuffix(_PLACES) not in shapes and name.removesuffix(_VALUES) not in shapes:
                found[name] = held.get_tensor(name)
        for name, shape in shapes.items():
            bits, values = (held.get_tensor(name + end) for end in (_PLACES, _VALUES))
            number = math.prod(shape)
            places = torch.from_numpy(np.unpackbits(bits.numpy(), count=number, bitorder="little").astype(bool))
            if int(places.sum()) != len(values):
                raise HalfpintError(
                    str(path), wanted=f"{int(places.sum())} values of {name}", got=str(len(values)),
                    todo="Make or copy the bundle again.",
                )  # fmt: skip
            dense = torch.zeros(number, dtype=values.dtype)
            dense[places] = values
            found[name] = dense.reshape(shape)
    return found


def open_sparse(folder: Path, kind: Any) -> Any:
    """The model in `folder`, which holds a `SPARSE_FILE`, in evaluation mode, fp32, on the CPU.

    Args:
        kind: the Auto class of transformers to open it as.
    """
    transformers = need_transformers("sparse weights")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    model = kind.from_config(config, dtype="float32")
    return fill_model(model, read_sparse(folder / SPARSE_FILE), folder)


def fill_model(model: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> Any:
    """`model` with the weights and the settings of generating that `folder` holds, in evaluation mode.

    Raises:
        HalfpintError: some of its weights are missing there, or some there are not its own.
    """
    missing, unknown = model.load_state_dict(weights, strict=False)
    model.tie_weights()
    tied = set(model.get_expanded_tied_weights_keys(all_submodels=True))
    if unknown or set(missing) - tied:
        raise HalfpintError(
            str(folder), wanted="the weights of its configuration",
            got=f"{len(unknown)} that are not its own, and {len(set(missing) - tied)} missing",
            todo="Make the bundle again.",
        )  # fmt: skip
    if (folder / "generation_config.json").is_file():
        generation = need("transformers", "a language model").GenerationConfig
        model.generation_config = generation.from_pretrained(folder, local_files_only=True)
    return model.eval()
