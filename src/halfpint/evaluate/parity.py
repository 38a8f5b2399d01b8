"""The parity gate: an export says the same as what was trained, or it is refused with the figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from halfpint.errors import RefusedError
from halfpint.evaluate.intervals import bootstrap_interval
from halfpint.metrics import metric

SAME_LABELS = 0.995


def check_parity(
    name: str,
    true: npt.NDArray[np.int64],
    reference: npt.NDArray[np.float32],
    exported: npt.NDArray[np.float32],
    *,
    exact: bool,
    primary: str,
) -> dict[str, float]:
    """Compare an export's probabilities with those of the trained model on the same texts, both (texts, labels).

    An exact export (fp32) has to give the same label for 99.5 % of the texts; a quantised one has to keep the metric
    `primary` above the lower end of the trained model's 95 % interval.

    Returns:
        same_labels: share of equal labels; worst_difference: largest difference of a probability; metric and
        metric_reference: the primary metric of both.

    Raises:
        RefusedError: the export does not pass.
    """
    n_classes = reference.shape[1]
    ours, theirs = reference.argmax(axis=1), exported.argmax(axis=1)
    figures = {
        "same_labels": float((ours == theirs).mean()),
        "worst_difference": float(np.abs(reference - exported).max()),
        "metric": metric(primary, true, theirs, n_classes),
        "metric_reference": metric(primary, true, ours, n_classes),
    }
    told = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
    if exact and figures["same_labels"] < SAME_LABELS:
        raise RefusedError(
            f"export {name}", wanted=f"the same label for {SAME_LABELS:.1%} of {len(true)} texts", got=told,
            todo="The export is refused; the trained bundle is kept.",
        )  # fmt: skip
    low, _ = bootstrap_interval(true, ours, primary, n_classes=n_classes)
    if not exact and figures["metric"] < low:
        raise RefusedError(
            f"export {name}", wanted=f"{primary} of at least {low:.4f}, the lower end of the trained model's interval",
            got=told, todo="The export is refused; take the fp32 export, or quantise less.",
        )  # fmt: skip
    return figures
