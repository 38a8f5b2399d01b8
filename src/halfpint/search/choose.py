"""Which candidate: the smallest that meets the limits and is shown to be nearly as good as the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from halfpint.search.compare import Answers, Comparison, compare, pooled_interval, strongest
from halfpint.search.limits import Limits
from halfpint.search.verdict import Ground, verdict
from halfpint.task import LabelTask

_RIVALS = 4  # undecided candidates that are looked at together


@dataclass(frozen=True)
class Choice:
    """The chosen candidate (None when none is feasible), the best of all, the closest, and the verdict in words.

    Attributes:
        top: the best of those that meet the limits.
        compared: the smaller ones that meet the limits beside it, by name.
        undecided: names of smaller ones that more rows could still show to be as good, smallest first; then of larger
            ones that may be better by more than the margin, the best first.
    """

    chosen: dict[str, Any] | None
    best: dict[str, Any] | None
    closest: dict[str, Any] | None
    verdict: str
    top: dict[str, Any] | None = None
    compared: Mapping[str, Comparison] = field(default_factory=dict)
    undecided: tuple[str, ...] = ()


def choose(
    candidates: Sequence[dict[str, Any]],
    limits: Limits,
    primary: str,
    task: LabelTask[Any],
    answers: Mapping[str, Answers],
    *,
    minutes: float | None = None,
) -> Choice:
    """Mark each measured candidate "feasible" (with "why" it is not) and choose.

    Quality asked for by `floor` or `keep`: the smallest candidate that is shown to meet all limits. Otherwise: the
    smallest among those that meet the limits and are shown to be at most `limits.within` below the best of them; where
    none is, that best one.

    Source: non-inferiority, Piaggio et al. 2012, "Reporting of Noninferiority and Equivalence Randomized Trials";
    comparisons with the best, Hsu 1984, "Constrained Simultaneous Confidence Intervals for Multiple Comparisons with
    the Best".

    Args:
        candidates: dictionaries with "status"; measured ones also have "metrics", "size_bytes" and "latency_p50_ms".
        answers: of the measured ones, by name.
        minutes: that would do for what was skipped for want of time, for the verdict.
    """
    measured = [candidate for candidate in candidates if candidate["status"] == "measured"]
    if not measured:
        return Choice(None, None, None, "No candidate could be measured.")
    metric = task.metrics[primary]

    def quality(candidate: dict[str, Any]) -> float:
        return float(candidate["metrics"][primary])

    by_score = sorted(measured, key=lambda one: (-quality(one), one["size_bytes"]))
    named = {one["name"]: one for one in measured}
    best = named[strongest([one["name"] for one in by_score], answers, metric)]
    for candidate in measured:
        candidate["floors"] = floors(answers[candidate["name"]], limits, task)
    beside_all = compare(list(named), best["name"], answers, metric) if limits.keep is not None else {}
    for candidate in measured:
        missed = limits.misses(candidate)
        if limits.keep is not None and candidate is not best:
            missed += _not_kept(beside_all[candidate["name"]], limits.keep, quality(best), primary)
        candidate["feasible"], candidate["why"] = not missed, "; ".join(missed)
    feasible = [candidate for candidate in by_score if candidate["feasible"]]
    if not feasible:
        closest = min(measured, key=lambda one: (limits.distance(one), -quality(one)))
        said = f"Infeasible; the closest is {closest['name']}: {closest['why']}."
        return Choice(None, best, closest, said, undecided=_near(measured, beside_all, limits, quality(best)))
    top = named[strongest([one["name"] for one in feasible], answers, metric)]
    beside = compare([one["name"] for one in feasible], top["name"], answers, metric)
    for candidate in feasible:
        found = beside.get(candidate["name"])
        candidate["compared"] = asdict(found) if found else None
    shown = [one for one in feasible if one is top or beside[one["name"]].shows(limits.within)]
    chosen = min(feasible if limits.asks else shown, key=lambda one: (one["size_bytes"], -quality(one)))
    smaller = sorted((one for one in feasible if one["size_bytes"] < chosen["size_bytes"]), key=_size)
    undecided = tuple(one["name"] for one in smaller if beside[one["name"]].may_be(limits.within))
    larger = [one["name"] for one in feasible if one["size_bytes"] >= chosen["size_bytes"] and one is not chosen]
    above = tuple(name for name in larger if chosen is top and beside[name].may_exceed(limits.within))
    if limits.asks:
        undecided = _near(measured, beside_all, limits, quality(best))
    said = verdict(
        Ground(
            chosen=chosen, top=top, candidates=candidates, beside=beside, limits=limits, primary=primary, task=task,
            answers=answers, undecided=undecided, minutes=minutes,
        )
    )  # fmt: skip
    rivals = undecided if limits.asks else (*undecided, *above)
    return Choice(chosen, best, None, said, top, beside, rivals[:_RIVALS])


def floors(answers: Answers, limits: Limits, task: LabelTask[Any]) -> dict[str, Any]:
    """Of each metric with a floor: its value on all rows answered, the lower end of its interval, and the rows."""
    found = {}
    for name in limits.floor:
        value, low, _ = pooled_interval(answers, task.metrics[name])
        found[name] = {"value": value, "low": low, "rows": len(answers.rows)}
    return found


def _not_kept(beside: Comparison, keep: float, best: float, primary: str) -> list[str]:
    margin = (1 - keep) * best
    if beside.shows(margin):
        return []
    if beside.difference < -margin:
        return [f"{primary} {beside.difference:+.4f} to {beside.to} is under {keep:g} of the best ({best:.4f})"]
    needed = beside.rows_needed(margin)
    more = f"; about {needed:,} rows would show it" if needed else ""
    return [
        f"{primary} is not shown to be {keep:g} of the best ({best:.4f}): on {beside.rows:,} rows it may be "
        f"{-beside.low:.4f} below {beside.to}{more}"
    ]


def _near(
    measured: Sequence[dict[str, Any]], beside: Mapping[str, Comparison], limits: Limits, best: float
) -> tuple[str, ...]:
    """Names of candidates that miss nothing but proof of the quality asked for, smallest first."""
    found = []
    for one in sorted(measured, key=_size):
        kept = beside.get(one["name"])
        open_keep = limits.keep is not None and kept is not None and kept.may_be((1 - limits.keep) * best)
        open_floor = any(
            one["floors"][name]["low"] < least <= one["floors"][name]["value"] for name, least in limits.floor.items()
        )
        if not limits.misses(one, proof=False) and (open_keep or open_floor):
            found.append(one["name"])
    return tuple(found[:_RIVALS])


def _size(candidate: Mapping[str, Any]) -> int:
    return int(candidate["size_bytes"])
