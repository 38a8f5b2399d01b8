"""Exports to compressed-tensors: what that package reads is held against the values that the codes stand for."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, copy_files, new_bundle, open_bundle, read_json, write_json
from halfpint.commands.export import export
from halfpint.compress.quantize import Quantize
from halfpint.engines import open_language_engine
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, RefusedError
from halfpint.evaluate.compressed_tensors_parity import check_compressed
from halfpint.export._integers import BLOCKS, GROUP, Integers, integers_of
from halfpint.export.compressed_tensors import WEIGHTS_FILE, CompressedTensors
from halfpint.models.block_codes import read_blocks, read_types
from halfpint.models.compressed_tensors import is_compressed
from halfpint.models.sizes import CAUSAL
from halfpint.progress import SILENT, Log
from halfpint.stage import Work

WHY = "the extra compressed-tensors is not installed"
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "untied": {**SMALL, "intermediate_size": 80, "attention_bias": True, "tie_word_embeddings": False},
    "turned": {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64},
}


@pytest.fixture
def quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate in this process."""
    pytest.importorskip("compressed_tensors", reason=WHY)

    def check(module: str, place: str, wanted: str, trained: str, exported: str, type_: str) -> dict[str, Any]:
        return check_compressed(Path(trained), Path(exported), type_)

    monkeypatch.setattr("halfpint.export.compressed_tensors.run_gate", check)


@pytest.fixture
def quantised(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> Callable[[str, str], Bundle]:
    """A model with random weights of a shape above, or the one that was trained, in the types told."""

    def make(shape: str, types: str) -> Bundle:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        parent = bundles("language")
        if shape in SHAPES:
            torch.manual_seed(0)
            settings = {**SHAPES[shape], "vocab_size": parent.config["vocab_size"], "initializer_range": 0.2}
            kind = "gpt2" if shape == "turned" else "llama"
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
            with new_bundle(tmp_path / "trained", parent) as (folder, card):
                copy_files(parent, folder, "config.json", WEIGHTS_FILE)
                model.save_pretrained(folder)
                card["stages"].append({"use": "train/pretrain", "settings": {}, "seconds": 0.0})
            parent = open_bundle(tmp_path / "trained")
        return Quantize(types=types, method="round").run(parent, text_work(tmp_path / "quantised"))

    return make


def integers(rows: int, bits: int, *, zeros: bool) -> Integers:
    """Random whole numbers of a matrix, the ends of their range among them."""
    random = np.random.default_rng(rows)
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    numbers = random.integers(low, high + 1, size=(rows, 64)).astype(np.int16)
    numbers[0, :2] = low, high
    scales = random.normal(size=(rows, 2)).astype(np.float16)
    if not zeros:
        return Integers(numbers, scales, None, bits)
    points = random.integers(0, 16, size=(rows, 2)).astype(np.uint8)
    codes = random.integers(0, 16, size=(rows, 64)).astype(np.int16)
    return Integers(codes - np.repeat(points, GROUP, axis=1), scales, points, bits)


@pytest.mark.parametrize("type_", sorted(BLOCKS))
def test_blocks_stand_for_what_llama_cpp_reads(type_: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[type_.upper()]
    blocks = gguf.quants.quantize(np.random.default_rng(0).normal(size=(24, 96)).astype(np.float32), kind)
    wanted = gguf.quants.dequantize(blocks, kind)
    found, moved = integers_of(type_, blocks)
    if type_ != "q4_1":
        np.testing.assert_array_equal(found.values(), wanted)
        assert moved == 0 and found.zeros is None and found.bits == (4 if type_ == "q4_0" else 8)
        return
    assert moved > 60  # of 72: an offset is seldom a multiple of its scale
    errors = found.values() - wanted
    steps = np.repeat(np.abs(found.scales.astype(np.float32)), GROUP, axis=1)
    assert np.abs(errors).max() > 0 and (np.abs(errors) / steps).max() < 1.1


def test_offsets_that_are_multiples_come_back_to_the_bit() -> None:
    gguf = pytest.importorskip("gguf")
    random = np.random.default_rng(1)
    scales = np.abs(random.normal(size=(400, 1))).astype(np.float16)
    points = random.integers(0, 16, size=(400, 1))
    offsets = (-points * scales.astype(np.float64)).astype(np.float16)
    scales[0], offsets[0] = 0.0, 0.37  # all weights alike
    scales[1], offsets[1] = 0.0, 0.0
    held = offsets == -points * scales.astype(np.float64)
    held[:2] = True
    codes = random.integers(0, 256, size=(400, 16)).astype(np.uint8)
    blocks = np.concatenate([scales.view(np.uint8), offsets.view(np.uint8), codes], axis=1)[held[:, 0]]
    assert len(blocks) > 100
    found, moved = integers_of("q4_1", blocks)
    assert moved == 0 and found.zeros is not None
    wanted = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(found.values(), wanted)
    np.testing.assert_array_equal(found.widened().values(), wanted)


@pytest.mark.parametrize(("rows", "bits", "zeros"), [(40, 4, False), (40, 8, False), (40, 4, True), (13, 4, True)])
def test_the_package_reads_what_is_packed(rows: int, bits: int, zeros: bool) -> None:
    """By its own code both ways: the values are those that were meant, and it would have packed them alike."""
    pytest.importorskip("compressed_tensors", reason=WHY)
    import torch
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    whole = integers(rows, bits, zeros=zeros)
    args = QuantizationArgs(num_bits=bits, strategy="group", group_size=GROUP, symmetric=not zeros)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    stored = {name: torch.from_numpy(value) for name, value in whole.packed("weight").items()}
    assert set(stored) == set(PackedQuantizationCompressor.compression_param_names(scheme))
    wide = {**stored, "weight_scale": stored["weight_scale"].float()}
    read = PackedQuantizationCompressor.decompress(wide, scheme)
    np.testing.assert_array_equal(read["weight"].numpy(), whole.values())
    own = {key: read[key] for key in ("weight", "weight_scale", "weight_zero_point") if key in read}
    again = PackedQuantizationCompressor.compress(own, scheme)
    for name in set(stored) - {"weight_scale"}:
        assert again[name].equal(stored[name]), name


@pytest.mark.from_scratch
def test_an_export_is_tried_in_a_fresh_process_and_says_the_same(
    bundles: Callable[[str], Bundle], tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors", reason=WHY)
    import torch
    from transformers import AutoModelForCausalLM

    parent, made = bundles("quantized"), bundles("compressed")
    types, entry = read_types(parent.path), made.card["stages"][-1]
    packed = [name for name in types if "embed" not in name]
    assert entry["matrices"] == {"w4a16": len(packed)} and entry["parity"]["exact"] == len(packed)
    assert entry["parity"]["error"] == 0 and entry["parity"]["kl_mean"] < 1e-4 and entry["widened"] == 0
    told = made.config["quantization_config"]
    assert told["config_groups"]["group_0"]["targets"] == ["Linear"] and told["ignore"] == ["lm_head"]
    assert made.config["dtype"] == "float16" and is_compressed(made.path) and not is_compressed(parent.path)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (made.path / name).read_bytes() == (parent.path / name).read_bytes()
    assert sorted(made.path.glob("*.safetensors")) == [made.path / WEIGHTS_FILE]
    theirs = AutoModelForCausalLM.from_pretrained(made.path, dtype="float32").eval()  # as anybody opens it
    ours = load_model(parent.path, CAUSAL)
    with torch.no_grad():
        ours.get_input_embeddings().weight.copy_(ours.get_input_embeddings().weight.half().float())
        ids = torch.arange(40).reshape(2, 20)
        assert theirs(input_ids=ids).logits.equal(ours(input_ids=ids).logits)
    for name, weight in ours.named_parameters():
        assert theirs.get_parameter(name).equal(weight), name
    engine, before = open_language_engine(made, threads=1), open_language_engine(parent, threads=1)
    one, other = (each.score(["I was charged twice"])[0].log_probabilities for each in (engine, before))
    np.testing.assert_allclose(one, other, atol=2e-2)


def test_layers_that_vllm_joins_have_one_format(
    quantised: Callable[[str, str], Bundle], text_work: Callable[..., Work], tmp_path: Path, quick_gate: None
) -> None:
    """Of 8 bits, in which the numbers of 4 are the same; the others keep theirs, and each group names its layers."""
    import torch
    from transformers import AutoModelForCausalLM

    bundle = quantised("language", "q4_0,k_proj=q8_0,up_proj=q5_0,down_proj=q8_0")
    made = CompressedTensors().run(bundle, text_work(tmp_path / "made"))
    entry = made.card["stages"][-1]
    layers = bundle.config["num_hidden_layers"]
    assert entry["matrices"] == {"w4a16": layers, "w8a16": 6 * layers} and entry["widened"] == 3 * layers
    assert entry["parity"]["exact"] == 7 * layers
    groups = made.config["quantization_config"]["config_groups"].values()
    by_bits = {group["weights"]["num_bits"]: group["targets"] for group in groups}
    assert {name.rsplit(".", 1)[-1] for name in by_bits[4]} == {"o_proj"} and len(by_bits[8]) == 6 * layers
    theirs, ours = AutoModelForCausalLM.from_pretrained(made.path, dtype="float32"), load_model(made.path, CAUSAL)
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        assert theirs(input_ids=ids).logits.equal(ours(input_ids=ids).logits)


def test_what_is_in_no_codes_stays_numbers(
    quantised: Callable[[str, str], Bundle], text_work: Callable[..., Work], tmp_path: Path, quick_gate: None
) -> None:
    """Rows that no block divides, an output layer of its own, embeddings: fp16; biases and norms as they were."""
    from safetensors.numpy import load_file

    bundle = quantised("untied", "q8_0")
    log = Log(tmp_path / "events.jsonl", quiet=True)
    made = CompressedTensors().run(bundle, text_work(tmp_path / "made", log=log))
    held, entry = load_file(made.path / WEIGHTS_FILE), made.card["stages"][-1]
    half = [f"model.layers.{number}.mlp.down_proj" for number in (0, 1)]
    assert made.config["quantization_config"]["ignore"] == ["lm_head", *half]
    kept = {name: value for name, value in held.items() if value.dtype == np.float16 and not name.endswith("_scale")}
    assert set(kept) == {f"{name}.weight" for name in ("lm_head", "model.embed_tokens", *half)}
    assert entry["half_bytes"] == sum(value.nbytes for value in kept.values())
    assert held["model.layers.0.self_attn.q_proj.bias"].dtype == held["model.norm.weight"].dtype == np.float32
    said = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert [line["half_bytes"] for line in said if line["event"] == "plan"] == [entry["half_bytes"]]


def test_offsets_are_refused_or_moved_and_told(
    quantised: Callable[[str, str], Bundle], text_work: Callable[..., Work], tmp_path: Path, quick_gate: None
) -> None:
    bundle = quantised("language", "q4_1")
    (tmp_path / "in").mkdir()
    with pytest.raises(HalfpintError, match=r"expected offsets that are multiples .* others of .* in q4_1.*--nearest"):
        CompressedTensors().run(bundle, text_work(tmp_path / "in" / "made"))
    assert not list((tmp_path / "in").iterdir())
    entry = CompressedTensors(nearest=True).run(bundle, text_work(tmp_path / "made")).card["stages"][-1]
    assert entry["moved_groups"] > 0 and 0 < entry["parity"]["error"] < 0.1
    assert entry["parity"]["kl_mean"] > 1e-6
    (group,) = open_bundle(tmp_path / "made").config["quantization_config"]["config_groups"].values()
    assert group["weights"]["symmetric"] is False and group["weights"]["num_bits"] == 4


def test_a_folder_that_holds_other_layers_than_it_says_is_told(
    bundles: Callable[[str], Bundle], tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors", reason=WHY)
    folder = tmp_path / "changed"
    shutil.copytree(bundles("compressed").path, folder)
    config = read_json(folder / "config.json")
    write_json(folder / "generation_config.json", {"eos_token_id": [5, 6]})
    assert load_model(folder, CAUSAL).generation_config.eos_token_id == [5, 6]  # where a text ends
    for changes, said in (
        ({"ignore": []}, "expected the layers in codes that config.json names, got lm_head, which is not both"),
        ({"format": "int-quantized"}, "expected the format pack-quantized, got int-quantized"),
    ):
        changed = {**config["quantization_config"], **changes}
        write_json(folder / "config.json", {**config, "quantization_config": changed})
        with pytest.raises(HalfpintError, match=said):
            load_model(folder, CAUSAL)


def test_wrong_weights_are_refused(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, quick_gate: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One code in all, and a format that is told wrongly."""

    def wrong(type_: str, blocks: Any) -> Any:
        found, moved = integers_of(type_, blocks)
        numbers = found.numbers.copy()
        numbers[0, 0] = 1 if numbers[0, 0] != 1 else 2
        return replace(found, numbers=numbers), moved

    (tmp_path / "in").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("halfpint.export.compressed_tensors.integers_of", wrong)
        with pytest.raises(RefusedError, match=r"expected the values of model\.layers\.0\.\S+, got others, .* away"):
            CompressedTensors().run(bundles("quantized"), text_work(tmp_path / "in" / "made"))
    assert not list((tmp_path / "in").iterdir())


def test_what_cannot_be_exported_is_said(
    bundles: Callable[[str], Bundle], quantised: Callable[[str, str], Bundle], text_work: Callable[..., Work],
    tmp_path: Path, quick_gate: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stage, target = CompressedTensors(), text_work(tmp_path / "made")
    with pytest.raises(HalfpintError, match="expected a quantised model"):
        stage.run(bundles("language"), target)
    with pytest.raises(HalfpintError, match=r"expected matrices in q8_0, q5_0, q4_1, q4_0.*, got iq4_nl.*q4_0 or q8_0"):
        stage.run(quantised("language", "iq4_nl"), target)
    with pytest.raises(HalfpintError, match=r"expected linear layers alone .* got transformer\.h\.0\.\S+ in a layer"):
        stage.run(quantised("turned", "q4_0"), target)
    with pytest.raises(HalfpintError, match="expected a model that is not exported yet, got one in compressed-tensors"):
        export(str(bundles("compressed").path), [stage], tmp_path / "again", SILENT)
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    with pytest.raises(
        HalfpintError, match=r"package compressed-tensors is not installed.*halfpint\[compressed-tensors\]"
    ):
        stage.check()
    with pytest.raises(
        HalfpintError, match=r"package compressed-tensors is not installed.* needed for a model in compressed-tensors"
    ):
        open_language_engine(bundles("compressed"))


def test_a_model_that_is_not_quantised_is_rounded_when_a_type_is_given(
    bundles: Callable[[str], Bundle], tmp_path: Path, quick_gate: None
) -> None:
    whole, stages = str(bundles("language").path), [CompressedTensors()]
    with pytest.raises(HalfpintError, match=r"is not quantised, and --type is not given.*Give --type q8_0 or q4_0"):
        export(whole, stages, tmp_path / "made", SILENT)
    with pytest.raises(HalfpintError, match="--type q8_0 does not fit: the model is quantised already"):
        export(str(bundles("quantized").path), stages, tmp_path / "made", SILENT, rounded_to="q8_0")
    export(whole, stages, tmp_path / "made", SILENT, rounded_to="q4_0")
    made = open_bundle(tmp_path / "made")
    rounded, exported = made.card["stages"][-2:]
    assert rounded["settings"]["types"] == "q4_0,embeddings=q8_0" and set(exported["matrices"]) == {"w4a16"}
    assert read_json(made.path / "config.json")["quantization_config"]["format"] == "pack-quantized"


def test_codes_are_as_they_were(bundles: Callable[[str], Bundle]) -> None:
    """Nibble by nibble: the codes in the file of codes are those in the packed words."""
    from safetensors.numpy import load_file

    pytest.importorskip("compressed_tensors", reason=WHY)
    parent, made = bundles("quantized"), bundles("compressed")
    held = load_file(made.path / WEIGHTS_FILE)
    name = next(name for name in read_types(parent.path) if name.endswith("q_proj.weight"))
    blocks = read_blocks(parent.path, name)
    parts = blocks.reshape(len(blocks), -1, 18)[:, :, 2:]
    codes = np.concatenate([parts & 15, parts >> 4], axis=2).reshape(len(blocks), -1)
    words = held[name + "_packed"].view(np.uint32)
    read = np.stack([words >> np.uint32(4 * place) & np.uint32(15) for place in range(8)], axis=2)
    np.testing.assert_array_equal(read.reshape(len(blocks), -1), codes)
    scales = np.ascontiguousarray(blocks.reshape(len(blocks), -1, 18)[:, :, :2]).view("<f2")[:, :, 0]
    np.testing.assert_array_equal(held[name + "_scale"], scales)
