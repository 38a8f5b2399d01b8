"""Choosing a token: what top-k, top-p and min-p leave, and how often each is drawn, against the plain definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.engines._sampling import _FIRST, Sampling, choose, likeliest


def plain(logits: Any, sampling: Sampling) -> set[int]:
    """Ids that may be drawn, by the definitions, one filter after the other."""
    shares = np.exp((logits - logits.max()).astype(np.float64) / sampling.temperature)
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable").tolist()
    if sampling.top_k:
        order = order[: sampling.top_k]
    total, kept = 0.0, []
    for token in order:
        if sampling.top_p < 1 and total >= sampling.top_p:
            break
        total += shares[token]
        kept.append(token)
    return {token for token in kept if shares[token] >= sampling.min_p * shares[order[0]]}


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([3, 50, _FIRST + 500]),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    top_k=st.sampled_from([0, 1, 7, _FIRST + 100]),
    top_p=st.sampled_from([0.1, 0.731, 0.97, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_only_what_the_filters_leave_is_drawn(
    seed: int, size: int, spread: float, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.normal(size=size) * spread).astype(np.float32)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    wanted = plain(logits, sampling)
    drawn = {choose(logits, sampling, [], random) for _ in range(40)}
    assert drawn <= wanted
    if len(wanted) <= 2:
        assert drawn == wanted or len(drawn) == 1


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7, top_k=3), Sampling(1.3, top_p=0.9)])
def test_draws_are_as_often_as_they_are_likely(sampling: Sampling) -> None:
    logits = np.array([1.0, 2.0, -1.0, 0.5, -np.inf], dtype=np.float32)
    random = np.random.default_rng(0)
    counts = np.bincount([choose(logits, sampling, [], random) for _ in range(5000)], minlength=5)
    shares = np.exp(logits.astype(np.float64) / sampling.temperature)
    kept = np.isin(np.arange(5), list(plain(logits, sampling)))
    np.testing.assert_allclose(counts / 5000, np.where(kept, shares, 0) / shares[kept].sum(), atol=0.025)
    assert counts[4] == 0


def test_the_likeliest_in_order() -> None:
    values = np.array([1.0, 3.0, 2.0, 3.0, -np.inf])
    assert likeliest(values, 3).tolist() == [1, 3, 2]
    assert likeliest(values, 9).tolist() == [1, 3, 2, 0, 4]
    assert likeliest(values, 0).tolist() == []
