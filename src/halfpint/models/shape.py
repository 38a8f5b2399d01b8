"""The shape of a language model or an encoder, as far as memory and time depend on it, without its weights.

It comes from a model that is built without memory, from the `config.json` of one that may not be here, or from the
entry of a catalogue; what follows from it is worked out by `models/serving_cost.py` and `train/forecast.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from halfpint.errors import HalfpintError
from halfpint.models.architectures import need_transformers
from halfpint.models.sizes import CAUSAL, MASKED, resolve, shown_parameters

_FULL, _SLIDING = "full_attention", "sliding_attention"  # kinds of layers, as transformers names them
_GATED = 3  # matrices of a feed-forward layer with a gate
_SAME = 0.02  # share by which the parameters of layers may differ from what their sizes come to


@dataclass(frozen=True)
class Shape:
    """What memory and time depend on.

    Attributes:
        name: of the architecture, as `model_type` of the configuration.
        objective: causal or masked.
        parameters: all of them, tied ones once.
        layers: how many.
        width: of the hidden states.
        inner: of the feed-forward layers.
        heads: of attention; 0 where there is none.
        kv_heads: that keys and values are kept for.
        head_width: values of a head.
        vocabulary: tokens.
        context: tokens that it was made for at most; 0 where nothing tells.
        is_tied: whether the output layer is the token embeddings.
        matrices: of the layers: (how many, rows, columns) of each size, the tallest number first.
        is_rough: whether the matrices are those of a Llama of this shape, as the model's own are not known.
        keeping: layers that keep keys and values of what was read; None: all.
        windowed: of these, those that see a window; window: its tokens.
        seen: keys that a token's attention goes over while it is trained: a number, and one per token of the sequence.
    """

    name: str
    objective: str
    parameters: int
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int
    is_tied: bool
    matrices: tuple[tuple[int, int, int], ...]
    is_rough: bool = False
    keeping: int | None = None
    windowed: int = 0
    window: int = 0
    seen: tuple[float, float] = (0.0, 1.0)

    def keys_seen(self, context: int) -> int:
        """Keys that each token's attention goes over in a sequence of so many tokens, at the most."""
        return math.ceil(self.seen[0] + self.seen[1] * context)

    @property
    def embeddings(self) -> int:
        """Parameters of the token embeddings."""
        return self.vocabulary * self.width

    @property
    def head(self) -> int:
        """Parameters of the output layer over the vocabulary, shared or not."""
        return self.embeddings

    @property
    def body(self) -> int:
        """Parameters of the layers' matrices: what each token goes through besides the output layer."""
        return sum(number * rows * columns for number, rows, columns in self.matrices)

    @property
    def others(self) -> int:
        """Parameters that are in no matrix of a layer and no embedding: norms, biases, positions."""
        held = self.body + self.embeddings * (1 if self.is_tied or self.objective == MASKED else 2)
        return max(0, self.parameters - held)

    def said(self) -> str:
        """It in a few words: "llama of 9.9M parameters: 10 layers of 256"."""
        return (
            f"{self.name} of {shown_parameters(self.parameters)} parameters: {self.layers} layers of {self.width}, "
            f"{self.vocabulary:,} tokens in the vocabulary"
        )


def shape_of(model: Any) -> Shape:
    """The shape of a model of `transformers`, with or without memory; sizes that its configuration does not name are
    read off its tensors."""
    config = model.config
    embedded, head = embeddings_of(model)
    vocabulary = int(getattr(config, "vocab_size", 0) or (embedded.shape[0] if embedded is not None else 0))
    width = int(getattr(config, "hidden_size", 0) or (embedded.shape[1] if embedded is not None else 0))
    outside = {id(one) for one in (embedded, head) if one is not None}
    sizes: Counter[tuple[int, int]] = Counter()
    parameters = 0
    for tensor in model.parameters():
        parameters += tensor.numel()
        if tensor.ndim >= 2 and id(tensor) not in outside:
            sizes[int(tensor.shape[0]), int(tensor.numel() // max(int(tensor.shape[0]), 1))] += 1
    layers = int(getattr(config, "num_hidden_layers", 0) or _longest_list(model))
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    inside = [rows for rows, _ in sizes if rows != vocabulary]
    return Shape(
        name=str(config.model_type), objective=_objective(str(config.model_type)), parameters=parameters, layers=layers,
        width=width, inner=min(max([width, *inside]), 8 * width), heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", 0) or heads),
        head_width=int(getattr(config, "head_dim", 0) or (width // heads if heads else 0)), vocabulary=vocabulary,
        context=int(getattr(config, "max_position_embeddings", 0) or 0),
        is_tied=head is None or head is embedded,
        matrices=tuple(sorted(((number, *size) for size, number in sizes.items()), reverse=True)),
        **_keeping(config), seen=tuple(getattr(config, "keys_seen", (0.0, 1.0))),
    )  # fmt: skip


def shape_of_config(config: Mapping[str, Any], place: str) -> Shape:
    """The shape of the model that a `config.json` describes: it is built without memory.

    Args:
        place: what errors name.

    Raises:
        HalfpintError: no such architecture, or a configuration that it does not take.
    """
    from halfpint.errors import need

    torch = need("torch", "planning for a model")
    transformers = need_transformers("planning for a model")
    told = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}
    try:
        made = transformers.AutoConfig.for_model(str(config["model_type"]), **told)
        made = getattr(made, "text_config", None) or made
        _, objective = resolve(str(made.model_type))
        kind = transformers.AutoModelForMaskedLM if objective == MASKED else transformers.AutoModelForCausalLM
        with torch.device("meta"):
            return shape_of(kind.from_config(made))
    except HalfpintError:
        raise
    except Exception as error:  # each architecture refuses a configuration in its own way
        raise HalfpintError(
            place, wanted="the config.json of a language model or an encoder",
            got=f"one that does not give a model ({(str(error).splitlines() or ['no reason told'])[0]})",
        ) from error  # fmt: skip


def llama_like(
    name: str, *, parameters: int, layers: int, width: int, vocabulary: int, heads: int = 0, kv_heads: int = 0,
    head_width: int = 0, inner: int = 0, context: int = 0, is_tied: bool | None = None, objective: str = CAUSAL,
    **more: Any,
) -> Shape:  # fmt: skip
    """A shape of which the numbers alone are known: the matrices are as a Llama has them, and come to `parameters`.

    Args:
        inner: 0 takes what is left of the parameters.
        is_tied: None: where two tables of embeddings would take more than a third of all.
        more: keeping, windowed and window, as `Shape` has them.
    """
    heads = heads or max(1, width // 64)
    head_width, kv_heads = head_width or width // heads, kv_heads or heads
    tied = vocabulary * width * 6 > parameters if is_tied is None else is_tied
    body = max(0, parameters - vocabulary * width * (1 if tied or objective == MASKED else 2))
    attention = width * head_width * (2 * heads + 2 * kv_heads)
    left = max(0, body // max(layers, 1) - attention)
    inner = inner or max(width, left // (_GATED * width))
    number = max(1, round(left / (inner * width))) if left else _GATED
    if left and abs(left / (number * inner * width) - 1) > _SAME:  # there are matrices that the numbers do not tell of
        inner = max(1, left // (number * width))
    attended = head_width * heads
    sizes: Counter[tuple[int, int]] = Counter()
    for count, size in (
        (1, (attended, width)), (1, (width, attended)), (2, (head_width * kv_heads, width)),
        (max(1, number - 1), (inner, width)), (1, (width, inner)),
    ):  # fmt: skip
        sizes[size] += count * layers
    return Shape(
        name=name, objective=objective, parameters=parameters, layers=layers, width=width, inner=inner, heads=heads,
        kv_heads=kv_heads, head_width=head_width, vocabulary=vocabulary, context=context, is_tied=tied,
        matrices=tuple(sorted(((count, *size) for size, count in sizes.items()), reverse=True)), is_rough=True,
        **more,
    )  # fmt: skip


def embeddings_of(model: Any) -> tuple[Any, Any]:
    """The matrices of a model's token embeddings and of its output layer, each None where it has no single one."""
    return _weight(model, "get_input_embeddings"), _weight(model, "get_output_embeddings")


def _weight(model: Any, name: str) -> Any:
    """The matrix of the input or output embeddings; None where the model has no single one."""
    try:
        weight = getattr(getattr(model, name)(), "weight", None)
    except (AttributeError, NotImplementedError):
        return None
    return weight if weight is not None and weight.ndim == 2 else None


def _keeping(config: Any) -> dict[str, Any]:
    """Which layers keep keys and values, and of how many tokens, where the configuration names each layer's kind."""
    kinds = list(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {}
    windowed = kinds.count(_SLIDING)
    window = int(getattr(config, "sliding_window", 0) or 0)
    return {"keeping": windowed + kinds.count(_FULL), "windowed": windowed if window else 0, "window": window}


def _longest_list(model: Any) -> int:
    """Members of the longest list of modules: the layers, where the configuration does not say how many."""
    import torch

    return max([len(one) for one in model.modules() if isinstance(one, torch.nn.ModuleList)], default=1)


def _objective(model_type: str) -> str:
    try:
        return resolve(model_type)[1]
    except HalfpintError:
        return CAUSAL
