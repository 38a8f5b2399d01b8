"""Judge a bundle on labelled examples: its metrics with intervals, where it errs, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfpint.bundle import Bundle
from halfpint.counts import LEVEL, Counts, check_metric
from halfpint.data.learned import learned_texts
from halfpint.errors import HalfpintError
from halfpint.evaluate.intervals import interval, intervals
from halfpint.evaluate.measure import figures, measure
from halfpint.lookup import task_of
from halfpint.outputs import Outputs
from halfpint.progress import SILENT, Log
from halfpint.task import LabelTask, label_task


@dataclass(frozen=True)
class Score:
    """How a bundle did on examples.

    Attributes:
        metrics: every metric of the task, then the figures of its probabilities.
        interval: of the primary metric.
        costs: the figures of `Measurement`.
        outputs, answers: what the engine said, and the answers.
        counts: one row per example.
    """

    metrics: Mapping[str, float]
    interval: tuple[float, float]
    costs: Mapping[str, Any]
    outputs: Outputs
    answers: Sequence[Any]
    counts: Counts


def score(
    bundle: Bundle,
    task: LabelTask[Any],
    examples: Sequence[Any],
    labels: Sequence[str],
    primary: str,
    *,
    threads: int | None = None,
    log: Log = SILENT,
) -> Score:
    """Measure `bundle` on examples in a fresh process, and score its answers.

    Raises:
        HalfpintError: no example, one with a label that the bundle does not know, or a bundle that does not run.
    """
    if not examples:
        raise HalfpintError("evaluation", wanted="at least one row", got="none", todo="Give data with labelled rows.")
    task.need_labels(examples, labels)
    texts = task.texts(examples)
    measured = measure(bundle, texts, threads=threads, log=log)
    answers = task.decode(texts, measured.outputs, labels)
    counts = task.counts(examples, answers, labels)
    values = {name: metric(counts) for name, metric in task.metrics.items()}
    values |= task.calibration(examples, measured.outputs, labels)
    ends = interval(counts, task.metrics[primary])
    return Score(values, ends, figures(measured), measured.outputs, answers, counts)


def evaluate(
    bundle: Bundle,
    examples: Sequence[Any],
    *,
    primary: str = "",
    threads: int | None = None,
    log: Log = SILENT,
) -> dict[str, Any]:
    """The bundle on labelled examples, in one flat dict that JSON can hold.

    Every metric of its task and the figures of its probabilities; "primary" and its 95 % "interval"; "intervals" of
    every metric, at "interval_level"; the figures of `Measurement` ("texts_per_s" is its throughput); "rows"; what
    the task says besides, such as "per_class"; where the bundle knows some of the texts, "learned" (`_learned`); and
    "coverage" (`LabelTask.coverage`), of rows that it does not know.

    Args:
        primary: a metric of the task; empty takes the one that it names first.

    Raises:
        HalfpintError: no example, no such metric, a label that the bundle does not know, or a bundle that does not run.
    """
    task = label_task(task_of(bundle), str(bundle.path))
    primary = primary or next(iter(task.metrics))
    check_metric(primary, task.metrics, "primary")
    labels = bundle.labels
    found = score(bundle, task, examples, labels, primary, threads=threads, log=log)
    ends = intervals(found.counts, list(task.metrics.values()))
    judged = _learned(bundle, task, examples, found)
    costs = dict(found.costs)
    costs["texts_per_s"] = costs.pop("throughput_per_s")
    result = {
        **found.metrics,
        "primary": primary,
        "interval": list(found.interval),
        "intervals": {name: list(one) for name, one in zip(task.metrics, ends, strict=True)},
        "interval_level": LEVEL,
        **costs,
        "rows": len(examples),
        **task.details(examples, found.outputs, found.answers, labels),
        **judged,
    }
    log.event("evaluated", bundle=bundle.path, rows=len(examples), primary=primary, value=result[primary])
    return result


def _learned(bundle: Bundle, task: LabelTask[Any], examples: Sequence[Any], found: Score) -> dict[str, Any]:
    """ "learned": what is known of examples that the model learned from or was chosen by, where it knows any of them;
    "coverage", of the others.

    "learned" has "rows", how many of the "recognisable" ones it knows; "recognisable" is less than all rows where the
    bundle keeps a sample, and then "share" estimates that of all. "others" has the figures on the recognisable rows
    that it does not know, None where there is none: "rows", every metric, and their "intervals".
    """
    kept = learned_texts(bundle)
    recognisable = known = np.zeros(len(examples), dtype=np.bool_)
    if kept is not None:
        recognisable, known = kept.known(task.texts(examples))
    if not known.any():
        return {"coverage": task.coverage(examples, found.outputs, bundle.labels)}
    unknown = recognisable & ~known
    others: dict[str, Any] | None = None
    if unknown.any():
        counts, metrics = found.counts.part(unknown), task.metrics
        ends = intervals(counts, list(metrics.values()))
        others = {
            "rows": len(counts), **{name: metric(counts) for name, metric in metrics.items()},
            "intervals": {name: list(one) for name, one in zip(metrics, ends, strict=True)},
        }  # fmt: skip
    rows, of = int(known.sum()), int(recognisable.sum())
    learned = {"rows": rows, "recognisable": of, "share": rows / of, "others": others}
    if others is None:
        return {"learned": learned, "coverage": []}
    new, outputs = np.flatnonzero(unknown).tolist(), found.outputs
    some = outputs[new] if isinstance(outputs, np.ndarray) else [outputs[at] for at in new]
    return {"learned": learned, "coverage": task.coverage([examples[at] for at in new], some, bundle.labels)}
