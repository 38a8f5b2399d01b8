"""Tuning one number a row: the steps of codes that are packed, whose rows have one step each (`_rates`).

A row's step multiplies what the row puts out, so it is learned there: no gradient of a weight is computed, which is a
third of the work of a step, and nothing is kept beside the weights. Source: M. Chen et al., "EfficientQAT", 2024,
section 3.3, whose second phase learns steps alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from halfpint.compress._codes import Coded, Scales
from halfpint.compress._matrices import EMBEDDINGS, Matrix
from halfpint.compress._rates import steady_scale
from halfpint.compress._tune import adam
from halfpint.errors import need

if TYPE_CHECKING:
    import torch

_SHARE = 0.6  # of the rate; found by trying


class RowScale:
    """The steps of one matrix while they are learned.

    Args:
        matrix: whose module computes with the values of `coded`.
        coded: its codes, which stay.
        output: the layer that shares the matrix, if it is that of embeddings.
    """

    trains_weight = False

    def __init__(self, matrix: Matrix, coded: Coded, output: Any = None) -> None:
        torch = need("torch", "quantising")
        self.matrix, self.kind = matrix, coded.kind
        self.codes, self.scales = coded.codes, coded.scales
        self._units = coded.scales.scale.reshape(matrix.rows, -1)
        self._factor = torch.ones(matrix.rows, requires_grad=True)
        self._moments = [torch.zeros(matrix.rows) for _ in range(2)]
        self._hooks = [matrix.module.register_forward_hook(self._looked_up if self._is_looked_up else self._multiplied)]
        if output is not None and self._is_looked_up and output.weight is matrix.module.weight:
            self._hooks.append(output.register_forward_hook(self._multiplied))

    @property
    def _is_looked_up(self) -> bool:
        return self.matrix.role == EMBEDDINGS

    def _looked_up(self, module: Any, inputs: Any, out: Any) -> Any:
        return out * self._factor[inputs[0]][..., None]

    def _multiplied(self, module: Any, inputs: Any, out: Any) -> Any:
        # In fp32, and given on in it: bfloat16 has nothing between 0.998 and 1.004, where factors are learned.
        bias = module.bias
        return out * self._factor if bias is None else (out - bias) * self._factor + bias

    def step(self, rate: float, count: int) -> int:
        """Move by the gradient, which is taken away; no code changes."""
        torch = need("torch", "quantising")
        if self._factor.grad is not None:
            with torch.no_grad():
                self._factor.sub_(adam(self._moments, self._factor.grad, count), alpha=rate * _SHARE)
            self._factor.grad = None
        return 0

    def settle(self) -> None:
        """Put what was learned into the matrix."""
        torch = need("torch", "quantising")
        for hook in self._hooks:
            hook.remove()
        with torch.no_grad():
            least = self._units.amin(1, keepdim=True)
            scale = steady_scale(self._factor.detach()[:, None] * least, self._units / least)
        self.scales = Scales(scale.reshape(self.scales.scale.shape), self.scales.offset)
        self.matrix.write(self.coded().values())

    def put_back(self, codes: torch.Tensor, scales: Scales) -> None:
        """Take codes and scales as they were."""
        self.codes, self.scales = codes, scales
        self.matrix.write(self.coded().values())

    def coded(self) -> Coded:
        """The codes and scales as they are now."""
        return Coded(self.kind, self.codes, self.scales)


def row_scales_of(matrices: Sequence[Matrix], coded: Mapping[str, Coded], output: Any) -> list[RowScale]:
    """A `RowScale` for each matrix that is quantised; `output` as there."""
    return [RowScale(one, coded[one.name], output) for one in matrices if one.name in coded]
