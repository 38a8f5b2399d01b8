"""Learning-rate schedules: the factor on the peak rate, as a function of the step."""

from __future__ import annotations

import math

SCHEDULES = ("linear", "cosine", "wsd", "constant")
WSD_DECAY = 0.2
"""Share of the steps over which the schedule wsd falls: Hu et al. 2024 find a tenth to be enough; short runs gain."""


def factor(schedule: str, step: int, total: int, warmup: float, decay: float = WSD_DECAY) -> float:
    """The factor in [0, 1] for `step` (from 0) of `total`.

    Args:
        schedule: linear and cosine fall to 0 at the end; wsd (warm-up, stable, decay) stays at 1 and falls
            linearly in the last `decay` share; constant stays at 1. All rise linearly over the first `warmup` share.

    Source: cosine, Loshchilov & Hutter 2017 (without restarts); WSD, Hu et al. 2024 (MiniCPM), section 4.
    """
    rise = max(1, round(total * warmup)) if warmup > 0 else 0
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = min(1.0, (step - rise) / max(1, total - rise))
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "wsd":
        return min(1.0, (total - step) / max(1.0, total * decay))
    return 1.0
