"""The rows of test_architectures.py: one an architecture. A new one is a line here.

`Row.arch` is the `model_type`; `settings` are those of its configuration beside the vocabulary, as small as they come.
What an architecture cannot do, or does otherwise, is said in its row, and why:

- `kind`: "causal" writes on, "masked" fills gaps, "both" is an encoder with a decoder;
- `fixed`: the most tokens that it takes, where it cannot be given more;
- `writes`: whether it has `generate`;
- `padded`: the sides on which padding, with an attention mask, changes nothing;
- `without_gradient`: parts of names of parameters that get no gradient, each with the reason;
- `steps`, `rate`: what it takes to learn a short text by heart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 64
_HEADS = {"num_attention_heads": 4}
_PLAIN = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 64, **_HEADS,
    "tie_word_embeddings": True,
}  # fmt: skip
_SHARED = {**_PLAIN, "num_key_value_heads": 2}
_GEMMA = {**_SHARED, "head_dim": 8}
_LOCAL = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
_LLAMA = {"model_type": "llama", "vocab_size": VOCABULARY, **_SHARED, "pad_token_id": 0}


@dataclass(frozen=True)
class Row:
    """One architecture, and what is special about it."""

    arch: str
    settings: Mapping[str, Any]
    kind: str = "causal"
    fixed: int = 0
    writes: bool = True
    padded: tuple[str, ...] = ("right", "left")
    without_gradient: Mapping[str, str] = field(default_factory=dict)
    steps: int = 60
    rate: float = 1e-2


ROWS = (
    Row("llama", _SHARED),
    Row("gemma", _GEMMA),
    Row("gemma2", {**_GEMMA, **_LOCAL, "query_pre_attn_scalar": 8}),
    Row("gemma3_text", {**_GEMMA, **_LOCAL, "query_pre_attn_scalar": 8}),
    Row("qwen2", _SHARED),
    Row("qwen3", {**_SHARED, "head_dim": 8}),
    Row("phi3", _SHARED),
    Row("smollm3", {**_SHARED, "no_rope_layers": [1, 0]}),
    Row("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    Row("lfm2", {**_SHARED, "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]}),
    Row(
        "mamba2",
        {
            "hidden_size": 32,
            "expand": 2,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "state_size": 16,
            "num_hidden_layers": 2,
            "chunk_size": 8,
            "tie_word_embeddings": True,
        },
    ),
    Row("halfpint_factored", {"base": _LLAMA, "ranks": {"model.layers.0.mlp.up_proj": 4}}),
    Row("transformer_xl", {**_PLAIN, "mem_length": 64, "pre_norm": True, "cutoffs": [16, 40]}),
    Row(
        "openelm",
        {
            "model_dim": 32,
            "num_transformer_layers": 3,
            "head_dim": 8,
            "qkv_multipliers": [0.5, 1.0],
            "num_gqa_groups": 2,
            "ffn_multipliers": [0.5, 4.0],
            "ffn_dim_divisor": 8,
            "normalize_qk_projections": True,
            "share_input_output_layers": True,
            "max_context_length": 64,
        },
    ),
    Row(
        "linformer", {**_PLAIN, "projection_length": 16}, kind="masked", writes=False, fixed=64, padded=("right",)
    ),  # the projection has a column for each place, counted from the left
    Row(
        "linformer_causal", {**_PLAIN, "chunk_length": 4, "projection_length": 2}, padded=("right",)
    ),  # chunks are counted from the left
    Row("bert", _PLAIN, kind="masked", writes=False),
    Row(
        "modernbert",
        {**_PLAIN, "local_attention": 8, "layer_types": ["full_attention", "sliding_attention"]},
        kind="masked",
        writes=False,
    ),
    Row("t5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}, kind="both", padded=("right",)),
)
