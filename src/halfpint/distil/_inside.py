"""What goes on inside an encoder: queries, keys and values of a layer, caught while it reads; and losses on them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from halfpint.errors import HalfpintError

_LAYER = re.compile(r"(?:.*\.)?(?:layer|layers|h|blocks)\.(\d+)")
# What the three projections are called in the architectures of transformers, or the one that makes all three.
_APART = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
_TOGETHER = ("Wqkv", "c_attn", "qkv", "qkv_proj", "query_key_value")


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
    together = next((name for name in _TOGETHER if name in modules), "")
    hooks = []
    for kind, name in zip(("query", "key", "value"), apart, strict=False):
        hooks.append(modules[name].register_forward_hook(lambda _m, _i, out, kind=kind: held.update({kind: out})))
    if not apart and together:

        def part(_module: Any, _inputs: Any, out: Any) -> None:
            held.update(zip(("query", "key", "value"), out.chunk(3, dim=-1), strict=True))

        hooks.append(modules[together].register_forward_hook(part))
    if not hooks:
        raise HalfpintError(
            place, wanted="an encoder with queries, keys and values in its layers", got=type(layer).__name__,
            todo='Take match = "states".',
        )  # fmt: skip
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()


def relation_heads(first: int, second: int, wanted: int, place: str) -> int:
    """Heads that vectors of both widths are divided into: `wanted`, or as many as give 32 values in the narrower.

    Raises:
        HalfpintError: a width cannot be divided so.
    """
    common = math.gcd(first, second)
    if wanted:
        if common % wanted:
            raise HalfpintError(
                f"{place}: relation_heads", wanted=f"a divisor of {common}, as the widths are {first} and {second}",
                got=str(wanted),
            )  # fmt: skip
        return wanted
    most = max(1, min(first, second) // 32)
    return max(heads for heads in range(1, most + 1) if common % heads == 0)


def relation_loss(student: Any, teacher: Any, mask: Any, heads: int) -> Any:
    """How far the relations between the student's vectors are from those between the teacher's (fp32 scalar, nats).

    A relation is the softmax of the scaled products of a token's vector with all others'; the loss is KL(teacher |
    student), the mean over heads and tokens.

    Args:
        student, teacher: (texts, tokens, width), each of its own width.
        mask: (texts, tokens), 1 where there is a token.

    Source: Wang et al. 2021, "MiniLMv2", section 3.1 (equations 3 to 6).
    """
    import torch

    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = (_relations(vectors.float(), mask, heads) for vectors in (student, teacher.detach()))
        each = (theirs.exp() * (theirs - ours).nan_to_num(nan=0.0)).sum(-1)  # (texts, heads, tokens)
        counted = mask[:, None, :].to(each.dtype)
        return (each * counted).sum() / (counted.sum() * heads)


def _relations(vectors: Any, mask: Any, heads: int) -> Any:
    import torch

    texts, tokens, width = vectors.shape
    split = vectors.view(texts, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    return torch.log_softmax(scores.masked_fill(~mask[:, None, None, :].bool(), -torch.inf), -1)


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
        raise HalfpintError(
            f"{place}: layer_map", wanted=f"{student} numbers from 1 to {teacher}, one a layer of the student",
            got=repr(written), todo=f"Write for example {','.join(map(str, layer_map('', student, teacher, place)))}.",
        )  # fmt: skip
    return [int(part) for part in parts]
