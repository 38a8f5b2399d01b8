"""A tagger on any encoder: a label for each token, from its state and from the shape of its word.

An uncased vocabulary hides how a word is written. Its shape (`data.words.shapes`) is added to the token's embedding, by
a table of zeros at first, so that training begins with the encoder as it is, and is seen again by the last layer.
It registers itself with transformers' Auto classes when this module is imported: after that,
`AutoModelForTokenClassification.from_pretrained(folder)` opens it.
Source: case features beside word vectors as in Collobert et al. 2011, "Natural Language Processing (Almost) from
Scratch", section 3.2; here they go into a Transformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from halfpint.data.words import SHAPES

MODEL_TYPE = "halfpint_tagger"
_SEEN = 16  # values of a shape beside the encoder's state


class TaggerConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of the tagger.

    Args:
        encoder: the encoder's own configuration, as a dictionary with `model_type`.
        classifier_dropout: dropout before the linear layer.
        max_tokens: longest input that it was trained for, in tokens.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        classifier_dropout: float = 0.1,
        max_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {}
        self.classifier_dropout = classifier_dropout
        self.max_tokens = max_tokens
        super().__init__(**kwargs)

    def encoder_config(self) -> Any:
        """The encoder's configuration as an object of its own class."""
        fields = {key: value for key, value in self.encoder.items() if key != "model_type"}
        return AutoConfig.for_model(self.encoder["model_type"], **fields)


class TagHead(nn.Module):
    """What is new beside the encoder: the tables of shapes and the linear layer."""

    def __init__(self, hidden: int, labels: int) -> None:
        super().__init__()
        self.added, self.seen = nn.Embedding(SHAPES, hidden), nn.Embedding(SHAPES, _SEEN)
        self.linear = nn.Linear(hidden + _SEEN, labels)

    def forward(self, states: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
        """Logits (texts, tokens, labels) from states (texts, tokens, hidden)."""
        both = torch.cat([states, self.seen(shapes).to(states.dtype)], dim=-1)
        # In two dimensions it is exported as one Gemm, which stays in fp32 where matrices are quantised.
        flat: torch.Tensor = self.linear(both.flatten(0, 1))
        return flat.reshape(both.shape[0], both.shape[1], -1)


class Tagger(PreTrainedModel):  # type: ignore[misc]
    """Encoder, dropout, head."""

    config_class = TaggerConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__(config)
        encoder_config = config.encoder_config()
        implementation = getattr(config, "_attn_implementation", None)
        arguments = {"add_pooling_layer": False} if config.encoder["model_type"] in {"bert", "roberta"} else {}
        if implementation:
            encoder_config._attn_implementation = implementation
        self.encoder = AutoModel.from_config(encoder_config, **arguments)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = TagHead(encoder_config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        shapes: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> TokenClassifierOutput:
        """Logits of shape (texts, tokens, labels); with `labels` (int64, (texts, tokens)) the mean cross-entropy too.

        Without `shapes` (int64, (texts, tokens)) no token has one.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if shapes is None:
            shapes = torch.zeros_like(input_ids)
        embedded = self.encoder.get_input_embeddings()(input_ids) + self.classifier.added(shapes)
        states = self.encoder(inputs_embeds=embedded, attention_mask=attention_mask).last_hidden_state
        logits = self.classifier(self.dropout(states), shapes)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)


def build(
    encoder: dict[str, Any],
    labels: Sequence[str],
    max_tokens: int,
    dropout: float,
    like: Mapping[str, Any] | None = None,
) -> Tagger:
    """A new tagger with a last layer of zeros (see `models.heads`)."""
    config = TaggerConfig(
        encoder=encoder,
        classifier_dropout=dropout,
        max_tokens=max_tokens,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = Tagger(config)
    with torch.no_grad():
        for weights in (model.classifier.added.weight, model.classifier.linear.weight, model.classifier.linear.bias):
            weights.zero_()
    return model


AUTO = AutoModelForTokenClassification
"""The Auto class that opens it."""
INPUTS = ("input_ids", "attention_mask", "shapes")
"""What it reads."""
AutoConfig.register(MODEL_TYPE, TaggerConfig, exist_ok=True)
AutoModelForTokenClassification.register(TaggerConfig, Tagger, exist_ok=True)
