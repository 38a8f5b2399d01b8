"""A tokenizer like Gemma's, BPE over characters with byte fallback, in a GGUF file: llama.cpp makes the same ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from halfpint.bundle import Bundle, new_bundle, write_json
from halfpint.data.examples import Example
from halfpint.engines.llama_cpp import LlamaCppEngine
from halfpint.evaluate._varied_strings import prose
from halfpint.evaluate.gguf_parity import check_distributions, check_ids
from halfpint.export import gguf
from halfpint.export.gguf import Gguf
from halfpint.models.packed_gguf import GGUF_FILE
from halfpint.stage import Work
from halfpint.tokenizers.gguf import read_for_gguf

pytest.importorskip("xllamacpp")
SPACE = "\u2581"
FIRST = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def write_tokenizer(folder: Path, texts: list[str]) -> int:
    """Pieces by how often they occur, each with the merges of all its divisions, as sentencepiece's are turned into."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    joined = [text.replace(" ", SPACE) for text in texts]
    singles = sorted({char for text in joined for char in text if char.isascii() or char == SPACE})
    pieces: Counter[str] = Counter()
    for text in joined:
        for width in (2, 3, 4):
            pieces.update(text[start : start + width] for start in range(len(text) - width + 1))
    known = set(singles)
    chosen = []
    for piece, _ in sorted(pieces.items(), key=lambda item: (-item[1], item[0])):
        if len(chosen) == 150:
            break
        if any(piece[:cut] in known and piece[cut:] in known for cut in range(1, len(piece))):
            chosen.append(piece)
            known.add(piece)
    tokens = [*FIRST, *(f"<0x{byte:02X}>" for byte in range(256)), *chosen, *singles]
    merges = [
        (piece[:cut], piece[cut:])
        for piece in chosen
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    whole = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    whole.normalizer = normalizers.Replace(" ", SPACE)
    whole.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    whole.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in FIRST])
    whole.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    whole.save(str(folder / "tokenizer.json"))
    names = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "unk": "<unk>"}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{name}_token": token for name, token in names.items()}},
    )
    return len(tokens)


def test_ids_and_distributions(
    tmp_path: Path, text_work: Callable[..., Work], few: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with new_bundle(tmp_path / "trained") as (folder, card):
        size = write_tokenizer(folder, [*(example.text for example in few), *prose().splitlines()])
        config = AutoConfig.for_model(
            "gemma3_text", vocab_size=size, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32,
            max_position_embeddings=128, bos_token_id=2, eos_token_id=1, pad_token_id=0, initializer_range=0.2,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        card.update(task="predict", engine="torch_lm")
        card["stages"].append({"use": "train/pretrain", "settings": {}, "seconds": 0.0})
    trained = Bundle(tmp_path / "trained")
    held = read_for_gguf(trained.path, trained.config, size)
    assert held.scores[held.tokens.index("e" + SPACE)] > held.scores[held.tokens.index("q")] and held.types[6] == 6
    monkeypatch.setattr(gguf, "_gate", lambda *_: {})  # it is looked at below, in this process
    made = Gguf(type="f16").run(trained, text_work(tmp_path / "made"))
    engine = LlamaCppEngine(made.path / GGUF_FILE, 1)
    assert check_ids(trained.path, engine) > 11_000
    assert check_distributions(trained.path, engine, "f16")["kl_mean"] < 1e-3
