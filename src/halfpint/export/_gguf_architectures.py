"""How transformers' models read in llama.cpp: hyperparameters by its names, tensors by its names and in its layout.

Sources: ggml-org/ggml, docs/gguf.md; the names of tensors are those of the package gguf. Llama's rotary layout: there
transformers turns the halves of a head (x_i with x_{i + d/2}), llama.cpp neighbours (x_{2i} with x_{2i + 1}), so the
rows of q and k are put in another order (J. Su et al., "RoFormer", 2021, section 3.2.2, is the layout of neighbours).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, SettingError

Array = npt.NDArray[np.float32]
_TURNED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


@dataclass(frozen=True)
class Architecture:
    """How one architecture is written.

    Attributes:
        name: llama.cpp's.
        layout: a tensor in llama.cpp's layout, from its name in transformers, its values and the configuration.
        fused: of the end of a tensor's name, the ends of the names of the tensors that its rows are divided among.
    """

    name: str
    layout: Callable[[str, Array, Any], Array]
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that `layout` gives a tensor of `shape`."""
        return shape[::-1] if self.layout is _rows_out and name.endswith(_TURNED) else shape


def _as_it_is(name: str, values: Array, config: Any) -> Array:
    return values


def _neighbours(name: str, values: Array, config: Any) -> Array:
    """q and k with the two halves of each head's rows taken by turns."""
    kind = name.split(".")[-2]
    if kind not in ("q_proj", "k_proj"):
        return values
    heads = config.num_attention_heads if kind == "q_proj" else config.num_key_value_heads
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _norms_from_one(name: str, values: Array, config: Any) -> Array:
    """Gemma's norms are kept as their difference from 1."""
    return values + np.float32(1) if name.endswith("norm.weight") else values


def _rows_out(name: str, values: Array, config: Any) -> Array:
    """GPT-2's matrices are kept as (in, out)."""
    return np.ascontiguousarray(values.T) if name.endswith(_TURNED) else values


ARCHITECTURES = {
    "llama": Architecture("llama", _neighbours),
    "mistral": Architecture("llama", _neighbours),
    "qwen2": Architecture("qwen2", _as_it_is),
    "qwen3": Architecture("qwen3", _as_it_is),
    "phi3": Architecture("phi3", _as_it_is),
    "gemma": Architecture("gemma", _norms_from_one),
    "gemma2": Architecture("gemma2", _norms_from_one),
    "gemma3_text": Architecture("gemma3", _norms_from_one),
    "openelm": Architecture("openelm", _as_it_is, {".ffn.proj_1.weight": ("ffn_gate.weight", "ffn_up.weight")}),
    "gpt2": Architecture("gpt2", _rows_out),
}


def need_known(model_type: str, place: str) -> None:
    """Refuse an architecture that is written in no way.

    Raises:
        HalfpintError: with those that are.
    """
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise HalfpintError(
            place, wanted=f"an architecture of {known}", got=model_type,
            todo="Train one of these, or export to another format.",
            said=f"{place}: GGUF files of the architecture {model_type} cannot be written here; they can of {known}.",
        )  # fmt: skip


def architecture_of(config: Any, place: str) -> Architecture:
    """How a model of `config` is written.

    Raises:
        HalfpintError: it is of none of these architectures, or has a setting that llama.cpp has no place for.
    """
    need_known(config.model_type, place)
    if config.model_type in ("gpt2", "openelm"):
        return ARCHITECTURES[config.model_type]
    head = _head(config)
    partial = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor") or 1
    wanted: dict[str, tuple[bool, str]] = {
        "head_dim": (head % 2 == 0, "an even number"),
        "hidden_act": (_activation(config) in ("silu", "gelu_pytorch_tanh"), "silu, or gelu_pytorch_tanh in gemma"),
        "use_sliding_window": (not getattr(config, "use_sliding_window", False), "False"),
        "partial_rotary_factor": (partial == 1, "1"),
        "sliding_window": (config.model_type != "mistral" or config.sliding_window is None, "none"),
        "query_pre_attn_scalar": (
            getattr(config, "query_pre_attn_scalar", head) == head,
            f"the size of a head, {head}",
        ),
    }
    for name, (fits, told) in wanted.items():
        if not fits:
            raise SettingError(f"{place}: {name}", wanted=told, got=str(getattr(config, name, head)))
    return ARCHITECTURES[config.model_type]


def write_hyperparameters(writer: Any, config: Any, place: str) -> None:
    """Width, depth, heads, positions and norms, into a gguf.GGUFWriter."""
    writer.add_vocab_size(config.vocab_size)
    context = config.max_position_embeddings
    if config.model_type == "phi3" and config.sliding_window:
        context = min(context, config.sliding_window)  # llama.cpp lets Phi-3 see all: up to here it is the same
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    if config.model_type == "openelm":  # each layer has its own
        _write_by_layer(writer, config)
        return
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head = _head(config)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    ropes = dict(config.rope_parameters)
    if "full_attention" in ropes:  # Gemma: other angles where the attention slides
        writer.add_rope_freq_base_swa(ropes["sliding_attention"]["rope_theta"])
        ropes = dict(ropes["full_attention"])
    writer.add_rope_freq_base(ropes["rope_theta"])
    if config.model_type == "gemma2":
        writer.add_sliding_window(config.sliding_window)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping or 0.0)
        writer.add_final_logit_softcapping(config.final_logit_softcapping or 0.0)
        by_turns = [("sliding_attention", "full_attention")[number % 2] for number in range(config.num_hidden_layers)]
        if list(config.layer_types) != by_turns:
            raise HalfpintError(
                f"{place}: layer_types", wanted="sliding and full attention by turns, as llama.cpp has it",
                got=", ".join(config.layer_types),
            )  # fmt: skip
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
        full = [number for number, kind in enumerate(config.layer_types) if kind == "full_attention"]
        if full != [number for number in range(config.num_hidden_layers) if number % 6 == 5]:
            raise HalfpintError(
                f"{place}: layer_types", wanted="full attention in each sixth layer, as llama.cpp has it",
                got=f"in the layers {', '.join(map(str, full))}",
            )  # fmt: skip
    kind = ropes.get("rope_type", "default")
    if kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(ropes["factor"])
    elif kind not in ("default", "llama3"):
        raise SettingError(f"{place}: rope_parameters", wanted="rope_type default, linear or llama3", got=str(kind))


def _write_by_layer(writer: Any, config: Any) -> None:
    """The numbers of an OpenELM, whose layers differ; its angles and norms are those of all such models."""
    writer.add_head_count(config.num_query_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_feed_forward_length(config.ffn_widths())
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(float(config.rope_freq_constant))


def rope_factors(config: Any) -> Array | None:
    """What llama.cpp divides each angle by, for Llama 3's scaled positions: float32 (head / 2,); None for others.

    Source: transformers, `_compute_llama3_parameters`; A. Grattafiori et al., "The Llama 3 Herd of Models", 2024.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    if ropes.get("rope_type") != "llama3":
        return None
    size = _head(config)
    frequencies = ropes["rope_theta"] ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    lengths = 2 * np.pi / frequencies
    low, high = ropes["low_freq_factor"], ropes["high_freq_factor"]
    smooth = (ropes["original_max_position_embeddings"] / lengths - low) / (high - low)
    between = 1 / ((1 - smooth) / ropes["factor"] + smooth)
    found = np.where(smooth >= 1, 1.0, np.where(smooth <= 0, ropes["factor"], between))
    return found.astype(np.float32)


def _head(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", ""))
