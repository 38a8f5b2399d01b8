"""Linformer: an encoder whose attention costs n times k, since keys and values are projected from n places to k.

Source: Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity", section 4: of each head
softmax(Q W^Q (E K W^K)^T / sqrt(d)) F V W^V, with E and F of k times n, learned, and shared as `sharing` says.

E and F have a column for each place, so that there is a longest sequence, `max_position_embeddings`; a longer one is
an error. A shorter one meets the first columns. Padding stands behind a text and is zero before it is projected: a text
gives the same states with padding as without. All places are mixed, so that a row holds one document, and the next word
cannot be foretold: `linformer_causal` does that.
Departures: layer norms may come before each block (`pre_norm`), which trains small models faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from halfpint.errors import SettingError
from halfpint.models._low_rank import LAYERWISE, Projection, check_sharing

ARCHITECTURE = "linformer"
BOTH_WAYS = "its projection mixes all places of a text, so the next word would be known to it"
"""Why it cannot be trained to foretell the next word."""
_SHARE, _MOST = 4, 256  # k where nobody says it: n / 4, as 128 of 512 in the paper, and no more than its 256


class LinformerConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of a Linformer.

    Args:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: as usual.
        max_position_embeddings: n, the longest sequence in tokens.
        projection_length: k, what keys and values are projected to; 0 takes a quarter of n, at most 256.
        sharing: what has one projection: none, headwise (a layer's heads), key-value (these, and keys with values) or
            layerwise (all layers, heads, keys and values).
        pre_norm: layer norms before each block, and one at the end; the paper has them after.
        tie_word_embeddings: the output layer has the weights of the embeddings.
        dropout, attention_dropout: of states, and of attention's probabilities.
    """

    model_type = ARCHITECTURE

    def __init__(
        self, vocab_size: int = 32768, hidden_size: int = 768, num_hidden_layers: int = 12,
        num_attention_heads: int = 12, intermediate_size: int = 3072, max_position_embeddings: int = 512,
        projection_length: int = 0, sharing: str = LAYERWISE, pre_norm: bool = False,
        tie_word_embeddings: bool = True, dropout: float = 0.0, attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5, initializer_range: float = 0.02, **kwargs: Any,
    ) -> None:  # fmt: skip
        check_sharing(sharing)
        tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.max_position_embeddings = max_position_embeddings
        usual = max(1, min(_MOST, max_position_embeddings // _SHARE))
        self.projection_length, self.sharing, self.pre_norm = projection_length or usual, sharing, pre_norm
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.layer_norm_epsilon, self.initializer_range = layer_norm_epsilon, initializer_range
        super().__init__(tie_word_embeddings=tie_word_embeddings, **{**tokens, **kwargs})

    @property
    def keys_seen(self) -> tuple[float, float]:
        """Keys that each token's attention goes over: k, however long the sequence is."""
        return float(self.projection_length), 0.0


def _projection(config: LinformerConfig) -> Projection:
    return Projection(
        config.sharing, config.num_attention_heads, config.projection_length, config.max_position_embeddings
    )


class _Attention(nn.Module):
    """Attention of all places to k sums over them."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config, self.heads = config, config.num_attention_heads
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
        self, states: torch.Tensor, present: torch.Tensor | None, projection: Projection | None
    ) -> torch.Tensor:
        """Of states (rows, length, width); `present`, (rows, length, 1), is 0 for padding."""
        projection = self.projection if projection is None else projection
        mixed = states if present is None else states * present
        keys, values = projection(mixed, self.k_proj, self.v_proj, self._of_heads)
        queries = self._of_heads(self.q_proj(states))
        dropout = self.config.attention_dropout if self.training else 0.0
        if getattr(self.config, "_attn_implementation", None) == "eager":
            scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
            found = nn.functional.dropout(scores.softmax(-1), dropout) @ values
        else:
            found = nn.functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.o_proj(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Layer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Attention and a feed-forward network, each with its layer norm."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.self_attn = _Attention(config)
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(width, inner), "down_proj": nn.Linear(inner, width)})
        self.output_norm = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.dropout, self.pre_norm = nn.Dropout(config.dropout), config.pre_norm

    def forward(self, states: torch.Tensor, *more: Any) -> torch.Tensor:
        """Of states (rows, length, width) the next ones."""
        if self.pre_norm:
            states = states + self.dropout(self.self_attn(self.attention_norm(states), *more))
            return states + self._ff(self.output_norm(states))
        states = self.attention_norm(states + self.dropout(self.self_attn(states, *more)))
        return self.output_norm(states + self._ff(states))  # type: ignore[no-any-return]

    def _ff(self, states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.mlp["down_proj"](nn.functional.gelu(self.mlp["up_proj"](states))))  # type: ignore[no-any-return]


class _Pretrained(PreTrainedModel):  # type: ignore[misc]
    config_class = LinformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("_Layer",)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Attention goes by the configuration each time it runs: "eager" writes its products out, for exports."""
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Projection):
            module.initialise()


class LinformerModel(_Pretrained):
    """The layers, which give states."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, width)
        self.embed_norm = nn.Identity() if config.pre_norm else nn.LayerNorm(width, config.layer_norm_epsilon)
        self.projection = _projection(config) if config.sharing == LAYERWISE else None
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, config.layer_norm_epsilon) if config.pre_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.embed_tokens

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None, output_hidden_states: bool | None = None, **_: Any,
    ) -> BaseModelOutput:  # fmt: skip
        """The states of texts: `last_hidden_state` (rows, length, width), and those between layers where asked for.

        Args:
            input_ids: int64 (rows, length); or inputs_embeds, (rows, length, width).
            attention_mask: (rows, length), 0 for padding, which stands behind a text.

        Raises:
            SettingError: a sequence longer than `max_position_embeddings`.
            ValueError: a mask of which place sees which: the projection leaves no places to tell apart.
        """
        given = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        length, most = given.shape[1], self.config.max_position_embeddings
        if length > most:
            raise SettingError(
                "input", wanted=f"at most {most:,} tokens, the fixed maximum of this Linformer", got=f"{length:,}",
                todo="Cut the text, or train one with a larger context: its projection has a column for each place.",
            )  # fmt: skip
        present = None
        if attention_mask is not None:
            if attention_mask.ndim != 2:
                raise ValueError("Linformer takes a mask of padding, (rows, length): its projection mixes all places")
            present = attention_mask[..., None].to(given.dtype)
        states = self.dropout(self.embed_norm(given + self.embed_positions.weight[:length]))
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        kept = [states]
        for layer in self.layers:
            states = layer(states, present, self.projection)
            if wanted:
                kept.append(states)
        states = self.norm(states)
        return BaseModelOutput(last_hidden_state=states, hidden_states=(*kept[:-1], states) if wanted else None)


class LinformerForMaskedLM(_Pretrained):
    """The layers, one dense layer as BERT has it, and an output layer over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers wants a dict)

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.model = LinformerModel(config)
        self.dense = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(width, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        return self.lm_head

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None, labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None, **_: Any,
    ) -> MaskedLMOutput:  # fmt: skip
        """Logits (rows, length, vocabulary) of texts, as `LinformerModel.forward` has their states.

        Args:
            labels: int64 (rows, length), -100 where nothing is asked; the loss is the mean of the others, in nats.
        """
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
        )  # fmt: skip
        logits = self.lm_head(self.dense_norm(nn.functional.gelu(self.dense(found.last_hidden_state))))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=found.hidden_states)


AutoConfig.register(ARCHITECTURE, LinformerConfig, exist_ok=True)
AutoModel.register(LinformerConfig, LinformerModel, exist_ok=True)
AutoModelForMaskedLM.register(LinformerConfig, LinformerForMaskedLM, exist_ok=True)
