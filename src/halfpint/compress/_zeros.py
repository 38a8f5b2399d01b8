"""Which weights of a matrix can be zero: by their size, by what they read too, or so that the rest makes up for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfpint.compress._layerwise import lower_factor

if TYPE_CHECKING:
    import torch

_COLUMNS = 128  # that are looked at together


def smallest(scores: torch.Tensor, share: float, pattern: tuple[int, int] | None, *, by_row: bool) -> torch.Tensor:
    """Where the lowest scores are: bool of their shape, (out, in), true for `share` of them.

    Args:
        pattern: (n, m) leaves n of each m neighbours in a row, whatever `share` is.
        by_row: the share is that of each row, else of the whole.
    """
    import torch

    if pattern:
        kept, of = pattern
        groups = scores.reshape(len(scores), -1, of)
        order = groups.argsort(dim=-1, stable=True)[..., : of - kept]
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True).reshape(scores.shape)
    rows = scores if by_row else scores.reshape(1, -1)
    order = rows.argsort(dim=1, stable=True)[:, : round(share * rows.shape[1])]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True).reshape(scores.shape)


def by_magnitude(matrix: torch.Tensor, share: float, pattern: tuple[int, int] | None) -> torch.Tensor:
    """The matrix with its smallest weights zero. Source: Han et al. 2015, "Learning both Weights and Connections"."""
    return matrix.masked_fill(smallest(matrix.abs(), share, pattern, by_row=False), 0.0)


def by_wanda(
    matrix: torch.Tensor, products: torch.Tensor, share: float, pattern: tuple[int, int] | None
) -> torch.Tensor:
    """The matrix with those weights of each row zero whose size times the norm of what they read is least.

    Args:
        products: x xᵀ summed over tokens, float64 (in, in).

    Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models", equation 1.
    """
    norms = products.diagonal().clamp_min(0).sqrt().float()
    return matrix.masked_fill(smallest(matrix.abs() * norms, share, pattern, by_row=True), 0.0)


def by_sparsegpt(
    matrix: torch.Tensor, products: torch.Tensor, share: float, pattern: tuple[int, int] | None, damping: float
) -> torch.Tensor:
    """The matrix with zeros, column by column, and each column's error made up for in those after it.

    Source: Frantar & Alistarh 2023, "SparseGPT", algorithm 1; the zeros are chosen for 128 columns at a time.
    """
    import torch

    left = matrix.clone()
    silent = products.diagonal() <= 0
    left[:, silent] = 0
    inverse = torch.cholesky_inverse(lower_factor(products, damping))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    for start in range(0, left.shape[1], _COLUMNS):
        stop = min(start + _COLUMNS, left.shape[1])
        part, inner = left[:, start:stop].clone(), factor[start:stop, start:stop]
        pivots = inner.diagonal()
        zeros = smallest((part / pivots).square(), share, pattern, by_row=False)
        errors = torch.zeros_like(part)
        for column in range(stop - start):
            wanted = part[:, column]
            given = wanted.masked_fill(zeros[:, column], 0.0)
            errors[:, column] = (wanted - given) / pivots[column]
            part[:, column + 1 :] -= torch.outer(errors[:, column], inner[column, column + 1 :])
            part[:, column] = given
        left[:, start:stop] = part
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return left
