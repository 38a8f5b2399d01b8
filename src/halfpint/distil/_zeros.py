"""Weights that pruning set to zero stay zero while a model is trained on."""

from __future__ import annotations

from typing import Any

from halfpint.errors import HalfpintError

_PRUNED = 0.05  # share of exact zeros from which a matrix counts as pruned: a trained one has none


def hold_zeros(model: Any, place: str, *, lora: bool = False) -> int:
    """Let no gradient flow into the zeros of pruned matrices; gives how many weights are held so.

    AdamW moves such a weight by nothing: its moments stay zero, and so does what decay takes of it.

    Raises:
        HalfpintError: adapters, whose product would fill the zeros when it is merged.
    """
    held = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "lora_" in name:
            continue
        zeros = parameter.detach() == 0
        count = int(zeros.sum())
        if count < _PRUNED * parameter.numel() or count == parameter.numel():
            continue
        if lora:
            raise HalfpintError(
                f"{place}: lora", wanted="a model without weights that were pruned to zero",
                got=f"{count / parameter.numel():.0%} of {name}, which merging would fill", todo="Set lora = false.",
            )  # fmt: skip
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, zeros=zeros: gradient.masked_fill(zeros, 0.0))
            held += count
    return held
