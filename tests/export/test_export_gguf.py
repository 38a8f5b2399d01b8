"""GGUF exports: what llama.cpp says with the file is held against PyTorch; files that say otherwise are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, new_bundle, open_bundle, read_json, write_json, write_text
from halfpint.data.examples import Example
from halfpint.engines import open_language_engine
from halfpint.engines.llama_cpp import LlamaCppEngine
from halfpint.engines.torch_lm import TorchLanguageEngine
from halfpint.errors import HalfpintError, RefusedError
from halfpint.evaluate import gguf_parity
from halfpint.evaluate._varied_strings import prose, varied_strings
from halfpint.export.gguf import Gguf
from halfpint.models.block_codes import read_blocks, read_types
from halfpint.models.packed_gguf import GGUF_FILE
from halfpint.progress import SILENT, Log
from halfpint.stage import Work
from halfpint.tokenizers.gguf import read_for_gguf
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer

VOCABULARY = 384
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama3": {
        **SMALL, "num_key_value_heads": 4, "attention_bias": True, "head_dim": 32,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "odd": {**SMALL, "intermediate_size": 80, "num_key_value_heads": 4, "tie_word_embeddings": False},
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    "gemma3_text": {
        **SMALL, "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "num_hidden_layers": 7,
        "sliding_window": 16,
    },
    "phi3": {**SMALL, "num_key_value_heads": 2, "sliding_window": 128, "pad_token_id": 0},
    "gemma": {**SMALL, "num_key_value_heads": 2, "head_dim": 32},
    "gemma2": {**SMALL, "num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16},
    "openelm": {
        "model_dim": 64, "num_transformer_layers": 3, "head_dim": 32, "num_gqa_groups": 2,
        "qkv_multipliers": [0.5, 2.0], "ffn_multipliers": [0.5, 4.0], "ffn_dim_divisor": 32,
        "normalize_qk_projections": True, "share_input_output_layers": True,
    },
    "gpt_neox": SMALL,
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
}  # fmt: skip
KINDS = {"llama3": "llama", "odd": "llama"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, few: list[Example]) -> Path:
    """A byte-level BPE, with the start of a document before each text, as training makes it."""
    from tokenizers import processors

    folder = tmp_path_factory.mktemp("tokenizers") / "bpe"
    texts = [*(example.text for example in few), *prose().splitlines()]
    train_tokenizer(texts, TokenizerSettings(vocab_size=VOCABULARY), folder, SILENT)
    whole = open_tokenizer(folder)
    start = "<|endoftext|>"
    whole.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, whole.token_to_id(start))]
    )
    whole.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Callable[[str], Bundle]:
    """A language model of a shape above, each made once; its weights are random, and large enough to say something."""
    folder = tmp_path_factory.mktemp("trained")

    def make(shape: str) -> Bundle:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from halfpint.models.architectures import register

        register()

        target = folder / shape
        if target.exists():
            return open_bundle(target)
        torch.manual_seed(0)
        settings = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
        if shape != "gpt2":
            settings["max_position_embeddings"] = 128
        config = AutoConfig.for_model(KINDS.get(shape, shape), **{**settings, **SHAPES[shape]})
        model = AutoModelForCausalLM.from_config(config)
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:  # norms and biases: else what is done to them would not show
                torch.nn.init.normal_(tensor, 0.0 if "bias" in name or "gemma" in shape else 1.0, 0.1)
        with new_bundle(target) as (path, card):
            model.save_pretrained(path)
            for file in tokenizer.iterdir():
                (path / file.name).write_bytes(file.read_bytes())
            card.update(task="predict", engine="torch_lm")
            card["stages"].append({"use": "train/pretrain", "settings": {}, "seconds": 0.0})
        return open_bundle(target)

    return make


def quantize_stage() -> type[Any]:
    """The stage that makes codes."""
    from halfpint.stage import stage_class

    return stage_class("compress/quantize", "here")


@pytest.fixture
def quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate in this process, and its distributions alone."""

    def check(trained: Path, exported: Path, type_: str) -> dict[str, Any]:
        return gguf_parity.check_distributions(trained, LlamaCppEngine(exported, 1), type_)

    monkeypatch.setattr("halfpint.export.gguf._gate", check)


@pytest.mark.from_scratch
def test_a_file_is_tried_in_a_fresh_process_before_it_is_kept(
    trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    made = Gguf(type="f16").run(trained("llama"), text_work(tmp_path / "made"))
    parity = made.card["stages"][-1]["parity"]
    assert parity["strings"] == 12_000 and parity["chats"] == 3 and parity["stops"] == [0]
    assert parity["kl_mean"] < 1e-4 and parity["same_top_1"] > 0.99 and parity["positions"] >= 1000
    ours, theirs = open_language_engine(made, threads=1), TorchLanguageEngine(trained("llama"), 1)
    assert open_bundle(made.path).card["engine"] == "llama_cpp"
    texts = ["", "My parcel", "x " * 300]  # the last is longer than the context
    for one, other in zip(ours.score(texts), theirs.score(texts), strict=True):
        assert (one.tokens, one.words, one.bytes) == (other.tokens, other.words, other.bytes)
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=0.05)
    assert [word for word, _ in ours.next_words("My", 3)] == [word for word, _ in theirs.next_words("My", 3)]
    drawn = ["".join(ours.generate("My", max_tokens=200, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    stopped = "".join(ours.generate("My", max_tokens=200, temperature=1.0, seed=1, stop=(drawn[0][20:23],)))
    assert drawn[0].startswith(stopped) and len(stopped) <= 20


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in ("odd", "gpt_neox")])
def test_every_architecture_writes_on_as_in_pytorch(
    shape: str, trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, quick_gate: None
) -> None:
    bundle = trained(shape)
    made = Gguf(type="f32").run(bundle, text_work(tmp_path / "made"))
    parity = made.card["stages"][-1]["parity"]
    assert parity["kl_mean"] < 1e-4 and parity["same_top_1"] > 0.99
    ours, theirs = open_language_engine(made, threads=1), TorchLanguageEngine(bundle, 1)
    for prompt in ("", "I was charged 25.00 twice,\n"):
        wanted = "".join(theirs.generate(prompt, max_tokens=12, temperature=0.0))
        assert "".join(ours.generate(prompt, max_tokens=12, temperature=0.0)) == wanted


@pytest.mark.parametrize("shape", ["llama", "qwen3", "gemma3_text", "gpt2", "openelm", "phi3", "odd"])
def test_codes_are_written_as_they_are(
    shape: str, trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, quick_gate: None
) -> None:
    """Rows that llama.cpp has in another order, or turned round, are those that PyTorch computes with."""
    import gguf

    quantised = quantize_stage()(method="round", types="q8_0").run(trained(shape), text_work(tmp_path / "quantised"))
    made = Gguf(type="codes").run(quantised, text_work(tmp_path / "made"))
    parity = made.card["stages"][-1]["parity"]
    assert parity["kl_mean"] < 2e-3 and parity["same_top_1"] > 0.93  # what comes into a layer is rounded, too
    types = read_types(quantised.path)
    pieces = sum(2 if name.endswith("ffn.proj_1.weight") else 1 for name in types)  # gate and value are two there
    assert made.card["stages"][-1]["tensors"]["Q8_0"] == pieces
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(made.path / GGUF_FILE).tensors}
    name = next(name for name in types if "embed" in name or "wte" in name)
    np.testing.assert_array_equal(held["token_embd.weight"].data, read_blocks(quantised.path, name))


def test_codes_are_for_quantised_models_alone(
    trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    quantised = quantize_stage()(method="round", types="q8_0").run(trained("llama"), text_work(tmp_path / "quantised"))
    with pytest.raises(HalfpintError, match="expected codes for a quantised model"):
        Gguf(type="q8_0").run(quantised, text_work(tmp_path / "made"))
    with pytest.raises(HalfpintError, match="Quantise it first"):
        Gguf(type="codes").run(trained("llama"), text_work(tmp_path / "made"))


def test_fewer_bits_are_smaller_and_further_off(
    trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfpint.export.gguf._gate", lambda *_: {})
    bundle = trained("llama")
    monkeypatch.setattr(gguf_parity, "BOUNDS", dict.fromkeys(gguf_parity.BOUNDS, (100.0, 0.0)))
    sizes, far = [], []
    for type_ in ("f32", "f16", "q8_0", "q4_1", "q4_0"):
        made = Gguf(type=type_).run(bundle, text_work(tmp_path / type_))
        sizes.append((made.path / GGUF_FILE).stat().st_size)
        engine = LlamaCppEngine(made.path / GGUF_FILE, 1)
        far.append(gguf_parity.check_distributions(bundle.path, engine, type_)["kl_mean"])
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 5
    assert far[1] < far[2] < min(far[3:])
    assert made.card["stages"][-1]["tensors"] == {"Q8_0": 1, "Q4_0": 14, "F32": 5, "not_quantised": 0}


def test_rows_that_blocks_do_not_divide_stay_in_f16(
    trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, quick_gate: None
) -> None:
    log = Log(tmp_path / "events.jsonl", quiet=True)
    made = Gguf(type="q8_0").run(trained("odd"), text_work(tmp_path / "made", log=log))
    assert made.card["stages"][-1]["tensors"] == {"Q8_0": 14, "F16": 2, "F32": 5, "not_quantised": 2}
    said = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert [line["tensors"] for line in said if line["event"] == "kept"] == [
        ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    ]


def test_wrong_weights_are_refused_and_nothing_is_left(
    trained: Callable[[str], Bundle],
    text_work: Callable[..., Work],
    tmp_path: Path,
    quick_gate: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from halfpint.export import _gguf_architectures as parts

    wrong = {**parts.ARCHITECTURES, "llama": parts.Architecture("llama", lambda name, values, config: values)}
    monkeypatch.setattr(parts, "ARCHITECTURES", wrong)
    (tmp_path / "in").mkdir()
    with pytest.raises(
        RefusedError, match=r"expected f16 with a mean KL .* got perplexity .*, positions 1017, kl_mean \d\.\d+"
    ):
        Gguf(type="f16").run(trained("llama"), text_work(tmp_path / "in" / "made"))
    assert not list((tmp_path / "in").iterdir())


def test_another_tokenizer_template_or_stop_is_refused(
    trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfpint.export.gguf._gate", lambda *_: {})
    bundle = trained("llama")
    made = Gguf(type="f16").run(bundle, text_work(tmp_path / "made"))
    file = made.path / GGUF_FILE
    engine, folder = LlamaCppEngine(file, 1), tmp_path / "other"
    assert gguf_parity.check_ids(bundle.path, engine) == 12_000
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((bundle.path / name).read_bytes())
    held = read_json(folder / "tokenizer.json")
    held["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}|\p{L}+|[^\p{N}\p{L}]+"
    write_json(folder / "tokenizer.json", held)
    with pytest.raises(RefusedError, match="expected the tokenizer's ids for 12,000 strings, got others for"):
        gguf_parity.check_ids(folder, engine)
    with pytest.raises(HalfpintError, match="expected texts to be divided as by qwen2"):
        read_for_gguf(folder, {}, VOCABULARY)
    write_text(folder / "chat_template.jinja", "{% for one in messages %}{{ one['content'] }}{% endfor %}")
    with pytest.raises(RefusedError, match="rendered as 'Hi', got"):
        gguf_parity.check_chats(folder, file)
    write_json(folder / "config.json", {"eos_token_id": [0, 1]})
    with pytest.raises(RefusedError, match=r"a stop at the ids \[0, 1\], got one at \[0, "):
        gguf_parity.check_stops(folder, engine)


def test_what_cannot_be_exported_is_said(
    trained: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match="Did you mean 'q4_0'"):
        Gguf(type="q4_00").check()
    with pytest.raises(
        HalfpintError, match=r"of the architecture gpt_neox cannot be written here; they can of llama, mistral"
    ):
        Gguf(type="f16").run(trained("gpt_neox"), text_work(tmp_path / "made"))
    folder = tmp_path / "characters"
    train_tokenizer(["abc"], TokenizerSettings(kind="char", vocab_size=300), folder, SILENT)
    with pytest.raises(HalfpintError, match=r"expected a byte-level BPE, .*of the kind BPE with byte fall"):
        read_for_gguf(folder, {}, 300)


def test_strings_are_varied_and_always_the_same() -> None:
    texts = varied_strings(gguf_parity.STRINGS)
    assert texts == varied_strings(gguf_parity.STRINGS)
    assert len(set(texts)) >= 10_000
    assert len(set("".join(texts))) > 5000
