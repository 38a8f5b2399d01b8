"""Transformer-XL: training against the paper's own program, and reading with a memory against a window that slides.

    python benchmarks/transformer_xl.py [--original FOLDER] [--rounds 7]

FOLDER is `pytorch` of github.com/kimiyoung/transformer-xl (Dai et al. 2019); it is not part of this repository, and
without it only the reading is measured. Both train the same shape with the same weights on the same random tokens, in
turns: forward, backward, clipping and a step of Adam. The original runs as it is, but for two things that current
PyTorch asks for: masks of booleans, and some CUDA version to be named. Its losses are compared with ours first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import write

from halfpint.engines._reading import Reading, windows
from halfpint.models.quick_passes import quick_passes
from halfpint.models.transformer_xl import AdaptiveEmbedding, TransformerXLConfig, TransformerXLForCausalLM
from halfpint.train.loop import use_bf16

SHAPE = {"layers": 6, "heads": 8, "width": 256, "inner": 1024, "vocabulary": 33_278, "segment": 128, "memory": 128}
ROWS, CUTOFFS, CONTEXT = 8, (4_000, 16_000), 512


def main() -> None:
    """Measure both, write results/transformer_xl.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--original", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {"shape": SHAPE, "rows": ROWS, "cutoffs": CUTOFFS, "reading": reading(given.rounds)}
    if given.original:
        found["training"] = training(given.original, given.rounds)
    write("transformer_xl", found)


def config(**more: Any) -> TransformerXLConfig:
    """Ours, in the benchmark's shape."""
    held: dict[str, Any] = {
        "vocab_size": SHAPE["vocabulary"], "hidden_size": SHAPE["width"], "num_hidden_layers": SHAPE["layers"],
        "num_attention_heads": SHAPE["heads"], "intermediate_size": SHAPE["inner"],
        "max_position_embeddings": SHAPE["segment"], "mem_length": SHAPE["memory"], "cutoffs": CUTOFFS,
        "untie_biases": False,
    }  # fmt: skip
    return TransformerXLConfig(**{**held, **more})


def reading(rounds: int) -> dict[str, Any]:
    """Seconds a token of evaluation: segments with a memory, and windows that slide by one token."""
    model = TransformerXLForCausalLM(config(mem_length=CONTEXT, max_position_embeddings=CONTEXT)).eval()
    ids = torch.randint(0, SHAPE["vocabulary"], (1, 6 * CONTEXT))

    def with_memory() -> int:
        cache = None
        for start in range(0, ids.shape[1], CONTEXT):
            cache = model(input_ids=ids[:, start : start + CONTEXT], past_key_values=cache).past_key_values
        return ids.shape[1]

    def by_window() -> int:
        read = 0
        for start, end, first in list(windows(ids.shape[1], Reading(CONTEXT, 1)))[1:9]:
            model(input_ids=ids[:, start:end], use_cache=False, logits_to_keep=end - first)
            read += end - first
        return read

    speeds = in_turns({"memory": with_memory, "window": by_window}, rounds, torch.inference_mode)
    ratio = statistics.median(speeds["memory"]) / statistics.median(speeds["window"])
    return {"context": CONTEXT, "tokens_per_s": medians(speeds), "memory_times_window": ratio}


def training(original: Path, rounds: int) -> dict[str, Any]:
    """Tokens a second of training, theirs and ours, and how far the losses are apart."""
    torch.version.cuda = torch.version.cuda or "12.0"
    torch.Tensor.byte = torch.Tensor.bool  # type: ignore[method-assign]
    sys.path[:0] = [str(original), str(original / "utils")]
    import mem_transformer

    theirs = mem_transformer.MemTransformerLM(
        SHAPE["vocabulary"], SHAPE["layers"], SHAPE["heads"], SHAPE["width"], SHAPE["width"] // SHAPE["heads"],
        SHAPE["inner"], 0.0, 0.0, tie_weight=True, div_val=1, tie_projs=[False] * (len(CUTOFFS) + 1),
        tgt_len=SHAPE["segment"], ext_len=0, mem_len=SHAPE["memory"], cutoffs=list(CUTOFFS), attn_type=0,
    )  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02)
    ours = TransformerXLForCausalLM(config())
    copied(theirs, ours)
    ids = torch.randint(0, SHAPE["vocabulary"], (ROWS, 4 * SHAPE["segment"] + 1))
    segments = [
        (ids[:, start : start + SHAPE["segment"]], ids[:, start + 1 : start + SHAPE["segment"] + 1])
        for start in range(0, 4 * SHAPE["segment"], SHAPE["segment"])
    ]
    optimisers = {
        "original": torch.optim.Adam(theirs.parameters(), lr=1e-5),
        "ours": torch.optim.AdamW(ours.parameters(), lr=1e-5, weight_decay=0.0, fused=True),
    }  # fmt: skip
    losses: dict[str, list[float]] = {"original": [], "ours": []}

    def original_steps() -> int:
        memory: Any = ()
        for given, wanted in segments:
            found = theirs(given.t().contiguous(), wanted.t().contiguous(), *memory)
            memory = found[1:]
            step("original", theirs, found[0].mean())
        return ROWS * SHAPE["segment"] * len(segments)

    def our_steps(bf16: bool) -> Callable[[], int]:
        def run() -> int:
            memory = None
            for given, wanted in segments:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    found = ours.model(input_ids=given, memory=memory)
                    memory = found.memory
                    states = found.last_hidden_state.flatten(0, 1)
                    loss = ours.lm_head.loss(states, wanted.flatten())  # type: ignore[operator]
                step("ours", ours, loss)
            return ROWS * SHAPE["segment"] * len(segments)

        return run

    def step(name: str, model: Any, loss: Any) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimisers[name].step()
        optimisers[name].zero_grad(set_to_none=True)
        losses[name].append(float(loss.detach()))

    original_steps(), our_steps(False)()
    apart = max(abs(one - other) for one, other in zip(losses["original"], losses["ours"], strict=True))
    works: dict[str, Callable[[], int]] = {"original": original_steps, "ours_fp32": our_steps(False)}
    if use_bf16("auto"):
        works["ours_bf16"] = our_steps(True)
    with quick_passes(ours):
        speeds = in_turns(works, rounds, torch.enable_grad)
    found = medians(speeds)
    ratios = {name: speed / found["original"] for name, speed in found.items() if name != "original"}
    return {"tokens_per_s": found, "times_original": ratios, "first_losses_apart": apart}


def copied(theirs: Any, ours: Any) -> None:
    """Give ours the original's weights; its clusters stand in the opposite order in the first softmax."""
    with torch.no_grad():
        ours.model.biases.content.copy_(theirs.r_w_bias.flatten())
        ours.model.biases.position.copy_(theirs.r_r_bias.flatten())
        for own, other in zip(ours.model.layers, theirs.layers, strict=True):
            attention, feed = other.dec_attn, other.pos_ff
            parts = dict(zip(("q_proj", "k_proj", "v_proj"), attention.qkv_net.weight.chunk(3), strict=True))
            for name, weight in {**parts, "r_proj": attention.r_net.weight, "o_proj": attention.o_net.weight}.items():
                getattr(own.self_attn, name).weight.copy_(weight)
            own.attention_norm.load_state_dict(attention.layer_norm.state_dict())
            own.mlp["up_proj"].load_state_dict(feed.CoreNet[0].state_dict())
            own.mlp["down_proj"].load_state_dict(feed.CoreNet[3].state_dict())
            own.output_norm.load_state_dict(feed.layer_norm.state_dict())
        embedding: AdaptiveEmbedding = ours.model.embed_tokens
        sizes = [end - first for first, end in zip(embedding.ends, embedding.ends[1:], strict=False)]
        pairs = zip(
            theirs.word_emb.emb_layers[0].weight.split(sizes), theirs.crit.out_layers[0].bias.split(sizes), strict=True
        )
        for number, (table, bias) in enumerate(pairs):
            embedding.tables[number].weight.copy_(table)  # type: ignore[operator]
            ours.lm_head.biases[number].copy_(bias)
        ours.lm_head.clusters.weight.copy_(theirs.crit.cluster_weight.flip(0))
        ours.lm_head.cluster_bias.copy_(theirs.crit.cluster_bias.flip(0))


def in_turns(works: dict[str, Callable[[], int]], rounds: int, mode: Callable[[], Any]) -> dict[str, list[float]]:
    """Tokens a second of each, a round after the other; one more at first, for memory and kernels."""
    found: dict[str, list[float]] = {name: [] for name in works}
    with mode():
        for number in range(rounds + 1):
            for name, work in works.items():
                started = time.perf_counter()
                tokens = work()
                if number:
                    found[name].append(tokens / (time.perf_counter() - started))
    return found


def medians(speeds: dict[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in speeds.items()}


if __name__ == "__main__":
    main()
