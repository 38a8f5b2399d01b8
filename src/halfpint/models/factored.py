"""Models in which some matrices are the product of two thin ones: causal language models, and encoders.

They register themselves with transformers' Auto classes when this module is imported: after that,
`AutoModelForCausalLM.from_pretrained(folder)` opens one, and a classifier's `encoder` may be one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

ARCHITECTURE = "halfpint_factored"


class FactoredLinear(nn.Module):
    """A linear layer whose weight is second · first: `first` (rank, in) without a bias, `second` (out, rank)."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, rank, bias=False)
        self.second = nn.Linear(rank, outputs, bias=bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of shape (…, in) to (…, out)."""
        found: torch.Tensor = self.second(self.first(states))
        return found


def factored_like(layer: Any, rank: int) -> FactoredLinear:
    """A new layer of `rank` with the inputs, outputs and kind of bias of `layer` (a Linear or a Conv1D)."""
    turned = type(layer).__name__ == "Conv1D"
    inputs, outputs = layer.weight.shape if turned else layer.weight.shape[::-1]
    made = FactoredLinear(int(inputs), int(outputs), rank, bias=layer.bias is not None)
    return made.to(device=layer.weight.device, dtype=layer.weight.dtype)


def factor(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put a `FactoredLinear` of the rank told into the place of each layer named in `ranks`; its values are new."""
    for name, rank in ranks.items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, factored_like(model.get_submodule(name), rank))


@lru_cache(maxsize=8)
def _config_of(base: str) -> Any:
    fields = json.loads(base)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


class FactoredConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of a model with factored layers; what it does not have itself is `base`'s.

    Args:
        base: the configuration of the model, as a dictionary with `model_type`.
        ranks: rank of each factored layer, by its name in the model.
    """

    model_type = ARCHITECTURE

    def __init__(
        self, base: dict[str, Any] | None = None, ranks: dict[str, int] | None = None, **kwargs: Any
    ) -> None:  # fmt: skip
        self.base = base or {}
        self.ranks = ranks or {}
        super().__init__(**kwargs)

    def base_config(self) -> Any:
        """The base's configuration as an object of its own class."""
        return _config_of(json.dumps(self.base, sort_keys=True))

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """What generation asks: the base's."""
        return self.base_config() if self.base else super().get_text_config(decoder, encoder)

    def __getattr__(self, name: str) -> Any:
        base = self.__dict__.get("base")
        if name.startswith("_") or not base:
            raise AttributeError(name)
        return getattr(self.base_config(), name)


def _built(config: FactoredConfig, kind: Any, **arguments: Any) -> Any:
    """The base of `config`, made by an Auto class, with its layers factored."""
    base = config.base_config()
    implementation = getattr(config, "_attn_implementation", None)
    if implementation:
        base._attn_implementation = implementation
    made = kind.from_config(base, dtype=torch.get_default_dtype(), **arguments)
    factor(made, config.ranks)
    return made


class FactoredEncoder(PreTrainedModel):  # type: ignore[misc]
    """An encoder of transformers, without a pooling layer, with some layers factored."""

    config_class = FactoredConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: FactoredConfig) -> None:
        super().__init__(config)
        pools = config.base["model_type"] in {"bert", "roberta"}
        self.model = _built(config, AutoModel, **({"add_pooling_layer": False} if pools else {}))
        self.post_init()

    @property
    def base_model(self) -> Any:
        """The encoder itself."""
        return self.model

    def get_input_embeddings(self) -> Any:
        """The token embeddings."""
        return self.model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """What the encoder gives: last_hidden_state of shape (texts, tokens, width)."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class FactoredCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model of transformers with some layers factored."""

    config_class = FactoredConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: FactoredConfig) -> None:
        super().__init__(config)
        self.model = _built(config, AutoModelForCausalLM)
        self.post_init()

    @property
    def base_model(self) -> Any:
        """The Transformer without its output layer."""
        return self.model.base_model

    def get_input_embeddings(self) -> Any:
        """The token embeddings."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The output layer."""
        return self.model.get_output_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the model gives: logits of shape (texts, tokens, vocabulary)."""
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, use_cache=use_cache, **kwargs,
        )  # fmt: skip


AutoConfig.register(ARCHITECTURE, FactoredConfig, exist_ok=True)
AutoModel.register(FactoredConfig, FactoredEncoder, exist_ok=True)
AutoModelForCausalLM.register(FactoredConfig, FactoredCausalLM, exist_ok=True)
