"""Directions of the hidden states, and the fits of layers that read fewer of them."""

from __future__ import annotations

import pytest

from halfpint.compress._directions import Shown, components
from halfpint.compress._layerwise import Halves, Moments
from halfpint.compress._narrowing import _readers, _tied_gains

torch = pytest.importorskip("torch", reason="pruning needs torch")


def test_a_weighted_rotation_leaves_a_tied_head_as_it_is() -> None:
    """With gains of both signs, exactly, but for what the norm divides by; a channel that carries most stays itself."""
    torch.manual_seed(0)
    embedding, gains = torch.randn(50, 24).double(), 0.5 + torch.rand(24)
    gains[3:6] *= -1
    state, random = torch.randn(24).double(), torch.randn(24, 24).double()
    random[5] *= 20
    found = components(Shown(torch.ones(24), random @ random.T), 24, gains)
    own, now = embedding @ found.basis, found.basis.T @ state
    assert found.last is not None
    torch.testing.assert_close(own @ (found.last * now), embedding @ (gains * state))
    torch.testing.assert_close(found.back @ now, state)
    assert (found.last > 0).sum() == 21
    assert (found.basis[:, 0].nonzero()[:, 0].tolist(), float(found.last[0])) == ([5], pytest.approx(float(gains[5])))


@pytest.mark.parametrize("bias", [True, False])
def test_readers_are_the_least_squares_of_the_text(bias: bool) -> None:
    """Two layers that read the same, more outputs than inputs, against a fit of each by itself."""
    torch.manual_seed(0)
    now = torch.randn(400, 6) + 1
    old = now @ torch.randn(6, 10) + 0.01 * torch.randn(400, 10)
    lift = torch.randn(10, 6)
    layers = {name: torch.nn.Linear(10, outputs, bias=bias) for name, outputs in (("a", 14), ("b", 3))}
    halves, found = Halves(), {}
    for rows in (slice(0, 150), slice(150, 400)):
        halves(torch.cat([now[rows], old[rows] - now[rows] @ lift.T], 1))
    assert _readers(layers, halves, lift, found) <= 1e-3
    ones = torch.cat([now, torch.ones(400, 1)], 1).double() if bias else now.double()
    for name, layer in layers.items():
        wanted = layer(old).detach().double()
        best = torch.linalg.lstsq(ones, wanted).solution.T
        torch.testing.assert_close(found[f"{name}.weight"].double(), best[:, :6], atol=1e-3, rtol=1e-2)
        assert (f"{name}.bias" in found) == bias
        if bias:
            torch.testing.assert_close(found[f"{name}.bias"].double(), best[:, 6], atol=1e-3, rtol=1e-2)


def test_gains_before_a_tied_head_are_the_least_squares_of_the_logits() -> None:
    torch.manual_seed(0)
    whole, own = torch.randn(40, 8), torch.randn(40, 5)
    old, now = torch.randn(200, 8), torch.randn(200, 5)
    moments = Moments()
    moments(torch.cat([now, old], 1))
    factors = _tied_gains(whole, own, moments)
    each = (now[:, None, :] * own[None]).reshape(-1, 5).double()  # a logit is the sum over channels
    best = torch.linalg.lstsq(each, (old @ whole.T).reshape(-1, 1).double()).solution[:, 0]
    torch.testing.assert_close(factors.double(), best, atol=5e-3, rtol=5e-3)  # there is a small ridge
