"""Fitting the linear head of a classifier on pooled features, exactly, instead of by steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.engines.torch_classifier import run_batches
from halfpint.outputs import Encoded
from halfpint.train import encoders

PENALTIES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_CHUNK = 1024


def features(model: Any, encoded: Encoded, bar: Any = None) -> npt.NDArray[np.float32]:
    """Pooled states of encoded texts: float32 of shape (texts, hidden)."""
    parts = []
    for start in range(0, len(encoded.rows), _CHUNK):
        part = encoded.rows[start : start + _CHUNK]
        parts.append(run_batches(model, Encoded(part), model.pooled, model.classifier.in_features))
        if bar is not None:
            bar.advance(len(part))
    return np.concatenate(parts)


def fit_head(
    model: Any,
    inputs: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    held: npt.NDArray[np.float32],
    judge: encoders.Judge,
    penalty: float = 0.0,
) -> tuple[float, float]:
    """Give `model` the multinomial logistic regression on standardised `inputs` that scores best on `held`.

    Args:
        inputs, held: features of the texts to learn from and to choose by, float32 of shape (texts, hidden).
        judge: scores the latter.
        penalty: the weight of the squared weights; 0 tries several.

    Returns:
        The score on `held`, and the penalty.
    """
    import torch

    mean, spread = inputs.mean(0), inputs.std(0) + 1e-6
    labels = model.config.num_labels
    found: list[tuple[float, float, Any]] = []
    for weight_of_squares in (penalty,) if penalty else PENALTIES:
        weight, bias = _logistic((inputs - mean) / spread, targets, labels, weight_of_squares)
        value = judge((held - mean) / spread @ weight.T + bias)
        found.append((value, weight_of_squares, (weight, bias)))
    # Of equal scores the larger penalty: its head answers less extremely.
    value, chosen, (weight, bias) = max(found, key=lambda one: (one[0], one[1]))
    with torch.no_grad():  # the standardisation is linear, so it goes into the head
        model.classifier.weight.copy_(torch.from_numpy(weight / spread))
        model.classifier.bias.copy_(torch.from_numpy(bias - (weight / spread) @ mean))
    return value, chosen


def _logistic(
    inputs: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], labels: int, penalty: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights (labels, features) and bias of the penalised multinomial logistic regression, by L-BFGS."""
    import torch

    given, wanted = torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(targets)
    weight = torch.zeros(labels, given.shape[1], requires_grad=True)
    bias = torch.zeros(labels, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=150, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Any:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(given @ weight.T + bias, wanted) + penalty * weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), bias.detach().numpy()
