"""How fast llama.cpp is on this machine, by type of weights: two made-up models of each type are read and written with.

One has a wide layer, where time is that of memory and products; the other many narrow ones, where it is what each layer
takes besides. Their weights mean nothing; no model is downloaded for it. Times are means, as of `machine_speed`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from halfpint.errors import HalfpintError, need, need_installed
from halfpint.files import write_text
from halfpint.machine import cores
from halfpint.machine_speed import FRESH_S, SAME_LOAD, MachineSpeed
from halfpint.models.serving_cost import LlamaSpeed

_FILE = "llama-speed.json"
_KINDS = {"q4_0": "Q4_0", "q8_0": "Q8_0", "bf16": "F16", "fp32": "F32", "q4_1": "Q4_1"}
_MADE: Mapping[str, tuple[int, int, int]] = {"wide": (1, 2048, 5632), "narrow": (24, 256, 672)}
_VOCABULARY, _HEAD, _CONTEXT = 512, 64, 512
_PROMPT = 128  # tokens
_PART_S = 0.15  # for each figure
_ALL_S = 7.0  # where llama.cpp is held up by other programs, types are left out
_SCALE = 0.001  # of the made-up blocks


@dataclass(frozen=True)
class Times:
    """Of one made-up model: seconds of a token written and of one read; bytes, weights, layers, values of states."""

    decode: float
    prefill: float
    bytes: float
    weights: float
    layers: int
    values: int


def llama_here(folder: Path, machine: MachineSpeed, *, again: bool = False) -> dict[str, LlamaSpeed]:
    """Speeds by type: what is kept in `folder` where it is of the same machine, as busy and on the same day, else
    measured; nothing where llama.cpp is not installed.

    Args:
        folder: where it is kept.
        machine: how fast the machine is now.
        again: measure in any case.
    """
    file = folder / _FILE
    kept = None if again else _kept(file, machine)
    if kept is not None:
        return kept
    try:
        need_installed("xllamacpp", "measuring llama.cpp")
        need_installed("gguf", "measuring llama.cpp")
    except HalfpintError:  # a package that is missing is no reason not to plan
        return {}
    found = llama_speed()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        told = {"machine": machine.machine, "busy": machine.busy, "taken": time.time()}
        write_text(file, json.dumps({**told, "speeds": {name: vars(one) for name, one in found.items()}}) + "\n")
    return found


def llama_speed(threads: int = 0) -> dict[str, LlamaSpeed]:
    """Measure each type; those that time is not left for are worked out from q8_0, by their bytes.

    Args:
        threads: of the processor; 0 takes all.
    """
    found: dict[str, LlamaSpeed] = {}
    until = time.monotonic() + _ALL_S
    with TemporaryDirectory(prefix="halfpint-") as name:
        for kind, written in _KINDS.items():
            if found and time.monotonic() > until:
                found[kind] = found.get("q8_0") or next(iter(found.values()))
                continue
            times = {}
            for made, sizes in _MADE.items():
                file = Path(name) / f"{kind}-{made}.gguf"
                _write(file, written, *sizes)
                times[made] = _timed(file, sizes, threads or cores())
                file.unlink()
            found[kind] = solved(times["wide"], times["narrow"])
    return found


def solved(wide: Times, narrow: Times) -> LlamaSpeed:
    """Bytes per second and what a layer takes besides, from the times of both models.

    Each model's time is its bytes over the rate, and its layers times what each takes besides: two equations. Reading
    a prompt is so many weights by each, and so many values of states between them.
    """
    a, b = wide, narrow
    between = a.bytes * b.layers - b.bytes * a.layers
    per_byte = (a.decode * b.layers - b.decode * a.layers) / between
    if per_byte <= 0:
        per_byte = a.decode / a.bytes
    layer = max(0.0, (b.decode - b.bytes * per_byte) / b.layers)
    between = a.weights * b.values - b.weights * a.values
    per_weight = (a.prefill * b.values - b.prefill * a.values) / between
    if per_weight <= 0:
        per_weight = a.prefill / a.weights
    value = max(0.0, (b.prefill - b.weights * per_weight) / b.values)
    return LlamaSpeed(
        prefill_ops=2 / per_weight, prefill_value_s=value, decode_bytes_per_s=1 / per_byte, layer_s=layer
    )  # fmt: skip


def _timed(file: Path, sizes: tuple[int, int, int], threads: int) -> Times:
    """Read a prompt and write after it, again and again."""
    from halfpint.engines.llama_cpp import Sequences

    model = Sequences(file, threads, _CONTEXT)
    layers, width, inner = sizes
    read: list[float] = []
    prompt = 2
    model.logits([1] * 8, 7)
    until = time.perf_counter() + _PART_S
    while not read or time.perf_counter() < until:
        started = time.perf_counter()
        model.logits([prompt] * _PROMPT, _PROMPT - 1)
        read.append(time.perf_counter() - started)
        prompt = prompt % (_VOCABULARY - 2) + 1
    ids, count = [prompt] * 8, 0
    model.logits(ids, 7)
    started = time.perf_counter()
    while not count or (time.perf_counter() < started + _PART_S and len(ids) < _CONTEXT - 1):
        ids = [*ids, prompt]
        model.logits(ids, len(ids) - 1)
        count += 1
    written = (time.perf_counter() - started) / count
    weights = layers * (4 * width * width + 3 * width * inner) + _VOCABULARY * width
    return Times(
        decode=written, prefill=sum(read) / len(read) / _PROMPT, bytes=float(file.stat().st_size), weights=weights,
        layers=layers, values=layers * width,
    )  # fmt: skip


def _write(path: Path, kind: str, layers: int, width: int, inner: int) -> None:
    """A Llama of these sizes without a vocabulary, whose weights are one block over and over."""
    gguf = need("gguf", "measuring llama.cpp")
    type_ = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[type_]
    writer = gguf.GGUFWriter(path, "llama")
    try:
        writer.add_context_length(_CONTEXT)
        writer.add_embedding_length(width)
        writer.add_block_count(layers)
        writer.add_feed_forward_length(inner)
        writer.add_head_count(width // _HEAD)
        writer.add_head_count_kv(width // _HEAD)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(_HEAD)
        writer.add_vocab_size(_VOCABULARY)
        writer.add_tokenizer_model("no_vocab")
        one = np.ones(width, dtype=np.float32)

        def matrix(name: str, rows: int, columns: int) -> None:
            blocks = np.tile(_block(kind, size), rows * columns // block)
            writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=type_)

        matrix("token_embd.weight", _VOCABULARY, width)
        writer.add_tensor("output_norm.weight", one)
        for number in range(layers):
            of = f"blk.{number}."
            writer.add_tensor(f"{of}attn_norm.weight", one)
            writer.add_tensor(f"{of}ffn_norm.weight", one)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                matrix(f"{of}{name}.weight", width, width)
            for name in ("ffn_gate", "ffn_up"):
                matrix(f"{of}{name}.weight", inner, width)
            matrix(f"{of}ffn_down.weight", width, inner)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _block(kind: str, size: int) -> Any:
    """The bytes of one block: uint8 of shape (size,)."""
    if kind in ("F32", "F16"):
        return np.array([_SCALE], dtype=np.float32 if kind == "F32" else np.float16).view(np.uint8)
    found = np.full(size, 0x53, dtype=np.uint8)
    found[:2] = np.array([_SCALE], dtype=np.float16).view(np.uint8)
    if kind == "Q4_1":  # the offset stands after the scale
        found[2:4] = found[:2]
    return found


def _kept(file: Path, machine: MachineSpeed) -> dict[str, LlamaSpeed] | None:
    """What a file holds of this machine as it is now; None where it holds nothing such."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        fresh = (
            found["machine"] == machine.machine
            and abs(float(found["busy"]) - machine.busy) <= SAME_LOAD
            and 0 <= time.time() - float(found["taken"]) < FRESH_S
        )
        speeds = {name: LlamaSpeed(**one) for name, one in found["speeds"].items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return speeds if fresh and set(speeds) == set(_KINDS) else None
