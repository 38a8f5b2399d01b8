"""Which candidate: the smallest that meets the limits and is no worse than the best, and what to say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfpint.counts import INTERVAL, LEVEL, Counts, Metric
from halfpint.evaluate.intervals import difference
from halfpint.search.limits import Limits, bytes_text
from halfpint.task import LabelTask

ONE_ERROR = 0.6827
"""The level of an interval one standard error to each side."""


@dataclass(frozen=True)
class Choice:
    """The chosen candidate (None when none is feasible), the best and the closest, and the verdict in words."""

    chosen: dict[str, Any] | None
    best: dict[str, Any] | None
    closest: dict[str, Any] | None
    verdict: str


def choose(
    candidates: Sequence[dict[str, Any]],
    limits: Limits,
    primary: str,
    task: LabelTask[Any],
    counts: Mapping[str, Counts],
) -> Choice:
    """Mark each measured candidate "feasible" (with "why" it is not) and choose.

    Quality asked for by `floor` or `keep`: the smallest candidate that meets all limits. Otherwise: the smallest among
    those that meet the limits and whose score is within one standard error of the best of them: the paired bootstrap
    68 % interval of the difference, on the same validation texts, reaches zero.

    Source: the one-standard-error rule, Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3.

    Args:
        candidates: dictionaries with "status"; measured ones also have "metrics", "size_bytes" and "latency_p50_ms".
        counts: of the measured ones, by name: one row per validation example.
    """
    measured = [candidate for candidate in candidates if candidate["status"] == "measured"]
    if not measured:
        return Choice(None, None, None, "No candidate could be measured.")

    def quality(candidate: dict[str, Any]) -> float:
        return float(candidate["metrics"][primary])

    def size(candidate: dict[str, Any]) -> tuple[int, float]:
        return candidate["size_bytes"], -quality(candidate)

    best = max(measured, key=lambda one: (quality(one), -one["size_bytes"]))
    for candidate in measured:
        missed = limits.misses(candidate)
        if limits.keep is not None and quality(candidate) < limits.keep * quality(best):
            missed.append(
                f"{primary} {quality(candidate):.4f} is under {limits.keep:g} of the best ({quality(best):.4f})"
            )
        candidate["feasible"], candidate["why"] = not missed, "; ".join(missed)
    feasible = [candidate for candidate in measured if candidate["feasible"]]
    if not feasible:
        closest = min(measured, key=lambda one: (limits.distance(one), -quality(one)))
        verdict = f"Infeasible; the closest is {closest['name']}: {closest['why']}."
        return Choice(None, best, closest, verdict)
    asked = bool(limits.floor) or limits.keep is not None
    top = max(feasible, key=lambda one: (quality(one), -one["size_bytes"]))
    eligible = feasible if asked else [one for one in feasible if _as_good(one, top, task.metrics[primary], counts)]
    chosen = min(eligible, key=size)
    return Choice(chosen, best, None, _verdict(chosen, best, measured, primary, task, counts, asked))


def _as_good(
    one: dict[str, Any],
    top: dict[str, Any],
    metric: Metric,
    counts: Mapping[str, Counts],
    level: float = ONE_ERROR,
) -> bool:
    if one is top:
        return True
    value, _, high = difference(counts[one["name"]], counts[top["name"]], metric, level=level)
    return value >= 0 or high >= 0


def _verdict(
    chosen: dict[str, Any],
    best: dict[str, Any],
    measured: Sequence[dict[str, Any]],
    primary: str,
    task: LabelTask[Any],
    counts: Mapping[str, Counts],
    asked: bool,
) -> str:
    low, high = chosen["interval"]
    words = [
        f"{chosen['name']}: {primary} {chosen['metrics'][primary]:.4f} on validation "
        f"({INTERVAL} {low:.4f} to {high:.4f}), "
        f"{bytes_text(chosen['size_bytes'])}, {chosen['latency_p50_ms']:.1f} ms per text."
    ]
    words.append(
        "It is the smallest candidate that meets the limits"
        + ("." if asked else " and is within one standard error of the best of them.")
    )
    linear = [one for one in measured if one["family"] in task.counting]
    neural = [one for one in measured if one["family"] not in task.cheap]
    if linear and neural:
        cheap = max(linear, key=lambda one: one["metrics"][primary])
        if cheap["feasible"] and _as_good(cheap, best, task.metrics[primary], counts, level=LEVEL):
            words.append(
                f"You don't need a transformer: {cheap['name']} reaches {cheap['metrics'][primary]:.4f}, within the "
                f"interval of the best candidate ({best['name']}, {best['metrics'][primary]:.4f})."
            )
        else:
            top = max(neural, key=lambda one: one["metrics"][primary])
            gain = top["metrics"][primary] - cheap["metrics"][primary]
            words.append(
                f"A transformer pays here: {gain:+.4f} over {cheap['name']}."
                if top["metrics"][primary] >= best["metrics"][primary]
                else f"No transformer does better than {best['name']} ({best['metrics'][primary]:.4f})."
            )
    elif linear and chosen["family"] in task.counting:
        words.append(
            "You don't need a transformer: counting words meets what was asked."
            if asked
            else "No transformer was measured."
        )
    return " ".join(words)
