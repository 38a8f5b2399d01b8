"""Masks for masked language modelling, drawn anew for every batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfpint.data.packing import IGNORED

IntArray = npt.NDArray[np.int64]

_KEPT, _RANDOM = 0.1, 0.1  # of what is masked: left as it is, and replaced by any token


class Masking(NamedTuple):
    """How tokens are masked: the share, the id of [MASK], and which ids may be masked or put in (bool, by id)."""

    share: float
    mask_id: int
    ordinary: npt.NDArray[np.bool_]


def mask_tokens(ids: IntArray, masking: Masking, random: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Inputs with masks, and labels (-100 where nothing is asked), both of the shape of `ids`.

    Each ordinary token is chosen with the share's probability; 80 % of the chosen become [MASK], 10 % another token,
    10 % stay. Source: Devlin et al. 2019, "BERT", section 3.1 and appendix A.1.
    """
    drawn = random.random(ids.shape)
    chosen = (drawn < masking.share) & masking.ordinary[ids]
    labels = np.where(chosen, ids, IGNORED)
    fate = random.random(ids.shape)
    inputs = np.where(chosen & (fate >= _KEPT + _RANDOM), masking.mask_id, ids)
    options = np.flatnonzero(masking.ordinary)
    other = chosen & (fate < _RANDOM)
    inputs[other] = random.choice(options, size=int(other.sum()))
    return inputs, labels


def masked(
    arrays: Mapping[str, npt.NDArray[Any]], masking: Masking, random: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """Packed rows with masks, and the labels that go with them; padding is never asked for."""
    inputs, labels = mask_tokens(np.asarray(arrays["input_ids"], dtype=np.int64), masking, random)
    padding = arrays["sequence_ids"] < 0
    return {
        **arrays,
        "input_ids": np.where(padding, arrays["input_ids"], inputs),
        "labels": np.where(padding, IGNORED, labels),
    }


def counted(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Labels that count."""
    return int((arrays["labels"] != IGNORED).sum())
