"""Engines run a bundle: one file an engine, each with `load(bundle, threads) -> Engine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from halfpint import registry
from halfpint.bundle import Bundle

Probabilities = npt.NDArray[np.float32]


class Engine(Protocol):
    """A loaded classifier."""

    labels: tuple[str, ...]

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of `texts`: float32 of shape (texts, labels), rows summing to 1, in the order given."""
        ...


def open_engine(bundle: Bundle, *, threads: int | None = None) -> Engine:
    """Load `bundle` with the engine that its card names.

    Args:
        bundle: an opened bundle.
        threads: threads of the engine; None takes one a physical core of this process.
    """
    module = registry.load("engines", str(bundle.card.get("engine")), place=f"{bundle.path}/card.json: engine")
    engine: Engine = module.load(bundle, threads)
    return engine


def softmax(logits: npt.NDArray[Any]) -> Probabilities:
    """Softmax over the last axis, in float32."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    result: Probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
