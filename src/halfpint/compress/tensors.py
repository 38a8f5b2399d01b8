"""Reading and writing a bundle's weights and configuration as plain tensors, whatever the architecture."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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


def cut_embedding(bundle: Bundle, folder: Path, rows: Sequence[int], config: dict[str, Any]) -> None:
    """Write the bundle's weights with only `rows` of its token embedding, in that order, and `config`, into `folder`.

    Raises:
        HalfpintError: the weights do not hold one token embedding with those rows.
    """
    if (bundle.path / "model.onnx").is_file():
        onnx = need("onnx", "compressing an ONNX bundle")
        helper = need("onnx.numpy_helper", "compressing an ONNX bundle")
        model = onnx.load(str(bundle.path / "model.onnx"))
        found = [tensor for tensor in model.graph.initializer if EMBEDDING.search(tensor.name)]
        _check_embedding([tuple(tensor.dims) for tensor in found], rows)
        found[0].CopyFrom(helper.from_array(helper.to_array(found[0])[rows], found[0].name))
        del model.graph.value_info[:]  # noted shapes, of the embedding as it was
        onnx.save(model, str(folder / "model.onnx"))
        (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    weights = read_weights(bundle)
    names = [name for name in weights if EMBEDDING.search(name)]
    _check_embedding([tuple(weights[name].shape) for name in names], rows)
    weights[names[0]] = weights[names[0]][list(rows)]
    write_weights(folder, weights, config)


def _check_embedding(shapes: Sequence[tuple[int, ...]], rows: Sequence[int]) -> None:
    if len(shapes) != 1 or shapes[0][0] <= max(rows):
        raise HalfpintError(
            "compress/vocab", wanted=f"one token embedding of {max(rows) + 1} rows or more", got=f"shapes {shapes}"
        )


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
