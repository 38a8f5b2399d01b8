"""Quantised language models: what the codes stand for is what the bundle computes, and each method beats the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, open_bundle
from halfpint.compress import _layers, quantize
from halfpint.compress._calibration import calibration_rows
from halfpint.compress._matrices import matrices_of
from halfpint.compress.quantize import Quantize
from halfpint.engines.torch_lm import empty_model, load_model
from halfpint.errors import HalfpintError
from halfpint.models.block_codes import CODES_FILE, read_blocks, read_types
from halfpint.stage import Work

FEW = {"samples": 64, "tokens": 48}
TUNED = {"types": "mxfp4", "method": "tuned", "tuning_tokens": 12_000, "tuning_batch": 192, **FEW}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, loud: Bundle, text_work: Callable[..., Work]
) -> Callable[..., Bundle]:
    """That model quantised with some settings, each once."""
    folder, found = tmp_path_factory.mktemp("quantised"), dict[str, Bundle]()

    def make(**settings: Any) -> Bundle:
        name = json.dumps(settings)
        if name not in found:
            target = folder / str(len(found))
            found[name] = Quantize(**settings).run(loud, text_work(target))
        return open_bundle(found[name].path)

    return make


def divergence(reference: Bundle, bundle: Bundle, rows: list[Any]) -> float:
    """Mean KL divergence over the tokens of rows."""
    import torch

    one, other = (load_model(each.path, "causal") for each in (reference, bundle))
    total = []
    with torch.no_grad():
        for row in rows:
            ids = torch.from_numpy(row)[None]
            first, second = (torch.log_softmax(model(input_ids=ids).logits[0].double(), -1) for model in (one, other))
            total.append(float((first.exp() * (first - second)).sum(-1).mean()))
    return float(np.mean(total))


@pytest.mark.parametrize("types", ["q4_0", "mxfp4", "q5_1,embeddings=q8_0,down_proj=iq4_nl"])
def test_the_codes_are_the_weights(types: str, made: Callable[..., Bundle], loud: Bundle) -> None:
    import gguf
    from safetensors.numpy import load_file

    bundle = made(method="round", types=types)
    kinds = read_types(bundle.path)
    weights, before = (load_file(one.path / "model.safetensors") for one in (bundle, loud))
    assert set(weights) == set(before)
    assert {kinds[name] for name in kinds} == {part.split("=")[-1] for part in types.split(",")}
    for name, values in weights.items():
        if name not in kinds:
            np.testing.assert_array_equal(values, before[name])
            continue
        read = gguf.quants.dequantize(
            read_blocks(bundle.path, name), gguf.GGMLQuantizationType[kinds[name].upper()]
        )  # fmt: skip
        np.testing.assert_array_equal(read, values)
        error = np.square(values - before[name]).sum() / np.square(before[name]).sum()
        assert 0 < error < 0.02
    entry = bundle.card["stages"][-1]
    assert entry["code_bytes"] == sum(read_blocks(bundle.path, name).nbytes for name in kinds)
    assert (bundle.path / CODES_FILE).is_file() and bundle.card["engine"] == "torch_lm"


def test_each_method_is_nearer_than_the_one_before(
    made: Callable[..., Bundle], loud: Bundle, text_work: Callable[..., Work], tmp_path: Path
) -> None:
    others = calibration_rows(loud, text_work(tmp_path / "x"), 40, 48, seed=5)
    far = [
        divergence(loud, made(**settings), others)
        for settings in (
            {"types": "mxfp4", "method": "round"},
            {"types": "mxfp4", "method": "gptq", **FEW},
            TUNED,
        )
    ]
    assert far[1] < 0.9 * far[0] and far[2] < 0.95 * far[1], far
    tuning = made(**TUNED).card["stages"][-1]["tuning"]
    assert tuning["kept"] and tuning["kl_after"] < tuning["kl_before"] and tuning["changed_codes"] > 0


def test_scales_are_learned_too(made: Callable[..., Bundle], loud: Bundle) -> None:
    tuned = made(types="q4_1", method="tuned", tuning_tokens=4000, tuning_batch=192, **FEW)
    plain = made(types="q4_1", method="gptq", **FEW)
    for name in read_types(tuned.path):
        one, other = (read_blocks(bundle.path, name).reshape(-1, 20) for bundle in (tuned, plain))
        assert (one[:, :2] != other[:, :2]).any() and (one[:, 2:4] != other[:, 2:4]).any()


def test_layers_one_after_the_other(made: Callable[..., Bundle]) -> None:
    one, other = made(types="q4_0", method="gptq", **FEW), made(types="q4_0", method="gptq", sequential=True, **FEW)
    names = [name for name in read_types(one.path) if ".layers.0." in name]
    same = {name: np.array_equal(*(read_blocks(each.path, name) for each in (one, other))) for name in names}
    assert same[next(name for name in names if "q_proj" in name)]
    assert not same[next(name for name in names if "down_proj" in name)]


def test_bits_choose_types(made: Callable[..., Bundle]) -> None:
    for bits, name in ((9.0, "q8_0"), (5.0, "q4_1"), (4.5, "iq4_nl"), (4.25, "mxfp4"), (3.0, "mxfp4")):
        assert set(read_types(made(method="round", bits=bits).path).values()) == {name}


def test_it_goes_on_where_it_was_stopped(
    loud: Bundle, text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, given = Quantize(types="q4_0", method="gptq", **FEW), text_work(tmp_path / "made")
    real, done = _layers._collected, list[int]()

    def stopping(visit: Any, *others: Any, **named: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(visit.index)
        return real(visit, *others, **named)

    monkeypatch.setattr(_layers, "_collected", stopping)
    with pytest.raises(KeyboardInterrupt):
        stage.run(loud, given)
    assert not (tmp_path / "made").exists() and (given.scratch / "block-000.safetensors").is_file()
    done.clear()

    def counting(visit: Any, *others: Any, **named: Any) -> Any:
        done.append(visit.index)
        return real(visit, *others, **named)

    monkeypatch.setattr(_layers, "_collected", counting)
    stopped = stage.run(loud, given)
    assert done and 0 not in done
    monkeypatch.undo()
    whole = stage.run(loud, text_work(tmp_path / "whole"))
    for name in read_types(whole.path):  # the same, a rounding aside: BLAS sums in an order of its own each time
        assert (read_blocks(stopped.path, name) == read_blocks(whole.path, name)).mean() > 0.99, name
    assert not given.scratch.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"types": "q4_2"}, "Did you mean"),
        ({"types": "q4_0,down_prj=q8_0"}, "Did you mean 'down_proj'"),
        ({"types": "down_proj=q8_0"}, "a type for all weights first"),
        ({"types": "q4_0,q_proj=q3_k"}, "whose blocks divide rows of"),
        ({"bits": 2.0}, "2.625 bits per weight or more"),
    ],
)
def test_types_that_cannot_be_are_said(
    settings: dict[str, Any], message: str, loud: Bundle, text_work: Callable[..., Work], tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match=message):
        Quantize(method="round", **settings).run(loud, text_work(tmp_path / "made"))
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_be_are_said() -> None:
    for settings, message in (
        ({"method": "gtpq"}, "Did you mean 'gptq'"),
        ({"bits": 0.0}, "bits must be a number above 0"),
        ({"samples": 0}, "samples must be 1 or more"),
        ({"minutes": 0.0}, "minutes must be a number above 0"),
    ):
        with pytest.raises(HalfpintError, match=message):
            Quantize(**settings)  # type: ignore[arg-type]


def test_what_is_quantised_is_not_quantised_again(
    made: Callable[..., Bundle], text_work: Callable[..., Work], tmp_path: Path
) -> None:
    with pytest.raises(HalfpintError, match="got one that is quantised already"):
        Quantize(method="round").run(made(method="round", types="q4_0"), text_work(tmp_path / "made"))
    assert "quantized" not in Quantize.needs


@pytest.mark.parametrize("kind", ["language", "pulled", "narrow", "slim", "shallow"])
def test_shapes_are_known_without_the_weights(kind: str, bundles: Callable[[str], Bundle]) -> None:
    empty, whole = empty_model(bundles(kind).path), load_model(bundles(kind).path, "causal")
    assert all(one.is_meta for one in empty.parameters())
    assert [replace(one, module=None) for one in matrices_of(empty)] == [
        replace(one, module=None) for one in matrices_of(whole)
    ]
    assert sum(one.numel() for one in empty.parameters()) == sum(one.numel() for one in whole.parameters())


def test_too_little_memory_is_told_before_the_model_is_loaded(
    bundles: Callable[[str], Bundle], text_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "memory_bytes", lambda: 100_000)
    monkeypatch.setattr(quantize, "load_model", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(HalfpintError, match="GiB of memory"):
        Quantize(method="round").run(bundles("language"), text_work(tmp_path / "made"))
    monkeypatch.setattr(quantize, "memory_bytes", lambda: 0)  # where the system does not tell
    Quantize(method="round").check_memory(bundles("language"))
