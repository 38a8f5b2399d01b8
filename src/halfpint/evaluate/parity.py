"""The parity gate: an export says the same as what was trained, or it is refused with the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from halfpint.errors import RefusedError
from halfpint.evaluate.intervals import interval
from halfpint.outputs import Outputs, joined
from halfpint.task import LabelTask

SAME_LABELS = 0.995


def check_parity(
    name: str,
    task: LabelTask[Any],
    examples: Sequence[Any],
    labels: Sequence[str],
    reference: Outputs,
    exported: Outputs,
    *,
    exact: bool,
    primary: str,
) -> dict[str, float]:
    """Compare what an export says with what the trained model says of the same examples.

    An exact export (fp32) has to give the same answer for 99.5 % of the texts; a quantised one has to keep the metric
    `primary` above the lower end of the trained model's 95 % interval.

    Returns:
        same_labels: share of texts with equal answers; worst_difference: largest difference of a probability; metric
        and metric_reference: the primary metric of both.

    Raises:
        RefusedError: the export does not pass.
    """
    texts, metric = task.texts(examples), task.metrics[primary]
    ours, theirs = (task.decode(texts, outputs, labels) for outputs in (reference, exported))
    known, found = (task.counts(examples, answers, labels) for answers in (ours, theirs))
    values = [joined(outputs, len(labels)) for outputs in (reference, exported)]
    figures = {
        "same_labels": float(np.mean([one == other for one, other in zip(ours, theirs, strict=True)])),
        "worst_difference": float(np.abs(values[0] - values[1]).max(initial=0)),
        "metric": metric(found),
        "metric_reference": metric(known),
    }
    told = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
    if exact and figures["same_labels"] < SAME_LABELS:
        raise RefusedError(
            f"export {name}", wanted=f"the same answer for {SAME_LABELS:.1%} of {len(texts)} texts", got=told,
            todo="The export is refused; the trained bundle is kept.",
        )  # fmt: skip
    low, _ = interval(known, metric)
    if not exact and figures["metric"] < low:
        raise RefusedError(
            f"export {name}", wanted=f"{primary} of at least {low:.4f}, the lower end of the trained model's interval",
            got=told, todo="The export is refused; take the fp32 export, or quantise less.",
        )  # fmt: skip
    return figures
