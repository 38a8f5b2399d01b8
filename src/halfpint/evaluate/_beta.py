"""Quantiles of the beta distribution, for intervals of shares; no package of the core has them."""

from __future__ import annotations

import math

_STEPS = 20_000
_TINY = 1e-300


def beta_quantile(share: float, a: float, b: float) -> float:
    """The x that a beta(a, b) variable stays below with probability `share`; a and b are above 0.

    Source: bisection of the regularised incomplete beta function, by the continued fraction of Abramowitz & Stegun
    1964, 26.5.8.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-12 * max(high, 1e-6):
        middle = (low + high) / 2
        if _incomplete(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for x from 0 to 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side alone
        return 1 - _incomplete(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """Lentz's evaluation of the continued fraction."""
    above, below = 1.0, 1 - (a + b) * x / (a + 1)
    below = 1 / (below if abs(below) > _TINY else _TINY)
    value = below
    for step in range(1, _STEPS):
        even = step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1))
        change = 1.0
        for term in (even, odd):
            below = 1 + term * below
            below = 1 / (below if abs(below) > _TINY else _TINY)
            above = 1 + term / above
            above = above if abs(above) > _TINY else _TINY
            change = above * below
            value *= change
        if abs(change - 1) < 1e-14:
            break
    return value
