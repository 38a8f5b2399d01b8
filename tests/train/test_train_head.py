"""The fitted head: what chooses its penalty, and what it is fitted to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(60, 30)).astype(np.float32)
TARGETS = RANDOM.integers(0, 3, 60)  # noise: the less penalty, the better it is on these rows
HELD = RANDOM.normal(size=(40, 30)).astype(np.float32)


def fitted(judge: Any, held: NDArray[np.float32] = HELD, penalty: float = 0.0) -> tuple[Any, float, float]:
    from halfpint.train._head import fit_head

    model = SimpleNamespace(config=SimpleNamespace(num_labels=3), classifier=torch.nn.Linear(30, 3))
    return (model, *fit_head(model, INPUTS, TARGETS, held, judge, penalty))


def test_the_rows_to_choose_by_choose_the_penalty() -> None:
    from halfpint.train._head import PENALTIES

    asked = []

    def calm(logits: NDArray[np.float32]) -> float:
        asked.append(logits.shape)
        return -float(np.abs(logits).mean())

    _, score, penalty = fitted(calm)
    assert penalty == max(PENALTIES) and score < 0 and set(asked) == {(len(HELD), 3)}
    assert fitted(lambda logits: float(np.abs(logits).mean()))[2] == min(PENALTIES)
    assert fitted(lambda logits: 0.5)[2] == max(PENALTIES)  # of equal scores


def test_the_rows_to_choose_by_are_not_learned_from() -> None:
    """Not even by their mean and spread."""
    one, other = (fitted(lambda logits: 0.0, held, 0.01)[0].classifier for held in (HELD, 7 * HELD + 100))
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
