"""`fit`: from a table to the smallest model that meets the limits, proven on texts that nothing was chosen by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halfpint import __version__
from halfpint.bundle import Bundle, open_bundle, read_json, write_json
from halfpint.counts import Counts
from halfpint.energy import energy_spent, metered
from halfpint.errors import (
    DamagedError,
    DeadlineError,
    HalfpintError,
    RefusedError,
    TrainingStoppedError,
    need_installed,
)
from halfpint.evaluate.evaluate import evaluate
from halfpint.files import clear_temporary, locked
from halfpint.machine import describe
from halfpint.models.pull import Pull
from halfpint.models.sources import locate
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.report.html import write_report
from halfpint.search.choose import Choice, choose
from halfpint.search.limits import Limits, bytes_text
from halfpint.search.space import (
    EXPORTS_S,
    Group,
    Variant,
    cheap_groups,
    describe_encoder,
    frozen_group,
    static_group,
    tuned_groups,
    tuning,
)
from halfpint.search.speed import training_speed
from halfpint.stage import Stage
from halfpint.task import LabelTask, Split
from halfpint.train.loop import Training
from halfpint.workspace import check_output, copy_bundle, disk_errors, open_output, write_figures

NO_BASE = "none"
_RESERVE_S, _RESERVE_SHARE = 45.0, 0.2  # for the last evaluation and the report, the less of the two
_LEAST = 0.7  # of a training's expected time has to be left: its evaluations stop it where the rest is missing
_ONE_EXPORT_S = 30.0
_OPTIMISM = 0.85  # of the expected bytes: a candidate over the limit even so is not made


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `fit` is asked for.

    Args:
        task: the task; data: the [data] settings, of its type; limits: what the model has to meet.
        out: the folder to write.
        base: the encoder to start from, or "none" for candidates without one.
        metric: what choices are made on; empty lets the data choose.
        seed: of training; command: the line to repeat it, for the report.
    """

    task: LabelTask[Any]
    data: Any
    limits: Limits
    out: Path
    base: str = "all-minilm-l6-v2"
    metric: str = ""
    seed: int = 0
    command: str = ""
    force: bool = False

    def identity(self) -> dict[str, Any]:
        """What makes two requests the same run; settings that came later count where they are given."""
        later = {
            one.name for one in fields(self.data) if one.metadata.get("later") and not getattr(self.data, one.name)
        }
        data = {name: value for name, value in asdict(self.data).items() if name not in later}
        parts = {"task": self.task.name, "data": data, "limits": asdict(self.limits), "base": self.base}
        return {**parts, "metric": self.metric, "seed": self.seed, "halfpint": __version__}


@dataclass
class _Run:
    """One run of `fit`: its pipeline, its clock, the candidates so far."""

    request: Request
    pipeline: Pipeline
    primary: str
    log: Log
    started: float
    candidates: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)

    @property
    def deadline(self) -> float:
        seconds = self.request.limits.minutes * 60
        return self.started + seconds - min(_RESERVE_S, _RESERVE_SHARE * seconds)


def fit(request: Request, log: Log) -> dict[str, Any]:
    """Search, choose on validation, prove on test, write OUT/best, report and recipe; gives the report.

    Raises:
        HalfpintError: bad input or data. An infeasible request is no error here: the report's "chosen" is None.
    """
    for package in ("sklearn", "onnx"):
        need_installed(package, "halfpint fit")
    started = time.monotonic()
    request.task.check_metric(request.metric, "--metric")
    with disk_errors(request.out), locked(request.out):
        # Nothing is written, or replaced, before it is known that the data can be learned from and the base be had.
        if check_output(request.out, request.identity(), force=request.force):
            log.say(f"going on with the unfinished run in {request.out}", kind="resume")
            clear_temporary(request.out / "work")
        with metered(log):
            split = request.task.read(request.data, request.out / "work" / "data", log)
            if request.base != NO_BASE:
                need_installed("torch", "candidates with an encoder (--base none leaves them out)")
                locate(request.base, log)
            open_output(request.out, request.identity(), force=request.force)
            log.events = request.out / "events.jsonl"
            primary = request.metric or next(iter(request.limits.floor), "") or request.task.primary(split.train)
            pipeline = Pipeline(split, request.out / "work", request.task, primary, log)
            run = _Run(request, pipeline, primary, log, started)
            _search(run, split)
            choice = choose(run.candidates, request.limits, primary, request.task, run.counts)
            tests = _prove(run, choice, split)
        report = _report(run, choice, tests, split)
        spent = energy_spent(request.out / "events.jsonl")
        report |= {"energy": spent, "seconds": round(spent["seconds"], 1)}
        write_report(report, request.out)
    log.event("done", chosen=report["chosen"], verdict=report["verdict"])
    return report


def _search(run: _Run, split: Split[Any]) -> None:
    for group in cheap_groups(run.request.task):
        _try_group(run, group)
    if run.request.base == NO_BASE:
        return
    base = run.pipeline.make([Pull(base=run.request.base)])
    plan_file = run.request.out / "plan.json"
    plan: dict[str, Any] = {}
    with suppress(DamagedError):
        plan = read_json(plan_file) if plan_file.is_file() else {}
    if "texts_per_s" not in plan:
        task = run.request.task
        settings = tuning(len(split.train), task.tuning)
        plan["texts_per_s"], plan["used_tokens"] = training_speed(base.bundle, task, split.train, settings)
        plan["frozen_seconds"] = run.deadline - time.monotonic()
        write_json(plan_file, plan)
    encoder = describe_encoder(base.bundle, run.request.base, plan["texts_per_s"], run.request.task)
    sizes = (len(split.train), len(run.pipeline.labels), plan["used_tokens"])
    task = run.request.task
    static = static_group(encoder, sizes[0])
    exports_s = EXPORTS_S
    if task.frozen:
        exports_s = _try_group(run, frozen_group(encoder, *sizes, plan["frozen_seconds"]))
    if task.static:
        _try_group(run, static)
    if "seconds" not in plan:  # an unfinished run that goes on keeps its plan
        plan["seconds"], plan["exports_s"] = run.deadline - time.monotonic(), max(exports_s, EXPORTS_S / 2)
        write_json(plan_file, plan)
    # A static table is taught by the first of them.
    seconds = plan["seconds"] - (static_group(encoder, sizes[0], static).expected_s if task.static else 0.0)
    most = run.request.limits.max_size_bytes
    groups = tuned_groups(encoder, *sizes, seconds, run.request.seed, plan["exports_s"], most)
    run.log.say(
        f"plan: {len(groups)} trainings in {plan['seconds'] / 60:.1f} minutes at {plan['texts_per_s']:.0f} texts/s"
        + "".join(f", {group.name} {group.expected_s / 60:.1f}" for group in groups),
        kind="plan",
        groups={group.name: group.expected_s for group in groups},
    )
    _try_tuned(run, groups)
    if task.static and groups and groups[0].name in run.trained:
        _try_group(run, static_group(encoder, sizes[0], groups[0]))


def _try_tuned(run: _Run, groups: Sequence[Group]) -> None:
    """Try a training, and those that are cut from it where it was trained."""
    for group in groups[:1]:
        _try_group(run, group, cut=[other for other in groups[1:] if not all(_reasons(run, other).values())])
    for group in groups[1:]:
        if groups[0].name in run.trained or all(_reasons(run, group).values()):
            _try_group(run, group)
            continue
        for variant in group.variants:
            _note(run, variant, group, "skipped", f"{groups[0].name}, which it is cut from, was not trained")


def _reasons(run: _Run, group: Group) -> dict[str, str]:
    """Why each candidate of a group cannot win, or nothing."""
    return {variant.name: _pointless(run, variant) for variant in group.variants}


def _try_group(run: _Run, group: Group, cut: Sequence[Group] = ()) -> float:
    """Train a group and measure its candidates; what is skipped, refused or failed is noted with its reason.

    Args:
        cut: groups that are cut from it and can win: for them it is trained even where none of its candidates can, and
            leaves time for the first of them.

    Gives the seconds that exports and measurements took.
    """
    reasons = _reasons(run, group)
    hopeless = all(reasons.values())
    if hopeless and not cut:
        for variant in group.variants:
            _note(run, variant, group, "skipped", reasons[variant.name])
        return 0.0
    # Of the exports one is enough: the others are left out where the time ends.
    least = min(group.expected_s * _LEAST, group.expected_s - group.finish_s + _ONE_EXPORT_S)
    if group.expected_s and run.deadline - time.monotonic() < least:
        why = f"no time left: it needs about {group.expected_s:.0f} s"
        for variant in group.variants:
            _note(run, variant, group, "skipped", why)
        return 0.0
    run.log.say(f"{group.name}:", kind="group")
    try:
        left = group.finish_s + (cut[0].expected_s if hopeless else 0.0)
        trained = run.pipeline.make(group.train, deadline=run.deadline - left, bar_to_beat=_bar(run))
    except (DeadlineError, TrainingStoppedError) as error:
        for variant in group.variants:
            _note(run, variant, group, "failed", str(error))
        return 0.0
    run.trained.add(group.name)
    began = time.monotonic()
    for variant in group.variants:
        if reasons[variant.name]:
            _note(run, variant, group, "skipped", reasons[variant.name])
            continue
        if time.monotonic() > run.deadline and any(other.name in run.made for other in group.variants):
            _note(run, variant, group, "skipped", "no time left to export and measure it")
            continue
        try:
            made = run.pipeline.make([*group.train, *variant.finish])
            assessment = run.pipeline.assess(made)
        except RefusedError as error:
            _note(run, variant, group, "refused", str(error))
            continue
        except HalfpintError as error:  # one that does not run is no reason to lose the others
            _note(run, variant, group, "failed", str(error))
            continue
        run.made[variant.name] = made
        run.counts[variant.name] = assessment.counts
        figures = {key: value for key, value in assessment.figures.items() if key not in ("fingerprint", "primary")}
        bundle = str(made.bundle.path.relative_to(run.request.out))
        _note(run, variant, group, "measured", "", train_s=round(trained.seconds, 1), bundle=bundle, **figures)
        run.log.say(
            f"  {variant.name}: {run.primary} {figures['metrics'][run.primary]:.4f}, "
            f"{bytes_text(figures['size_bytes'])}, "
            f"{figures['latency_p50_ms']:.1f} ms, {figures['throughput_per_s']:,.0f} texts/s",
            kind="candidate",
            name=variant.name,
        )
    return time.monotonic() - began


def _note(run: _Run, variant: Variant, group: Group, status: str, why: str, **figures: Any) -> None:
    empty: dict[str, Any] = {
        "metrics": {},
        "interval": None,
        "size_bytes": None,
        "latency_p50_ms": None,
        "throughput_per_s": None,
    }
    family = variant.family or group.family
    if status != "measured":
        run.log.say(f"  {variant.name}: {status}: {why}", kind=status, name=variant.name)
    run.candidates.append(
        {
            "name": variant.name,
            "family": family,
            "precision": variant.precision,
            "status": status,
            "why": why,
            **empty,
            "energy_wh_per_1000": None,
            "train_s": None,
            "feasible": False,
            "bundle": None,
            **figures,
        }
    )


def _pointless(run: _Run, variant: Variant) -> str:
    """Why a candidate cannot win before it is made, or nothing."""
    limits = run.request.limits
    optimistic = variant.expected_bytes * _OPTIMISM
    if limits.max_size_bytes is not None and optimistic > limits.max_size_bytes:
        return f"about {bytes_text(variant.expected_bytes)}, over {bytes_text(limits.max_size_bytes)}"
    if limits.floor and limits.keep is None:
        enough = [one for one in run.candidates if one["status"] == "measured" and not limits.misses(one)]
        smallest = min((one["size_bytes"] for one in enough), default=None)
        if smallest is not None and optimistic > smallest:
            return f"it cannot be smaller than a candidate that already meets all limits ({bytes_text(smallest)})"
    return ""


def _bar(run: _Run) -> float | None:
    """The score that a training has to come near to be of use: the lower end of the best candidate's interval.

    Blends do not count: a training is judged before it is blended itself.
    """
    measured = [one for one in run.candidates if one["status"] == "measured" and one["family"] != "blend"]
    best = max(measured, key=lambda one: one["metrics"][run.primary], default=None)
    return None if best is None or run.request.limits.floor or run.request.limits.keep else float(best["interval"][0])


def _prove(run: _Run, choice: Choice, split: Split[Any]) -> dict[str, Any]:
    """The one look at the test texts: the chosen candidate and the baselines. Writes OUT/best and its recipe."""
    if choice.chosen is None:
        return {}
    chosen = choice.chosen["name"]
    task = run.request.task
    counting = [one for one in run.candidates if one["family"] in task.counting and one["name"] in run.made]
    cheap = max(counting, key=lambda one: one["metrics"][run.primary], default=None)
    baselines = [one.name for one in task.candidates() if one.baseline]
    names = [chosen, *baselines, *([cheap["name"]] if cheap else [])]
    tests = {}
    for name in dict.fromkeys(name for name in names if name in run.made):
        tests[name] = evaluate(run.made[name].bundle, split.test, primary=run.primary, log=run.log)
        tests[name]["metrics"] = {key: tests[name][key] for key in choice.chosen["metrics"]}
    best = run.request.out / "best"
    copy_bundle(run.made[chosen].bundle.path, best)
    choice.chosen["bundle"] = best.name
    write_figures(best, run.primary, choice.chosen, tests[chosen], split.key, task.headline)
    stages = repeatable(run.made[chosen])
    Recipe(run.request.data, task, run.primary, stages).write(run.request.out / "recipe.toml")
    return tests


def repeatable(made: Made) -> tuple[Stage, ...]:
    """The stages that made a bundle, so that running them again gives it again.

    A training that was stopped (by the clock, or because it could not win) is told to stop at the same step.
    """
    stages: list[Stage] = []
    for stage, entry in zip(made.stages, made.bundle.card["stages"], strict=True):
        if isinstance(stage, Training) and entry.get("stopped") and entry["steps"] < entry["total_steps"]:
            again: Any = stage
            stages.append(replace(again, stop_after_steps=entry["steps"]))
        else:
            stages.append(stage)
    return tuple(stages)


def _report(run: _Run, choice: Choice, tests: dict[str, Any], split: Split[Any]) -> dict[str, Any]:
    limits = run.request.limits
    verdict = choice.verdict
    if choice.chosen is not None:
        result = tests[choice.chosen["name"]]
        low, high = result["interval"]
        verdict += (
            f" On {result['rows']:,} test texts: {run.primary} {result[run.primary]:.4f} ({low:.4f} to {high:.4f})."
        )
    recipe = run.request.out / "recipe.toml"
    return {
        "halfpint": __version__,
        "task": run.request.task.name,
        "data": split.summary(),
        "limits": {**asdict(limits), "floor": dict(limits.floor) or None},
        "primary_metric": run.primary,
        "candidates": run.candidates,
        "chosen": choice.chosen["name"] if choice.chosen else None,
        "closest": choice.closest["name"] if choice.closest else None,
        "verdict": verdict,
        "test": tests or None,
        "machine": describe(),
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        "command": run.request.command,
        "out": str(run.request.out),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def best_bundle(out: Path) -> Bundle:
    """The chosen bundle of a finished run."""
    return open_bundle(out / "best")
