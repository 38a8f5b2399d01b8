"""What Linformer and linformer-causal cost against full attention of the same width, 512 to 16,384 tokens.

    python benchmarks/linformer.py [--longest 16384]

Two layers of width 256 with 4 heads, fp32, one row, without an output layer over a vocabulary, so that what is compared
is what a length costs; k = 256 for Linformer (layerwise), and chunks of 128 with 8 projected keys for linformer-causal
(256 in all at 4,096 tokens). Peers of the same shape: BERT and Llama of transformers, with PyTorch's fused attention
("sdpa", which keeps no probabilities) and with attention written out ("eager", as in the paper's comparison). Each
figure is from a fresh process with one thread: the least processor time of its steps, which other work on the machine
disturbs little, and how far the process grew in the first step beyond the model that it had made. What would take more
memory than `MOST_BYTES` is left out, and said.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from harness import write

from halfpint.models.architectures import need_transformers

LAYERS, WIDTH, HEADS, INNER, VOCABULARY, K, CHUNK, K_CHUNK = 2, 256, 4, 1024, 1000, 256, 128, 8
LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384)
MOST_BYTES = 7e9
STEPS, SHORT = 3, 4096  # steps of each up to so many tokens; a longer one has a single step
MODELS = {
    "linformer": ("linformer", "sdpa"), "bert, sdpa": ("bert", "sdpa"), "bert, eager": ("bert", "eager"),
    "linformer-causal": ("linformer_causal", "sdpa"), "llama, sdpa": ("llama", "sdpa"),
    "llama, eager": ("llama", "eager"),
}  # fmt: skip
PEERS = {"linformer": ("bert, sdpa", "bert, eager"), "linformer-causal": ("llama, sdpa", "llama, eager")}


def main() -> None:
    """Measure all of them, write results/linformer.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--one", nargs=3)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one[0], given.one[1], int(given.one[2]))))
        return
    lengths = [length for length in LENGTHS if length <= given.longest]
    found: dict[str, Any] = {}
    for length in lengths:
        for name in MODELS:
            for what in ("training", "inference"):
                found.setdefault(name, {}).setdefault(what, {})[length] = in_its_own_process(name, what, length)
                print(f"  {length} {name} {what}: {found[name][what][length]}", flush=True)
        keep(found, [one for one in lengths if one <= length])  # so far


def keep(found: dict[str, Any], lengths: list[int]) -> None:
    """Write what was measured."""
    shape = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "inner": INNER, "k": K, "chunk": CHUNK,
             "k_of_a_chunk": K_CHUNK, "rows": 1, "threads": 1, "clock": "processor time"}  # fmt: skip
    write("linformer", {"shape": shape, "costs": found, "times_less": ratios(found, lengths)})


def in_its_own_process(name: str, what: str, length: int) -> dict[str, Any]:
    """Seconds and bytes of a step, or why there are none."""
    if MODELS[name][1] == "eager":
        kept = LAYERS * 3 if what == "training" else 3
        needed = kept * 4 * HEADS * length**2
        if needed > MOST_BYTES:
            return {"left_out": f"would take about {needed / 1e9:.0f} GB"}
    order = [sys.executable, str(Path(__file__)), "--one", name, what, str(length)]
    done = subprocess.run(order, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(name: str, what: str, length: int) -> dict[str, Any]:
    """The figures of one model at one length, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = made(*MODELS[name], length)
    ids = torch.randint(0, VOCABULARY, (1, length))

    def train() -> None:
        model(input_ids=ids).last_hidden_state.square().mean().backward()
        model.zero_grad(set_to_none=True)

    def read() -> None:
        with torch.inference_mode():
            model(input_ids=ids)

    step = train if what == "training" else read
    model.train(what == "training")
    gc.collect()
    before = held_bytes()
    taken: list[float] = []
    grown = 0
    for _ in range(STEPS if length <= SHORT else 1):
        started = time.process_time()
        step()
        taken.append(time.process_time() - started)
        grown = grown or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"seconds": round(min(taken), 5), "steps": len(taken), "bytes": grown}


def made(model_type: str, attention: str, length: int) -> Any:
    """A model without an output layer, with random weights."""
    auto = need_transformers("this benchmark")
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "max_position_embeddings": length,
    }  # fmt: skip
    settings |= {
        "linformer": {"projection_length": K},
        "linformer_causal": {"chunk_length": CHUNK, "projection_length": K_CHUNK, "use_cache": False},
        "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "llama": {"num_key_value_heads": HEADS, "use_cache": False},
    }[model_type]
    config = auto.AutoConfig.for_model(model_type, **settings)
    return auto.AutoModel.from_config(config, attn_implementation=attention)


def held_bytes() -> int:
    """Memory that this process has now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def ratios(found: dict[str, Any], lengths: list[int]) -> dict[str, Any]:
    """How many times less time and memory ours take than each peer; nothing where the peer was left out."""
    out: dict[str, Any] = {}
    for name, peers in PEERS.items():
        for peer in peers:
            for what in ("training", "inference"):
                for length in lengths:
                    own, other = found[name][what][length], found[peer][what][length]
                    if "seconds" in other:
                        pair = {one: round(other[one] / own[one], 2) for one in ("seconds", "bytes")}
                        out.setdefault(f"{name} against {peer}", {}).setdefault(what, {})[length] = pair
    return out


if __name__ == "__main__":
    main()
