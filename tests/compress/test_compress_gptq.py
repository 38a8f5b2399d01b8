"""Codes column by column: the same as one column after the other by least squares, the heaviest columns first."""

from __future__ import annotations

import pytest
import torch

from halfpint.compress._codes import TYPES, Scales, nearest_codes, values_of
from halfpint.compress._gptq import damped, factor, gptq
from halfpint.compress._rates import steady


def inputs(columns: int) -> torch.Tensor:
    """Sums of x xᵀ of correlated columns, the later ones up to ten times as large."""
    draw = torch.Generator().manual_seed(3)
    mixed = torch.randn(3000, 8, generator=draw) @ torch.randn(8, columns, generator=draw)
    found = (mixed + 0.5 * torch.randn(3000, columns, generator=draw)) * torch.logspace(0, 1, columns)
    return found.T @ found / 3000


def weights(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(4))


def cost(away: torch.Tensor, square: torch.Tensor) -> float:
    return float(((away.double() @ square.double()) * away.double()).sum())


def test_each_column_is_made_up_for_by_least_squares_in_those_after_it() -> None:
    """The plain way: fix a column, then solve for the best values of all that are free, again and again."""
    kind, weight, square = TYPES["q4_0"], weights(6, 64), inputs(64)
    steps = torch.full((6, 1), 0.5)
    coded, _ = gptq(kind, weight, square, 0.01, lambda block: steady(kind, block, steps))
    held = damped(square, 0.01)
    order = held.diagonal().argsort(descending=True).tolist()
    blocks = [steady(kind, block, steps) for block in weight.split(kind.block, 1)]
    wanted, now = torch.zeros(6, 64, dtype=torch.uint8), weight.double().clone()
    for place, number in enumerate(order):
        own = blocks[number // kind.block]
        column = now[:, number : number + 1].float()
        code = nearest_codes(kind.__class__("one", 1, 1, 1, kind.table), column, Scales(own.scale, own.offset))
        wanted[:, number : number + 1] = code
        now[:, number] = values_of(kind.__class__("one", 1, 1, 1, kind.table), code, own).double()[:, 0]
        free, fixed = order[place + 1 :], order[: place + 1]
        if free:
            away = now[:, fixed] - weight.double()[:, fixed]
            now[:, free] = weight.double()[:, free] - away @ held[fixed][:, free] @ torch.linalg.inv(
                held[free][:, free]
            )
    same = (coded.codes == wanted).float().mean()
    assert float(same) > 0.98  # rounding of float32 may turn a tie


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_1", "iq4_nl", "mxfp4"])
def test_heavy_columns_first_lose_less(name: str) -> None:
    """With the columns turned round and back again the order is the same, so what is coded is the same too."""
    kind, weight, square = TYPES[name], weights(32, 128), inputs(128)
    coded, before = gptq(kind, weight, square, 0.01)
    assert before.shape == weight.shape
    turned = torch.arange(127, -1, -1)
    other, _ = gptq(kind, weight[:, turned], square[turned][:, turned], 0.01)
    assert cost(other.values()[:, turned] - weight, square) == pytest.approx(
        cost(coded.values() - weight, square), rel=0.02
    )


def test_the_order_leaves_less_of_an_error_than_that_of_the_matrix() -> None:
    square = inputs(96)
    held = damped(square, 0.01)
    lower = torch.linalg.cholesky(torch.linalg.inv(held), upper=True)
    natural = lower.diagonal().square().reciprocal()
    order, upper = factor(square, 0.01)
    best = upper.diagonal().double().square().reciprocal()
    assert sorted(order.tolist()) == list(range(96))
    assert float(best.log().sum()) == pytest.approx(float(natural.log().sum()), rel=1e-4)  # the determinant stays
    assert float(best.sum()) < 0.8 * float(natural.sum())
    blocks, _ = factor(square, 0.01, block=32)
    assert [set((part // 32).tolist()) for part in blocks.split(32)] == [{2}, {1}, {0}]
