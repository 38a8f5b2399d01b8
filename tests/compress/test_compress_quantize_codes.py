"""Our blocks are llama.cpp's: what its package reads out of them is, to the bit, what we say that they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halfpint.compress._blocks import pack
from halfpint.compress._codes import TYPES, block_type, round_to
from halfpint.errors import HalfpintError


def weights(seed: int = 0, rows: int = 24, columns: int = 512) -> Any:
    import torch

    random = np.random.default_rng(seed)
    made = random.standard_t(5, size=(rows, columns)).astype(np.float32) * 0.05
    made[0] = 0
    made[1, :40] = 0
    made[2] = np.abs(made[2])
    made[3] = -np.abs(made[3])
    made[4] *= 1e-6
    made[5] *= 1e4
    made[6, ::32] = 3.0
    return torch.from_numpy(made)


def theirs(values: Any, name: str) -> Any:
    """Weighted squared error of the package gguf's own rounding; None where it has none."""
    import gguf

    kind = gguf.GGMLQuantizationType[name.upper()]
    try:
        packed = gguf.quants.quantize(values.numpy(), kind)
    except NotImplementedError:
        return None
    return gguf.quants.dequantize(packed, kind)


@pytest.mark.parametrize("name", TYPES)
def test_blocks_read_back_to_the_bit(name: str) -> None:
    import gguf

    kind, values = TYPES[name], weights()
    upper = gguf.GGMLQuantizationType[name.upper()]
    assert gguf.GGML_QUANT_SIZES[upper] == (kind.block, kind.size)
    coded = round_to(kind, values)
    packed = pack(coded)
    assert packed.dtype == np.uint8 and packed.shape == (len(values), values.shape[1] // kind.block * kind.size)
    ours = coded.values().numpy()
    np.testing.assert_array_equal(gguf.quants.dequantize(packed, upper), ours)
    assert np.isfinite(ours).all() and not ours[0].any()
    assert len(np.unique(coded.codes.numpy())) == len(kind.table)  # every code is in use


@pytest.mark.parametrize("name", TYPES)
def test_the_search_finds_better_scales_than_the_range_gives(name: str) -> None:
    kind, values = TYPES[name], weights(1)
    ours = round_to(kind, values).values()
    error = float((ours - values)[7:].square().sum())
    other = theirs(values, name)
    if other is not None:
        assert error < 0.97 * float(np.square(other - values.numpy())[7:].sum())
    signal = float(values[7:].square().sum())
    assert error < signal * 4.0 ** -(kind.bits - 2.6)


def test_more_bits_are_nearer() -> None:
    values = weights(2)[7:]
    errors = {name: float((round_to(kind, values).values() - values).square().sum()) for name, kind in TYPES.items()}
    order = ["q8_0", "q5_1", "q4_1", "mxfp4", "q3_k", "q2_k"]
    assert sorted(order, key=errors.__getitem__) == order
    assert errors["iq4_nl"] < errors["q4_0"]


def test_what_counts_more_is_nearer() -> None:
    import torch

    values = weights(3)[7:]
    importance = torch.ones(values.shape[1])
    importance[::4] = 50.0
    for kind in TYPES.values():
        plain, weighted = round_to(kind, values).values(), round_to(kind, values, importance).values()
        assert (weighted - values)[:, ::4].square().sum() < (plain - values)[:, ::4].square().sum(), kind.name


def test_values_that_a_type_can_hold_stay_as_they_are() -> None:
    values = weights(4)[7:]
    for kind in TYPES.values():
        if kind.scales not in ("half", "power"):
            continue
        once = round_to(kind, values).values()
        again = round_to(kind, once).values()
        assert float((again - once).abs().max()) <= 2e-3 * float(once.abs().max()), kind.name


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(HalfpintError, match="Did you mean 'q4_0'"):
        block_type("q40", "here")
