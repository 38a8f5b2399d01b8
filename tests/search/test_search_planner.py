"""The planner: figures that can be worked out by hand, what grows with what, and what is refused before a download."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfpint.errors import HalfpintError
from halfpint.machine_speed import MachineSpeed
from halfpint.models import known_shape as known_module
from halfpint.models.known import Known
from halfpint.models.known_shape import Sized, known_shape, usual
from halfpint.models.serving_cost import (
    TYPES,
    LlamaSpeed,
    cache_bytes,
    decode_seconds,
    prefill_seconds,
    serving_bytes,
    weight_bytes,
)
from halfpint.models.shape import Shape, llama_like, shape_of, shape_of_config
from halfpint.models.sizes import new_model, resolve, size_dial
from halfpint.progress import Log
from halfpint.search import planner
from halfpint.search.planner import Asked, Room
from halfpint.train import forecast
from halfpint.train.forecast import Work

torch = pytest.importorskip("torch", reason="forecasts of training need torch")
transformers = pytest.importorskip("transformers", reason="shapes of models need transformers")

# The configuration of a published chat model of 135M parameters: 30 layers of 576, 9 heads of 64, 3 of them for keys.
SMALL = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
SPEED = MachineSpeed(
    fp32_flops=2e11, bf16_flops=6e11, int8_ops=4e11, group_flops=1e11, values_per_s=8e8, memory_bytes_per_s=2e10,
    disk_write_bytes_per_s=2e8, disk_read_bytes_per_s=1e9, busy=0.0, load=0.0, taken=0.0, seconds=0.0, machine="one",
)  # fmt: skip
LLAMA = LlamaSpeed(prefill_ops=2e11, prefill_value_s=0.0, decode_bytes_per_s=1e10, layer_s=1e-5)
ASKED = Asked(
    tokens=1e6, passes=1.0, minutes=0.0, context=256, step_tokens=4096, optimizer="adamw", bf16=False, evaluations=1,
    evaluation_tokens=4096, prompt=128, threads=2,
)  # fmt: skip
PLENTY = Room(memory=10**12, free=10**12, disk=10**13)
MIB = 2**20


def small() -> Shape:
    return shape_of_config(SMALL, "here")


def sized(parameters: int) -> Shape:
    layers, width, vocabulary = usual(parameters)
    return llama_like("llama", parameters=parameters, layers=layers, width=width, vocabulary=vocabulary)


def test_a_shape_is_counted_from_the_configuration_alone() -> None:
    shape = small()
    assert shape.parameters == 134_515_008 and shape.embeddings == 49_152 * 576 and shape.is_tied
    assert shape.body == 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)
    assert shape.others == 61 * 576  # two norms per layer, and the last one
    assert (shape.kv_heads, shape.head_width, shape.context, shape.objective) == (3, 64, 8192, "causal")
    rough = llama_like(
        "llama", parameters=134_515_008, layers=30, width=576, vocabulary=49_152, heads=9, kv_heads=3, inner=1536
    )
    assert rough.is_rough and rough.is_tied and rough.body == shape.body


def test_keys_and_values_by_hand() -> None:
    # Two (keys and values) x 30 layers x 3 heads x 64 values x 2 bytes: 23,040 bytes a token.
    assert cache_bytes(small(), 1) == 23_040 and cache_bytes(small(), 2048) == 2048 * 23_040


def test_layers_with_a_window_keep_no_more_than_it() -> None:
    config = {
        "model_type": "gemma3_text", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 1, "sliding_window": 16,
        "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    }  # fmt: skip
    shape = shape_of_config(config, "here")
    assert (shape.keeping, shape.windowed, shape.window) == (6, 5, 16)
    a_token = 2 * 1 * 8 * 2  # keys and values, one head of 8, two bytes
    assert cache_bytes(shape, 10) == 6 * 10 * a_token and cache_bytes(shape, 100) == (5 * 16 + 100) * a_token


def test_what_a_token_sees_is_what_its_architecture_lets_it_see() -> None:
    """A Linformer's memory grows with the length as its k does, not with its square: a long context is not refused."""

    def shape(arch: str, context: int) -> Shape:
        settings, _ = size_dial(arch, 30_000_000, 4096, context)
        return shape_of(new_model(resolve(arch)[0], settings, meta=True))

    assert shape("llama", 512).keys_seen(512) == 512
    assert shape("transformer-xl", 512).keys_seen(512) == 2 * 512  # the memory and the segment
    assert shape("linformer", 16_384).keys_seen(16_384) == 256
    causal = shape("linformer-causal", 16_384)
    assert causal.keys_seen(16_384) == 2 * 128 + 16 * 128  # two chunks, and 16 of each of the 128 chunks
    work = Work(rows=1, context=16_384, step_tokens=16_384)
    projected, full = (forecast.training_bytes(shape(arch, 16_384), work) for arch in ("linformer", "bert"))
    assert projected < 24e9 < full


def test_bytes_of_weights_by_type() -> None:
    shape = small()
    found = {kind: weight_bytes(shape, kind) for kind in TYPES}
    text = 24 * shape.vocabulary
    assert found["fp32"] == 4 * shape.parameters + text
    assert found["q8_0"] == int((shape.body + shape.embeddings) * 34 / 32) + 4 * shape.others + text
    assert abs(found["q4_0"] - 91.7e6) < 1.5e6, "the file that is written is 91.7 MB"
    assert abs(found["q4_1"] - 98.4e6) < 1.5e6, "the file that is written is 98.4 MB"
    assert found["q4_0"] < found["q4_1"] < found["q8_0"] < found["bf16"] < found["fp32"]
    assert all(serving_bytes(shape, kind, 512) < serving_bytes(shape, kind, 8192) for kind in TYPES)


def test_states_of_the_optimiser_by_hand() -> None:
    shape = small()
    work = Work(rows=1, context=8, trained=shape.parameters, head_trained=False)
    all_trained = forecast.training_bytes(shape, work)
    frozen = forecast.training_bytes(shape, replace(work, trained=0, trained_matrices=0))
    assert all_trained - frozen == 12 * shape.parameters  # a gradient and two moments in fp32
    muon = replace(work, trained=None, optimizer="muon")
    largest = max(number * rows * columns for number, rows, columns in shape.matrices)
    assert forecast.training_bytes(shape, muon) - all_trained == 7 * 4 * largest - 4 * shape.body
    in_bf16 = forecast.training_bytes(shape, replace(work, bf16=True))
    layer = forecast.layer_values(shape, 8) * shape.layers * 8
    head = 2 * shape.head - 2 * shape.head * 0
    chunk = 512 * shape.vocabulary * 4
    assert in_bf16 - all_trained == 2 * shape.parameters + head - 2 * layer - chunk


def test_adapters_take_less_than_all_weights_and_checkpoints_less_still() -> None:
    shape = small()
    work = Work(rows=4, context=256, step_tokens=4096)
    lora = forecast.with_adapters(work, shape, 16)
    assert lora.trained == sum(number * 16 * (rows + columns) for number, rows, columns in shape.matrices) == 4_884_480
    few = Work(rows=1, context=128, step_tokens=1024)
    assert forecast.training_bytes(shape, forecast.with_adapters(few, shape, 16)) < forecast.training_bytes(shape, few)
    for one in (work, lora):
        less = replace(one, checkpointing=True)
        assert forecast.training_bytes(shape, less) < forecast.training_bytes(shape, one)
        assert forecast.training_seconds(shape, less, SPEED) > forecast.training_seconds(shape, one, SPEED)


def test_the_model_itself_says_the_same_as_its_shape() -> None:
    from halfpint.train import budget

    config = transformers.AutoConfig.for_model(**{**SMALL, "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 16,
                                                  "num_attention_heads": 4, "num_key_value_heads": 2,
                                                  "intermediate_size": 96, "vocab_size": 512})  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    shape = shape_of(model)
    told = budget.memory_needed(model, 2, 32, chunked=True, checkpointing=False, bf16=True)
    assert told == forecast.training_bytes(shape, Work(rows=2, context=32, bf16=True))
    # 6 per weight of a matrix, the output layer included, and attention: 12 layers x heads x width x context / 2.
    wanted = 6 * (shape.body + shape.head) + 12 * 2 * 4 * 16 * 32 / 2
    assert budget.flops_per_token(model, "causal", 32, 1.0) == wanted


@pytest.mark.parametrize("free", [0, 10**9, 10**12])
def test_no_figure_is_negative_and_more_parameters_take_more(free: int) -> None:
    before: dict[str, float] = {}
    room = Room(memory=free, free=free, disk=free)
    for parameters in (10**6, 10**7, 10**8, 6 * 10**8, 4 * 10**9):
        shape = sized(parameters)
        for minutes in (0.0, 0.01, 10.0):
            asked = replace(ASKED, minutes=minutes)
            for lora in (False, True):
                row = planner.training(shape, asked, 4, SPEED, room, lora=lora)
                assert all(value >= 0 for value in row.values() if not isinstance(value, str)), row
                assert row["minutes_for_all"] > 0 and row["tokens_per_s"] > 0
                assert row["seconds"] <= 60 * minutes or not minutes
        now: dict[str, float] = {
            "memory": planner.training(shape, ASKED, 4, SPEED, room, lora=False)["memory_bytes"],
            "seconds": planner.training(shape, ASKED, 4, SPEED, room, lora=False)["seconds"],
            "decode": decode_seconds(shape, "q4_0", LLAMA, 128), "prefill": prefill_seconds(shape, LLAMA, 128),
            **{kind: serving_bytes(shape, kind, 512) for kind in TYPES},
        }  # fmt: skip
        assert all(now[name] > before[name] for name in before)
        before = now


def test_a_slower_machine_takes_longer() -> None:
    work = Work(rows=4, context=256, step_tokens=2048, optimizer="muon", bf16=True)
    usual_s = forecast.training_seconds(small(), work, SPEED)
    for name in ("bf16_flops", "group_flops", "values_per_s", "memory_bytes_per_s"):
        slower = replace(SPEED, **{name: getattr(SPEED, name) / 2})
        assert usual_s < forecast.training_seconds(small(), work, slower) < 2 * usual_s
    without = replace(SPEED, bf16_flops=0.0)  # it cannot multiply in bf16
    assert forecast.training_seconds(small(), work, without) > usual_s


def test_tokens_are_estimated_from_bytes() -> None:
    assert planner.tokens_of_bytes(0, 4096) == 0
    assert math.isclose(planner.tokens_of_bytes(3.3e6, 4096), 1e6)
    assert planner.tokens_of_bytes(1e6, 151_936) < planner.tokens_of_bytes(1e6, 4096)


def fact(**more: Any) -> Known:
    facts: dict[str, Any] = {
        "name": "large", "family": "Some", "kind": "language", "hub": "some/large", "parameters": 7 * 10**9,
        "exact": True, "model_type": "llama", "licence": "MIT", "context": 4096, "languages": (), "tasks": (),
        "ollama": "", "nim": "", "azure": "", "note": "", "sources": {},
        "shape": {"layers": 32, "width": 4096, "vocabulary": 128_000, "ffn": 14_336, "heads": 32, "kv_heads": 8},
    }  # fmt: skip
    return Known(**{**facts, **more})


def known_alone(monkeypatch: pytest.MonkeyPatch, one: Known) -> None:
    names = (one.name, one.hub.lower())
    monkeypatch.setattr(known_module, "known_models", lambda: {one.name: one})
    monkeypatch.setattr(known_module, "known_by", lambda name: one if name.lower() in names else None)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A model of 7B parameters that is in the catalogue alone."""
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "cache"))
    known_alone(monkeypatch, fact())
    return "large"


def test_what_does_not_fit_is_refused_before_a_download(large: str) -> None:
    little = Room(memory=8 * 2**30, free=8 * 2**30, disk=10**13)
    for use in ("train", "lora", "load"):
        with pytest.raises(HalfpintError, match=r"large \(7B parameters\) does not fit .* Nothing was downloaded"):
            planner.refuse_unfit(large, little, use)
    served = planner.refuse_unfit(large, little, "serve")  # in 4 bits it does
    assert served is not None and not served.is_here and served.download_bytes == 14 * 10**9
    assert planner.refuse_unfit("some/Large", PLENTY, "train") is not None  # by its name on the Hub too
    with pytest.raises(HalfpintError, match=r"does not fit this disk: it takes about 56\.0 GB, and 20\.0 GB are free"):
        planner.refuse_unfit(large, replace(PLENTY, disk=20 * 10**9), "train")


def test_an_unknown_name_is_told_the_nearest(large: str) -> None:
    with pytest.raises(HalfpintError, match=r"no model 'larg'.*Did you mean 'large'"):
        known_shape("larg")
    assert planner.refuse_unfit("larg", PLENTY, "train") is None  # whoever downloads it says so


def test_a_catalogue_that_tells_parameters_alone_is_said_to_be_rough(monkeypatch: pytest.MonkeyPatch) -> None:
    known_alone(monkeypatch, fact(parameters=10**8, shape={}))
    found = known_shape("large")
    assert found.shape.is_rough and "guessed" in found.source and abs(found.shape.body / 7e7 - 1) < 0.5


def test_a_folder_tells_its_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    found = known_shape(str(tmp_path))
    assert isinstance(found, Sized) and found.is_here and found.download_bytes == 0 and found.shape == small()
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": "llamma"}), encoding="utf-8")
    with pytest.raises(HalfpintError, match=r"config\.json of a language model"):
        known_shape(str(tmp_path))


def test_a_step_that_takes_longer_than_the_minutes_says_how_many_would_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = replace(SPEED, fp32_flops=1e9, bf16_flops=0.0, values_per_s=1e7)
    monkeypatch.setattr(planner, "speed_kept", lambda folder: slow)
    settings: dict[str, Any] = {
        "context": 256, "step_tokens": 4096, "optimizer": "adamw", "precision": "fp32", "tokens": 1e6
    }  # fmt: skip
    with pytest.raises(HalfpintError, match=r"--minutes 0.1 is too short for it.*Give --minutes \d{2,}"):
        planner.say_before("it", small(), Log(), minutes=0.1, **settings)
    assert not capsys.readouterr().err
    planner.say_before("it", small(), Log(), minutes=0.0, **settings)  # as long as it takes
    planner.say_before("it", sized(10**6), Log(), minutes=0.2, **settings)  # a step fits, not all of them
    said = capsys.readouterr().err
    assert said.count("forecast: it:") == 2 and "all of the tokens take about" in said and "(modelled)" in said


def test_llama_speed_is_solved_from_two_models() -> None:
    from halfpint.evaluate.llama_speed import Times, solved

    def times(size: float, weights: float, layers: int, values: int) -> Times:
        decode, prefill = size / 1e10 + layers * 2e-5, 2 * weights / 2e11 + values * 1e-9
        return Times(decode=decode, prefill=prefill, bytes=size, weights=weights, layers=layers, values=values)

    found = solved(times(5e7, 5e7, 1, 2048), times(1.8e7, 1.8e7, 24, 6144))
    assert math.isclose(found.decode_bytes_per_s, 1e10) and math.isclose(found.layer_s, 2e-5)
    assert math.isclose(found.prefill_ops, 2e11) and math.isclose(found.prefill_value_s, 1e-9)
    noisy = solved(replace(times(5e7, 5e7, 1, 2048), decode=1e-6), times(1.8e7, 1.8e7, 24, 6144))
    assert noisy.decode_bytes_per_s > 0 and noisy.layer_s >= 0  # a time that cannot be gives no negative rate
