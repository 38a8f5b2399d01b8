"""How much memory quantising takes, told by shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from halfpint.compress._matrices import Matrix
from halfpint.compress._tune import ROW_TOKENS, TOKENS_AT_ONCE


def memory_needed(
    matrices: Sequence[Matrix], weights: int, *, samples: int, tokens: int, tuning_samples: int, method: str,
    packed: bool,
) -> int:  # fmt: skip
    """About the bytes that `Quantize` takes with these settings.

    Args:
        matrices: of the model, embeddings first; weights: all of them.
    """
    needed = 5 * weights + 16 * max(matrix.size for matrix in matrices)
    width = matrices[0].columns
    if method != "round":
        widest = max(matrix.columns for matrix in matrices)
        needed += 2 * weights + 3 * 4 * samples * tokens * width + 40 * widest * widest
    if method == "tuned":
        at_once = max(ROW_TOKENS, tokens)
        needed += 4 * matrices[0].size + 24 * min(TOKENS_AT_ONCE, at_once) * matrices[0].rows
        needed += 4 * tuning_samples * tokens * width + (0 if packed else 4 * 4 * weights)
        needed += 6 * at_once * sum(matrix.rows + matrix.columns for matrix in matrices[1:])  # for the gradient
    if packed:  # gradients, and what comes into each matrix, before anything else is made
        needed = max(needed, 8 * weights + 4 * sum(matrix.columns**2 for matrix in matrices))
    return needed


def memory_to_adapt(matrices: Sequence[Matrix]) -> int:
    """About the bytes more that training the blocks to come takes: gradients, moments, and a copy to go back to."""
    return 16 * sum(matrix.size for matrix in matrices if matrix.block is not None)
