"""Candidates tried one after the other: trained, finished, measured; what is left out has its reason."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from halfpint.errors import DeadlineError, HalfpintError, RefusedError, TrainingStoppedError
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.report import units
from halfpint.search.choose import floors
from halfpint.search.compare import Answers
from halfpint.search.limits import Limits, bytes_text
from halfpint.search.space import EXPORT_S, Group, Variant
from halfpint.task import LabelTask
from halfpint.terminal import amount
from halfpint.train.loop import Training

NO_TIME = units.NO_TIME
_LEAST = 0.7  # of a training's expected time has to be left: its evaluations stop it where the rest is missing
_OPTIMISM = 0.85  # of the expected bytes: a candidate over the limit even so is not made


@dataclass
class Tries:
    """The candidates so far, and the clock.

    Args:
        task: the task; limits: what the model has to meet; pipeline: of the data; primary: what choices are made on.
        started: `time.monotonic()` of the run; deadline: when choosing has to begin.
    """

    task: LabelTask[Any]
    limits: Limits
    pipeline: Pipeline
    primary: str
    log: Log
    started: float
    deadline: float
    candidates: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Answers] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    pending: list[tuple[Group, tuple[Variant, ...]]] = field(default_factory=list)
    late: list[tuple[Group, tuple[Variant, ...]]] = field(default_factory=list)
    unplanned_s: float = 0.0
    spent_s: list[float] = field(default_factory=list)
    unsaid: int = 0

    @property
    def seconds_left(self) -> float:
        """Until the deadline; never below 0."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def export_s(self) -> float:
        """What a candidate takes to be finished and measured, as it did here so far."""
        return median(self.spent_s) if self.spent_s else EXPORT_S

    @property
    def missed_s(self) -> float:
        """About what all takes that was left out for want of time: what was not planned, and what was skipped."""
        late = (self.export_s * len(variants) if variants else group.expected_s for group, variants in self.late)
        return self.unplanned_s + sum(late)

    @property
    def minutes_needed(self) -> float | None:
        """About what `minutes` would have to be for all that was left out for want of time; None where nothing was."""
        if not any(NO_TIME in one["why"] for one in self.candidates if one["status"] == "skipped"):
            return None
        spent = self.limits.minutes * 60 - self.seconds_left + self.missed_s
        return max(float(round(1.2 * spent / 60 + 0.5)), self.limits.minutes + 1)

    def reasons(self, group: Group) -> dict[str, str]:
        """Why each candidate of a group cannot win, or nothing."""
        return {variant.name: self._pointless(variant) for variant in group.variants}

    def try_group(self, group: Group, cut: Sequence[Group] = (), first: int = 0) -> None:
        """Train a group and measure its candidates; what is skipped, refused or failed is noted with its reason.

        Args:
            cut: groups that are cut from it and can win: for them it is trained even where none of its candidates can,
                and leaves time for the first of them.
            first: measure so many of its candidates, and leave the others for `try_pending`; 0 measures all.
        """
        reasons = self.reasons(group)
        hopeless = all(reasons.values())
        if hopeless and not cut:
            self._note_all(group, group.variants, reasons)
            return
        least = min(group.expected_s * _LEAST, group.expected_s - group.finish_s + self.export_s)
        if group.expected_s and self.seconds_left < least:
            self.late.append((group, ()))
            self.skip(group, f"{NO_TIME}: training needs about {group.expected_s:.0f} s")
            return
        self.log.say(f"{group.name}:", kind="group")
        try:
            left = group.finish_s + (cut[0].expected_s if hopeless else 0.0)
            self.pipeline.make(group.train, deadline=self.deadline - left, bar_to_beat=self._bar())
        except (DeadlineError, TrainingStoppedError) as error:
            for variant in group.variants:
                self._note(variant, group, "failed", str(error))
            return
        self.trained.add(group.name)
        able = [variant for variant in group.variants if not reasons[variant.name]]
        self._note_all(group, [variant for variant in group.variants if reasons[variant.name]], reasons)
        now = able[:first] if first else able
        if len(able) > len(now):
            self.pending.append((group, tuple(able[len(now) :])))
        self._finish(group, now)
        self._say_late()

    def try_pending(self) -> None:
        """Measure what was left for later, in turn of the trainings, as long as there is time."""
        pending, self.pending = self.pending, []
        rounds = max((len(variants) for _, variants in pending), default=0)
        for number in range(rounds):
            for group, variants in pending:
                if number < len(variants):
                    reason = self._pointless(variants[number])
                    if reason:
                        self._note(variants[number], group, "skipped", reason)
                    else:
                        self._finish(group, [variants[number]])
        self._say_late()

    def try_late(self) -> None:
        """Try what was skipped for want of time once more, trainings first, where there is time now."""
        late, self.late = self.late, []
        for group, variants in sorted(late, key=lambda one: bool(one[1])):
            names = {variant.name for variant in variants or group.variants}
            self.candidates = [one for one in self.candidates if one["name"] not in names]
            if variants:
                self._finish(group, variants)
            else:
                self.try_group(group)
        self._say_late()

    def skip(self, group: Group, why: str) -> None:
        """Note all candidates of a group as skipped; what they lack time for is said once for all of them."""
        for variant in group.variants:
            self._note(variant, group, "skipped", why)
        self._say_late(f"{group.name}: ", why)

    def _finish(self, group: Group, variants: Sequence[Variant]) -> None:
        for variant in variants:
            if self.seconds_left < self.export_s / 2 and any(one.name in self.made for one in group.variants):
                self.late.append((group, (variant,)))
                self._note(variant, group, "skipped", f"{NO_TIME} to export and measure it")
                continue
            began = time.monotonic()
            try:
                made = self.pipeline.make([*group.train, *variant.finish])
                assessment = self.pipeline.assess(made)
            except RefusedError as error:
                self._note(variant, group, "refused", str(error))
                continue
            except HalfpintError as error:  # one that does not run is no reason to lose the others
                self._note(variant, group, "failed", str(error))
                continue
            self.spent_s.append(time.monotonic() - began)
            self.made[variant.name] = made
            self.answers[variant.name] = Answers.of(assessment.counts)
            figures = {key: value for key, value in assessment.figures.items() if key not in ("fingerprint", "primary")}
            bundle = str(made.bundle.path.relative_to(self.pipeline.folder.parent))
            train_s = sum(one.get("seconds", 0.0) for one in made.bundle.card["stages"][: len(group.train)])
            figures["floors"] = floors(self.answers[variant.name], self.limits, self.task)
            self._note(variant, group, "measured", "", train_s=round(train_s, 1), bundle=bundle, **figures)
            self.log.say(
                f"  {variant.name}: {self.primary} {figures['metrics'][self.primary]:.4f}, "
                f"{bytes_text(figures['size_bytes'])}, "
                f"{figures['latency_p50_ms']:.1f} ms, {figures['throughput_per_s']:,.0f} texts/s",
                kind="candidate",
                name=variant.name,
            )

    def _say_late(self, of: str = "", why: str = f"{NO_TIME} to export and measure it") -> None:
        """Say how many candidates had no time since this was said last."""
        late, self.unsaid = self.unsaid, 0
        if late:
            why = why.replace(" it", " them") if late > 1 else why
            self.log.say(f"  {of}{amount(late, 'candidate')} skipped: {why}", kind="skipped", count=late)

    def _note_all(self, group: Group, variants: Sequence[Variant], reasons: dict[str, str]) -> None:
        for variant in variants:
            self._note(variant, group, "skipped", reasons[variant.name])

    def _note(self, variant: Variant, group: Group, status: str, why: str, **figures: Any) -> None:
        late = status == "skipped" and why.startswith(NO_TIME)
        self.unsaid += late
        if status != "measured" and not late:
            self.log.say(f"  {variant.name}: {status}: {why}", kind=status, name=variant.name)
        self.candidates.append(
            {
                "name": variant.name,
                "family": variant.family or group.family,
                "precision": variant.precision,
                "status": status,
                "why": why,
                "metrics": {},
                **dict.fromkeys(("interval", "size_bytes", "latency_p50_ms", "throughput_per_s")),
                **dict.fromkeys(("energy_wh_per_1000", "train_s")),
                "feasible": False,
                "bundle": None,
                "trained": any(isinstance(stage, Training) for stage in group.train),
                **figures,
            }
        )

    def _pointless(self, variant: Variant) -> str:
        """Why a candidate cannot win before it is made, or nothing."""
        limits = self.limits
        optimistic = variant.expected_bytes * _OPTIMISM
        if limits.max_size_bytes is not None and optimistic > limits.max_size_bytes:
            return f"about {bytes_text(variant.expected_bytes)}, over {bytes_text(limits.max_size_bytes)}"
        if limits.floor and limits.keep is None:
            enough = [one for one in self.candidates if one["status"] == "measured" and not limits.misses(one)]
            smallest = min((one["size_bytes"] for one in enough), default=None)
            if smallest is not None and optimistic > smallest:
                return f"it cannot be smaller than a candidate that already meets all limits ({bytes_text(smallest)})"
        return ""

    def _bar(self) -> float | None:
        """The score that a training has to come near to be of use: the lower end of the best candidate's interval.

        Blends do not count: a training is judged before it is blended itself.
        """
        measured = [one for one in self.candidates if one["status"] == "measured" and one["family"] != "blend"]
        best = max(measured, key=lambda one: one["metrics"][self.primary], default=None)
        return None if best is None or self.limits.asks else float(best["interval"][0])
