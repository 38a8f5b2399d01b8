"""Pre-training on this machine: tokens a second and peak memory of loops with `transformers` and of halfpint's.

Two llama-like models: 8.4M parameters (vocabulary 8,192, width 256, 8 layers, 4 heads, 16 x 256 tokens a step) and 33M
(vocabulary 49,152, width 384, 8 layers, 6 heads, 8 x 512 tokens). The plain loop is what the documentation of
transformers shows: fp32, `model(input_ids, labels)`, `torch.optim.AdamW` with its defaults; the tuned loop adds
autocast to bfloat16, where the processor has it, and the fused AdamW. halfpint's is the loop of `halfpint pretrain`,
with AdamW as well. All start from the same weights and see the same tokens (of a made-up language in which each word
has a few usual followers), each in a fresh process, in turn.

    python benchmarks/pretrain_speed.py [--repeats 3] [--steps 6] [--case 8M] [--case 33M]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # what the halfpint command sets; the same for both

import numpy as np
from harness import write

CASES = {
    "8M": {"vocabulary": 8192, "width": 256, "heads": 4, "rows": 16, "context": 256},
    "33M": {"vocabulary": 49152, "width": 384, "heads": 6, "rows": 8, "context": 512},
}
LAYERS, RATE, FOLLOWERS = 8, 1e-3, 8
PEER, TUNED, OURS = "transformers", "transformers tuned", "halfpint"


def main() -> None:
    """Run all and write results/pretrain_speed.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--case", action="append", choices=CASES, default=None)
    parser.add_argument("--one", choices=(PEER, TUNED, OURS))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.case[0], given.steps)))
        return
    result = {}
    for case in given.case or CASES:
        runs: dict[str, list[dict[str, Any]]] = {PEER: [], TUNED: [], OURS: []}
        for repeat in range(given.repeats):
            for name, found in runs.items():
                command = [sys.executable, __file__, "--one", name, "--case", case, "--steps", str(given.steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                shown = f"{found[-1]['tokens_per_s']:,.0f} tokens/s, {found[-1]['peak_bytes'] / 2**30:.2f} GiB"
                print(f"  {repeat + 1}/{given.repeats} {case} {name}: {shown}", flush=True)
        result[case] = {**CASES[case], **compared(runs)}
    write("pretrain_speed", {"unit": "tokens/s", "steps": given.steps, "cases": result})


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of all, what they are to each other, and how far the losses are apart at most."""
    figures = {
        name: {key: statistics.median(run[key] for run in found) for key in ("tokens_per_s", "peak_bytes")}
        | {"values": [round(run["tokens_per_s"], 1) for run in found]}
        for name, found in runs.items()
    }
    theirs, ours = (np.array(runs[name][0]["losses"]) for name in (PEER, OURS))
    best = max(figures[name]["tokens_per_s"] for name in (PEER, TUNED))
    least = min(figures[name]["peak_bytes"] for name in (PEER, TUNED))
    return {
        "parameters": runs[OURS][0]["parameters"],
        "figures": figures,
        "speed_by_plain": round(figures[OURS]["tokens_per_s"] / figures[PEER]["tokens_per_s"], 2),
        "speed_by_best": round(figures[OURS]["tokens_per_s"] / best, 2),
        "memory_by_least": round(figures[OURS]["peak_bytes"] / least, 2),
        "losses": {PEER: theirs.round(4).tolist(), OURS: ours.round(4).tolist()},
        "loss_difference": round(float(np.abs(ours / theirs - 1).max()), 5),
    }


def text(case: str, steps: int) -> np.ndarray[Any, Any]:
    """Tokens of all steps, int64 of shape (steps, rows, context): a walk in which each word has a few followers."""
    shape = CASES[case]
    random = np.random.default_rng(0)
    vocabulary = shape["vocabulary"]
    followers = random.integers(0, vocabulary, size=(vocabulary, FOLLOWERS))
    tokens = np.empty((steps * shape["rows"], shape["context"]), dtype=np.int64)
    tokens[:, 0] = random.integers(0, 512, size=len(tokens))
    for place in range(1, shape["context"]):
        following = followers[tokens[:, place - 1], random.geometric(0.4, size=len(tokens)).clip(1, FOLLOWERS) - 1]
        anew = random.random(len(tokens)) < 0.3
        tokens[:, place] = np.where(anew, random.integers(0, 512, size=len(tokens)), following)
    return tokens.reshape(steps, shape["rows"], shape["context"])


def one(name: str, case: str, steps: int) -> dict[str, Any]:
    """One process' figures: the first step is not counted in the speed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from halfpint.machine import peak_memory_bytes

    shape = CASES[case]
    import torch

    torch.manual_seed(0)
    inner = round(shape["width"] * 8 / 3 / 16) * 16
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocabulary"], hidden_size=shape["width"], intermediate_size=inner,
            num_hidden_layers=LAYERS, num_attention_heads=shape["heads"], num_key_value_heads=shape["heads"],
            max_position_embeddings=shape["context"], tie_word_embeddings=True,
        )
    )  # fmt: skip
    tokens = text(case, steps)
    losses, ends = halfpint(model, tokens) if name == OURS else plain(model, tokens, tuned=name == TUNED)
    return {
        "tokens_per_s": tokens[1:].size / (ends[-1] - ends[0]),
        "peak_bytes": peak_memory_bytes(),
        "losses": losses,
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
    }


def plain(model: Any, tokens: Any, *, tuned: bool) -> tuple[list[float], list[float]]:
    """The loop that anyone would write, or one who knows the settings: losses, and when each step ended."""
    import torch

    from halfpint.train.loop import use_bf16

    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, **({"fused": True} if tuned else {}))
    low = tuned and use_bf16("auto")
    model.train()
    losses, ends = [], []
    for batch in tokens:
        ids = torch.from_numpy(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        ends.append(time.perf_counter())
    return losses, ends


def halfpint(model: Any, tokens: Any) -> tuple[list[float], list[float]]:
    """The loop of `train/pretrain` on the same batches."""
    import torch

    from halfpint.data.packing import IGNORED
    from halfpint.models.quick_passes import quick_passes
    from halfpint.stage import Work
    from halfpint.task import Split
    from halfpint.tasks.predict import TASK
    from halfpint.train.learner import Learner
    from halfpint.train.loop import Training, train
    from halfpint.train.plan import Plan
    from halfpint.train.rows import Part, part_rows

    learner = Learner(model, "causal", torch.device("cpu"))
    rows, context = tokens.shape[1:]
    at_once = part_rows(rows, context)

    def parts(step: int) -> Iterator[Part]:
        for start in range(0, rows, at_once):
            ids = tokens[step, start : start + at_once]
            labels = ids.copy()
            labels[:, 0] = IGNORED
            positions = np.tile(np.arange(context), (len(ids), 1))
            arrays = {"input_ids": ids, "labels": labels, "position_ids": positions, "sequence_ids": 0 * ids}
            yield Part(arrays, -(-rows // at_once) / (rows * (context - 1)))

    losses, ends = [], []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        ends.append(time.perf_counter())

    settings = Training(learning_rate=RATE, schedule="constant", warmup=0.0, clip_norm=0.0, weight_decay=0.01)
    plan = Plan(
        total=len(tokens), step=lambda step: (0, list(parts(step))), evaluate_every=len(tokens),
        size=lambda part: (len(part.arrays["input_ids"]), part.arrays["input_ids"].size),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name, quick_passes(model):
        nothing: Split[str] = Split(train=(), validation=())
        work = Work(
            target=Path(name) / "made", scratch=Path(name) / "scratch", task=TASK, split=nothing, labels=()
        )  # fmt: skip
        train(
            model, plan, lambda part: learner.loss(part.arrays, "sum") * part.share, lambda: 0.0, settings, work,
            on_step=on_step, checkpoint_every_s=1e9,
        )  # fmt: skip
    return losses, ends


if __name__ == "__main__":
    main()
