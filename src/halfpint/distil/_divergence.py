"""How far a student's distribution is from its teacher's, with a temperature: forward, reverse and Jensen–Shannon.

Sources: temperature, and the factor of its square that keeps gradients as large, Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network", section 2; reverse and generalised Jensen–Shannon divergence, Agarwal et al. 2024,
"On-Policy Distillation of Language Models", section 2 and appendix A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from halfpint.errors import SettingError, nearest

FORWARD, REVERSE, JS = "forward", "reverse", "js"
DIVERGENCES = (FORWARD, REVERSE, JS)


@dataclass(frozen=True, kw_only=True)
class Softened:
    """Settings of a stage that brings a student's distribution near its teacher's.

    Args:
        temperature: what the logits of both are divided by: above 1 the unlikely answers count more.
        divergence: forward (the student covers all that the teacher finds likely), reverse (it keeps to what the
            teacher finds likely), or js, the generalised Jensen–Shannon divergence between them.
        js_beta: of js: near 0 it is like forward, near 1 like reverse.
    """

    temperature: float = 2.0
    divergence: str = FORWARD
    js_beta: float = 0.5

    def check_softened(self, place: str) -> None:
        """Raise a HalfpintError for the first setting that cannot be."""
        if self.divergence not in DIVERGENCES:
            raise SettingError(
                f"{place}: divergence", wanted=f"one of {', '.join(DIVERGENCES)}", got=repr(self.divergence),
                todo=nearest(self.divergence, DIVERGENCES),
            )  # fmt: skip
        for name, fits, wanted in (
            ("temperature", 0.05 <= self.temperature <= 100, "a number from 0.05 to 100"),
            ("js_beta", 0 < self.js_beta < 1, "a share between 0 and 1"),
        ):
            if not fits:
                raise SettingError(f"{place}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def distance(self, student: Any, teacher: Any) -> Any:
        """The divergence of each row, times the squared temperature: fp32 of the shape of the logits less the last.

        Args:
            student: logits, shape (..., answers).
            teacher: logits or log-probabilities, the same shape; no gradient flows into them.
        """
        import torch

        ours = torch.log_softmax(student.float() / self.temperature, -1)
        theirs = torch.log_softmax(teacher.detach().float() / self.temperature, -1)
        return divergence(ours, theirs, self.divergence, self.js_beta) * self.temperature**2


def divergence(ours: Any, theirs: Any, kind: str, beta: float = 0.5) -> Any:
    """The divergence of rows of log-probabilities, in nats: the shape less the last.

    With P the teacher and Q the student: forward KL(P|Q), reverse KL(Q|P), and js
    beta KL(P|M) + (1 - beta) KL(Q|M) with M = beta P + (1 - beta) Q.

    Args:
        ours, theirs: of the student and of the teacher, shape (..., answers).
    """
    import torch

    if kind == FORWARD:
        return _kl(theirs, ours)
    if kind == REVERSE:
        return _kl(ours, theirs)
    between = torch.logaddexp(theirs + math.log(beta), ours + math.log1p(-beta))
    return beta * _kl(theirs, between) + (1 - beta) * _kl(ours, between)


def _kl(first: Any, second: Any) -> Any:
    # Where the first has no probability nothing is added, whatever the second says.
    return (first.exp() * (first - second).nan_to_num(posinf=0.0, neginf=0.0)).sum(-1)
