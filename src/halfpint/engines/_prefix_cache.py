"""Keys and values of texts that a Transformer read, so that what begins alike is not read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import need

_MOST_TEXTS = 16
_MOST_BYTES = 1 << 29  # of keys and values, whatever the number of texts
_SLICED = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""Kinds of layers that make new tensors when they grow, and can be cut to their first tokens."""


@dataclass
class _Read:
    """A text that was read: its ids, the model's cache, and the states after each id."""

    ids: list[int]
    cache: Any
    states: npt.NDArray[np.float32]


class PrefixCache:
    """Runs a causal model of transformers on ids, from the longest beginning that it read before.

    A cache of transformers is changed when it grows, so each belongs to one text: a text that goes on takes it along,
    and one that only begins alike takes a copy of the beginning. Layers without a place for each token (linear
    attention, a sliding window that is full) cannot be cut: such a text is read anew.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._head = model, model.get_output_embeddings()
        self._held: list[_Read] = []  # the latest last

    def read(self, ids: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits of the token after `ids`, float32 (vocabulary,); and the states after each of `ids` that the output
        layer was given, float32 (ids, width)."""
        torch = need("torch", "a language model")
        with torch.inference_mode(), states_of(self._head) as caught:
            known, cache, before = self._beginning(ids)
            out = self._model(input_ids=torch.tensor([ids[known:]]), past_key_values=cache, use_cache=True)
            states = np.concatenate([*before, caught[-1][0].float().numpy()])
            if (kept := getattr(out, "past_key_values", None)) is not None:
                self._keep(_Read(list(ids), kept, states))
            last: npt.NDArray[np.float32] = out.logits[0, -1].float().numpy()
        return last, states

    def _beginning(self, ids: list[int]) -> tuple[int, Any, list[npt.NDArray[np.float32]]]:
        """How many of `ids` are known, at most all but the last, a cache of those and their states; 0, None and nothing
        where none are."""
        order = sorted(
            ((common_length(one.ids, ids), place) for place, one in enumerate(self._held)),
            key=lambda found: (-found[0], -found[1]),
        )
        for common, place in order:
            one = self._held[place]
            known = min(common, len(ids) - 1)
            if known == len(one.ids) and known:
                return known, self._held.pop(place).cache, [one.states]
            if known:
                cut = _cut(one.cache, len(one.ids) - known)
                if cut is not None:
                    return known, cut, [one.states[:known]]
        return 0, None, []

    def _keep(self, read: _Read) -> None:
        self._held = [one for one in self._held if one.ids != read.ids]
        self._held.append(read)
        sizes = [_bytes(one.cache) + one.states.nbytes for one in self._held]
        while len(self._held) > 1 and (len(self._held) > _MOST_TEXTS or sum(sizes) > _MOST_BYTES):
            self._held.pop(0)
            sizes.pop(0)


@contextmanager
def states_of(head: Any) -> Iterator[list[Any]]:
    """Gathers what an output layer is given, a tensor (texts, tokens, width) each time that it runs."""
    found: list[Any] = []
    hook = head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        yield found
    finally:
        hook.remove()


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
