"""`halfpint plan`: what is printed, what is in the JSON, and what is refused; no model is downloaded for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfpint import machine_speed
from halfpint.bundle import Bundle
from halfpint.commands import _before as before_module
from halfpint.commands import _plan as plan_module
from halfpint.machine_speed import MachineSpeed, identity, read_speed, speed_here, speed_kept
from halfpint.models.serving_cost import TYPES, LlamaSpeed
from halfpint.search import planner

torch = pytest.importorskip("torch", reason="plans need torch")
pytest.importorskip("transformers", reason="plans need transformers")

Typed = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SPEED = MachineSpeed(
    fp32_flops=2e11, bf16_flops=6e11, int8_ops=4e11, group_flops=1e11, values_per_s=8e8, memory_bytes_per_s=2e10,
    disk_write_bytes_per_s=2e8, disk_read_bytes_per_s=1e9, busy=0.0, load=0.0, taken=0.0, seconds=0.0, machine="one",
)  # fmt: skip
LLAMA = LlamaSpeed(prefill_ops=2e11, prefill_value_s=1e-10, decode_bytes_per_s=1e10, layer_s=1e-5)


@pytest.fixture(autouse=True)
def a_known_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose rates are known, so that measuring takes no time here; it is measured in tests of its own."""
    monkeypatch.setenv("HALFPINT_CACHE", str(tmp_path / "cache"))
    speed = replace(SPEED, taken=time.time())
    monkeypatch.setattr(plan_module, "speed_here", lambda folder, again: speed)
    monkeypatch.setattr(plan_module, "llama_here", lambda folder, machine, again: dict.fromkeys(TYPES, LLAMA))
    monkeypatch.setattr(planner, "speed_kept", lambda folder: speed)


def plan(typed: Typed, *words: object) -> dict[str, Any]:
    code, out, errors = typed("plan", *words, "--json")
    assert code == 0, errors
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_model_that_is_here(typed: Typed, bundles: Callable[[str], Bundle]) -> None:
    folder = bundles("language").path
    found = plan(typed, folder, "--data", EXAMPLES / "assistant.jsonl")
    assert found["model"]["is_here"] and found["download"]["bytes"] == 0 and found["fits"]
    assert found["task"] == "chat" and found["epochs"] == 3 and found["energy"] == "modelled"
    assert found["data"]["bytes"] == (EXAMPLES / "assistant.jsonl").stat().st_size and found["data"]["tokens"] > 0
    assert [one["kind"] for one in found["training"]] == ["full", "lora"]
    assert [one["type"] for one in found["serving"]] == list(TYPES)
    code, out, errors = typed("plan", folder)
    assert code == 0 and "measuring this machine" in errors
    for word in (
        "training adapters (LoRA)",
        "q4_0",
        "memory within 25%",
        "time within 35%",
        "All of it fits",
        "now on",
    ):
        assert word in out
    assert "\u00a0" not in out


def test_a_new_model_and_its_minutes(typed: Typed) -> None:
    found = plan(typed, "--size", "1M", "--tokens", "5M", "--minutes", "0.01")
    row = found["training"][0]
    assert len(found["training"]) == 1 and found["model"]["is_new"]
    assert row["seconds"] == 0.6 and row["tokens"] == 0 and row["minutes_for_all"] > 0.01
    _, out, _ = typed("plan", "--size", "1M", "--tokens", "5M", "--minutes", "0.01")
    assert "in 0.01 minutes: no training step; all of it takes about" in out
    whole = plan(typed, "--size", "1M", "--tokens", "5M")["training"][0]
    assert whole["tokens"] == 5e6 and whole["seconds"] == 60 * row["minutes_for_all"]
    more = plan(typed, "--size", "1M", "--tokens", "10M")["training"][0]
    assert more["seconds"] > 1.5 * whole["seconds"] and more["memory_bytes"] == whole["memory_bytes"]
    assert plan(typed, "--size", "1M", "--arch", "bert")["model"]["objective"] == "masked"


def test_without_a_model_it_says_what_the_machine_can_do(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = typed("plan")
    assert code == 0 and "What this machine can do" in out and "halfpint plan MODEL" in out
    monkeypatch.setattr("halfpint.search.planner.free_memory_bytes", lambda device: 2 * 2**30)
    found = plan(typed)
    able = [one["size"] for one in found["sizes"] if one["full"]["fits"]]
    assert "5M" in able and "4B" not in able
    assert able == [one["size"] for one in found["sizes"]][: len(able)], "the smaller ones"
    monkeypatch.setattr("halfpint.search.planner.free_memory_bytes", lambda device: 10**6)
    code, out, _ = typed("plan")
    assert code == 3 and "does not fit" in out


def test_a_model_of_the_catalogue_that_is_not_here(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(typed, "gemma-3-270m", "--task", "chat")
    assert found["model"]["parameters"] == 268_098_176 and not found["model"]["is_here"]
    assert found["download"]["bytes"] > 0 and found["download"]["disk_bytes"] > found["download"]["bytes"]
    monkeypatch.setattr("halfpint.search.planner.free_memory_bytes", lambda device: 2**30)
    code, out, _ = typed("plan", "gemma-3-270m")
    assert code == 0 and "training all weights" in out.rpartition("Does not fit this machine")[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("smollm2-135m-instrukt",), "Did you mean 'smollm2-135m-instruct'?"),
        (("gemma-3-270m", "--size", "30M"), "--size must be left out where a model is named"),
        (("gemma-3-270m", "--arch", "bert"), "--arch needs --size"),
        (("--size", "30Q"), "--size must be a number of 10k or more"),
        (("--size", "30M", "--arch", "lama"), "Did you mean 'llama'?"),
        (("all-minilm-l6-v2", "--task", "chat"), "is an encoder: it writes nothing"),
        (("gemma-3-270m", "--data", "nothing.txt"), "no file or folder nothing.txt"),
        (("gemma-3-270m", "--data", "owner/data"), "give --tokens"),
        (("--size", "1M", "--minutes", "-1"), "--minutes"),
    ],
)
def test_what_cannot_be_planned(typed: Typed, words: tuple[str, ...], said: str) -> None:
    code, out, errors = typed("plan", *words)
    assert (code, out) == (2, "") and said in " ".join(errors.split())


def test_the_machine_is_measured_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_speed, "_PARTS_S", dict.fromkeys(machine_speed._PARTS_S, 0.01))
    monkeypatch.setattr(machine_speed, "_READ_VALUES", 1 << 18)
    monkeypatch.setattr(machine_speed, "_DISK_BYTES", 1 << 22)
    monkeypatch.setattr(machine_speed, "busy_share", lambda: 0.0)
    first = speed_here(tmp_path)
    rates = ("fp32_flops", "bf16_flops", "group_flops", "values_per_s", "memory_bytes_per_s", "disk_write_bytes_per_s")
    assert all(getattr(first, name) > 0 for name in rates) and first.machine == identity()
    assert [one.name for one in tmp_path.iterdir()] == ["machine-speed.json"], "nothing else is left"
    assert speed_here(tmp_path) == first == speed_kept(tmp_path)
    assert speed_here(tmp_path, again=True) != first
    kept = speed_kept(tmp_path)
    assert kept is not None and read_speed(kept.as_json()) == kept
    assert kept.is_fresh(0.1, kept.taken + 60) and not kept.is_fresh(0.5, kept.taken + 60)  # it was not so busy then
    assert not kept.is_fresh(0.0, kept.taken + 86_400) and not kept.is_fresh(0.0, kept.taken - 60)
    assert not replace(kept, machine="another").is_fresh(0.0, kept.taken)
    for text in ("", "[]", "{}", '{"fp32_flops": "x"}', "[" * 100_000):
        (tmp_path / "machine-speed.json").write_text(text, encoding="utf-8")
        assert speed_kept(tmp_path) is None


def test_llama_cpp_is_measured_by_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    from halfpint.evaluate import llama_speed

    monkeypatch.setattr(llama_speed, "_PART_S", 0.001)
    monkeypatch.setattr(llama_speed, "_MADE", {"wide": (1, 256, 640), "narrow": (4, 64, 128)})
    found = llama_speed.llama_here(tmp_path, SPEED)
    assert set(found) == set(TYPES)
    assert all(one.prefill_ops > 0 and one.decode_bytes_per_s > 0 and one.layer_s >= 0 for one in found.values())
    assert llama_speed.llama_here(tmp_path, SPEED) == found
    busier = replace(SPEED, busy=0.9)
    assert llama_speed._kept(tmp_path / "llama-speed.json", busier) is None


def test_commands_say_what_they_will_take_and_refuse_what_does_not_fit(
    typed: Typed, bundles: Callable[[str], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table, out = bundles("language").path, EXAMPLES / "tickets.csv", tmp_path / "out"
    text = ("--text", "text", "--minutes", "0.00001", "--out", out)
    tiny = ("--size", "100K", "--vocab", "300", "--context", "32", "--as-it-is")
    for words in (
        ("pretrain", table, *tiny, *text), ("finetune", folder, table, "--task", "predict", *text),
        ("distil", folder, table, "--student", "layers=1", *text),
    ):  # fmt: skip
        code, _, errors = typed(*words, "--force")
        assert code == 0 and "forecast: " in errors and "all of the tokens take about" in errors, errors
    downloads: list[str] = []
    monkeypatch.setattr("halfpint.models.sources._from_index", lambda name, *_: downloads.append(name))
    monkeypatch.setattr("halfpint.models.sources._from_hub", lambda name, *_: downloads.append(name))
    monkeypatch.setattr("halfpint.train.budget.memory_bytes", lambda: 2**28)
    chats = EXAMPLES / "assistant.jsonl"
    for words in (
        ("finetune", "gemma-3-270m", chats), ("finetune", "gemma-3-270m", chats, "--lora"),
        ("compress", "gemma-3-270m", "--data", table, "--quantize", "4"),
        ("distil", "gemma-3-270m", table, "--student", "layers=2"), ("fit", table),
    ):  # fmt: skip
        code, _, errors = typed(*words, "--out", tmp_path / "no")
        said = " ".join(errors.split())
        assert code == 2 and "does not fit this machine" in said and "Nothing was downloaded" in said, said
        assert not (tmp_path / "no").exists()
    assert not downloads


def test_bytes_of_sources(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 100, encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(b"x" * 10)
    assert before_module.source_bytes([str(tmp_path / "a.txt")]) == 100
    assert before_module.source_bytes([str(tmp_path), str(tmp_path / "none")]) == 100 + 3 * 10
