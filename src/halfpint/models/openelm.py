"""OpenELM: a causal language model whose layers grow towards the output, with weights named as in Apple's models.

Source: Mehta et al. 2024, "OpenELM: An Efficient Language Model Family with Open Training and Inference Framework",
section 2.1: layer-wise scaling of the heads and of the feed-forward width; RMSNorm before each part and on queries and
keys; heads of keys and values that are shared by groups; SwiGLU; rotary positions; tied embeddings. The fields of the
configuration and the names of the tensors are those of `apple/OpenELM-270M` to `-3B`, which open without their code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ARCHITECTURE = "openelm"

_SCALED = (0.5, 4.0)  # feed-forward width over model width, of the first and the last layer, in Apple's models
_HEADS = (0.5, 1.0)  # likewise of the heads' total width


class OpenELMConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of an OpenELM.

    Args:
        vocab_size, max_context_length, num_transformer_layers, model_dim, head_dim: as their names say.
        qkv_multipliers: total width of the query heads over model_dim: one number, or those of the first and the last
            layer; num_query_heads, num_kv_heads: of each layer, where they are given.
        num_gqa_groups: query heads to one head of keys and values.
        ffn_multipliers: width inside the feed-forward layers over model_dim: one number, two, or one a layer.
        intermediate_size: their mean width, from which ffn_multipliers follow where those are not given.
        ffn_dim_divisor: the widths are multiples of it.
        ffn_with_glu, activation_fn_name, normalization_layer_name: True, swish and rms_norm, as in Apple's models.
        normalize_qk_projections: RMSNorm on queries and keys.
        share_input_output_layers: the output layer has the weights of the embeddings.
        rope_freq_constant: base of the rotary angles; rope_max_length: as Apple's files have it, read by nothing here.
    """

    model_type = ARCHITECTURE
    attribute_map = {  # noqa: RUF012 (as transformers wants it)
        "hidden_size": "model_dim", "num_hidden_layers": "num_transformer_layers",
        "max_position_embeddings": "max_context_length",
    }  # fmt: skip

    def __init__(
        self, vocab_size: int = 32000, max_context_length: int = 2048, num_transformer_layers: int = 12,
        model_dim: int = 2048, head_dim: int = 128, qkv_multipliers: float | Sequence[float] = 1.0,
        num_query_heads: Sequence[int] | None = None, num_kv_heads: Sequence[int] | None = None,
        num_gqa_groups: int = 1, ffn_multipliers: float | Sequence[float] | None = None,
        intermediate_size: int | None = None, ffn_with_glu: bool = True, ffn_dim_divisor: int = 256,
        activation_fn_name: str = "swish", normalization_layer_name: str = "rms_norm",
        normalize_qk_projections: bool = False, share_input_output_layers: bool | None = None,
        rope_freq_constant: int = 10000, rope_max_length: int = 4096, initializer_range: float = 0.02,
        tie_word_embeddings: bool = False, use_cache: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        known = ffn_with_glu and activation_fn_name in ("swish", "silu") and normalization_layer_name == "rms_norm"
        if not known:
            raise ValueError(
                "an OpenELM has gated feed-forward layers (swish) and rms_norm; this configuration has not"
            )
        self.vocab_size, self.max_context_length = vocab_size, max_context_length
        self.num_transformer_layers, self.model_dim, self.head_dim = num_transformer_layers, model_dim, head_dim
        self.num_gqa_groups, self.ffn_dim_divisor = num_gqa_groups, ffn_dim_divisor
        self.ffn_with_glu, self.activation_fn_name = ffn_with_glu, activation_fn_name
        self.normalization_layer_name, self.normalize_qk_projections = (
            normalization_layer_name,
            normalize_qk_projections,
        )
        self.rope_freq_constant, self.rope_max_length = rope_freq_constant, rope_max_length
        self.initializer_range, self.use_cache = initializer_range, use_cache
        self.share_input_output_layers = (
            tie_word_embeddings if share_input_output_layers is None else share_input_output_layers
        )
        self.qkv_multipliers = qkv_multipliers
        if num_query_heads is None:
            step = head_dim * num_gqa_groups
            num_query_heads = [
                _multiple(model_dim * share, step) // head_dim
                for share in _by_layer(qkv_multipliers, num_transformer_layers)
            ]
        self.num_query_heads = list(num_query_heads)
        self.num_kv_heads = list(num_kv_heads or [heads // num_gqa_groups for heads in self.num_query_heads])
        if ffn_multipliers is None:
            scale = 1.0 if intermediate_size is None else intermediate_size / model_dim / (sum(_SCALED) / 2)
            ffn_multipliers = 4.0 if intermediate_size is None else [scale * share for share in _SCALED]
        self.ffn_multipliers = _by_layer(ffn_multipliers, num_transformer_layers)
        self.intermediate_size = round(sum(self.ffn_widths()) / num_transformer_layers)
        tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        super().__init__(tie_word_embeddings=self.share_input_output_layers, **{**tokens, **kwargs})

    @property
    def num_attention_heads(self) -> int:
        """The most query heads that a layer has."""
        return max(self.num_query_heads)

    def ffn_widths(self) -> list[int]:
        """The width inside the feed-forward part of each layer."""
        return [_multiple(share * self.model_dim, self.ffn_dim_divisor) for share in self.ffn_multipliers]


def _multiple(value: float, step: int) -> int:
    """The multiple of `step` next to `value`, and not below 0.9 of it."""
    found = max(step, int(value + step / 2) // step * step)
    return found if found >= 0.9 * value else found + step


def _by_layer(shares: float | Sequence[float], layers: int) -> list[float]:
    """One share a layer: as they are, or on the line from the first of two to the second, to two places."""
    if isinstance(shares, int | float):
        return [float(shares)] * layers
    if len(shares) == layers and layers != 2:
        return [float(share) for share in shares]
    first, last = shares
    return [round(first + (last - first) * at / max(layers - 1, 1), 2) for at in range(layers)]


class OpenELMRMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last axis, in fp32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of the shape and type that it is given."""
        wide = hidden_states.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)


def apply_rotary_pos_emb(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys (rows, heads, length, width) turned by angles (rows, length, width), in halves."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def turned(states: torch.Tensor) -> torch.Tensor:
        first, second = states.chunk(2, -1)
        return states * cos + torch.cat([-second, first], -1) * sin

    return turned(q), turned(k)


class OpenELMAttention(nn.Module):
    """Attention of one layer, which has heads of its own number."""

    def __init__(self, config: OpenELMConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer_idx, config.head_dim
        self.queries, self.shared = config.num_query_heads[layer_idx], config.num_kv_heads[layer_idx]
        self.num_key_value_groups, self.is_causal, self.scaling = self.queries // self.shared, True, self.head_dim**-0.5
        heads = self.queries + 2 * self.shared
        self.qkv_proj = nn.Linear(config.model_dim, heads * self.head_dim, bias=False)
        norms = config.normalize_qk_projections
        self.q_norm = OpenELMRMSNorm(self.head_dim) if norms else nn.Identity()
        self.k_norm = OpenELMRMSNorm(self.head_dim) if norms else nn.Identity()
        self.out_proj = nn.Linear(self.queries * self.head_dim, config.model_dim, bias=False)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor | None, angles: tuple[torch.Tensor, torch.Tensor],
        cache: Cache | None,
    ) -> torch.Tensor:  # fmt: skip
        """Of states (rows, length, width) what their attention adds."""
        rows, length, _ = states.shape
        together = self.qkv_proj(states).view(rows, length, -1, self.head_dim).transpose(1, 2)
        queries, keys, values = together.split([self.queries, self.shared, self.shared], 1)
        queries, keys = apply_rotary_pos_emb(self.q_norm(queries), self.k_norm(keys), *angles)
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, sdpa_attention_forward)
        found, _ = attend(self, queries, keys, values, mask, dropout=0.0, scaling=self.scaling)
        return self.out_proj(found.reshape(rows, length, -1))  # type: ignore[no-any-return]


class OpenELMFeedForward(nn.Module):
    """Gate and value in one matrix, `proj_1`, and the way back, `proj_2`."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj_1, self.proj_2 = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of states (…, width) what it adds."""
        gate, value = self.proj_1(states).chunk(2, -1)
        return self.proj_2(nn.functional.silu(gate) * value)  # type: ignore[no-any-return]


class OpenELMDecoderLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Attention and feed-forward part, each after a norm and added to what came in."""

    def __init__(self, config: OpenELMConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn = OpenELMAttention(config, layer_idx)
        self.ffn = OpenELMFeedForward(config.model_dim, config.ffn_widths()[layer_idx])
        self.attn_norm, self.ffn_norm = OpenELMRMSNorm(config.model_dim), OpenELMRMSNorm(config.model_dim)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor | None, angles: tuple[torch.Tensor, torch.Tensor],
        cache: Cache | None,
    ) -> torch.Tensor:  # fmt: skip
        """The next states."""
        states = states + self.attn(self.attn_norm(states), mask, angles, cache)
        return states + self.ffn(self.ffn_norm(states))  # type: ignore[no-any-return]


class _Pretrained(PreTrainedModel):  # type: ignore[misc]
    config_class = OpenELMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ("OpenELMDecoderLayer",)


class OpenELMModel(_Pretrained):
    """The layers, which give states."""

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(OpenELMDecoderLayer(config, at) for at in range(config.num_transformer_layers))
        self.norm = OpenELMRMSNorm(config.model_dim)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.token_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Take others."""
        self.token_embeddings = value

    def _angles(self, positions: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the places: (rows, length, head width) each."""
        width = self.config.head_dim
        exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
        angles = positions[..., None].float() * float(self.config.rope_freq_constant) ** -exponents
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None, past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None, use_cache: bool | None = None, **_: Any,
    ) -> BaseModelOutputWithPast:  # fmt: skip
        """States (rows, length, width) of ids, or of embeddings; arguments as transformers' decoders have them."""
        states = self.token_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if (self.config.use_cache if use_cache is None else use_cache) and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            before = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(states.shape[1], device=states.device) + before)[None]
        mask = create_causal_mask(
            config=self.config, inputs_embeds=states, attention_mask=attention_mask, past_key_values=past_key_values,
            position_ids=position_ids,
        )  # fmt: skip
        angles = self._angles(position_ids, states)
        for layer in self.layers:
            states = layer(states, mask, angles, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(states), past_key_values=past_key_values)


class OpenELMForCausalLM(_Pretrained, GenerationMixin):  # type: ignore[misc]
    """The layers and an output layer over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "transformer.token_embeddings.weight"}  # noqa: RUF012 (a dict is asked for)

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.transformer = OpenELMModel(config)
        self.lm_head = nn.Linear(config.model_dim, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Take another."""
        self.lm_head = value

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None, past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None, labels: torch.Tensor | None = None,
        use_cache: bool | None = None, logits_to_keep: int = 0, **_: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        """Logits (rows, length, vocabulary); with labels, each at its own token's place, the mean loss in nats."""
        found = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache,
        )  # fmt: skip
        logits = self.lm_head(found.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=found.past_key_values)


def dial(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the size dial sets besides: heads that grow from half, shared ones in wide models, norms on both."""
    shared = 4 if settings["model_dim"] >= 8 * settings["head_dim"] else 1
    return {
        "qkv_multipliers": list(_HEADS), "num_gqa_groups": shared, "ffn_dim_divisor": 32,
        "normalize_qk_projections": True, "share_input_output_layers": True,
    }  # fmt: skip


AutoConfig.register(ARCHITECTURE, OpenELMConfig, exist_ok=True)
AutoModel.register(OpenELMConfig, OpenELMModel, exist_ok=True)
AutoModelForCausalLM.register(OpenELMConfig, OpenELMForCausalLM, exist_ok=True)
