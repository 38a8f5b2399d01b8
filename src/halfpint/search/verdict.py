"""What is said of a choice. Each sentence has its ground in figures, and is left out where that is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfpint.counts import INTERVAL
from halfpint.evaluate.intervals import difference
from halfpint.search.compare import Answers, Comparison, compare, strongest
from halfpint.search.limits import Limits, bytes_text
from halfpint.task import LabelTask
from halfpint.terminal import amount

FROZEN = "frozen encoder"
_FEW_TEST = 100
_FEW_OF_A_LABEL, _SHOWN = 10, 3


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a verdict stands on.

    Attributes:
        chosen, top: the chosen candidate, and the best of those that meet the limits.
        candidates: all, the skipped ones too; beside: those that meet the limits, compared with `top`.
        answers: of the measured ones; undecided: smaller ones that more rows could still show to be as good.
        minutes: that would do for what was skipped for want of time; None where nothing was.
    """

    chosen: dict[str, Any]
    top: dict[str, Any]
    candidates: Sequence[dict[str, Any]]
    beside: Mapping[str, Comparison]
    limits: Limits
    primary: str
    task: LabelTask[Any]
    answers: Mapping[str, Answers]
    undecided: Sequence[str] = ()
    minutes: float | None = None

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The candidates with figures, the best first."""
        found = [one for one in self.candidates if one["status"] == "measured"]
        return sorted(found, key=self.score, reverse=True)

    def score(self, candidate: Mapping[str, Any]) -> float:
        """Its primary metric on validation."""
        return float(candidate["metrics"][self.primary])

    def best(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The strongest of the feasible candidates that `fits` takes."""
        found = {one["name"]: one for one in self.measured if one["feasible"] and fits(one)}
        if not found:
            return None
        return found[strongest(list(found), self.answers, self.task.metrics[self.primary])]

    def is_counting(self, candidate: Mapping[str, Any]) -> bool:
        """Whether it counts words."""
        return candidate["family"] in self.task.counting

    def is_trained(self, candidate: Mapping[str, Any]) -> bool:
        """Whether it is a transformer that was trained here."""
        return bool(candidate.get("trained", True)) and candidate["family"] not in (*self.task.cheap, FROZEN)

    def beside_one(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
        """One candidate compared with another."""
        names = [one["name"], other["name"]]
        return compare(names, other["name"], self.answers, self.task.metrics[self.primary])[one["name"]]

    def interval_beside(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float, float]:
        """The difference of two candidates and the ends of its 95 % interval."""
        first, second = self.answers[one["name"]], self.answers[other["name"]]
        rows = first.shared(second)
        return difference(first.on(rows), second.on(rows), self.task.metrics[self.primary])


def verdict(ground: Ground) -> str:
    """Why the chosen candidate was chosen, and what it shows."""
    parts = (_figures, _why, _open, _skipped, _transformer, _nothing_learned)
    return " ".join(said for part in parts if (said := part(ground)))


def on_test(chosen: Mapping[str, Any], result: Mapping[str, Any], primary: str, limits: Limits) -> str:
    """What the test says: the score, whether a floor is missed there, and whether it proves much."""
    low, high = result["interval"]
    words = [f"On {amount(result['rows'], 'test text')}: {primary} {result[primary]:.4f} ({low:.4f} to {high:.4f})."]
    for name, least in limits.floor.items():
        if result[name] < least:
            words.append(f"On test it misses the floor: {name} {result[name]:.4f}, asked for was {least:g}.")
    if result["rows"] < _FEW_TEST:
        words.append(f"So few test texts prove little; {_FEW_TEST} or more would do better.")
    return " ".join(words)


def rare(task: LabelTask[Any], validation: Sequence[Any], primary: str) -> str:
    """That labels have too few validation rows to say much of them, where every label counts the same."""
    if "macro" not in primary:
        return ""
    counts = Counter(task.stratum(example) for example in validation)
    few = sorted((name for name, rows in counts.items() if name and rows < _FEW_OF_A_LABEL), key=counts.__getitem__)
    if not few:
        return ""
    named = ", ".join(f"{name} {counts[name]}" for name in few[:_SHOWN]) + (", …" if len(few) > _SHOWN else "")
    return f"Labels with under {_FEW_OF_A_LABEL} validation rows, whose scores are little known: {len(few)} ({named})."


def by_hand(
    chosen: Mapping[str, Any],
    fitted: Mapping[str, Any] | None,
    beside: tuple[float, float, float] | None,
    rows: int,
    primary: str,
) -> str:
    """What is said of a candidate that a person chose when `fit` was done.

    Args:
        fitted: the candidate that `fit` had chosen; None where none met the limits.
        beside: the difference of `chosen` less `fitted` on validation, and the ends of its interval, where it is known.
        rows: of validation.
    """
    words = ["Chosen by hand.", _figures_of(chosen, primary)]
    if fitted is None:
        words.append("fit had chosen none.")
    else:
        said = f"fit had chosen {fitted['name']} ({primary} {fitted['metrics'][primary]:.4f}"
        said += f", {bytes_text(fitted['size_bytes'])})"
        if beside is not None:
            gain, low, high = beside
            said += f": on the {rows:,} validation rows {chosen['name']} is {_apart(gain)}"
            said += f" ({INTERVAL} of the difference {low:+.4f} to {high:+.4f})"
        words.append(f"{said}.")
    if not chosen["feasible"]:
        words.append(f"It does not meet the limits: {chosen['why']}.")
    again = ""
    if fitted is not None and "trained_on" in fitted:
        again = f"; {fitted['name']} had been trained again on those of validation too"
    words.append(f"It learned from the training rows only{again}.")
    return " ".join(words)


SEEN = "Figures on the test texts were known before this choice, so that this one may be a little too good."
"""What is said of the test of a candidate that was chosen by hand."""


def _figures(ground: Ground) -> str:
    return _figures_of(ground.chosen, ground.primary)


def _figures_of(chosen: Mapping[str, Any], primary: str) -> str:
    low, high = chosen["interval"]
    asked = chosen.get("asked_rows")
    crossed = f"; {chosen['asked_score']:.4f} on {asked:,} rows with cross-validation" if asked else ""
    return (
        f"{chosen['name']}: {primary} {chosen['metrics'][primary]:.4f} on validation "
        f"({INTERVAL} {low:.4f} to {high:.4f}{crossed}), "
        f"{bytes_text(chosen['size_bytes'])}, {chosen['latency_p50_ms']:.1f} ms per text."
    )


def _why(ground: Ground) -> str:
    chosen, top, within = ground.chosen, ground.top, ground.limits.within
    if ground.limits.asks:
        return "It is the smallest candidate measured that is shown to meet what was asked."
    if chosen is top:
        smaller = [one for one in ground.measured if one["feasible"] and one["size_bytes"] < chosen["size_bytes"]]
        if not smaller:
            return "It is the best candidate measured that meets the limits, and the smallest of these."
        return (
            f"It is the best candidate measured that meets the limits; no smaller one is shown to be within {within:g} "
            "of it."
        )
    one = ground.beside[chosen["name"]]
    return (
        f"It is the smallest candidate measured that is shown to be within {within:g} of the best that meets the "
        f"limits ({top['name']}, {ground.score(top):.4f}, {bytes_text(top['size_bytes'])}): on {one.rows:,} rows it is "
        f"{_apart(one.difference)}, and with 95% certainty at most {max(0.0, -one.low):.4f} below."
    )


def _open(ground: Ground) -> str:
    """The smallest candidate of which more rows could show that it would do, and how many."""
    within = ground.limits.within
    if ground.limits.asks:
        return ""
    near = [name for name in ground.undecided if ground.beside[name].difference > -within]
    if not near:
        return ""
    name = near[0]
    one, found = ground.beside[name], next(one for one in ground.measured if one["name"] == name)
    needed = one.rows_needed(within)
    return (
        f"{name} ({bytes_text(found['size_bytes'])}, {found['latency_p50_ms']:.1f} ms) may do as well: it is "
        f"{_apart(one.difference)}, but on {one.rows:,} rows it could be {-one.low:.4f} below"
        + (f"; about {needed:,} rows would show that it is within {within:g}." if needed else ".")
    )


def _skipped(ground: Ground) -> str:
    if ground.minutes is None:
        return ""
    return f"Some candidates were skipped for lack of time; about --minutes {ground.minutes:.0f} would do for all."


def _transformer(ground: Ground) -> str:
    chosen, within = ground.chosen, ground.limits.within
    if ground.is_counting(chosen):
        trained = ground.best(ground.is_trained)
        if trained is None:
            tried = [one for one in ground.candidates if ground.is_trained(one)]
            if any(one["status"] == "measured" for one in tried):
                return "No transformer that was trained here meets the limits."
            return "No transformer was trained."
        one = ground.beside_one(chosen, trained)
        if one.shows(within):
            return (
                f"You don't need a transformer: counting words is shown to be within {within:g} of the best one "
                f"trained here ({trained['name']}, {ground.score(trained):.4f})."
            )
        if ground.limits.asks:
            return "Counting words meets what was asked."
        return f"Whether a transformer does better is not shown: counting words is {_apart(one.difference)}."
    if not ground.is_trained(chosen):
        return ""
    counting = ground.best(ground.is_counting)
    if counting is None:
        return ""
    gain, low, high = ground.interval_beside(chosen, counting)
    ends = f"({INTERVAL} {low:+.4f} to {high:+.4f})"
    if low > 0:
        return f"A transformer pays here: {gain:+.4f} over {counting['name']} {ends}."
    return f"That a transformer pays here is not shown: {gain:+.4f} over {counting['name']} {ends}."


def _nothing_learned(ground: Ground) -> str:
    names = {one.name for one in ground.task.candidates() if one.baseline}
    bases = [one for one in ground.measured if one["name"] in names]
    if not bases:
        return ""
    if ground.chosen["name"] in names:
        return "Nothing learned here is shown to be better than always giving one answer."
    gain, low, _ = ground.interval_beside(ground.chosen, bases[0])
    if low > 0:
        return ""
    name = bases[0]["name"]
    return f"It is not shown to be better than always giving one answer ({name}): {gain:+.4f}, from {low:+.4f}."


def _apart(difference: float) -> str:
    """A difference in words."""
    if round(difference, 4) == 0:
        return "level with it"
    return f"{abs(difference):.4f} {'above' if difference > 0 else 'below'} it"
