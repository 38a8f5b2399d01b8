"""Attention for training on a processor, as products in blocks of queries: what PyTorch's one kernel does, faster.

PyTorch's kernel for processors goes through keys in small blocks and computes the probabilities again for the gradient.
At the lengths that are trained here the probabilities fit into memory, and whole products with them take half the time.
What a causal mask hides is left out by whole blocks.

Under autocast scores are rounded to bfloat16 before the softmax, as in transformers' eager attention. Source: the
gradient is that of Dao et al. 2022, "FlashAttention", appendix B.2, without its tiling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_BLOCK = 128  # queries
_MOST_PROBABILITIES = 1 << 26  # values kept for the gradient of one layer
_BIAS = "_halfpint_bias"  # of a mask, which all layers are given


def quick_attention(plain: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' attention function `plain`, which is still called for what this one does not do."""

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        if dropout or not _fits(query, key, value, attention_mask, more):
            found: tuple[torch.Tensor, None] = plain(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **more
            )
            return found
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
        groups = query.shape[1] // key.shape[1]
        key, value = (_repeated(one, groups).to(low) for one in (key, value))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        bias, blocked = _bias(query, attention_mask, causal, low)
        out = _Attention.apply(query.to(low), key, value, bias, scale, blocked)  # type: ignore[no-untyped-call]
        return out.transpose(1, 2).contiguous(), None

    return attend


def _fits(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, more: dict[str, Any]
) -> bool:
    rows, heads, length, _ = query.shape
    return (
        query.device.type == "cpu"
        and torch.is_grad_enabled()
        and query.requires_grad
        and key.shape[2] == length
        and value.shape[-1] == query.shape[-1]
        and heads % key.shape[1] == 0
        and rows * heads * length * length <= _MOST_PROBABILITIES
        and all(more.get(name) is None for name in ("position_bias", "softcap", "cache", "sinks", "s_aux"))
        and (mask is None or (mask.dtype == torch.bool and mask.shape[0] in (1, rows)))
        and (mask is None or mask.shape[1:] == (1, length, length))
    )


def _repeated(states: torch.Tensor, groups: int) -> torch.Tensor:
    """Keys or values of shared heads, once for each head: (rows, heads, length, width)."""
    if groups == 1:
        return states
    rows, heads, length, width = states.shape
    return states[:, :, None].expand(rows, heads, groups, length, width).reshape(rows, heads * groups, length, width)


def _bias(query: torch.Tensor, mask: torch.Tensor | None, causal: bool, low: torch.dtype) -> tuple[torch.Tensor, bool]:
    """What is added to the products, 0 or -inf, (rows * heads or 1, length, length); and whether nobody sees what
    comes later."""
    rows, heads, length, _ = query.shape
    if mask is None:
        bias = torch.zeros(1, length, length, dtype=low)
        if causal:
            bias.masked_fill_(torch.ones(length, length, dtype=torch.bool).triu_(1), -torch.inf)
        return bias, causal
    held = getattr(mask, _BIAS, None)
    if held is None or held[0].dtype != low or len(held[0]) != rows * heads:
        bias = torch.zeros(mask.shape, dtype=low).masked_fill_(~mask, -torch.inf)
        bias = bias.expand(rows, heads, length, length).reshape(rows * heads, length, length)
        held = bias, causal and not bool(mask.triu(1).any())
        setattr(mask, _BIAS, held)
    found: tuple[torch.Tensor, bool] = held
    return found


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ scale + bias) v; with `blocked` queries see no later keys."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float,
        blocked: bool,
    ) -> torch.Tensor:  # fmt: skip
        q, k, v = (one.reshape(-1, *one.shape[2:]) for one in (query, key, value))
        length = q.shape[1]
        out = torch.empty_like(q)
        kept = []
        with torch.autocast("cpu", enabled=False):
            for low, high, seen in _blocks(length, blocked):
                part = bias[:, low:high, :seen].expand(len(q), high - low, seen)
                scores = torch.baddbmm(part, q[:, low:high], k[:, :seen].transpose(1, 2), alpha=scale)
                kept.append(torch.softmax(scores, -1))
                out[:, low:high] = torch.bmm(kept[-1], v[:, :seen])
        ctx.save_for_backward(q, k, v, *kept)
        ctx.scale, ctx.blocked, ctx.shape = scale, blocked, query.shape
        return out.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, *kept = ctx.saved_tensors
        slope = slopes[0].reshape(q.shape)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with torch.autocast("cpu", enabled=False):
            for chances, (low, high, seen) in zip(kept, _blocks(q.shape[1], ctx.blocked), strict=True):
                part = slope[:, low:high]
                d_v[:, :seen] += torch.bmm(chances.transpose(1, 2), part)
                d_scores = torch._softmax_backward_data(
                    torch.bmm(part, v[:, :seen].transpose(1, 2)), chances, -1, chances.dtype
                )
                d_q[:, low:high] = torch.bmm(d_scores, k[:, :seen])
                d_k[:, :seen] += torch.bmm(d_scores.transpose(1, 2), q[:, low:high])
        found = (d_q.mul_(ctx.scale), d_k.mul_(ctx.scale), d_v)
        return (*(one.view(ctx.shape) for one in found), None, None, None)


def _blocks(length: int, blocked: bool) -> list[tuple[int, int, int]]:
    """First and last query of each block, and how many keys it sees."""
    if not blocked:
        return [(0, length, length)]
    return [(low, min(low + _BLOCK, length), min(low + _BLOCK, length)) for low in range(0, length, _BLOCK)]
