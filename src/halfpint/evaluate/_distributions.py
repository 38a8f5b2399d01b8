"""How far one model's next-token distributions are from another's, over the windows of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.evaluate.perplexity import perplexity

Logits = Callable[[list[int]], npt.NDArray[np.float32]]
"""Of ids the logits after each of them: float32 (ids, vocabulary)."""

POSITIONS = 1024
"""Tokens whose distributions are compared."""
WINDOW = 128
"""Tokens read at once."""
TIE = 0.01
"""Tokens that the trained model holds equally likely to so many nats count as the same likeliest one."""


def compare_distributions(
    trained: Logits, exported: Logits, ids: Sequence[int], window: int, before: list[int]
) -> dict[str, Any]:
    """Figures of `exported` against `trained` over the first `POSITIONS` of `ids`.

    Args:
        window: tokens that are read at once.
        before: what each window begins with: the start of a text, or nothing.

    Returns:
        perplexity of the text a token by `exported`, perplexity_trained and its 95 % perplexity_interval; kl_mean,
        kl_worst: KL divergence in nats over `positions`; same_top_1: share of the same likeliest token.
    """
    divergences: list[npt.NDArray[np.float64]] = []
    same: list[npt.NDArray[np.bool_]] = []
    nats: list[npt.NDArray[np.float64]] = []  # of each next token: by the trained model, by the exported one
    for start in range(0, min(POSITIONS, len(ids)), window):
        some = [*before, *ids[start : start + window]][:window]
        reference, other = _log_softmax(trained(some)), _log_softmax(exported(some))
        nats.append(-np.stack([one[np.arange(len(some) - 1), some[1:]] for one in (reference, other)]))
        # What stands after the start token alone counts once: quantised, it may be far off, and is always the same.
        fresh = slice(len(before) if start else 0, None)
        reference, other = reference[fresh], other[fresh]
        divergences.append((np.exp(reference) * (reference - other)).sum(axis=1))
        chosen = np.take_along_axis(reference, other.argmax(axis=1)[:, None], axis=1)[:, 0]
        same.append(chosen >= reference.max(axis=1) - TIE)
    divergence, alike = np.concatenate(divergences), np.concatenate(same)
    sizes = [part.shape[1] for part in nats]
    usual = perplexity([part[0].sum() for part in nats], sizes, sizes, sizes, unit="windows").per_token
    return {
        "perplexity": float(np.exp(np.concatenate(nats, axis=1)[1].mean())),
        "perplexity_trained": usual.value,
        "perplexity_interval": [usual.low, usual.high],
        "positions": len(divergence),
        "kl_mean": float(divergence.mean()),
        "kl_worst": float(divergence.max()),
        "same_top_1": float(alike.mean()),
    }


def logits_of(model: Any) -> Logits:
    """What a causal model of transformers gives."""
    import torch

    def found(ids: list[int]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = model(input_ids=torch.tensor([ids])).logits[0].float().numpy()
        return logits

    return found


def check_bounds(figures: dict[str, Any], bounds: tuple[float, float], *, may_leave: bool) -> str:
    """What is wrong with the figures of `compare_distributions`, told with them; empty where they are within bounds.

    Args:
        bounds: the largest mean KL divergence and the smallest share of the same likeliest token.
        may_leave: whether the perplexity may be outside of the trained one's interval.
    """
    most, least = bounds
    low, high = figures["perplexity_interval"]
    within = low <= figures["perplexity"] <= high or may_leave
    if figures["kl_mean"] <= most and figures["same_top_1"] >= least and within:
        return ""
    shown = {name: value for name, value in figures.items() if not isinstance(value, list)}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return found
