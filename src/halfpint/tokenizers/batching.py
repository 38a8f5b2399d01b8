"""Token ids to padded arrays, batched so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt


def length_batches(lengths: Sequence[int], tokens_a_batch: int = 2048) -> list[list[int]]:
    """Indices sorted by length and cut into batches of at most `tokens_a_batch` padded tokens (one text at least)."""
    batches: list[list[int]] = []
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens_a_batch:
            batches.append(batch)
            batch = []
        batch.append(index)
    return [*batches, batch] if batch else batches


def pad(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`input_ids` and `attention_mask`: int64 of shape (texts, longest), at least two wide."""
    longest = max(2, *(len(row) for row in ids))
    input_ids = np.full((len(ids), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), longest), dtype=np.int64)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return input_ids, mask


def collate(rows: Sequence[Mapping[str, Sequence[int]]], pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of an `Encoded` as padded arrays: every field, and the attention mask; int64 of shape (rows, longest)."""
    input_ids, mask = pad([row["input_ids"] for row in rows], pad_id)
    found = {"input_ids": input_ids, "attention_mask": mask}
    for name in rows[0]:
        if name != "input_ids":
            found[name] = np.zeros_like(input_ids)
            for place, row in enumerate(rows):
                found[name][place, : len(row[name])] = row[name]
    return found
