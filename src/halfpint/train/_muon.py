"""Muon: orthogonalised steps for the matrices inside a network, AdamW for everything else; one optimiser.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (momentum, Newton-Schulz iteration
with its coefficients); Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2 (the scale that makes AdamW's
learning rates and decay fit). In fp32: processors without bfloat16 compute it slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_SCALE = 0.2  # the root mean square of AdamW's usual step, in learning rates
_TINY = 1e-7


class Muon(torch.optim.AdamW):
    """AdamW whose groups with `muon` true take orthogonalised steps of the momentum instead.

    Args:
        params: parameter groups; those with `muon` hold matrices alone.
        momentum: of those.
        options: of AdamW.
    """

    def __init__(self, params: Any, *, momentum: float = 0.95, **options: Any) -> None:
        super().__init__(params, **options)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups."""
        held = [
            (parameter, parameter.grad)
            for group in self.param_groups
            if group.get("muon")
            for parameter in group["params"]
        ]
        for parameter, _ in held:
            parameter.grad = None  # AdamW passes over those without
        loss = super().step(closure)
        for parameter, gradient in held:
            parameter.grad = gradient
        for group in self.param_groups:
            if group.get("muon"):
                self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        """Matrices of one shape are orthogonalised together."""
        shapes: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(tuple(parameter.shape), []).append(parameter)
        for shape, parameters in shapes.items():
            moved = []
            for parameter in parameters:
                state, gradient = self.state[parameter], parameter.grad
                assert gradient is not None
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                    state["step"] = torch.zeros(())  # AdamW looks for it in what is put back
                buffer = state["momentum_buffer"].mul_(self.momentum).add_(gradient)
                moved.append(gradient.add(buffer, alpha=self.momentum))  # Nesterov's
            steps = orthogonalised(torch.stack(moved))
            scale = group["lr"] * _SCALE * max(shape) ** 0.5
            for parameter, change in zip(parameters, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-scale)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Each matrix with its singular values moved to about 1 (0.7 to 1.2), by Newton-Schulz iteration.

    Args:
        matrices: float32 of shape (number, rows, columns).
    """
    a, b, c = _COEFFICIENTS
    turned = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if turned else matrices
    found = found / (found.norm(dim=(1, 2), keepdim=True) + _TINY)
    for _ in range(_ROUNDS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    done: torch.Tensor = found.mT if turned else found
    return done
