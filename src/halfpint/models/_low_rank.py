"""Projections along a sequence, from n places to k: shared by layers, heads, or by keys and values.

Source: Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity", section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from halfpint.errors import SettingError, nearest

NONE, HEADWISE, KEY_VALUE, LAYERWISE = "none", "headwise", "key-value", "layerwise"
SHARING = (NONE, HEADWISE, KEY_VALUE, LAYERWISE)
"""What has one matrix: nothing; all heads of a layer; these, and keys with values; all of these in all layers."""


class Projection(nn.Module):
    """E and F: matrices (k, n), or (heads, k, n) where nothing is shared; one where keys and values share it.

    Attributes:
        key: E.
        value: F; None where E is both.
    """

    def __init__(self, sharing: str, heads: int, k: int, n: int) -> None:
        super().__init__()
        shape = (heads, k, n) if sharing == NONE else (k, n)
        self.key = nn.Parameter(torch.empty(shape))
        self.value = nn.Parameter(torch.empty(shape)) if sharing in (NONE, HEADWISE) else None
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Random values by which k sums over n places are as large as one place's state."""
        for matrix in self.parameters():
            nn.init.normal_(matrix, 0.0, 1 / math.sqrt(matrix.shape[-1]))

    def forward(
        self, states: torch.Tensor, keys: nn.Module, values: nn.Module, of_heads: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected keys and values, (rows, heads, k, width of a head), of states (rows, length, width).

        A shared matrix projects the states before `keys` and `values`, linear layers without a bias, make keys and
        values of them: the same numbers, and k places are less than n. Shorter states meet the first columns.
        """
        length = states.shape[1]
        if self.key.ndim == 3:
            assert self.value is not None
            return (
                self.key[..., :length] @ of_heads(keys(states)),
                self.value[..., :length] @ of_heads(values(states)),
            )
        first = self.key[:, :length] @ states
        second = first if self.value is None else self.value[:, :length] @ states
        return of_heads(keys(first)), of_heads(values(second))

    def of_chunks(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of keys and values (rows, heads, chunks, n, width) the projected ones, (rows, heads, chunks, k, width)."""
        matrices = [self.key, self.key if self.value is None else self.value]
        first, second = (one[:, None] if one.ndim == 3 else one for one in matrices)
        return first @ keys, second @ values


def check_sharing(sharing: str) -> None:
    """Raise a SettingError for what is no way of sharing."""
    if sharing not in SHARING:
        raise SettingError("sharing", wanted=f"one of {', '.join(SHARING)}", got=repr(sharing),
                           todo=nearest(str(sharing), SHARING))  # fmt: skip
