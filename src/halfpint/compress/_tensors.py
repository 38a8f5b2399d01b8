"""Reading and writing a bundle's weights and configuration as plain tensors, whatever the architecture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError, need

if TYPE_CHECKING:
    import torch

LAYER = re.compile(r"(?P<before>(?:^|.*\.)(?:layer|layers|h)\.)(?P<number>\d+)(?P<after>\..*)")
EMBEDDING = re.compile(r"(?:^|\.)(?:word_embeddings|tok_embeddings|embed_tokens|wte)\.weight$")


def read_weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    """All tensors of model.safetensors by name."""
    weights: dict[str, torch.Tensor] = need("safetensors.torch", "compressing").load_file(
        bundle.path / "model.safetensors"
    )
    return weights


def write_weights(folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Write model.safetensors and config.json into `folder`."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    need("safetensors.torch", "compressing").save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def encoder_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of `config` that describes the encoder: its own entry in a classifier, else all of it."""
    inner: dict[str, Any] = config.get("encoder", config)
    return inner


def refuse_if_no_smaller(stage: str, before: int, after: int) -> None:
    """Raise a HalfpintError when the step saved no bytes."""
    if after >= before:
        raise HalfpintError(
            stage, wanted="fewer bytes than before", got=f"{after} of {before}", todo="Leave this step out."
        )
