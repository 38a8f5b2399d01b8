"""How much memory quantising takes, told by shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfpint.compress._matrices import Matrix
from halfpint.compress._tune import ROW_TOKENS, TOKENS_AT_ONCE

_FEWEST_SAMPLES, _MOST_SAMPLES = 192, 2048
_PACE = 1.4e12  # weights times tokens that a minute of tuning is given text for


def samples_to_learn(settings: Any, matrices: Sequence[Matrix]) -> int:
    """Rows of text that tuning asks for besides those that codes are fitted on.

    A model overfits few rows that it sees often: after seven passes over 160,000 tokens a 135M model of 2 bits had a
    divergence of 0.35 nats on them and of 0.62 on others. As many are taken as two cores see about five times.

    Args:
        settings: the stage, compress/quantize.
        matrices: of the model.
    """
    weights = sum(matrix.size for matrix in matrices)
    by_time = 0 if settings.tuning_tokens else round(_PACE * settings.minutes / (weights * settings.tokens))
    return int(settings.tuning_samples or min(max(_FEWEST_SAMPLES, by_time), _MOST_SAMPLES))


def memory_needed(matrices: Sequence[Matrix], model: Any, settings: Any) -> int:
    """About the bytes that quantising takes.

    Args:
        matrices: of the model, embeddings first.
        settings: the stage, compress/quantize.
    """
    weights, tokens = sum(one.numel() for one in model.parameters()), settings.tokens
    needed: int = 5 * weights + 16 * max(matrix.size for matrix in matrices)
    width = matrices[0].columns
    if settings.method != "round":
        widest = max(matrix.columns for matrix in matrices)
        needed += 2 * weights + 3 * 4 * settings.samples * tokens * width + 40 * widest * widest
    if settings.method == "tuned":
        at_once = max(ROW_TOKENS, tokens)
        needed += 4 * matrices[0].size + 24 * min(TOKENS_AT_ONCE, at_once) * matrices[0].rows
        needed += 4 * samples_to_learn(settings, matrices) * tokens * width + (
            0 if settings.packed else 4 * 4 * weights
        )
        needed += 6 * at_once * sum(matrix.rows + matrix.columns for matrix in matrices[1:])  # for the gradient
    if settings.packed:  # gradients, and what comes into each matrix, before anything else is made
        needed = max(needed, 8 * weights + 4 * sum(matrix.columns**2 for matrix in matrices))
    return needed


def memory_to_adapt(matrices: Sequence[Matrix]) -> int:
    """About the bytes more that training the blocks to come takes: gradients, moments, and a copy to go back to."""
    return 16 * sum(matrix.size for matrix in matrices if matrix.block is not None)
