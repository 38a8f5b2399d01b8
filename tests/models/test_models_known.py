"""The models that are known by name: their facts have the form and the sources that they must have, their counts agree
with the architectures' own programs, and what they cost is what their shape says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from halfpint.bundle import Kind
from halfpint.errors import HalfpintError, SettingError
from halfpint.machine_speed import read_rate
from halfpint.models import known, sources
from halfpint.models.known import BITS, COMMERCIAL, ENCODER_DECODER, UNKNOWN, Known, known_models
from halfpint.models.known_shape import served
from halfpint.models.shards import INDEX, merge_shards
from halfpint.progress import Log

MODELS = known_models()
TASKS = {
    "chat", "classify", "code", "complete", "embed", "fill", "guard", "summarise", "tag", "translate",
}  # fmt: skip
WITH_SOURCE = ("licence", "context", "languages", "languages_in_all", "shape", "ollama", "nim", "azure")
FAMILIES = ("Llama", "Gemma", "Qwen", "Phi", "OpenELM", "SmolLM2", "SmolLM3", "TinyLlama", "LFM2", "Granite", "MiniLM",
            "ModernBERT", "E5", "BGE", "GTE", "T5", "Marian", "Mamba-2", "Pythia", "Llama Guard")  # fmt: skip


def test_the_families_that_people_ask_for_are_there() -> None:
    assert len(MODELS) >= 55
    families = " ".join(sorted({model.family for model in MODELS.values()}))
    assert [name for name in FAMILIES if name not in families] == []
    assert sum("guard" in model.tasks for model in MODELS.values()) >= 4
    assert {model.kind for model in MODELS.values()} == {Kind.LANGUAGE, Kind.ENCODER, ENCODER_DECODER}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_entry_is_whole_and_says_where_its_facts_are_from(name: str) -> None:
    model = MODELS[name]
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
    assert re.fullmatch(r"[\w-]+/[\w.-]+", model.hub)
    assert 1e6 < model.parameters < 4.1e9
    assert model.licence in COMMERCIAL and model.commercial in ("yes", "conditions", "no", UNKNOWN)
    assert model.context >= 0 and model.languages_in_all >= 0
    assert len(set(model.languages)) == len(model.languages) <= (model.languages_in_all or 1000)
    assert all(re.fullmatch(r"[a-z]{2,3}", code) for code in model.languages)
    assert model.tasks and set(model.tasks) <= TASKS and model.note and model.model_type
    assert not re.search(r"[\x00-\x1f]", model.note) and not model.note.endswith(".")
    for place in (model.ollama, model.nim, model.azure):
        assert place and " " not in place
    for key in model.sources.values():
        assert key in known.sources(), key
    assert {"parameters", "tasks"} <= set(model.sources)
    for fact in WITH_SOURCE:
        value = getattr(model, fact)
        told = value not in (UNKNOWN, 0, (), {})
        key = "languages" if fact == "languages_in_all" else fact
        if fact == "shape" and set(value) <= {"embedding"}:
            continue  # the width of its vectors alone, from where its parameters are
        if told:
            assert key in model.sources, f"{fact} has no source"
        elif fact not in ("languages", "languages_in_all"):
            assert key not in model.sources, f"{fact} is unknown and has a source"
    for score in model.scores:
        assert set(score) == {"name", "value", "source"} and score["source"] in known.sources()
        assert isinstance(score["value"], int | float) and score["value"] > 0


def test_names_are_unique_here_and_on_the_hub() -> None:
    assert len({model.hub.lower() for model in MODELS.values()}) == len(MODELS)
    files = [Path(known.__file__).parent / f"known_{kind}.toml" for kind in ("language", "encoder", "encoder_decoder")]
    heads = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("[")]
    assert len(heads) == len(set(heads)) == len(MODELS)
    used = {key for model in MODELS.values() for key in model.sources.values()}
    used |= {str(score["source"]) for model in MODELS.values() for score in model.scores}
    assert used == set(known.sources())


def test_base_models_of_the_package_index_are_known_by_the_same_names() -> None:
    offered = sources.catalogue("")
    assert set(offered) <= set(MODELS)
    for name, entry in offered.items():
        assert entry["kind"] == MODELS[name].kind
        assert (entry["hub"], entry["parameters"]) == (MODELS[name].hub, MODELS[name].parameters)


COUNTED = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "granite", "smollm3", "phi", "gpt_neox")
DECODERS = [
    name for name, model in sorted(MODELS.items())
    if model.kind == Kind.LANGUAGE and model.exact and "ffn" in model.shape
    and model.model_type in COUNTED
]  # fmt: skip


def test_many_counts_can_be_checked() -> None:
    families = {MODELS[name].model_type for name in DECODERS}
    assert len(DECODERS) >= 30 and families == set(COUNTED)


@pytest.mark.parametrize("name", DECODERS)
def test_counts_agree_with_the_architectures_own_programs(name: str) -> None:
    """The shape that is given, built without memory by transformers, has as many parameters as are given."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, shape = MODELS[name], MODELS[name].shape
    wanted = {
        "num_hidden_layers": shape["layers"], "hidden_size": shape["width"], "intermediate_size": shape["ffn"],
        "num_attention_heads": shape["heads"], "vocab_size": shape["vocabulary"], "tie_word_embeddings": shape["tied"],
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    held = transformers.AutoConfig.for_model(model.model_type).to_dict()
    wanted |= {key: shape[value] for key, value in (("num_key_value_heads", "kv_heads"),) if key in held}
    if model.model_type in ("qwen3", "gemma2", "gemma3_text"):
        wanted["head_dim"] = shape["head_dim"]
    config = transformers.AutoConfig.for_model(model.model_type, **wanted)
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(config)
    counted = sum(tensor.numel() for tensor in built.parameters())
    assert counted == pytest.approx(model.parameters, rel=0.02)
    if shape["tied"]:
        assert counted == model.parameters


def made(**facts: object) -> Known:
    """A model of round numbers."""
    told: dict[str, object] = {
        "name": "made", "family": "Made", "kind": str(Kind.LANGUAGE), "hub": "a/made", "parameters": 1_000_000,
        "exact": True, "model_type": "llama", "licence": "MIT", "context": 1000, "languages": ("en",),
        "tasks": ("chat",), "ollama": UNKNOWN, "nim": UNKNOWN, "azure": UNKNOWN, "note": "made", "sources": {},
        "shape": {"layers": 10, "kv_heads": 2, "head_dim": 8, "vocabulary": 1000, "width": 100, "tied": True},
    }  # fmt: skip
    return Known(**{**told, **facts})  # type: ignore[arg-type]


def test_memory_follows_from_parameters_and_shape() -> None:
    """A file holds each weight once, by its type, and 24 bytes of text for each token; by hand."""
    model = made()
    text = 24 * 1000
    assert served(model, "16-bit", 500).weights == 2_000_000 + text
    assert served(model, "8-bit", 500).weights == 1_062_500 + text
    assert served(model, "4-bit", 500).weights == int((900_000 * 18 + 100_000 * 34) / 32) + text  # the table in 8 bits
    # keys and values, 2 bytes, 10 layers, 2 heads of 8
    assert served(model, "8-bit", 500).cache == 2 * 2 * 10 * 2 * 8 * 500
    assert served(model, "8-bit", 5000).cache == served(model, "8-bit", 1000).cache, "no longer than its context"
    assert served(model, "8-bit", 500).memory == 1_062_500 + text + 320_000
    windowed = made(shape={**model.shape, "window": 100, "window_layers": 6})
    assert served(windowed, "8-bit", 500).cache == 2 * 2 * 2 * 8 * (4 * 500 + 6 * 100)
    assert served(made(shape={"layers": 10, "attention_layers": 0}), "8-bit", 500).cache == 0
    unknown = served(made(shape={"layers": 10}), "8-bit", 500)
    assert unknown.cache is None and unknown.memory == unknown.weights
    assert served(made(shape={}), "16-bit", 500).memory == 2_000_000 + 24 * 2048  # the usual vocabulary of its size
    assert served(made(kind=str(Kind.ENCODER), shape={}), "8-bit", 500).cache == 0


def test_what_each_token_reads() -> None:
    tied = made()
    untied = made(shape={**tied.shape, "tied": False})
    assert abs(served(tied, "16-bit", 1).read - 2_000_000) < 2_000_000 * 0.02
    assert abs(served(untied, "16-bit", 1).read - 1_800_000) < 1_800_000 * 0.02, "the table of the input is looked up"
    assert served(made(kind=str(Kind.ENCODER)), "16-bit", 1).read == 0
    for kind in BITS:
        assert 0 < served(untied, kind, 1).read < served(untied, kind, 1).weights


def test_memory_is_read_at_some_rate() -> None:
    """A machine that reads less than 10 MB or more than 10 TB a second is none that we know."""
    assert 1e7 < read_rate(0.05) < 1e13


def test_an_unknown_name_or_type_tells_the_nearest() -> None:
    with pytest.raises(HalfpintError, match=r"Did you mean 'qwen3-0\.6b'"):
        known.find_known("qwen3-06b")
    with pytest.raises(SettingError, match=r"--type must be one of 16-bit, 8-bit, 4-bit.*Did you mean '8-bit'"):
        known.check_type("8bit")
    assert known.find_known("Qwen/Qwen3-0.6B") is known.find_known("qwen3-0.6b")


def test_what_cannot_be_taken_is_refused_before_it_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path))
    called: list[str] = []
    for source in ("_from_index", "_from_hub"):
        monkeypatch.setattr(sources, source, lambda *given: called.append("asked"))
    for name in ("t5-small", "google-t5/t5-small", "opus-mt-en-de"):
        with pytest.raises(HalfpintError, match="cannot be taken: it is an encoder-decoder"):
            sources.locate(name, Log())
    monkeypatch.setattr(known, "memory_bytes", lambda: 10**9)
    with pytest.raises(HalfpintError, match=r"does not fit this machine: its 1,720,574,976 .* 3\.44 GB in 16 bits"):
        sources.locate("qwen3-1.7b", Log())
    assert called == [] and list(tmp_path.rglob("*")) == []
    known.refuse_untaken(MODELS["qwen3-0.6b"], 2 * 10**9)
    known.refuse_untaken(MODELS["qwen3-4b"], 0)


def test_names_lead_to_the_hub_and_a_model_in_the_cache_is_found_by_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path))
    seen: list[str] = []

    def fails(name: str, entry: dict[str, str], scratch: Path) -> Path:
        seen.append(entry["hub"])
        raise OSError("no network")

    monkeypatch.setattr(sources, "_from_hub", fails)
    with pytest.raises(HalfpintError, match=r"With no network: on a machine .* `halfpint pull qwen3-0\.6b`"):
        sources.locate("qwen3-0.6b", Log())
    assert seen == ["Qwen/Qwen3-0.6B"]
    held = sources.cached("Qwen/Qwen3-0.6B")
    held.mkdir(parents=True)
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (held / file).write_text("{}")
    assert sources.locate("qwen3-0.6b", Log()) == held == sources.locate("Qwen/Qwen3-0.6B", Log())


def test_weights_in_several_files_become_one(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    parts = {
        "model-00001-of-00002.safetensors": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "model-00002-of-00002.safetensors": {"b": np.ones(5, dtype=np.float16), "c": np.arange(3, dtype=np.int64)},
    }
    for name, tensors in parts.items():
        numpy_files.save_file(tensors, tmp_path / name, metadata={"format": "pt"})
    placed = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    merge_shards(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    whole = numpy_files.load_file(tmp_path / "model.safetensors")
    assert set(whole) == {"a", "b", "c"}
    for tensors in parts.values():
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(whole[name], tensor)
            assert whole[name].dtype == tensor.dtype
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(OSError, match="names files that are not there"):
        merge_shards(tmp_path)
