"""Keys and values of texts that a Transformer read, so that what begins alike is not read again."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import need

_MOST_TEXTS = 16
_MOST_BYTES = 1 << 29  # of keys and values, whatever the number of texts
_SLICED = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""Kinds of layers that make new tensors when they grow, and can be cut to their first tokens."""


class PrefixCache:
    """Runs a causal model of transformers on ids, from the longest beginning that it read before.

    A cache of transformers is changed when it grows, so each belongs to one text: a text that goes on takes it along,
    and one that only begins alike takes a copy of the beginning. Layers without a place for each token (linear
    attention, a sliding window that is full) cannot be cut: such a text is read anew.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._held: list[tuple[list[int], Any]] = []  # the latest last

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of the token after `ids`: float32 of shape (vocabulary,)."""
        torch = need("torch", "a language model")
        with torch.inference_mode():
            known, cache = self._beginning(ids)
            out = self._model(input_ids=torch.tensor([ids[known:]]), past_key_values=cache, use_cache=True)
            if (kept := getattr(out, "past_key_values", None)) is not None:
                self._keep(list(ids), kept)
            last: npt.NDArray[np.float32] = out.logits[0, -1].float().numpy()
        return last

    def _beginning(self, ids: list[int]) -> tuple[int, Any]:
        """How many of `ids` are known, at most all but the last, and a cache of those; 0 and None where none are."""
        order = sorted(
            ((common_length(held, ids), place) for place, (held, _) in enumerate(self._held)),
            key=lambda found: (-found[0], -found[1]),
        )
        for common, place in order:
            held, cache = self._held[place]
            known = min(common, len(ids) - 1)
            if known == len(held) and known:
                return known, self._held.pop(place)[1]
            if known:
                cut = _cut(cache, len(held) - known)
                if cut is not None:
                    return known, cut
        return 0, None

    def _keep(self, ids: list[int], cache: Any) -> None:
        self._held = [one for one in self._held if one[0] != ids]
        self._held.append((ids, cache))
        sizes = [_bytes(one) for _, one in self._held]
        while len(self._held) > 1 and (len(self._held) > _MOST_TEXTS or sum(sizes) > _MOST_BYTES):
            self._held.pop(0)
            sizes.pop(0)


def common_length(one: list[int], other: list[int]) -> int:
    """How many ids both begin with."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    differ = np.flatnonzero(np.asarray(one[:most]) != np.asarray(other[:most]))
    return int(differ[0])


def _cut(cache: Any, number: int) -> Any:
    """A copy of `cache` without its last tokens, which shares its tensors; None where it cannot be cut."""
    layers = getattr(cache, "layers", None)
    if not layers or any(type(layer).__name__ not in _SLICED for layer in layers):
        return None
    made = copy(cache)
    made.layers = [copy(layer) for layer in layers]
    try:
        made.crop(-number)
    except (RuntimeError, ValueError):  # a sliding window that forgot what would come back
        return None
    return made


def _bytes(cache: Any) -> int:
    tensors = [getattr(layer, name, None) for layer in getattr(cache, "layers", []) for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
