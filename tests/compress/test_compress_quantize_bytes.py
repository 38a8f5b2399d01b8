"""Bits by what errors cost, under a limit of bytes; importance matrices as llama.cpp has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.compress._allocation import allocate, costs_of, other_bytes
from halfpint.compress._calibration import calibration_rows
from halfpint.compress._codes import TYPES
from halfpint.compress._imatrix import IMATRIX_FILE, read_imatrix
from halfpint.compress._matrices import Matrix, matrices_of, weight_bytes
from halfpint.compress.quantize import Quantize
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError
from halfpint.models.block_codes import read_types
from halfpint.progress import SILENT
from halfpint.stage import Work

FEW = {"samples": 6, "tokens": 48}


def matrix(name: str, rows: int, columns: int) -> Matrix:
    return Matrix(name, name, None, 0, rows, columns, is_turned=False)


def cost(worth: float, columns: int) -> dict[str, float]:
    return {name: worth * 4.0**-kind.bits for name, kind in TYPES.items() if columns % kind.block == 0}


def test_bytes_go_where_they_save_most() -> None:
    matrices = [matrix("dear", 64, 256), matrix("cheap", 64, 256), matrix("narrow", 64, 96)]
    costs = {"dear": cost(1000.0, 256), "cheap": cost(0.1, 256), "narrow": cost(1.0, 96)}
    least = allocate(matrices, costs, 64 * (84 + 84 + 51), "here")
    assert {name: kind.name for name, kind in least.items()} == {"dear": "q2_k", "cheap": "q2_k", "narrow": "mxfp4"}
    some = allocate(matrices, costs, 64 * (8 * 34 + 84 + 51), "here")
    assert {name: kind.name for name, kind in some.items()} == {"dear": "q8_0", "cheap": "q2_k", "narrow": "mxfp4"}
    for limit in range(64 * 219, 64 * 800, 1000):
        found = allocate(matrices, costs, limit, "here")
        assert weight_bytes(matrices, found) <= limit
    assert {kind.name for kind in allocate(matrices, costs, 10**6, "here").values()} == {"q8_0"}
    with pytest.raises(HalfpintError, match="here: expected 14,016 bytes of matrices or more"):
        allocate(matrices, costs, 64 * 219 - 1, "here")


def test_a_type_that_is_no_better_for_its_bytes_is_passed_over() -> None:
    costs = {"one": {"q8_0": 0.1, "q5_1": 0.9, "q5_0": 0.8, "q4_1": 2.0, "iq4_nl": 1.0, "q4_0": 1.1, "mxfp4": 3.0}}
    one = [matrix("one", 10, 32)]
    found = [allocate(one, costs, 10 * size, "here")["one"].name for size in (17, 18, 20, 22, 24, 34)]
    assert found == ["mxfp4", "iq4_nl", "iq4_nl", "iq4_nl", "iq4_nl", "q8_0"]


def test_costs_foretell_the_divergence(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    """Of a small change the expected divergence is of the size of the real one."""
    import torch

    bundle = bundles("language")
    model = load_model(bundle.path, "causal")
    torch.manual_seed(0)
    for one in model.parameters():
        if one.ndim == 2:
            torch.nn.init.normal_(one, 0.0, 0.1)
    rows = calibration_rows(bundle, text_work(tmp_path / "made"), 40, 48, 0)
    ids = torch.from_numpy(np.stack(rows))
    matrices = matrices_of(model)
    costs = costs_of(model, matrices, rows, 0, SILENT)
    with torch.no_grad():
        before = torch.log_softmax(model(input_ids=ids).logits.double(), -1)
        for one in (matrices[0], matrices[-1]):
            values, kind = one.read(), TYPES["q4_0"]
            from halfpint.compress._codes import round_to

            one.write(round_to(kind, values).values())
            after = torch.log_softmax(model(input_ids=ids).logits.double(), -1)
            one.write(values)
            real = float((before.exp() * (before - after)).sum(-1).mean())
            assert 0.4 * real < costs[one.name]["q4_0"] < 2.5 * real
            assert list(costs[one.name]) == [name for name, kind in TYPES.items() if one.columns % kind.block == 0]
            assert costs[one.name]["q8_0"] < 0.02 * costs[one.name]["q4_0"]


def test_a_file_stays_within_its_bytes(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halfpint.stage import stage_class

    monkeypatch.setattr("halfpint.export.gguf._gate", lambda *_: {})
    parent = bundles("language")
    model = load_model(parent.path, "causal")
    matrices = matrices_of(model)
    other = other_bytes(parent.path, model, matrices)
    target = other + sum(one.size for one in matrices) * 5 // 8
    made = Quantize(method="round", target_bytes=target, **FEW).run(parent, text_work(tmp_path / "made"))
    assert len(set(read_types(made.path).values())) > 1
    file = stage_class("export/gguf", "here")(type="codes").run(made, text_work(tmp_path / "file")).path / "model.gguf"
    size = file.stat().st_size
    assert 0.75 * target < size <= target
    with pytest.raises(HalfpintError, match="the tokenizer and the embeddings alone"):
        Quantize(method="round", target_bytes=other, **FEW).run(parent, text_work(tmp_path / "small"))


def test_importance_goes_out_and_in(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    import gguf

    parent = bundles("language")
    made = Quantize(method="gptq", types="q4_0", **FEW).run(parent, text_work(tmp_path / "made"))
    file = made.path / IMATRIX_FILE
    reader = gguf.GGUFReader(file)
    assert reader.fields["general.type"].contents() == "imatrix"
    held = {tensor.name: tensor for tensor in reader.tensors}
    model = load_model(parent.path, "causal")
    matrices = matrices_of(model)
    assert len(held) == 2 * len(matrices)
    assert held["blk.0.ffn_down.weight.counts"].data.ravel()[0] == 6 * 48
    found = read_imatrix(file, model.config, {one.name: one.columns for one in matrices})
    # The first layer's inputs are those of the unquantised model but for the embeddings.
    seen: list[Any] = []
    first = next(one for one in matrices if one.block == 0)
    first.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().flatten(0, -2)))
    import torch

    rows = calibration_rows(parent, text_work(tmp_path / "x"), 6, 48, 0)
    with torch.no_grad():
        model(input_ids=torch.from_numpy(np.stack(rows)))
    np.testing.assert_allclose(found[first.name], seen[0].square().mean(0), rtol=0.2)
    weighted = Quantize(method="round", types="q4_0", importance=str(file)).run(
        parent, text_work(tmp_path / "weighted")
    )
    plain = Quantize(method="round", types="q4_0").run(parent, text_work(tmp_path / "plain"))
    assert weighted.fingerprint != plain.fingerprint
    with pytest.raises(HalfpintError, match="sums of squares and a count"):
        read_imatrix(file, model.config, {first.name: 7})
    with pytest.raises(HalfpintError, match="none of its matrices"):
        read_imatrix(file, model.config, {"another.weight": 7})
    with pytest.raises(HalfpintError, match="the method measures its own"):
        Quantize(method="gptq", importance=str(file))
    with pytest.raises(HalfpintError, match="no file or folder"):
        Quantize(method="round", importance=str(tmp_path / "none")).run(parent, text_work(tmp_path / "none-made"))
