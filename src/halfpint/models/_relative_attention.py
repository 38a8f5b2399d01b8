"""Attention with relative positions, as Transformer-XL has it: what a key says, and how far back it is.

Source: Dai et al. 2019, "Transformer-XL", section 3.3 and appendix B. The score of query i and key j is
(q_i + u) · k_j + (q_i + v) · r_(i - j), over the square root of a head's width. The second product is computed for all
distances at once; the row of a query is then shifted by its place, which here is a view of the same memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

_BLOCK = 128  # queries whose probabilities are made at once


class Biases(torch.nn.Module):
    """u and v, of content and of place: vectors, so that an optimiser for matrices leaves them alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.content, self.position = torch.nn.Parameter(torch.zeros(width)), torch.nn.Parameter(torch.zeros(width))

    def of_heads(self, heads: int) -> torch.Tensor:
        """Both, for each head: (2, heads, 1, width of a head)."""
        return torch.stack([self.content, self.position]).view(2, heads, 1, -1)


def relative_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, distances: torch.Tensor, biases: torch.Tensor,
    mask: torch.Tensor | None, dropout: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """What each query gathers from the values: (rows, heads, length, width).

    Args:
        queries: (rows, heads, length, width).
        keys, values: (rows, heads, seen, width); the last `length` belong to the queries, those before to the memory.
        distances: r of the distances seen - 1 down to 0: (heads, seen, width).
        biases: u and v of each head: (2, heads, 1, width).
        mask: bool (rows, 1, length, seen), True where a query sees a key; None: itself and all before it.
        dropout: of the probabilities.
    """
    scale = queries.shape[-1] ** -0.5
    by_content, by_place = (queries + biases[0]) * scale, (queries + biases[1]) * scale
    if queries.device.type == "cpu" and not dropout:
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else values.dtype
        parts = (one.to(low) for one in (by_content, by_place, keys, values, distances))
        return _Attention.apply(*parts, mask)  # type: ignore[no-untyped-call, no-any-return]
    kind = queries.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
    by_content, by_place, keys, values, distances = (
        one.to(low) for one in (by_content, by_place, keys, values, distances)
    )
    bias = _shifted(by_place @ distances.transpose(-1, -2))
    unseen = ~mask if mask is not None else _later(queries.shape[2], keys.shape[2], queries.device)
    bias = bias.masked_fill(unseen, -torch.inf)
    return scaled_dot_product_attention(by_content, keys, values, bias, dropout_p=dropout, scale=1.0)


def _later(length: int, seen: int, device: torch.device) -> torch.Tensor:
    """True where a key comes after a query: bool (length, seen)."""
    return torch.ones(length, seen, dtype=torch.bool, device=device).triu_(seen - length + 1)


def _shifted(products: torch.Tensor) -> torch.Tensor:
    """From products with the distances seen - 1 to 0 to those with the distance of each key: (…, length, seen).

    The row of query i moves to the left by length - 1 - i; what comes in from the right is of keys after the query.
    """
    *_, length, seen = products.shape
    if length == 1:
        return products
    wide = pad(products, (0, length - 1))  # one row after the other, each longer by length - 1
    flat = pad(wide.flatten(-2)[..., length - 1 :], (0, length - 1))
    # A step of one less than a row's length moves each row by one place.
    step = seen + length - 2
    return flat[..., : length * step].reshape(*products.shape[:-1], step)[..., :seen]


class _Attention(torch.autograd.Function):
    """softmax(a kᵀ + shifted(b rᵀ)) v in blocks of queries, which leave out the keys that come after all of them."""

    @staticmethod
    def forward(
        ctx: Any, a: torch.Tensor, b: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, distances: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        rows, heads, length, width = a.shape
        seen = keys.shape[2]
        a, b, k, v = (one.reshape(rows * heads, -1, width) for one in (a, b, keys, values))
        out = torch.empty_like(a)
        kept = []
        with torch.autocast("cpu", enabled=False):
            for low, high, most in _blocks(length, seen):
                n = high - low
                r = _of_block(distances, n, most)
                places = (b[:, low:high].reshape(rows, heads, n, width) @ r.transpose(1, 2)).flatten(0, 1)
                scores = torch.baddbmm(_view(places, n, most), a[:, low:high], k[:, :most].transpose(1, 2))
                if mask is None:
                    scores[:, :, most - n :].masked_fill_(_later(n, n, scores.device), -torch.inf)
                else:
                    scores.view(rows, heads, n, most).masked_fill_(~mask[:, :, low:high, :most], -torch.inf)
                kept.append(torch.softmax(scores, -1))
                out[:, low:high] = torch.bmm(kept[-1], v[:, :most])
        ctx.save_for_backward(a, b, k, v, distances, *kept)
        ctx.rows, ctx.heads = rows, heads
        return out.view(rows, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
        a, b, k, v, distances, *kept = ctx.saved_tensors
        rows, heads = ctx.rows, ctx.heads
        slope = slopes[0].reshape(a.shape)
        d_a, d_b = torch.empty_like(a), torch.empty_like(b)
        d_k, d_v = torch.zeros_like(k), torch.zeros_like(v)
        d_r = torch.zeros_like(distances, dtype=torch.promote_types(distances.dtype, torch.float32))
        with torch.autocast("cpu", enabled=False):
            for chances, (low, high, most) in zip(kept, _blocks(a.shape[1], k.shape[1]), strict=True):
                n, part = high - low, slope[:, low:high]
                d_v[:, :most] += torch.bmm(chances.transpose(1, 2), part)
                d_scores = torch._softmax_backward_data(
                    torch.bmm(part, v[:, :most].transpose(1, 2)), chances, -1, chances.dtype
                )
                d_a[:, low:high] = torch.bmm(d_scores, k[:, :most])
                d_k[:, :most] += torch.bmm(d_scores.transpose(1, 2), a[:, low:high])
                places = d_scores.new_zeros(rows * heads, n, most + n - 1)
                _view(places, n, most).copy_(d_scores)
                by_head = places.view(rows, heads, n, most + n - 1).transpose(0, 1).reshape(heads, rows * n, -1)
                r = _of_block(distances, n, most)
                d_b[:, low:high] = (
                    torch.bmm(by_head, r).view(heads, rows, n, -1).transpose(0, 1).reshape(-1, n, r.shape[2])
                )
                queries = b[:, low:high].reshape(rows, heads, n, -1).transpose(0, 1).reshape(heads, rows * n, -1)
                d_r[:, distances.shape[1] - most :] += torch.bmm(by_head[:, :, :most].transpose(1, 2), queries)
        shape = (rows, heads, -1, a.shape[2])
        return (*(one.view(shape) for one in (d_a, d_b, d_k, d_v)), d_r.to(distances.dtype), None)


def _blocks(length: int, seen: int) -> list[tuple[int, int, int]]:
    """First and last query of each block, and how many keys it sees."""
    ends = [(low, min(low + _BLOCK, length)) for low in range(0, length, _BLOCK)]
    return [(low, high, seen - length + high) for low, high in ends]


def _of_block(distances: torch.Tensor, n: int, most: int) -> torch.Tensor:
    """r for a block of n queries that sees `most` keys: (heads, most + n - 1, width), zero for distances below 0."""
    return pad(distances[:, distances.shape[1] - most :], (0, 0, 0, n - 1))


def _view(places: torch.Tensor, n: int, most: int) -> torch.Tensor:
    """Of products with falling distances, those of each key: the row of query i begins n - 1 - i places further on."""
    row = most + n - 1
    return places.as_strided((len(places), n, most), (n * row, row - 1, 1), places.storage_offset() + n - 1)
