"""Candidates with an encoder: what is planned in the time that is left, and in which order it is tried."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.bundle import read_json, write_json
from halfpint.errors import DamagedError
from halfpint.models.pull import Pull
from halfpint.models.readable import unreadable_note, unreadable_share
from halfpint.search.space import (
    FIRST,
    Encoder,
    Group,
    describe_encoder,
    frozen_group,
    least_seconds,
    static_group,
    tuned_groups,
    tuning,
)
from halfpint.search.speed import training_speed
from halfpint.search.tries import NO_TIME, Tries

_OTHERS_SHARE = 0.35  # of the time, at most, for what does not train the encoder
_NEURAL = 1.5  # times as long as a counting candidate does an encoder's take to be exported and measured


@dataclass(frozen=True)
class Plan:
    """What is tried of an encoder.

    Attributes:
        tuned: trainings, the first of which the others are cut from; frozen, static: without training it.
        seconds: that there were; minutes_needed: that a training would take, where there is none.
    """

    tuned: list[Group]
    frozen: Group | None
    static: Group | None
    seconds: float
    minutes_needed: float = 0.0

    def said(self, texts_per_s: float) -> str:
        """It in one line."""
        groups = [*self.tuned, *(one for one in (self.frozen, self.static) if one)]
        parts = ", ".join(f"{group.name} {group.expected_s / 60:.1f}" for group in groups)
        start = f"plan for {self.seconds / 60:.1f} minutes at {texts_per_s:.0f} texts/s"
        if not self.tuned:
            more = f"{self.minutes_needed:.1f} minutes more"
            return f"{start}: no time to train the encoder, which takes {more}; in minutes: {parts}"
        return f"{start}, in minutes: {parts}"


def try_encoder(tries: Tries, base: str, plan_file: Path, seed: int) -> None:
    """Try candidates made of the encoder `base`: what is likeliest to win first, one of each kind, other forms after.

    What was measured for the plan is kept in `plan_file`, so that an unfinished run goes on with the same plan.
    """
    task, train = tries.task, tries.pipeline.split.train
    bundle = tries.pipeline.make([Pull(base=base)]).bundle
    if note := unreadable_note(base, unreadable_share(bundle, task.texts(train))):
        tries.log.say(f"  warning: {note}", kind="finding")
    held: dict[str, Any] = {}
    with suppress(DamagedError):
        held = read_json(plan_file) if plan_file.is_file() else {}
    if not {"texts_per_s", "used_tokens", "seconds", "exports_s"} <= held.keys():
        speed, used = training_speed(bundle, task, train, tuning(len(train), task.tuning))
        exports_s = FIRST * _NEURAL * tries.export_s
        held = {"texts_per_s": speed, "used_tokens": used, "seconds": tries.seconds_left, "exports_s": exports_s}
        write_json(plan_file, held)
    encoder = describe_encoder(bundle, base, held["texts_per_s"], task)
    sizes = (len(train), len(tries.pipeline.labels), held["used_tokens"])
    plan = planned(tries, encoder, sizes, held, seed)
    tries.log.say(
        plan.said(encoder.texts_per_s), kind="plan", groups={group.name: group.expected_s for group in plan.tuned}
    )
    if not plan.tuned:
        tries.unplanned_s += least_seconds(encoder, sizes[0], held["exports_s"])
        for group in tuned_groups(encoder, *sizes, float("inf"), seed)[:1]:
            tries.skip(group, f"{NO_TIME}: training needs about {60 * plan.minutes_needed:.0f} s more")
    try_whole(tries, plan.tuned)
    if plan.frozen:
        tries.try_group(plan.frozen, first=FIRST)
    if plan.static:
        tries.try_group(plan.static)
    try_cut(tries, plan.tuned)
    if task.static and plan.tuned and plan.tuned[0].name in tries.trained:
        tries.try_group(static_group(encoder, sizes[0], plan.tuned[0]))
    tries.try_pending()


def planned(tries: Tries, encoder: Encoder, sizes: tuple[int, int, int], held: dict[str, Any], seed: int) -> Plan:
    """The plan for what was measured: training the encoder gets most of the time, where there is enough for it."""
    task, seconds, exports_s = tries.task, held["seconds"], held["exports_s"]
    static = static_group(encoder, sizes[0]) if task.static else None
    least_tuned = least_seconds(encoder, sizes[0], exports_s)
    others = min(_OTHERS_SHARE * seconds, seconds - least_tuned) if seconds >= least_tuned else seconds
    frozen = None
    if task.frozen:
        frozen = frozen_group(encoder, *sizes, others - (static.expected_s if static else 0.0), exports_s)
    taken = min(others, sum(one.expected_s for one in (frozen, static) if one))
    left = seconds - taken
    most = tries.limits.max_size_bytes
    tuned = tuned_groups(encoder, *sizes, left, seed, exports_s, most)
    return Plan(tuned, frozen, static, seconds, max(0.0, least_tuned - seconds) / 60)


def try_whole(tries: Tries, groups: Sequence[Group]) -> None:
    """Train all layers: the first group. Those that are cut from it keep it alive where they alone can win."""
    for group in groups[:1]:
        able = [other for other in groups[1:] if not all(tries.reasons(other).values())]
        tries.try_group(group, cut=able, first=FIRST)


def try_cut(tries: Tries, groups: Sequence[Group]) -> None:
    """Train the groups with fewer layers, which are cut from the first one, where that was trained."""
    for group in groups[1:]:
        if groups[0].name in tries.trained or all(tries.reasons(group).values()):
            tries.try_group(group, first=FIRST)
        else:
            tries.skip(group, f"{groups[0].name}, which it is cut from, was not trained")
