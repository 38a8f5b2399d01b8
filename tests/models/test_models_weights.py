"""Weights that do not fit their configuration are named, whatever the architecture; nothing is filled in silently."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.models import sizes

torch = pytest.importorskip("torch", reason="models need torch")
safetensors = pytest.importorskip("safetensors.torch", reason="models need safetensors")
pytest.importorskip("transformers", reason="models need transformers")

ARCHITECTURES = ("llama", "gpt2", "openelm", "transformer-xl", "linformer-causal", "bert", "linformer")


@pytest.fixture(params=ARCHITECTURES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The folder of a tiny model, and what it was made to do."""
    model_type, objective = sizes.resolve(request.param)
    settings, _ = sizes.size_dial(request.param, 250_000, 300, 32)
    sizes.new_model(model_type, settings).save_pretrained(tmp_path)
    return tmp_path, objective


def changed(folder: Path, change: Any) -> str:
    """Change the weights: gives the name of the one that `change` was told."""
    path = folder / "model.safetensors"
    tensors = safetensors.load_file(path)
    inner = [name for name in tensors if tensors[name].ndim == 2 and not re.search("embed|wte|lm_head|decoder", name)]
    name = max(inner, key=lambda one: (tensors[one].numel(), one))
    change(tensors, name)
    safetensors.save_file(tensors, path, {"format": "pt"})
    return str(name)


def test_a_whole_model_opens(saved: tuple[Path, str]) -> None:
    assert not load_model(*saved).training


def test_a_missing_tensor_is_named(saved: tuple[Path, str]) -> None:
    name = changed(saved[0], lambda tensors, name: tensors.pop(name))
    with pytest.raises(HalfpintError, match=r"[12] missing") as caught:
        load_model(*saved)
    assert name in str(caught.value)


def test_a_tensor_of_another_shape_is_named(saved: tuple[Path, str]) -> None:
    def cut(tensors: dict[str, Any], name: str) -> None:
        tensors[name] = tensors[name][:-1].contiguous()

    name = changed(saved[0], cut)
    with pytest.raises(HalfpintError, match="of another shape") as caught:
        load_model(*saved)
    assert name in str(caught.value) and "in place of" in str(caught.value)


@pytest.mark.parametrize(("arch", "layers"), [("llama", "num_hidden_layers"), ("gpt2", "n_layer")])
def test_a_layer_too_many_is_named(arch: str, layers: str, tmp_path: Path) -> None:
    """And what is no part of a layer, such as a buffer of earlier versions, is left alone."""
    model_type, objective = sizes.resolve(arch)
    settings, _ = sizes.size_dial(arch, 250_000, 300, 32)
    sizes.new_model(model_type, settings).save_pretrained(tmp_path)
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    safetensors.save_file(
        {**tensors, "pooler.weight": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    assert load_model(tmp_path, objective) is not None
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, layers: config[layers] - 1}), encoding="utf-8")
    with pytest.raises(HalfpintError, match="that it does not have"):
        load_model(tmp_path, objective)


def test_biases_that_the_configuration_leaves_out_are_named(tmp_path: Path) -> None:
    model_type, objective = sizes.resolve("llama")
    settings, _ = sizes.size_dial("llama", 250_000, 300, 32)
    sizes.new_model(model_type, {**settings, "attention_bias": True}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": False}), encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"does not have \(model\.layers\.0\.self_attn\.k_proj\.bias"):
        load_model(tmp_path, objective)


def test_tensors_of_another_model_are_named(tmp_path: Path) -> None:
    model_type, objective = sizes.resolve("llama")
    settings, _ = sizes.size_dial("llama", 250_000, 300, 32)
    sizes.new_model(model_type, settings).save_pretrained(tmp_path)
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    tensors = {name.replace("self_attn", "attention"): tensor for name, tensor in tensors.items()}
    safetensors.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(HalfpintError, match=r"missing \(model\.layers.*does not have \(model\.layers.*attention"):
        load_model(tmp_path, objective)


def test_code_of_a_model_is_not_run(tmp_path: Path) -> None:
    """A folder that brings an architecture of its own is refused, and why is said."""
    from halfpint.models.pull_language import base_bundle
    from halfpint.progress import SILENT

    folder = tmp_path / "theirs"
    folder.mkdir()
    config = {
        "model_type": "their_own",
        "auto_map": {"AutoConfig": "configuration.Own"},
        "architectures": ["OwnForCausalLM"],
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "configuration.py").write_text("raise SystemExit('run')", encoding="utf-8")
    safetensors.save_file({"a": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(HalfpintError, match="runs no code from a model's folder"):
        base_bundle(str(folder), tmp_path / "base", SILENT)
