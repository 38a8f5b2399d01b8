"""What goes on inside a Transformer: queries, keys and values of a layer, caught while it reads; and losses on them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from halfpint.errors import HalfpintError, SettingError

_LAYER = re.compile(r"(?:.*\.)?(?:layer|layers|h|blocks)\.(\d+)")
# What the three projections are called in the architectures of transformers, or the one that makes all three, one after
# the other. (Where they are mixed head by head, as in query_key_value, they are not told apart.)
_APART = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
_TOGETHER = ("Wqkv", "c_attn", "qkv", "qkv_proj")
_KINDS = ("query", "key", "value")

RELATIONS, STATES = "relations", "states"


@dataclass(frozen=True, kw_only=True)
class Inward:
    """Settings of a stage in which a student learns to work inside as its teacher does.

    Args:
        match: relations or states.
        teacher_layer: whose relations are learned, from 1; 0 takes the last.
        relation_heads: parts that vectors are divided into for relations; 0 takes parts of 32 values in the narrower.
        layer_map: of states: for each of the student's layers the teacher's, from 1, with commas; empty spreads them.
            In most language models a norm stands behind the last layer, so last belongs to last.
        train_embeddings: also train the token embeddings.
    """

    match: str = RELATIONS
    teacher_layer: int = 0
    relation_heads: int = 0
    layer_map: str = ""
    train_embeddings: bool = False

    def check_inward(self, place: str) -> None:
        """Raise a HalfpintError for the first setting that cannot be."""
        for name, fits, wanted in (
            ("match", self.match in (RELATIONS, STATES), f"{RELATIONS} or {STATES}"),
            ("teacher_layer", self.teacher_layer >= 0, "0 or more"),
            ("relation_heads", self.relation_heads >= 0, "0 or more"),
            ("layer_map", self.match == STATES or not self.layer_map, f"match = {STATES} for it"),
        ):
            if not fits:
                raise SettingError(f"{place}: {name}", wanted=wanted, got=repr(getattr(self, name)))


def pair(settings: Any, student: Any, teacher: Any) -> Any:
    """A module that holds the student (and what projects its states) and gives the loss of a batch beside `teacher`.

    It is called with the arguments of both models, and with `counted`, (texts, tokens), 1 where there is a token, and
    `seen`, bool (texts, tokens, tokens), which tokens each sees; None sees all that are counted.

    Args:
        settings: of the stage, an `Inward`.
        student, teacher: Transformers without a head.

    Raises:
        HalfpintError: layers or heads that there are not.
    """
    from torch.nn import Linear, Module, ModuleList
    from torch.nn.init import eye_

    place = settings.use
    ours, theirs = layers_of(student), layers_of(teacher)
    if settings.teacher_layer > len(theirs):
        raise SettingError(
            f"{place}: teacher_layer", wanted=f"a number up to {len(theirs)}", got=str(settings.teacher_layer)
        )
    widths = int(student.config.hidden_size), int(teacher.config.hidden_size)
    places = layer_map(settings.layer_map, len(ours), len(theirs), place)

    class Relations(Module):
        """Of the last layer to the teacher's."""

        def __init__(self) -> None:
            super().__init__()
            self.student = student

        def forward(self, counted: Any, seen: Any = None, **inputs: Any) -> Any:
            """The loss."""
            import torch

            with ExitStack() as stack:
                small = stack.enter_context(caught(ours[-1], place))
                large = stack.enter_context(caught(theirs[settings.teacher_layer - 1], place))
                with torch.no_grad():
                    teacher(**inputs)
                self.student(**inputs)
            loss = 0.0
            for kind in _KINDS:
                heads = relation_heads(small[kind].shape[-1], large[kind].shape[-1], settings.relation_heads, place)
                loss = loss + relation_loss(small[kind], large[kind], counted, heads, seen)
            return loss / len(_KINDS)

    class States(Module):
        """Of each layer, and of the embeddings, to the teacher's."""

        def __init__(self) -> None:
            super().__init__()
            self.student = student
            projections = [Linear(*widths, bias=False) for _ in range(2)] if widths[0] != widths[1] else []
            for one in projections:
                eye_(one.weight)
            self.projections = ModuleList(projections)

        def forward(self, counted: Any, seen: Any = None, **inputs: Any) -> Any:
            """The loss."""
            import torch

            with torch.no_grad():
                large = teacher(**inputs, output_hidden_states=True).hidden_states
            small = self.student(**inputs, output_hidden_states=True).hidden_states
            loss = 0.0
            for number, layer in enumerate([0, *places]):
                states = small[number]
                if len(self.projections):
                    states = self.projections[min(number, 1)](states)
                loss = loss + state_loss(states, large[layer], counted)
            return loss / (1 + len(places))

    return Relations() if settings.match == RELATIONS else States()


def layers_of(model: Any) -> list[Any]:
    """The blocks of a Transformer, from the first to the last."""
    found: dict[int, Any] = {}
    for name, module in model.named_modules():
        match = _LAYER.fullmatch(name)
        if match is not None:
            found.setdefault(int(match[1]), module)
    return [found[number] for number in sorted(found)]


@contextmanager
def caught(layer: Any, place: str) -> Iterator[dict[str, Any]]:
    """Catches "query", "key" and "value" of each pass through `layer`: (texts, tokens, width).

    Raises:
        HalfpintError: an architecture whose attention has other parts.
    """
    modules = {name.rpartition(".")[2]: module for name, module in layer.named_modules()}
    held: dict[str, Any] = {}
    apart = next((names for names in _APART if all(name in modules for name in names)), ())
    mixed = type(layer).__name__.startswith("CodeGen")  # whose qkv_proj is in four parts, each with all three
    together = next((name for name in _TOGETHER if name in modules and not mixed), "")
    hooks = []
    for kind, name in zip(_KINDS, apart, strict=False):
        hooks.append(modules[name].register_forward_hook(lambda _m, _i, out, kind=kind: held.update({kind: out})))
    if not apart and together:

        def part(_module: Any, _inputs: Any, out: Any) -> None:
            held.update(zip(_KINDS, out.split(_widths(layer, out.shape[-1], place), dim=-1), strict=True))

        hooks.append(modules[together].register_forward_hook(part))
    if not hooks:
        raise HalfpintError(
            place, wanted="a model with queries, keys and values in its layers", got=type(layer).__name__,
            todo='Take match = "states".',
        )  # fmt: skip
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()


def _widths(layer: Any, total: int, place: str) -> list[int]:
    """Of queries, keys and values that one projection makes; of keys and values there may be fewer heads."""
    config = next((one.config for one in layer.modules() if hasattr(one, "config")), None)
    heads = getattr(config, "num_attention_heads", 1) or 1
    few = getattr(config, "num_key_value_heads", None) or heads
    unit, left = divmod(total, heads + 2 * few)
    if left:
        raise HalfpintError(
            place, wanted=f"{heads} heads of queries and {few} of keys and of values", got=f"{total} outputs for them",
            todo=f'Take match = "{STATES}".',
        )  # fmt: skip
    return [heads * unit, few * unit, few * unit]


def relation_heads(first: int, second: int, wanted: int, place: str) -> int:
    """Heads that vectors of both widths are divided into: `wanted`, or as many as give 32 values in the narrower.

    Raises:
        HalfpintError: a width cannot be divided so.
    """
    common = math.gcd(first, second)
    if wanted:
        if common % wanted:
            raise SettingError(
                f"{place}: relation_heads", wanted=f"a divisor of {common}, as the widths are {first} and {second}",
                got=str(wanted),
            )  # fmt: skip
        return wanted
    most = max(1, min(first, second) // 32)
    return max(heads for heads in range(1, most + 1) if common % heads == 0)


def relation_loss(student: Any, teacher: Any, mask: Any, heads: int, seen: Any = None) -> Any:
    """How far the relations between the student's vectors are from those between the teacher's (fp32 scalar, nats).

    A relation is the softmax of the scaled products of a token's vector with those of all that it sees; the loss is
    KL(teacher | student), the mean over heads and tokens.

    Args:
        student, teacher: (texts, tokens, width), each of its own width.
        mask: (texts, tokens), 1 where there is a token.
        seen: bool (texts, tokens, tokens), which each sees, one at least; None sees all tokens of its text.

    Source: Wang et al. 2021, "MiniLMv2", section 3.1 (equations 3 to 6).
    """
    import torch

    with torch.autocast(student.device.type, enabled=False):
        seen = mask[:, None, :].bool() if seen is None else seen
        ours, theirs = (_relations(vectors.float(), seen, heads) for vectors in (student, teacher.detach()))
        each = (theirs.exp() * (theirs - ours).nan_to_num(nan=0.0)).sum(-1)  # (texts, heads, tokens)
        counted = mask[:, None, :].to(each.dtype)
        return (each * counted).sum() / (counted.sum() * heads)


def _relations(vectors: Any, seen: Any, heads: int) -> Any:
    import torch

    texts, tokens, width = vectors.shape
    split = vectors.view(texts, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    return torch.log_softmax(scores.masked_fill(~seen[:, None], -torch.inf), -1)


def state_loss(student: Any, teacher: Any, mask: Any) -> Any:
    """Mean squared difference of hidden states (fp32 scalar), over the tokens of the mask; both of one width."""
    each = (student.float() - teacher.detach().float()).square().mean(-1)
    counted = mask.to(each.dtype)
    return (each * counted).sum() / counted.sum()


def layer_map(written: str, student: int, teacher: int, place: str) -> list[int]:
    """For each of the student's layers the number of the teacher's layer that it learns from, both from 1.

    Args:
        written: the numbers with commas; empty spreads them evenly up to the last, as TinyBERT does.
        student, teacher: how many layers each has.

    Raises:
        HalfpintError: not one number a layer, or a layer that there is not.
    """
    if not written:
        return [max(1, round((number + 1) * teacher / student)) for number in range(student)]
    parts = [part.strip() for part in written.split(",")]
    if len(parts) != student or not all(part.isdecimal() and 1 <= int(part) <= teacher for part in parts):
        raise SettingError(
            f"{place}: layer_map", wanted=f"{student} numbers from 1 to {teacher}, one a layer of the student",
            got=repr(written), todo=f"Write for example {','.join(map(str, layer_map('', student, teacher, place)))}.",
        )  # fmt: skip
    return [int(part) for part in parts]
