"""The walk through a model's blocks shows each block what the changed ones before it make of the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.compress import _calibration
from halfpint.compress._calibration import blocks_of, calibration_rows, linears_of, walk
from halfpint.errors import HalfpintError
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
IDS: dict[str, None] = {"bos_token_id": None, "eos_token_id": None}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 1},
    "qwen3": {**SMALL, "num_key_value_heads": 1, "head_dim": 16},
    "gemma3_text": {**SMALL, "num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 7, "sliding_window": 8},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 32, **IDS},
    "phi3": {**SMALL, "num_key_value_heads": 1, "pad_token_id": 0, **IDS},
    "bert": SMALL,
    "pooled": SMALL,
}
LINEARS = {"gpt2": 4, "phi3": 4, "bert": 6, "pooled": 6}
LENGTHS = (20, 20, 13, 7, 20)


def model_of(name: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    if name in ("bert", "pooled"):
        from halfpint.models.pooled_classifier import PooledClassifier, PooledClassifierConfig

        config = BertConfig(vocab_size=100, **MODELS[name])
        if name == "bert":
            return BertForMaskedLM(config)
        return PooledClassifier(PooledClassifierConfig(encoder=config.to_dict(), num_labels=3))
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=100, **MODELS[name]))


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_ends_where_the_changed_model_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if name == "gpt2":
        monkeypatch.setattr(_calibration, "MOST_IN_MEMORY", 100)  # as a large model has it
    model, random = model_of(name), np.random.default_rng(0)
    rows = [random.integers(1, 100, size=length) for length in LENGTHS]
    path = walk(model, rows, 40, tmp_path / "states")
    assert len(path) == len(blocks_of(model)) == MODELS[name].get("num_hidden_layers", 3)
    for visit in path:
        linears = linears_of(visit.block)
        assert len(linears) == LINEARS.get(name, 7)
        first, seen = next(iter(linears)), list[Any]()
        visit.run({first: seen.append}, outputs=False)
        assert sum(len(one) for one in seen) == sum(LENGTHS)  # padding is not shown
        assert all(one.dtype == torch.float32 and one.ndim == 2 for one in seen)
        with torch.no_grad():
            for module in linears.values():
                module.weight.mul_(0.9)
    assert not list(tmp_path.rglob("*.bin"))
    last: list[Any] = []
    handle = blocks_of(model)[-1].register_forward_hook(lambda module, arguments, out: last.append(out))
    for ids, kept, states in zip(path.ids, path.kept, path.states, strict=True):
        mask = torch.ones_like(ids) if kept is None else kept.long()
        with torch.no_grad():
            model.base_model(input_ids=ids, attention_mask=mask)
        out = last[-1][0] if isinstance(last[-1], tuple) else last[-1]
        torch.testing.assert_close(states[mask.bool()], out[mask.bool()])
    handle.remove()


def test_a_block_can_be_learnt_in(tmp_path: Path) -> None:
    model = model_of("gemma3_text")
    visit = next(iter(walk(model, [np.arange(1, 30)], 64)))
    visit.forward(0, visit.inputs[0]).pow(2).mean().backward()
    assert all(module.weight.grad is not None for module in linears_of(visit.block).values())


def test_rows_of_a_corpus_are_one_stream(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    bundle, given = bundles("language"), text_work(tmp_path / "made")
    rows = calibration_rows(bundle, given, 5, 32, 0)
    assert [len(row) for row in rows] == [32] * 5 and rows[0].dtype == np.int64
    again, others = calibration_rows(bundle, given, 5, 32, 0), calibration_rows(bundle, given, 5, 32, 1)
    assert np.array_equal(rows, again) and not np.array_equal(rows, others)
    text = open_tokenizer(bundle.path).decode(rows[1].tolist(), skip_special_tokens=True)
    assert any(text in document for document in given.documents.train)


def test_rows_of_a_table_are_its_texts(
    bundles: Callable[[str], Bundle], work: Callable[..., Work], tmp_path: Path
) -> None:
    bundle, given = bundles("classifier"), work(tmp_path / "made")
    rows = calibration_rows(bundle, given, 40, 12, 0)
    assert len(rows) == 40 and max(map(len, rows)) == 12 and len({len(row) for row in rows}) > 1
    tokenizer = open_tokenizer(bundle.path, max_tokens=12)
    known = {tuple(tokenizer.encode(example.text).ids) for example in given.train}
    assert {tuple(row.tolist()) for row in rows} <= known


def test_without_text_there_is_nothing_to_calibrate_on(
    bundles: Callable[[str], Bundle],
    work: Callable[..., Work],
    text_work: Callable[..., Work],
    conversations: Any,
    tmp_path: Path,
) -> None:
    bundle = bundles("language")
    with pytest.raises(HalfpintError, match="text to calibrate on"):
        calibration_rows(bundle, work(tmp_path / "made", train=[]), 8, 32, 0)
    with pytest.raises(HalfpintError, match="conversations"):
        calibration_rows(bundle, work(tmp_path / "made", learns=conversations), 8, 32, 0)
    with pytest.raises(HalfpintError, match="1 row or more"):
        calibration_rows(bundle, text_work(tmp_path / "made"), 0, 32, 0)
