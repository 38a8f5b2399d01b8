"""A text classifier on any encoder: mean (or first-token) pooling, dropout, one linear layer.

It registers itself with transformers' Auto classes when this module is imported: after that,
`AutoModelForSequenceClassification.from_pretrained(folder)` opens it.
Source: mean pooling as in Reimers & Gurevych 2019, "Sentence-BERT", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

MODEL_TYPE = "halfpint_pooled_classifier"


class PooledClassifierConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of the classifier.

    Args:
        encoder: the encoder's own configuration, as a dictionary with `model_type`.
        pooling: "mean" over the tokens of the mask, or "first" token.
        classifier_dropout: dropout before the linear layer.
        max_tokens: longest input the classifier was trained for, in tokens.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        pooling: str = "mean",
        classifier_dropout: float = 0.1,
        max_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {}
        self.pooling = pooling
        self.classifier_dropout = classifier_dropout
        self.max_tokens = max_tokens
        super().__init__(**kwargs)

    def encoder_config(self) -> Any:
        """The encoder's configuration as an object of its own class."""
        fields = {key: value for key, value in self.encoder.items() if key != "model_type"}
        return AutoConfig.for_model(self.encoder["model_type"], **fields)


class PooledClassifier(PreTrainedModel):  # type: ignore[misc]
    """Encoder, pooling, dropout, linear layer."""

    config_class = PooledClassifierConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: PooledClassifierConfig) -> None:
        super().__init__(config)
        encoder_config = config.encoder_config()
        implementation = getattr(config, "_attn_implementation", None)
        arguments = {"add_pooling_layer": False} if config.encoder["model_type"] in {"bert", "roberta"} else {}
        if implementation:
            encoder_config._attn_implementation = implementation
        self.encoder = AutoModel.from_config(encoder_config, **arguments)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(encoder_config.hidden_size, config.num_labels)
        self.post_init()

    def pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """One vector a text: float of shape (texts, hidden)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.pooling == "first":
            return states[:, 0]  # type: ignore[no-any-return]
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits of shape (texts, labels); with `labels` (int64, one a text) the mean cross-entropy too."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        logits = self.classifier(self.dropout(self.pooled(input_ids, attention_mask)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def build(
    encoder: dict[str, Any],
    labels: Sequence[str],
    max_tokens: int,
    dropout: float,
    like: Mapping[str, Any] | None = None,
) -> PooledClassifier:
    """A new classifier with a last layer of zeros (see `models.heads`)."""
    config = PooledClassifierConfig(
        encoder=encoder,
        pooling=(like or {}).get("pooling", "mean"),
        classifier_dropout=dropout,
        max_tokens=max_tokens,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = PooledClassifier(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
    return model


AUTO = AutoModelForSequenceClassification
"""The Auto class that opens it."""
INPUTS = ("input_ids", "attention_mask")
"""What it reads."""
AutoConfig.register(MODEL_TYPE, PooledClassifierConfig, exist_ok=True)
AutoModelForSequenceClassification.register(PooledClassifierConfig, PooledClassifier, exist_ok=True)
