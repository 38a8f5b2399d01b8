"""Cross-entropy over a large vocabulary without its logits: chunk by chunk, gradient and all, in the forward pass.

Plain training holds the logits of all tokens, their softmax and their gradient at once: for 4,096 tokens and 49,152
words that is 0.8 GB each. Here only those of a chunk exist.

Source: the gradient of the logits is their softmax less the target, so the backward pass can be done at once; Hsu et
al. 2024, "Liger Kernel", section 3.2 (fused linear cross-entropy), does the same on GPUs.
"""

from __future__ import annotations

from typing import Any

import torch

from halfpint.data.packing import IGNORED

# Of logits in fp32: each chunk adds to the gradient of all of the output layer, so larger ones are faster even where
# they do not stay near the processor (49,152 words: 1,024 tokens took 937 ms by 128, 577 by 512).
_CHUNK_BYTES = 96 << 20
_FEWEST_ROWS = 128  # below that the products are slow
_MOST_ROWS = 512
# Counted tokens are brought to a multiple of it: PyTorch's kernels for processors keep something for each shape that
# they meet, and a masked objective, which hides another number of tokens each time, took 1.3 GB after 60 steps instead
# of 0.7 GB (a bert of 5M).
_MULTIPLE = 64


def chunk_rows(vocabulary: int) -> int:
    """Tokens whose logits are held at once."""
    return min(_MOST_ROWS, max(_FEWEST_ROWS, _CHUNK_BYTES // (4 * vocabulary) // 64 * 64))


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    reduction: str = "mean",
    rows: int = 0,
) -> torch.Tensor:
    """`cross_entropy(hidden @ weight.T + bias, labels)` over the labels that are not -100, in nats (fp32 scalar).

    Args:
        hidden: (..., width).
        weight: (vocabulary, width).
        bias: (vocabulary,) or None.
        labels: int64, the shape of `hidden` less its last.
        reduction: "mean" over the counted labels (0 where there is none), or "sum".
        rows: tokens in a chunk; 0 chooses.
    """
    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    counted = labels != IGNORED
    number = len(labels)
    if not bool(counted.all()):
        index = counted.nonzero()[:, 0]
        number = len(index)
        index = torch.cat((index, index[:1].expand(-number % _MULTIPLE)))  # what is there twice counts once
        hidden, labels = hidden.index_select(0, index), labels.index_select(0, index)
    share = 1.0 / max(number, 1) if reduction == "mean" else 1.0
    rows = rows or chunk_rows(weight.shape[0])
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, labels, share, rows, number)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the losses of the first `number` times `share`; gradients are made on the way and only scaled later."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        share: float,
        rows: int,
        number: int,
    ) -> torch.Tensor:
        kind = hidden.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        with torch.autocast(kind, enabled=False):
            narrow, matrix = hidden.to(low), weight.to(low)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            d_hidden = torch.empty_like(narrow) if for_hidden else None
            d_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
            d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and for_bias else None
            held = torch.empty(min(rows, len(labels)), len(weight), dtype=low, device=hidden.device)
            other = torch.empty_like(held, dtype=torch.float32)
            for start in range(0, len(labels), rows):
                part, wanted = narrow[start : start + rows], labels[start : start + rows, None]
                logits, logs = held[: len(part)], other[: len(part)]
                torch.mm(part, matrix.t(), out=logits)
                if bias is not None:
                    logits.add_(bias.to(low))
                torch.log_softmax(logits, 1, torch.float32, out=logs)
                total -= logs.gather(1, wanted)[: max(0, number - start)].sum()
                if d_hidden is None and d_weight is None and d_bias is None:
                    continue
                # softmax less one at the label: the gradient of the logits
                slope = torch.exp(logs, out=logits if low == torch.float32 else logs)
                slope.scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=slope.dtype))
                slope[max(0, number - start) :] = 0
                if d_bias is not None:
                    d_bias += slope.sum(0)
                slope = slope.to(low)
                if d_hidden is not None:
                    torch.mm(slope, matrix, out=d_hidden[start : start + rows])
                if d_weight is not None and low == torch.float32:
                    d_weight.addmm_(slope.t(), part)
                elif d_weight is not None:
                    d_weight += slope.t() @ part
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.share = share
        return total * share

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
        scale = slopes[0] * ctx.share
        found = [
            None if gradient is None else gradient.mul_(scale).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = ()
        return (*found, None, None, None, None)
