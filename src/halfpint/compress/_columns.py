"""Which inputs of a layer can go: those that it misses least, once the ones that stay have made up for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from halfpint.compress._layerwise import lower_factor

if TYPE_CHECKING:
    import torch


def by_error(
    matrix: torch.Tensor, products: torch.Tensor, group: int, keep: int, ridge: float
) -> tuple[npt.NDArray[np.int64], list[float]]:
    """The groups of columns that stay, by what their going adds to the layer's squared error when the rest is refitted.

    One group goes at a time and the others take over what it did before the next is chosen, so of two that do the same
    one stays.

    Args:
        matrix: float32 (out, in); products: x xᵀ summed, float64 (in, in).
        group: columns that go together, one behind the other; keep: how many groups stay.
        ridge: added to the diagonal, as a share of its mean.

    Returns: numbers of the groups that stay, rising, and of each group what its going would add at first, as a share of
    the square of the layer's outputs.

    Source: Kurtić et al. 2023, "ZipLM", section 3.1 (the structured form of Hassibi & Stork 1992, "Optimal Brain
    Surgeon").
    """
    import torch

    inverse = torch.cholesky_inverse(lower_factor(products, ridge))
    whole = max(float(((matrix.double() @ products) * matrix).sum()), 1e-30)
    if group == 1:
        gone, first = _columns(matrix, inverse, matrix.shape[1] - keep)
    else:
        gone, first = _groups(matrix.double(), inverse, group, keep)
    stay = np.setdiff1d(np.arange(matrix.shape[1] // group), gone)
    return stay, [round(value / whole, 8) for value in first]


def _columns(matrix: torch.Tensor, inverse: torch.Tensor, remove: int) -> tuple[list[int], list[float]]:
    """Single columns: a Cholesky factor of the inverse, pivoted by the error, column by column."""
    import torch

    left = matrix.clone()
    diagonal = inverse.diagonal().clone()
    factor = torch.zeros(len(inverse), max(remove, 1), dtype=torch.float64)
    gone: list[int] = []
    first: list[float] = []
    out = torch.zeros(len(inverse), dtype=torch.bool)
    for step in range(remove):
        errors = left.square().sum(0) / diagonal.clamp_min(1e-300)
        first = first or errors.tolist()
        pivot = int(errors.masked_fill(out, torch.inf).argmin())
        column = inverse[:, pivot] - factor[:, :step] @ factor[pivot, :step]
        left -= torch.outer(left[:, pivot], (column / column[pivot]).float())
        factor[:, step] = column / column[pivot].sqrt()
        diagonal -= factor[:, step].square()
        out[pivot] = True
        gone.append(pivot)
    return gone, first


def _groups(matrix: torch.Tensor, inverse: torch.Tensor, group: int, keep: int) -> tuple[list[int], list[float]]:
    """Groups of columns: of each the whole block of the inverse."""
    import torch

    left, inverse = matrix.clone(), inverse.clone()
    number = len(inverse) // group
    gone: list[int] = []
    first: list[float] = []
    while len(gone) < number - keep:
        errors, repairs = [float("inf")] * number, {}
        for one in range(number):
            if one in gone:
                continue
            place = slice(one * group, (one + 1) * group)
            repairs[one] = torch.linalg.solve(inverse[place, place], left[:, place].T)  # (group, out)
            errors[one] = float((left[:, place].T * repairs[one]).sum())
        first = first or errors
        least = int(np.argmin(errors))
        place = slice(least * group, (least + 1) * group)
        left -= (inverse[:, place] @ repairs[least]).T
        inverse -= inverse[:, place] @ torch.linalg.solve(inverse[place, place], inverse[place])
        gone.append(least)
    return gone, first


def by_activation(
    matrix: torch.Tensor, products: torch.Tensor, group: int, keep: int
) -> tuple[npt.NDArray[np.int64], list[float]]:
    """The groups of columns that stay, by the size of what each adds to the outputs, the others left as they are.

    Arguments and result as of `by_error`. Source: the activations of Muralidharan et al. 2024, "Compact Language Models
    via Pruning and Knowledge Distillation" (Minitron), section 2.2, times the size of the weights that read them.
    """
    sizes = (products.diagonal() * matrix.double().square().sum(0)).reshape(-1, group).sum(1).numpy()
    stay = np.sort(np.argsort(-sizes, kind="stable")[:keep])
    return stay, [round(float(value), 8) for value in sizes / max(sizes.sum(), 1e-30)]
