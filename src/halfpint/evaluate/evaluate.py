"""Judge a bundle on labelled rows: its metrics with intervals, where it errs, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError
from halfpint.evaluate import classification
from halfpint.evaluate.intervals import bootstrap_interval
from halfpint.evaluate.measure import figures, measure
from halfpint.metrics import METRICS, check_metric
from halfpint.progress import SILENT, Log

if TYPE_CHECKING:
    from halfpint.data.examples import Example

_SHOWN_LABELS, _SHOWN_ROWS = 5, 5


def evaluate(
    bundle: Bundle,
    examples: Sequence[Example],
    *,
    primary: str = "accuracy",
    threads: int | None = None,
    log: Log = SILENT,
) -> dict[str, Any]:
    """The bundle on labelled rows, in one flat dict that JSON can hold.

    Every metric of `halfpint.metrics.METRICS`, "calibration_error", "log_loss"; "primary" and its 95 % "interval";
    "intervals" of every metric of `METRICS`; the figures of `Measurement` ("texts_per_s" is its
    throughput); "rows"; "per_class"; "confusion" with "labels" and "matrix" [true][predicted]; "worst", the most
    confident mistakes.

    Raises:
        HalfpintError: no row, no such metric, a label that the bundle does not know, or a bundle that does not run.
    """
    check_metric(primary, "primary")
    labels = bundle.labels
    true = _indices(bundle, examples)
    texts, rows = [example.text for example in examples], [example.row for example in examples]
    measured = measure(bundle, texts, threads=threads, log=log)
    predicted = measured.probabilities.argmax(axis=1)
    intervals = {name: list(bootstrap_interval(true, predicted, name, n_classes=len(labels))) for name in METRICS}
    costs = figures(measured)
    costs["texts_per_s"] = costs.pop("throughput_per_s")
    result = {
        **classification.scores(true, measured.probabilities),
        "primary": primary,
        "interval": intervals[primary],
        "intervals": intervals,
        **costs,
        "rows": len(examples),
        "per_class": classification.per_class(true, predicted, labels),
        "confusion": {
            "labels": list(labels),
            "matrix": classification.confusion(true, predicted, len(labels)).tolist(),
        },
        "worst": classification.worst_errors(true, measured.probabilities, texts, rows, labels),
    }
    log.event("evaluated", bundle=bundle.path, rows=len(examples), primary=primary, value=result[primary])
    return result


def _indices(bundle: Bundle, examples: Sequence[Example]) -> npt.NDArray[np.int64]:
    """The class index of each example's label, shape (rows,)."""
    if not examples:
        raise HalfpintError("evaluation", wanted="at least one row", got="none", todo="Give data with labelled rows.")
    index = {label: at for at, label in enumerate(bundle.labels)}
    unknown: dict[str, list[int]] = {}
    for example in examples:
        if example.label not in index:
            unknown.setdefault(example.label, []).append(example.row)
    if unknown:
        known = _some([repr(label) for label in index], _SHOWN_LABELS)
        named = [
            f"{f'{label!r:.40}' if label else 'no label'} (row{'s' * (len(rows) > 1)} {_some(rows, _SHOWN_ROWS)})"
            for label, rows in unknown.items()
        ]
        raise HalfpintError(
            "labels in the data",
            wanted=f"only the {len(index)} labels that the bundle knows ({known})",
            got=_some(named, _SHOWN_LABELS),
            todo="Leave these rows out or mend their labels, or fit a bundle on data that has them.",
        )
    return np.array([index[example.label] for example in examples], dtype=np.int64)


def _some(values: Sequence[object], n: int) -> str:
    """The first `n` values, and how many more there are."""
    shown = ", ".join(map(str, values[:n]))
    return shown + (f" and {len(values) - n} more" if len(values) > n else "")
