"""What an error in each row of each matrix counts, where codes are packed (`_rates`).

It is told by the Fisher information of a row's weights, as in `_allocation`, times the part of an error that is left
after the columns behind have made up for it (`_gptq`). Of the rows of embeddings a few texts say little: how often a
token is looked up is told by all of the text, what a lookup counts by the few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from halfpint.compress._allocation import squared_gradients
from halfpint.compress._calibration import Rows
from halfpint.compress._gptq import Moments, factor
from halfpint.compress._matrices import EMBEDDINGS, Matrix
from halfpint.errors import need
from halfpint.progress import Log

if TYPE_CHECKING:
    import torch

_SHRUNK = 0.1  # of a row's sensitivity is that of its matrix: gradients of a few texts say little of a rare row


def sensitivity_of(
    model: Any, matrices: Sequence[Matrix], rows: Rows, seed: int, damping: float, log: Log,
    often: torch.Tensor | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:  # fmt: skip
    """What a squared error in a weight of each row counts (nats a token) after later columns have made up for it:
    float32 of shape (outputs,) by matrix; and the share of it that is left then.

    Args:
        often: how often each token is in much more text, float (tokens,): a row of embeddings that `rows` have not, or
            once by chance, counts by that; None goes by `rows`.
    """
    torch = need("torch", "quantising")
    found = {matrix.name: torch.zeros(matrix.rows) for matrix in matrices}
    moments = {matrix.name: Moments(matrix.columns, crossed=False) for matrix in matrices}
    handles = []
    for matrix in matrices:
        module = model.get_output_embeddings() if matrix.role == EMBEDDINGS else matrix.module
        held = moments[matrix.name]
        handles.append(
            module.register_forward_pre_hook(
                lambda _, inputs, held=held: held.add(inputs[0].detach().flatten(0, -2).float())
            )
        )
    lookups = Lookups(model.get_input_embeddings())

    def take(matrix: Matrix, gradient: Any) -> None:
        if matrix.role == EMBEDDINGS and often is not None:
            gradient = lookups.taken_from(gradient)
        found[matrix.name] += gradient.square().mean(1)

    try:
        tokens = squared_gradients(model, matrices, rows, seed, log, take)
    finally:
        for handle in (*handles, lookups.handle):
            handle.remove()
    left = {}
    for matrix in matrices:
        if matrix.role == EMBEDDINGS and often is not None:
            found[matrix.name] += tokens * shares_of(often) * lookups.mean
        mean = float(found[matrix.name].mean()) or 1e-30
        left[matrix.name] = _left(moments[matrix.name].square, matrix.role == EMBEDDINGS, damping)
        found[matrix.name].mul_(1 - _SHRUNK).add_(_SHRUNK * mean).mul_(left[matrix.name] / (2 * tokens))
    return found, left


class Lookups:
    """Tells the gradient of embeddings that are looked up from that of the output layer which shares them.

    Attributes:
        handle: of the hook.
    """

    def __init__(self, embeddings: Any) -> None:
        self._weight = embeddings.weight
        self._squares = self._count = 0.0
        self.handle = embeddings.register_forward_hook(self._note)

    def _note(self, module: Any, inputs: Any, out: Any) -> None:
        if out.requires_grad:
            out.retain_grad()
        self._ids, self._out = inputs[0].flatten(), out

    @property
    def mean(self) -> float:
        """The mean over lookups and columns of the gradient's square."""
        return self._squares / max(self._count, 1.0)

    def taken_from(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of the weight, (tokens, width), less what the lookups of the last pass gave to it."""
        torch = need("torch", "quantising")
        with torch.no_grad():
            # Some architectures multiply what is looked up by a number.
            scale = float(self._out.norm() / self._weight[self._ids].norm().clamp_min(1e-30))
            one = scale * self._out.grad.flatten(0, -2).float()
            self._squares += float(one.square().mean(1).sum())
            self._count += len(one)
            found = gradient.index_add(0, self._ids, one, alpha=-1.0)
        return found  # type: ignore[no-any-return]


def shares_of(often: torch.Tensor) -> torch.Tensor:
    """How likely each token is, by how often it was: those that were never share what those that were once have (I. J.
    Good, "The population frequencies of species and the estimation of population parameters", 1953)."""
    torch = need("torch", "quantising")
    total, never = float(often.sum()), float((often == 0).sum())
    unseen = float((often == 1).sum()) / max(total, 1.0) if never else 0.0
    found = torch.where(often == 0, unseen / max(never, 1.0), often / max(total, 1.0) * (1 - unseen))
    return found  # type: ignore[no-any-return]


def _left(square: torch.Tensor, is_looked_up: bool, damping: float) -> float:
    """The share of an error that is left when later columns make up for it."""
    torch = need("torch", "quantising")
    square = square / (float(square.diagonal().mean()) or 1.0)
    if is_looked_up:
        square = (square + torch.eye(len(square))) / 2
    _, upper = factor(square, damping)
    return float(upper.diagonal().square().reciprocal().mean())
