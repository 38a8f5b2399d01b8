"""Transformer-XL: a causal language model that remembers the segment before, and tells places by their distance.

Source: Dai et al. 2019, "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context". Section 3.2: the
states of each layer for the last tokens read are its memory, which the next segment sees and no gradient goes into.
Section 3.3: attention by relative positions. Adaptive embeddings and softmax are those of `_adaptive_softmax`.

The memory of a first segment is empty, as in the paper's own program: nothing stands before it, and no zeros either.
Departures: layer norms may come before each block (`pre_norm`), which trains small models faster; documents that share
a row, and the memory, are kept apart where `sequence_ids` tell them. Without gradients the keys and values of the
memory stand for its states, which they are made of: the same numbers, and less to compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from transformers.utils import ModelOutput

from halfpint.models._adaptive_softmax import AdaptiveEmbedding, AdaptiveSoftmax
from halfpint.models._relative_attention import Biases, relative_attention

ARCHITECTURE = "transformer_xl"
_LARGE = 20_000  # tokens from which on a softmax in clusters saves time


class TransformerXLConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of a Transformer-XL.

    Args:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, head_dim: as usual.
        intermediate_size: of the feed-forward layers, which are ReLU networks as in the paper.
        max_position_embeddings: tokens of a segment; nothing in the weights depends on it.
        mem_length: tokens that are remembered of what was read before the segment; 0 remembers nothing.
        same_length: each token sees the last `mem_length` tokens, itself among them, wherever in a segment it stands.
        clamp_length: distances above it count as it; 0 leaves them.
        untie_biases: u and v for each layer, not one pair for all.
        pre_norm: layer norms before each block, and one at the end; the paper has them after.
        cutoffs: first token of each cluster of rarer tokens, for adaptive embeddings and softmax; empty has none.
        div_val: a cluster's embeddings are so many times narrower than those of the one before.
        tie_word_embeddings: the output layer has the weights of the embeddings; with cutoffs it always has.
        dropout, attention_dropout: of states, and of attention's probabilities.
    """

    model_type = ARCHITECTURE
    keys_to_ignore_at_inference = ("past_key_values", "memory")

    def __init__(
        self, vocab_size: int = 32768, hidden_size: int = 410, num_hidden_layers: int = 16,
        num_attention_heads: int = 10, head_dim: int | None = None, intermediate_size: int = 2100,
        max_position_embeddings: int = 256, mem_length: int = 256, same_length: bool = False, clamp_length: int = 0,
        untie_biases: bool = True, pre_norm: bool = False, cutoffs: Sequence[int] = (), div_val: int = 1,
        tie_word_embeddings: bool = True, dropout: float = 0.0, attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5, initializer_range: float = 0.02, use_cache: bool = True,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.intermediate_size, self.max_position_embeddings = intermediate_size, max_position_embeddings
        self.mem_length, self.same_length, self.clamp_length = mem_length, same_length, clamp_length
        self.untie_biases, self.pre_norm = untie_biases, pre_norm
        self.cutoffs, self.div_val = list(cutoffs), div_val
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.layer_norm_epsilon, self.initializer_range = layer_norm_epsilon, initializer_range
        self.use_cache = use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **{**tokens, **kwargs})

    @property
    def keys_seen(self) -> tuple[float, float]:
        """Keys that each token's attention goes over: the memory and the segment."""
        return float(self.mem_length), 1.0


@dataclass(frozen=True)
class Memory:
    """What was read before a segment.

    Attributes:
        states: what each layer was given for the last tokens read, without gradients: (rows, tokens, width) each.
        sequences: the document of each of these tokens: int64 (rows, tokens); -1 is padding.
    """

    states: tuple[torch.Tensor, ...]
    sequences: torch.Tensor


@dataclass
class TransformerXLOutput(ModelOutput):  # type: ignore[misc]
    """What the model gives.

    Attributes:
        loss: mean nats of a token, where labels were given.
        logits: (rows, length, vocabulary); with cutoffs they are log-probabilities.
        last_hidden_state: (rows, length, width).
        memory: for the next segment; None where `past_key_values` is it.
        past_key_values: the keys and values of the memory, for generation.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    memory: Memory | None = None
    past_key_values: Cache | None = None


class _Attention(nn.Module):
    """Attention to a segment and its memory, by relative positions."""

    def __init__(self, config: TransformerXLConfig, number: int) -> None:
        super().__init__()
        inner = config.num_attention_heads * config.head_dim
        self.heads, self.number, self.dropout = config.num_attention_heads, number, config.attention_dropout
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.r_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)
        if config.untie_biases:
            self.biases = Biases(inner)
        self._projected: tuple[Any, torch.Tensor] | None = None  # of the distances, as long as the weights stay

    def _of_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.reshape(*states.shape[:-1], self.heads, -1).transpose(-3, -2)

    def _distances(self, positions: torch.Tensor) -> torch.Tensor:
        weights = list(self.r_proj.parameters())
        if torch.is_grad_enabled() or any(weight.is_inference() for weight in weights):
            return self._of_heads(self.r_proj(positions))
        versions = [(weight.data_ptr(), weight._version, weight.dtype) for weight in weights]
        known = (versions, positions.shape, torch.is_autocast_enabled())
        if self._projected is None or self._projected[0] != known:
            self._projected = known, self._of_heads(self.r_proj(positions))
        return self._projected[1]

    def forward(
        self, states: torch.Tensor, before: torch.Tensor | None, cache: Cache | None, positions: torch.Tensor,
        biases: Biases | None, mask: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """Of states (rows, length, width), with those of the memory or a cache of its keys and values, as many."""
        queries = self._of_heads(self.q_proj(states))
        whole = states if before is None else torch.cat([before.to(states.dtype), states], 1)
        keys, values = self._of_heads(self.k_proj(whole)), self._of_heads(self.v_proj(whole))
        if cache is not None:
            keys, values = cache.update(keys, values, self.number)
        dropout = self.dropout if self.training else 0.0
        pair = (self.biases if biases is None else biases).of_heads(self.heads)
        found = relative_attention(queries, keys, values, self._distances(positions), pair, mask, dropout)
        return self.o_proj(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """Attention and a feed-forward network, each with its layer norm."""

    def __init__(self, config: TransformerXLConfig, number: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.self_attn = _Attention(config, number)
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(width, inner), "down_proj": nn.Linear(inner, width)})
        self.output_norm = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.dropout, self.pre_norm = nn.Dropout(config.dropout), config.pre_norm

    def forward(self, states: torch.Tensor, before: torch.Tensor | None, *more: Any) -> torch.Tensor:
        """Of states (rows, length, width) the next ones."""
        if self.pre_norm:
            before = None if before is None else self.attention_norm(before)
            states = states + self.dropout(self.self_attn(self.attention_norm(states), before, *more))
            return states + self._ff(self.output_norm(states))
        states = self.attention_norm(states + self.dropout(self.self_attn(states, before, *more)))
        return self.output_norm(states + self._ff(states))  # type: ignore[no-any-return]

    def _ff(self, states: torch.Tensor) -> torch.Tensor:
        found = self.dropout(nn.functional.relu(self.mlp["up_proj"](states)))
        return self.dropout(self.mlp["down_proj"](found))  # type: ignore[no-any-return]


class _Pretrained(PreTrainedModel):  # type: ignore[misc]
    config_class = TransformerXLConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _no_split_modules = ("_Layer",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Biases):
            nn.init.normal_(module.content, 0.0, self.config.initializer_range)
            nn.init.normal_(module.position, 0.0, self.config.initializer_range)


class TransformerXLModel(_Pretrained):
    """The layers, which give states."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        if config.cutoffs:
            self.embed_tokens: nn.Module = AdaptiveEmbedding(config.vocab_size, width, config.cutoffs, config.div_val)
        else:
            self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(_Layer(config, number) for number in range(config.num_hidden_layers))
        if not config.untie_biases:
            self.biases = Biases(config.num_attention_heads * config.head_dim)
        self.norm = nn.LayerNorm(width, config.layer_norm_epsilon) if config.pre_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.embed_tokens

    def _positions(self, seen: int, like: torch.Tensor) -> torch.Tensor:
        """Sines and cosines of the distances seen - 1 to 0: (seen, width). Source: section 3.3, after Vaswani 2017."""
        width = self.config.hidden_size
        distances = torch.arange(seen - 1, -1, -1, device=like.device, dtype=torch.float32)
        if self.config.clamp_length:
            distances.clamp_(max=self.config.clamp_length)
        rates = 10000.0 ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
        angles = distances[:, None] * rates
        return self.dropout(torch.cat([angles.sin(), angles.cos()], -1)[:, :width].to(like.dtype))  # type: ignore[no-any-return]

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        sequence_ids: torch.Tensor | None = None, memory: Memory | None = None, past_key_values: Cache | None = None,
        use_cache: bool | None = None, inputs_embeds: torch.Tensor | None = None, **_: Any,
    ) -> TransformerXLOutput:  # fmt: skip
        """The states of a segment that follows what is remembered.

        Args:
            input_ids: int64 (rows, length); or inputs_embeds, (rows, length, width), before they are scaled.
            attention_mask: (rows, length or more), 0 for padding; the last `length` belong to the segment.
            sequence_ids: int64 (rows, length): the document of each token, -1 for padding; none sees another.
            memory: what a segment before gave; past_key_values: the same as keys and values, for generation.
            use_cache: whether keys and values are kept where none are given.
        """
        given = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        states = self.dropout(given * self.config.hidden_size**0.5)
        rows, length = states.shape[:2]
        keeps = (self.config.use_cache if use_cache is None else use_cache) and self.config.mem_length
        cache = past_key_values if isinstance(past_key_values, Cache) else None
        if cache is None and keeps and memory is None and not torch.is_grad_enabled():
            cache = DynamicCache(config=_remembering(self.config))
        before = memory.sequences.shape[1] if memory is not None else 0 if cache is None else _kept(cache)
        own = _sequences(attention_mask, sequence_ids, rows, length, before)
        mask = self._mask(own, memory, before, length, states.device)
        positions = self._positions(before + length, states)
        biases = None if self.config.untie_biases else self.biases
        kept = []
        for number, layer in enumerate(self.layers):
            kept.append(states)
            held = None if memory is None else memory.states[number]
            states = layer(states, held, cache, positions, biases, mask)
        new = None if cache is not None or not self.config.mem_length else self._remembered(memory, kept, own)
        return TransformerXLOutput(last_hidden_state=self.dropout(self.norm(states)), memory=new, past_key_values=cache)

    def _mask(
        self, own: torch.Tensor | None, memory: Memory | None, before: int, length: int, device: torch.device
    ) -> torch.Tensor | None:
        """Which token of the segment sees which of the memory and the segment; None: all up to itself."""
        seen = before + length
        if own is None and memory is not None and bool((memory.sequences != 0).any()):
            own = torch.zeros(len(memory.sequences), length, dtype=torch.int64, device=device)
        if own is None and not self.config.same_length:
            return None
        places = torch.arange(seen, device=device)
        distance = places[before:, None] - places
        allowed = distance >= 0
        if self.config.same_length:
            allowed &= distance < max(self.config.mem_length, 1)
        if own is None:
            return allowed[None, None]
        whole = own
        if own.shape[1] < seen:
            earlier = memory.sequences if memory is not None else own.new_zeros(len(own), before)
            whole = torch.cat([earlier, own], 1)
        own = whole[:, before:]
        return (allowed & (own[:, :, None] == whole[:, None, :]))[:, None]

    def _remembered(self, memory: Memory | None, kept: list[torch.Tensor], own: torch.Tensor | None) -> Memory:
        """The last states of what was remembered and read."""
        most = self.config.mem_length
        rows, length = kept[0].shape[:2]
        own = torch.zeros(rows, length, dtype=torch.int64, device=kept[0].device) if own is None else own[:, -length:]
        if memory is None or length >= most:
            return Memory(tuple(one.detach()[:, -most:] for one in kept), own[:, -most:])
        states = [torch.cat([old, new.detach()], 1)[:, -most:] for old, new in zip(memory.states, kept, strict=True)]
        return Memory(tuple(states), torch.cat([memory.sequences, own], 1)[:, -most:])


class TransformerXLForCausalLM(_Pretrained, GenerationMixin):  # type: ignore[misc]
    """The layers and an output layer over the vocabulary, plain or adaptive."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers wants a dict)

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(config)
        self.model = TransformerXLModel(config)
        if isinstance(self.model.embed_tokens, AdaptiveEmbedding):
            self._tied_weights_keys = {}
            self.lm_head: nn.Module = AdaptiveSoftmax(self.model.embed_tokens)
        else:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Generation prepares no cache that would keep more than the memory: the model makes its own."""
        return False

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        return self.lm_head

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        sequence_ids: torch.Tensor | None = None, memory: Memory | None = None, past_key_values: Cache | None = None,
        use_cache: bool | None = None, inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None, logits_to_keep: int = 0, **_: Any,
    ) -> TransformerXLOutput:  # fmt: skip
        """Logits of a segment, as `TransformerXLModel.forward` has its states.

        Args:
            labels: int64 (rows, length), each at the place of its own token, -100 for none; logits are left out then
                where the softmax is adaptive.
            logits_to_keep: the last so many places get logits; 0: all.
        """
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, sequence_ids=sequence_ids, memory=memory,
            past_key_values=past_key_values, use_cache=use_cache, inputs_embeds=inputs_embeds,
        )  # fmt: skip
        states = found.last_hidden_state
        if labels is not None and isinstance(self.lm_head, AdaptiveSoftmax):
            found.loss = self.lm_head.loss(states[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return found  # type: ignore[no-any-return]
        found.logits = self.lm_head(states[:, -logits_to_keep:])
        if labels is not None:
            flat = found.logits[:, :-1].float().flatten(0, 1)
            found.loss = nn.functional.cross_entropy(flat, labels[:, 1:].flatten())
        return found  # type: ignore[no-any-return]


def _remembering(config: TransformerXLConfig) -> Any:
    """A configuration by which a cache keeps the last `mem_length` tokens of each layer."""
    return PreTrainedConfig(
        num_hidden_layers=config.num_hidden_layers, sliding_window=config.mem_length + 1,
        layer_types=["sliding_attention"] * config.num_hidden_layers,
    )  # fmt: skip


def _kept(cache: Cache) -> int:
    """Tokens that a cache holds."""
    layer = cache.layers[0] if cache.layers else None
    return int(layer.keys.shape[-2]) if layer is not None and layer.is_initialized else 0


def _sequences(
    attention_mask: torch.Tensor | None, sequence_ids: torch.Tensor | None, rows: int, length: int, before: int
) -> torch.Tensor | None:
    """The document of each token of the segment, and of a cache before it where a mask tells; None: one for all."""
    if sequence_ids is not None:
        return sequence_ids
    if attention_mask is None or attention_mask.ndim != 2 or attention_mask.shape[1] < length:
        return None
    own = attention_mask[:, -(before + length) :].long() - 1
    return own if bool((own < 0).any()) else None


def dial(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the size dial sets besides: norms before each block, and clusters of rare tokens in a large vocabulary."""
    vocabulary = int(settings["vocab_size"])
    large = vocabulary >= _LARGE
    return {"pre_norm": True, "cutoffs": [vocabulary // 8, vocabulary // 2] if large else []}


AutoConfig.register(ARCHITECTURE, TransformerXLConfig, exist_ok=True)
AutoModel.register(TransformerXLConfig, TransformerXLModel, exist_ok=True)
AutoModelForCausalLM.register(TransformerXLConfig, TransformerXLForCausalLM, exist_ok=True)
