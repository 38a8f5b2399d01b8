"""The shape of the schedules, and what is in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.train.batches import epoch_batches
from halfpint.train.schedule import SCHEDULES, factor

totals = st.integers(1, 2000)
warmups = st.one_of(st.just(0.0), st.floats(0.001, 0.5))


def factors(schedule: str, total: int, warmup: float) -> list[float]:
    return [factor(schedule, step, total, warmup) for step in range(total)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(total=totals, warmup=warmups)
def test_schedule_shape(schedule: str, total: int, warmup: float) -> None:
    found = factors(schedule, total, warmup)
    assert all(0 < value <= 1 for value in found)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert abs(peak - total * warmup) <= 1
    if total > 4:
        assert max(found) == 1


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
@given(total=st.integers(100, 2000), warmup=warmups)
def test_schedule_ends_near_zero(schedule: str, total: int, warmup: float) -> None:
    assert factors(schedule, total, warmup)[-1] <= 0.05 + 1e-9


@given(total=totals, warmup=warmups)
def test_constant_stays_and_wsd_falls_late(total: int, warmup: float) -> None:
    rise = round(total * warmup) + 1
    assert all(value == 1 for value in factors("constant", total, warmup)[rise:])
    assert all(value == 1 for value in factors("wsd", total, warmup)[rise : int(total * 0.8)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_warmup_starts_at_the_peak(schedule: str) -> None:
    assert factor(schedule, 0, 100, 0.0) == 1


def test_halfway() -> None:
    assert factor("linear", 55, 100, 0.1) == pytest.approx(0.5)
    assert factor("cosine", 55, 100, 0.1) == pytest.approx(0.5)
    assert factor("cosine", 32, 100, 0.1) > factor("linear", 32, 100, 0.1)
    assert factor("wsd", 90, 100, 0.1) == pytest.approx(0.5)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=200),
    batch_size=st.integers(1, 40),
    batch_tokens=st.integers(1, 5000),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_batches_partition_the_texts_within_the_budget(
    lengths: list[int], batch_size: int, batch_tokens: int, seed: int, epoch: int
) -> None:
    settings = {"batch_size": batch_size, "batch_tokens": batch_tokens, "seed": seed, "epoch": epoch}
    batches = epoch_batches(lengths, **settings)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_tokens
    again = epoch_batches(lengths, **settings)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]


def test_batches_differ_between_epochs_and_seeds() -> None:
    lengths = [5 + number % 40 for number in range(300)]

    def batches(seed: int, epoch: int) -> list[list[int]]:
        found = epoch_batches(lengths, batch_size=16, batch_tokens=400, seed=seed, epoch=epoch)
        return [batch.tolist() for batch in found]

    assert batches(0, 0) != batches(0, 1)
    assert batches(0, 0) != batches(1, 0)
    company = [{frozenset(batch) for batch in batches(0, epoch)} for epoch in (0, 1)]
    assert len(company[0] & company[1]) < len(company[0]) / 2  # not the same batches in another order


def test_batches_hold_texts_of_like_length() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 200, 3000).tolist()
    batches = epoch_batches(lengths, batch_size=32, batch_tokens=4096, seed=0, epoch=0)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    first = [np.mean([lengths[index] for index in batch]) for batch in batches]
    assert first != sorted(first)  # short ones do not all come first
