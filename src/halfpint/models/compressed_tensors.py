"""Models whose folder holds them in the format of compressed-tensors, as vLLM reads it: whole numbers and scales.

The package of that name puts values in the place of codes; halfpint has none of its own to read such a folder, so that
what reads an export is not what wrote it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfpint.bundle import read_json
from halfpint.errors import HalfpintError, need
from halfpint.models.architectures import need_transformers
from halfpint.models.sparse_weights import fill_model

METHOD = "compressed-tensors"
"""What config.json calls it."""
FORMAT = "pack-quantized"
"""The format of whole numbers in words of 32 bits."""
PACKED, SCALE, SHAPE, ZERO = "_packed", "_scale", "_shape", "_zero_point"
"""Ends of the names under which a weight's parts are stored."""


def is_compressed(folder: Path) -> bool:
    """Whether the model in `folder` is in that format."""
    held = read_json(folder / "config.json").get("quantization_config")
    return isinstance(held, dict) and held.get("quant_method") == METHOD


def open_compressed(folder: Path, kind: Any) -> Any:
    """The model in `folder` in evaluation mode, fp32, on the CPU, with the values that its codes stand for.

    transformers' own way computes values in the type of the scales, fp16, and its sizes of zero points are wrong
    (5.23 with compressed-tensors 0.20): here the package takes each layer apart by itself, with scales in fp32.

    Args:
        kind: the Auto class of transformers to open it as.

    Raises:
        HalfpintError: the package compressed-tensors is not installed, or the folder has another format or other
            layers than it says.
    """
    what = "a model in compressed-tensors"
    need("compressed_tensors", what)
    compressors = need("compressed_tensors.compressors", what).BaseCompressor
    is_match = need("compressed_tensors.utils.match", what).is_match
    told = need("compressed_tensors.quantization", what).QuantizationConfig.model_validate(
        read_json(folder / "config.json")["quantization_config"]
    )
    if told.format != FORMAT:
        raise HalfpintError(str(folder), wanted=f"the format {FORMAT}", got=str(told.format))
    config = need_transformers(what).AutoConfig.from_pretrained(folder, local_files_only=True)
    del config.quantization_config
    model = kind.from_config(config, dtype="float32")
    weights: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with need("safetensors", what).safe_open(file, framework="pt") as held:
            weights |= {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - no dict
    end = f".weight{PACKED}"
    packed = {name.removesuffix(end) for name in weights if name.endswith(end)}
    schemes = {
        name: scheme
        for name, module in model.named_modules()
        for scheme in told.config_groups.values()
        if is_match(name, module, scheme.targets, told.ignore or ())
    }
    if set(schemes) != packed:
        wrong = min(set(schemes) ^ packed)
        raise HalfpintError(
            str(folder), wanted="the layers in codes that config.json names", got=f"{wrong}, which is not both",
            todo="Make or copy the folder again.",
        )  # fmt: skip
    for name in packed:
        parts = {f"weight{part}": weights.pop(f"{name}.weight{part}", None) for part in (PACKED, SCALE, SHAPE, ZERO)}
        parts = {key: value for key, value in parts.items() if value is not None}
        parts[f"weight{SCALE}"] = parts[f"weight{SCALE}"].float()
        values = compressors.get_value_from_registry(FORMAT).decompress(parts, schemes[name])
        weights[f"{name}.weight"] = values["weight"]
    return fill_model(model, weights, folder)
