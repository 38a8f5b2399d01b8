"""The parts of a block that can be narrower: which layers write a feature and which one reads it, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfpint.compress._calibration import linears_of
from halfpint.errors import HalfpintError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Part:
    """Layers around features that can be taken out.

    Attributes:
        writers: names in the block of the layers whose outputs the features are, each with how many equal runs of
            features its outputs hold (2 where gate and value are one matrix).
        reader: the one whose inputs they are.
    """

    writers: dict[str, int]
    reader: str


# names of layers that write -> (runs of features in each, name of the layer that reads)
_FEED_FORWARD: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("mlp.gate_proj", "mlp.up_proj"), 1, "mlp.down_proj"),
    (("mlp.up_proj",), 1, "mlp.down_proj"),
    (("mlp.gate_up_proj",), 2, "mlp.down_proj"),
    (("mlp.Wi",), 2, "mlp.Wo"),
    (("mlp.c_fc",), 1, "mlp.c_proj"),
    (("mlp.fc1",), 1, "mlp.fc2"),
    (("mlp.dense_h_to_4h",), 1, "mlp.dense_4h_to_h"),
    (("fc1",), 1, "fc2"),
    (("ffn.lin1",), 1, "ffn.lin2"),
    (("intermediate.dense",), 1, "output.dense"),
)
_QUERY, _KEYS, _FUSED, _READER = "self_attn.q_proj", ("self_attn.k_proj", "self_attn.v_proj"), "self_attn.qkv_proj", (
    "self_attn.o_proj"
)  # fmt: skip
_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim")


def feed_forward_of(block: Any, place: str) -> Part:
    """The feed-forward part of a block.

    Raises:
        HalfpintError: it has none that is known here.
    """
    names = set(linears_of(block))
    for writers, runs, reader in _FEED_FORWARD:
        if {*writers, reader} <= names:
            return Part(dict.fromkeys(writers, runs), reader)
    raise HalfpintError(
        place, wanted="layers with one feed-forward part, such as gate_proj, up_proj and down_proj",
        got=f"layers of {', '.join(sorted(names)) or 'nothing linear'}", todo="Set ffn = 0 for this model.",
    )  # fmt: skip


def width_name(config: Any) -> str:
    """What the configuration calls the width of the feed-forward part."""
    return next((name for name in _WIDTHS if hasattr(config, name)), _WIDTHS[0])


@dataclass(frozen=True)
class Heads:
    """The attention of a block: `groups` heads of keys and values, each read by `queries` heads, all of `size`.

    What can go is a group with its queries, so that each group keeps as many; where there is but one, a query head.
    """

    groups: int
    queries: int
    size: int
    fused: bool

    @property
    def reader(self) -> str:
        """The layer that reads what the heads give."""
        return _READER

    @property
    def units(self) -> int:
        """How many there are of what can go."""
        return self.groups if self.groups > 1 else self.queries

    @property
    def unit_width(self) -> int:
        """Inputs of the reader that are of one unit."""
        return self.size * self.queries if self.groups > 1 else self.size

    def settings(self, units: int) -> dict[str, int]:
        """The configuration of so many units."""
        groups, queries = (units, self.queries) if self.groups > 1 else (1, units)
        return {"num_attention_heads": groups * queries, "num_key_value_heads": groups, "head_dim": self.size}

    def outputs_kept(self, kept: Sequence[int]) -> dict[str, list[int]]:
        """Of each layer that writes queries, keys or values, the outputs that stay with the units `kept`."""
        queries = [unit * self.unit_width + place for unit in kept for place in range(self.unit_width)]
        groups = kept if self.groups > 1 else [0]
        shared = [group * self.size + place for group in groups for place in range(self.size)]
        if not self.fused:
            return {_QUERY: queries, **dict.fromkeys(_KEYS, shared)}
        keys = [self.groups * self.queries * self.size + place for place in shared]
        return {_FUSED: [*queries, *keys, *(place + self.groups * self.size for place in keys)]}


def heads_of(block: Any, config: Any, place: str) -> Heads:
    """The attention of a block.

    Raises:
        HalfpintError: its heads cannot be fewer in a plain model of its architecture.
    """
    names = set(linears_of(block))
    separate, fused = {_QUERY, *_KEYS, _READER} <= names, {_FUSED, _READER} <= names
    if not (separate or fused):
        raise HalfpintError(
            place, wanted="an architecture whose head size is a setting of its own, such as llama, qwen3 or gemma3",
            got=f"{config.model_type!r}, where it is the hidden size over the number of heads",
            todo="Set heads = 0: a plain transformers model cannot hold fewer heads of this size. Its "
            "feed-forward part can be cut (ffn).",
        )  # fmt: skip
    others = sorted(name for name in names if name.startswith("self_attn.") and name.count(".") == 1)
    others = [name for name in others if name not in (_QUERY, *_KEYS, _FUSED, _READER)]
    if others:
        raise HalfpintError(
            place, wanted="attention of queries, keys and values alone",
            got=f"{config.model_type!r}, which has {', '.join(others)} as well",
            todo="Set heads = 0. Its feed-forward part can be cut (ffn).",
        )  # fmt: skip
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return Heads(groups, heads // groups, size, fused)


def outputs_of(tensors: dict[str, torch.Tensor], name: str, kept: Any, *, turned: bool) -> dict[str, torch.Tensor]:
    """The weight and bias of layer `name` with the outputs `kept` alone; `turned` where the weight is (in, out)."""
    weight = tensors[f"{name}.weight"]
    found = {f"{name}.weight": weight[:, kept] if turned else weight[kept]}
    if f"{name}.bias" in tensors:
        found[f"{name}.bias"] = tensors[f"{name}.bias"][kept]
    return found
