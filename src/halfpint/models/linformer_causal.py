"""A causal language model, Linformer-inspired: exact attention near by, a few sums of keys and values for what is far.

The paper's projection mixes all places (`linformer`), so that it foretells nothing. Here a text is cut into chunks: a
token sees the tokens of its own chunk up to itself and those of the chunk before exactly, and of each finished chunk
before these `projection_length` projected keys and values. So no token moves what stands before it, and attention costs
n (2 c + n k / c) for chunks of c tokens instead of n n.

Keys are turned by their places (rotary embedding) before they are projected: turned by a chunk's own beginning, their
sum is the same for each chunk, so that it tells distances and there is no longest sequence.
Generation keeps the keys and values of at most two chunks, and k for each chunk before them.
Sources: Wang et al. 2020, "Linformer", section 4, for the projection; Su et al. 2021, "RoFormer", section 3.2.2, for
rotary embedding. The rest is as Llama has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from halfpint.models._low_rank import HEADWISE, LAYERWISE, Projection, check_sharing

ARCHITECTURE = "linformer_causal"
_CHUNKS, _LONGEST, _SHARE = 8, 128, 8  # where nobody says it: chunks of a context, their most tokens, and c / k

_Pair = tuple[torch.Tensor, torch.Tensor]


class LinformerCausalConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of a causal model with low-rank summaries.

    Args:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: as usual.
        max_position_embeddings: tokens that it is trained on at once; nothing in the weights depends on it.
        chunk_length: c, tokens of a chunk; 0 takes an eighth of the context, at most 128.
        projection_length: k, projected keys and values of a chunk; 0 takes an eighth of c.
        sharing: what has one projection: none, headwise (a layer's heads), key-value (these, and keys with values) or
            layerwise (all layers, heads, keys and values).
        rope_theta: base of the rotary embedding.
        tie_word_embeddings: the output layer has the weights of the embeddings.
    """

    model_type = ARCHITECTURE
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self, vocab_size: int = 32768, hidden_size: int = 768, num_hidden_layers: int = 12,
        num_attention_heads: int = 12, intermediate_size: int = 2048, max_position_embeddings: int = 1024,
        chunk_length: int = 0, projection_length: int = 0, sharing: str = HEADWISE, rope_theta: float = 10000.0,
        tie_word_embeddings: bool = True, rms_norm_eps: float = 1e-6, initializer_range: float = 0.02,
        use_cache: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        check_sharing(sharing)
        tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.chunk_length = chunk_length or max(1, min(_LONGEST, max_position_embeddings // _CHUNKS))
        self.projection_length = projection_length or max(1, self.chunk_length // _SHARE)
        self.sharing, self.rope_theta = sharing, rope_theta
        self.rms_norm_eps, self.initializer_range, self.use_cache = rms_norm_eps, initializer_range, use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **{**tokens, **kwargs})

    @property
    def keys_seen(self) -> tuple[float, float]:
        """Keys that each token's attention goes over: two chunks, and k for each of those before."""
        return 2.0 * self.chunk_length, self.projection_length / self.chunk_length


class LinformerCausalLayer(CacheLayerMixin):  # type: ignore[misc]
    """What a layer keeps of the tokens that it read.

    Attributes:
        keys, values: of the unfinished chunk and of the one before, (rows, heads, tokens, width of a head).
        short_keys, short_values: the projected ones of all chunks before these.
        seen: tokens read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.short_keys: torch.Tensor | None = None
        self.short_values: torch.Tensor | None = None
        self.seen = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin with nothing read."""
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.short_keys, self.short_values = self.keys, self.values
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> _Pair:
        """Add keys and values of new tokens; gives those of all tokens kept."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.seen += key_states.shape[2]
        self.keys = torch.cat([self.keys, key_states], 2)
        self.values = torch.cat([self.values, value_states], 2)
        return self.keys, self.values

    def shorten(self, chunk: int, short: list[_Pair]) -> None:
        """Keep of the chunks that are no neighbours of what comes next their `short` keys and values alone."""
        gone = max(0, self.seen // chunk - 1) * chunk - (self.seen - self.keys.shape[2])
        if gone > 0 and self.short_keys is not None and self.short_values is not None:
            left = short[: gone // chunk]
            self.short_keys = torch.cat([self.short_keys, *(key for key, _ in left)], 2)
            self.short_values = torch.cat([self.short_values, *(value for _, value in left)], 2)
            self.keys, self.values = self.keys[:, :, gone:].clone(), self.values[:, :, gone:].clone()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that a mask would be of, and where they begin."""
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens read."""
        return self.seen

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Take other rows."""
        super().reorder_cache(beam_idx)
        if self.short_keys is not None and self.short_values is not None:
            self.short_keys = self.short_keys.index_select(0, beam_idx)
            self.short_values = self.short_values.index_select(0, beam_idx)


class _Attention(nn.Module):
    """Attention to the own chunk, to the one before, and to the projected keys and values of those before it."""

    def __init__(self, config: LinformerCausalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config, self.heads, self.chunk = config, config.num_attention_heads, config.chunk_length
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        if config.sharing != LAYERWISE:
            self.projection = _projection(config)

    def _of_heads(self, states: torch.Tensor) -> torch.Tensor:
        rows, length, width = states.shape
        return states.view(rows, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(
        self, states: torch.Tensor, turn: _Pair, layer: LinformerCausalLayer | None, projection: Projection | None
    ) -> torch.Tensor:
        """Of states (rows, length, width), with `turn`, cosines and sines of their places; `layer` has those before."""
        projection = self.projection if projection is None else projection
        queries = _turned(self._of_heads(self.q_proj(states)), turn)
        keys, values = _turned(self._of_heads(self.k_proj(states)), turn), self._of_heads(self.v_proj(states))
        short: list[_Pair] = []
        if layer is not None:
            keys, values = layer.update(keys, values)
            if layer.short_keys is not None and layer.short_values is not None and layer.short_keys.shape[2]:
                short.append((layer.short_keys, layer.short_values))
        summed = self._summed(keys, values, projection)
        found = self._attended(queries, keys, values, short + summed, len(short))
        if layer is not None:
            layer.shorten(self.chunk, summed)
        return self.o_proj(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _summed(self, keys: torch.Tensor, values: torch.Tensor, projection: Projection) -> list[_Pair]:
        """The projected keys and values of each whole chunk but the last, which what comes next sees itself."""
        whole = keys.shape[2] // self.chunk - 1
        if whole < 1:
            return []
        rows, heads, _, width = keys.shape
        chunks = [one[:, :, : whole * self.chunk].reshape(rows, heads, whole, self.chunk, width)
                  for one in (keys, values)]  # fmt: skip
        first, second = projection.of_chunks(chunks[0], chunks[1])
        return list(zip(first.unbind(2), second.unbind(2), strict=True))

    def _attended(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, short: list[_Pair], before: int
    ) -> torch.Tensor:
        """What the queries, which are of the last places, find: chunk for chunk, so that no chunk sees a later one.

        Args:
            short: projected keys and values, of what is kept no longer first, if there is (`before` 1), then those of
                the chunks that `keys` begins with.
        """
        first = keys.shape[2] - queries.shape[2]
        key_chunks, value_chunks = torch.split(keys, self.chunk, 2), torch.split(values, self.chunk, 2)
        sizes = [one.shape[2] for one in key_chunks]
        begins = first // self.chunk
        sizes[begins] -= first - begins * self.chunk
        found = []
        for number, part in enumerate(torch.split(queries, sizes[begins:], 2), begins):
            far = short[: before + max(0, number - 1)]
            near = slice(max(0, number - 1), number + 1)
            seen = torch.cat([*(key for key, _ in far), *key_chunks[near]], 2)
            told = torch.cat([*(value for _, value in far), *value_chunks[near]], 2)
            mask = None
            if (length := part.shape[2]) > 1:
                mask = torch.ones(length, seen.shape[2], dtype=torch.bool, device=part.device)
                mask.tril_(seen.shape[2] - length)
            found.append(nn.functional.scaled_dot_product_attention(part, seen, told, attn_mask=mask))
        return torch.cat(found, 2)


class _Layer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Attention and a gated feed-forward network, each after its norm."""

    def __init__(self, config: LinformerCausalConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.self_attn = _Attention(config)
        self.mlp = nn.ModuleDict({
            "gate_proj": nn.Linear(width, inner, bias=False), "up_proj": nn.Linear(width, inner, bias=False),
            "down_proj": nn.Linear(inner, width, bias=False),
        })  # fmt: skip
        self.input_layernorm = nn.RMSNorm(width, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(width, config.rms_norm_eps)

    def forward(self, states: torch.Tensor, *more: Any) -> torch.Tensor:
        """Of states (rows, length, width) the next ones."""
        states = states + self.self_attn(self.input_layernorm(states), *more)
        read = self.post_attention_layernorm(states)
        wide = nn.functional.silu(self.mlp["gate_proj"](read)) * self.mlp["up_proj"](read)
        return states + self.mlp["down_proj"](wide)  # type: ignore[no-any-return]


class _Pretrained(PreTrainedModel):  # type: ignore[misc]
    config_class = LinformerCausalConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("_Layer",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Projection):
            module.initialise()


class LinformerCausalModel(_Pretrained):
    """The layers, which give states."""

    def __init__(self, config: LinformerCausalConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.projection = _projection(config) if config.sharing == LAYERWISE else None
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.embed_tokens

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None, use_cache: bool | None = None,
        inputs_embeds: torch.Tensor | None = None, output_hidden_states: bool | None = None, **_: Any,
    ) -> BaseModelOutputWithPast:  # fmt: skip
        """The states of tokens that follow those in the cache: `last_hidden_state`, (rows, length, width).

        Args:
            input_ids: int64 (rows, length); or inputs_embeds, (rows, length, width).
            attention_mask: (rows, tokens so far), 0 for padding, which stands behind a text: no token of it sees that.
            past_key_values: what an earlier call gave.
            use_cache: whether a cache is made where none is given; without gradients alone.

        Raises:
            ValueError: padding before or inside a text, or a mask of which place sees which: chunks and the projection
                go by the places.
        """
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if attention_mask is not None:
            if attention_mask.ndim != 2:
                raise ValueError(
                    "linformer-causal takes a mask of padding, (rows, length): its projection mixes places"
                )
            if bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
                raise ValueError(
                    "linformer-causal takes padding behind a text alone: chunks are counted from its start"
                )
        cache = past_key_values if isinstance(past_key_values, Cache) else None
        keeps = self.config.use_cache if use_cache is None else use_cache
        if cache is None and keeps and not torch.is_grad_enabled():
            cache = Cache(layers=[LinformerCausalLayer() for _ in self.layers])
        before = 0 if cache is None else cache.get_seq_length()
        turn = self._turn(before, states)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        kept = [states]
        for number, layer in enumerate(self.layers):
            states = layer(states, turn, None if cache is None else cache.layers[number], self.projection)
            if wanted:
                kept.append(states)
        states = self.norm(states)
        return BaseModelOutputWithPast(
            last_hidden_state=states, past_key_values=cache, hidden_states=(*kept[:-1], states) if wanted else None
        )

    def _turn(self, before: int, like: torch.Tensor) -> _Pair:
        """Cosines and sines of places from `before` on, (length, width of a head)."""
        width = self.config.hidden_size // self.config.num_attention_heads
        places = torch.arange(before, before + like.shape[1], device=like.device, dtype=torch.float32)
        rates = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
        angles = (places[:, None] * self.config.rope_theta**-rates).repeat(1, 2)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class LinformerCausalForCausalLM(_Pretrained, GenerationMixin):  # type: ignore[misc]
    """The layers and an output layer over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers wants a dict)

    def __init__(self, config: LinformerCausalConfig) -> None:
        super().__init__(config)
        self.model = LinformerCausalModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Generation prepares no cache that would keep every token: the model makes its own."""
        return False

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        return self.lm_head

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None, use_cache: bool | None = None,
        inputs_embeds: torch.Tensor | None = None, labels: torch.Tensor | None = None, logits_to_keep: int = 0,
        output_hidden_states: bool | None = None, **_: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        """Logits (rows, length, vocabulary) of tokens, as `LinformerCausalModel.forward` has their states.

        Args:
            labels: int64 (rows, length), each at the place of its own token, -100 for none; the loss is in nats.
            logits_to_keep: the last so many places get logits; 0: all.
        """
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values, use_cache=use_cache,
            inputs_embeds=inputs_embeds, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        logits = self.lm_head(found.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=found.past_key_values, hidden_states=found.hidden_states
        )


def _projection(config: LinformerCausalConfig) -> Projection:
    return Projection(config.sharing, config.num_attention_heads, config.projection_length, config.chunk_length)


def _turned(states: torch.Tensor, turn: _Pair) -> torch.Tensor:
    """Keys or queries turned by their places: halves of a head's width are the two parts of each pair."""
    half = states.shape[-1] // 2
    other = torch.cat([-states[..., half:], states[..., :half]], -1)
    return states * turn[0] + other * turn[1]


AutoConfig.register(ARCHITECTURE, LinformerCausalConfig, exist_ok=True)
AutoModel.register(LinformerCausalConfig, LinformerCausalModel, exist_ok=True)
AutoModelForCausalLM.register(LinformerCausalConfig, LinformerCausalForCausalLM, exist_ok=True)
