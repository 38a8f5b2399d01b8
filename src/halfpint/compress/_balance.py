"""What errors of the embeddings and of the output layer count beside those of the blocks: measured.

The Fisher information tells of small errors. Noise in what is said of each of many thousand tokens is not small where
bits are few: in the softmax that of tokens which are hardly ever said adds up by its exponential. So the matrices
outside of the blocks are rounded alone, then those inside, both with the errors that are planned, and what that does to
what the model says is compared with what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from halfpint.compress._calibration import Rows
from halfpint.compress._matrices import Matrix
from halfpint.compress._rates import Pace
from halfpint.errors import need
from halfpint.progress import Log

if TYPE_CHECKING:
    import torch

_ROUNDS = 2
_TOKENS_AT_ONCE = 512
_LEAST = 1e-5  # nats: what is smaller is small enough, and near to what rounding in fp32 makes
_MOST = 64.0  # how much the one may count beside what the Fisher information says


def balanced(
    model: Any,
    matrices: Sequence[Matrix],
    sensitivity: Mapping[str, torch.Tensor],
    left: Mapping[str, float],
    plan: Callable[[Mapping[str, torch.Tensor]], Pace],
    rows: Rows,
    log: Log,
) -> tuple[dict[str, torch.Tensor], float]:
    """Sensitivities in which those outside of the blocks are as much more as was measured; and what the errors there
    cost, in nats a token.

    Args:
        sensitivity, left: as of `_sensitivity.sensitivity_of`.
        plan: the steps under given sensitivities; without dependent codes.
        rows: of text to measure on, others than the sensitivities are from: those know the tokens of their own.
    """
    found = dict(sensitivity)
    parts = [[one for one in matrices if (one.block is None) == outside] for outside in (True, False)]
    if not all(parts):
        return found, 0.0
    wanted = _answers(model, rows)
    ratio, costs = 1.0, [0.0]
    with log.bar("weighing embeddings", 2 * _ROUNDS) as bar:
        for _ in range(_ROUNDS):
            pace, ratios, costs = plan(found), [], []
            for part in parts:
                before = {one.name: one.read() for one in part if one.name in pace.steps}
                planned = 0.0
                for one in part:
                    if one.name in before:
                        values = pace.alone(one.name, before[one.name], left[one.name] ** 0.5).values()
                        errors = (values - before[one.name]).square().sum(1)
                        planned += float((sensitivity[one.name] / left[one.name] * errors).sum())
                        one.write(values)
                measured = _divergence(wanted, _answers(model, rows))
                for one in part:
                    if one.name in before:
                        one.write(before[one.name])
                if measured < _LEAST:
                    return dict(sensitivity), 0.0
                costs.append(measured)
                ratios.append(measured / max(planned, 1e-12))
                bar.advance()
            ratio = float(np.clip(ratios[0] / ratios[1], 1 / _MOST, _MOST))
            for one in parts[0]:
                found[one.name] = sensitivity[one.name] * ratio
    told = f"errors of the embeddings cost about {costs[0]:.3f} nats, {ratio:.2g} times what small ones would"
    log.say(told, kind="balance", ratio=ratio, cost=costs[0])
    return found, costs[0]


def _answers(model: Any, rows: Rows) -> tuple[Any, Any, Any]:
    """What comes into the output layer, (tokens, width), and its weight and bias."""
    torch = need("torch", "quantising")
    states = []
    with torch.no_grad():
        for row in rows:
            ids = torch.from_numpy(row)[None]
            states.append(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0].float())
    output = model.get_output_embeddings()
    return torch.cat(states), output.weight.detach().clone(), output.bias


def _divergence(wanted: tuple[Any, Any, Any], found: tuple[Any, Any, Any]) -> float:
    """The mean over tokens of KL(wanted, found) in nats."""
    torch = need("torch", "quantising")

    def said(one: tuple[Any, Any, Any], some: slice) -> Any:
        logits = torch.nn.functional.linear(one[0][some], one[1], one[2]).float()
        return logits - logits.logsumexp(1, keepdim=True)

    total = 0.0
    with torch.no_grad():
        for low in range(0, len(wanted[0]), _TOKENS_AT_ONCE):
            some = slice(low, low + _TOKENS_AT_ONCE)
            first, second = said(wanted, some), said(found, some)
            total += float((first.exp() * (first - second)).sum())
    return total / len(wanted[0])
