"""Batches under a token budget: texts of like length together, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_WINDOW = 50  # batches that are sorted by length among themselves, at most
_LEAST_WINDOWS = 4  # else few texts would be in the same batches in every epoch


def epoch_batches(
    lengths: Sequence[int], *, batch_size: int, batch_tokens: int, seed: int, epoch: int
) -> list[npt.NDArray[np.int64]]:
    """Indices of one epoch's batches.

    Each batch has at most `batch_size` texts and, padded to its longest, at most `batch_tokens` tokens (one text at
    least). Texts are shuffled, sorted by length within windows of 50 batches (a quarter of the texts where those are
    few), cut, and the batches shuffled again: little padding, and no fixed company.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(sizes))
    batches: list[npt.NDArray[np.int64]] = []
    width = batch_size * max(1, min(_WINDOW, len(sizes) // (_LEAST_WINDOWS * batch_size)))
    for start in range(0, len(order), width):
        window = order[start : start + width]
        window = window[np.argsort(sizes[window], kind="stable")]
        begin = 0
        for end in range(1, len(window) + 1):
            full = end - begin == batch_size
            if end == len(window) or full or (end - begin + 1) * sizes[window[end]] > batch_tokens:
                batches.append(window[begin:end])
                begin = end
    return [batches[index] for index in random.permutation(len(batches))]
