"""Another measured candidate of a finished `fit` becomes OUT/best: a choice by hand."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from halfpint.bundle import CARD, Bundle, open_bundle, other_files, read_json
from halfpint.errors import HalfpintError, nearest, no_path
from halfpint.evaluate.evaluate import evaluate
from halfpint.evaluate.intervals import difference
from halfpint.files import clear_temporary, refuse_unreadable_name
from halfpint.lookup import open_task
from halfpint.pipeline import Made, recorded
from halfpint.progress import SILENT, Log
from halfpint.recipe import Recipe, check_recipe
from halfpint.report.html import write_report
from halfpint.search.fit import BEST, keep, repeatable
from halfpint.search.limits import Limits
from halfpint.search.tries import NO_TIME
from halfpint.search.verdict import SEEN, by_hand, on_test
from halfpint.task import LabelTask, label_task
from halfpint.workspace import EVENTS, REPORT, REQUEST, disk_errors, request_in

FIT, HAND = "fit", "hand"
"""Who chose: "chosen_by" in the report."""
_WORK = "work"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run of `fit`.

    Attributes:
        out: its folder; report: its report; request: what it was asked for, as its file holds it.
    """

    out: Path
    report: dict[str, Any]
    request: Mapping[str, Any]

    @property
    def place(self) -> str:
        """The report's file, for messages."""
        return str(self.out / REPORT)

    @property
    def task(self) -> LabelTask[Any]:
        """The task."""
        return label_task(open_task(str(self.report["task"]), f"{self.place}: task"), self.place)

    @property
    def primary(self) -> str:
        """The metric that `fit` chose by."""
        return str(self.report["primary_metric"])

    @property
    def limits(self) -> Limits:
        """What was asked for."""
        asked = dict(self.report["limits"])
        return Limits(**{**asked, "floor": asked.get("floor") or {}})

    @property
    def measured(self) -> dict[str, dict[str, Any]]:
        """The measured candidates by their names."""
        return {one["name"]: one for one in self.report["candidates"] if one["status"] == "measured"}

    @property
    def by_fit(self) -> str | None:
        """The name of the candidate that `fit` itself chose; None where none met the limits."""
        name = self.report["by_fit"]["chosen"] if "by_fit" in self.report else self.report["chosen"]
        return None if name is None else str(name)


def choose_by_hand(out: Path, name: str, log: Log) -> tuple[dict[str, Any], bool]:
    """Make the measured candidate `name` of the finished run in `out` its best one; gives the report, and whether
    anything had to be done.

    The candidate is judged on the test texts, unless it was before. OUT/best, the recipe and the report are written
    once all is known, each whole or not at all, the report last.

    Raises:
        HalfpintError: no finished run of `fit`, no such candidate, or a run whose files or data are not as they were.
    """
    with disk_errors(out):
        return _choose(open_finished(out), name, log)


def _choose(run: Finished, name: str, log: Log) -> tuple[dict[str, Any], bool]:
    candidate = find_candidate(run, name)
    bundle = _bundle_of(run, candidate)
    if run.report["chosen"] == name and _is_there(run.out / BEST, bundle):
        return run.report, False
    best = Bundle(run.out / BEST)
    theirs = other_files(best) if (best.path / CARD).is_file() else [one.name for one in best.path.glob("*")]
    if theirs:
        raise HalfpintError(
            str(best.path), wanted="a bundle and nothing else, which is replaced", got=f"{theirs[0]} besides",
            todo="Move it away first.",
            said=f"This would remove {theirs[0]} in {best.path}, which halfpint did not write.",
        )  # fmt: skip
    recipe = _recipe(run, candidate, bundle)
    known = (run.report.get("test") or {}).get(name)
    test = known or _on_test(run, recipe, candidate, bundle, log)
    report = _report(run, name, test, recipe)
    clear_temporary(run.out)
    keep(best.path, bundle, candidate, test, run.primary, run.report["data"]["fingerprint"], run.task)
    recipe.write(run.out / "recipe.toml")
    log.events = run.out / EVENTS
    log.event("chosen", name=name, by=report["chosen_by"], verdict=report["verdict"])
    write_report(report, run.out)
    return read_json(run.out / REPORT), True


def open_finished(out: Path) -> Finished:
    """The finished run of `fit` in a folder.

    Raises:
        HalfpintError: there is none.
    """
    refuse_unreadable_name(out)
    if not out.exists():
        raise no_path(str(out), "the output folder of a finished `halfpint fit`")
    if not out.is_dir():
        raise _no_fit(out, "a file", f"{out} is a file, not the output folder of `halfpint fit`.")
    request = request_in(out)
    if request is None or not isinstance(request.get("data"), dict) or "limits" not in request:
        todo = f"Give {out.parent}." if request_in(out.parent) and (out / CARD).is_file() else ""
        raise _no_fit(out, "another one", f"{out} is not the output folder of `halfpint fit`.", todo)
    if not (out / REPORT).is_file():
        said = f"`halfpint fit` has not finished in {out}."
        raise _no_fit(out, "an unfinished one", said, "Give its command again: it goes on where it stopped.")
    run = Finished(out=out, report=read_json(out / REPORT), request=request)
    if not _is_whole(run):
        raise _not_ours(run.place, "it is not a report of `halfpint fit`")
    return run


def find_candidate(run: Finished, name: str) -> dict[str, Any]:
    """The measured candidate `name` of a run.

    Raises:
        HalfpintError: there is none of that name, or it has no figures; the message says why.
    """
    if name in run.measured:
        return run.measured[name]
    other = next((one for one in run.report["candidates"] if one["name"] == name), None)
    if other is None:
        raise HalfpintError(
            "CANDIDATE", wanted=f"a measured candidate of {run.out}", got=repr(name), todo=nearest(name, run.measured),
            said=f"There is no candidate {name!r} in {run.out}.",
        )  # fmt: skip
    more = "`halfpint fit` with more --minutes gives it time." if NO_TIME in other["why"] else ""
    was = "failed" if other["status"] == "failed" else f"was {other['status']}"
    raise HalfpintError(
        "CANDIDATE", wanted="a measured candidate", got=f"{name}, which {was}: {other['why']}", todo=more,
        said=f"{name} {was}, so that there is no model to choose: {other['why'].rstrip('.')}.",
    )  # fmt: skip


def _is_whole(run: Finished) -> bool:
    """Whether a report has what is read of it."""
    report, metric = run.report, run.report.get("primary_metric")
    try:
        for one in report["candidates"]:
            (one["name"] + one["status"] + one["why"]).strip()
        for one in run.measured.values():
            float(one["metrics"][metric]) + sum(one["interval"]) + one["size_bytes"] + one["latency_p50_ms"]
            (one["feasible"], one["bundle"])
        (report["data"]["fingerprint"], report["verdict"] + "", report["chosen"], run.limits, run.by_fit)
        known = report["chosen"] is None or report["chosen"] in run.measured
        return known and (run.by_fit is None or run.by_fit in run.measured)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _bundle_of(run: Finished, candidate: Mapping[str, Any]) -> Bundle:
    """The bundle that a candidate is kept as, checked against what the run recorded of it.

    Raises:
        HalfpintError: it is gone, or is not what was measured.
    """
    name = final_bundle(run, candidate)
    if name is None:
        raise HalfpintError(
            str(run.out / _WORK), wanted=f"the bundle of {candidate['name']}", got="none", todo=_AGAIN,
            said=f"The model of {candidate['name']} is not in {run.out / _WORK} any more.",
        )  # fmt: skip
    folder = run.out / _inside(name, run)
    if not folder.is_dir():
        raise HalfpintError(
            str(folder), wanted=f"the bundle of {candidate['name']}", got="nothing there", todo=_AGAIN,
            said=f"The model of {candidate['name']} is not there any more: {folder}.",
        )  # fmt: skip
    bundle = open_bundle(folder, task=run.task.name)
    found = recorded(folder)
    is_measured = name == candidate.get("measured_bundle", name)
    if found is not None and (
        found.figures.get("fingerprint") != bundle.fingerprint
        or (is_measured and found.figures.get("metrics") != candidate["metrics"])
    ):
        raise HalfpintError(
            str(folder), wanted="the bundle that was measured", got="another one", todo=_AGAIN,
            said=f"The model in {folder}, or its figures in {run.place}, are not those that were measured.",
        )  # fmt: skip
    return bundle


_AGAIN = "Was it changed by hand? `halfpint fit` into another folder makes it again."


def final_bundle(run: Finished, candidate: Mapping[str, Any]) -> str | None:
    """Where the bundle of a measured candidate lies, from OUT; None where that is not known.

    Of the one that `fit` chose it is the one that was trained again on all rows, where it was.
    """
    name = candidate.get("final_bundle", candidate["bundle"])
    if name != BEST:
        return None if name is None else str(name)
    # Reports of runs that kept no path of what was copied to OUT/best: the folder with the same files.
    others = {one["bundle"] for one in run.measured.values()}
    with suppress(HalfpintError):
        wanted = open_bundle(run.out / BEST).fingerprint
        for card in sorted((run.out / _WORK).glob(f"*/{CARD}")):
            found = str(card.parent.relative_to(run.out))
            with suppress(HalfpintError):
                if found not in others and Bundle(card.parent).fingerprint == wanted:
                    return found
    return None


def _inside(name: str, run: Finished) -> str:
    """The path of a bundle in a report: one in OUT/work.

    Raises:
        HalfpintError: it leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    if len(parts) != 2 or parts[0] != _WORK or parts[1] == "..":
        raise _not_ours(run.place, f"the bundle {name!r} is not one in {_WORK}")
    return name


def _is_there(folder: Path, bundle: Bundle) -> bool:
    """Whether a folder holds a copy of a bundle, whole."""
    try:
        return open_bundle(folder).fingerprint == bundle.fingerprint
    except HalfpintError:
        return False


def _recipe(run: Finished, candidate: Mapping[str, Any], bundle: Bundle) -> Recipe:
    """The recipe that makes a candidate again: its stages are those in its card."""
    card = bundle.path / CARD
    try:
        entries = [{"use": one["use"], **one["settings"]} for one in bundle.card["stages"]]
    except (KeyError, TypeError):
        raise _not_ours(str(card), "its stages are not as they were written") from None
    told = {"name": run.task.name, "metric": run.primary, "all_rows": "trained_on" in candidate}
    content = {"data": run.request["data"], "task": told, "stage": entries}
    recipe = check_recipe(content, f"{run.out / REQUEST}, with the stages in {card},")
    stages = repeatable(Made(bundle, "", recipe.stages))
    return Recipe(recipe.data, recipe.task, recipe.metric, stages, recipe.all_rows)


def _on_test(
    run: Finished, recipe: Recipe, candidate: Mapping[str, Any], bundle: Bundle, log: Log
) -> dict[str, Any]:  # fmt: skip
    """The figures of a candidate on the test texts, which are read again.

    Raises:
        HalfpintError: the data is not what it was.
    """
    told = run.report["data"]
    log.say(f"reading {recipe.data.source} again, to test {candidate['name']}", kind="data")
    split = run.task.reread(recipe.data, run.out / _WORK / "data", SILENT)  # `fit` said what there is to say of it
    if split.key != told["fingerprint"] or split.proof != told.get("test_fingerprint", split.proof):
        which = "rows" if split.key != told["fingerprint"] else "test texts"
        raise HalfpintError(
            str(recipe.data.source), wanted="the data that `halfpint fit` read", got="other data",
            todo="Put the data back as it was, or run `halfpint fit` again.",
            said=f"{told.get('source', recipe.data.source)} has changed since `halfpint fit` read it: its {which} are "
            f"not those that the candidates of {run.out} were trained and judged on.",
        )  # fmt: skip
    test = evaluate(bundle, split.test, primary=run.primary, log=log)
    return {**test, "metrics": {key: test[key] for key in candidate["metrics"]}}


def _report(run: Finished, name: str, test: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The report with `name` as the chosen one; with that of `fit` what `fit` said of it."""
    report = deepcopy(run.report)
    fitted = report.pop("by_fit", {key: report.get(key) for key in ("chosen", "verdict", "command")})
    for one in report["candidates"]:
        if one["status"] == "measured" and (BEST in (one["bundle"], one.get("final_bundle")) or one["name"] == name):
            one["final_bundle"] = final_bundle(run, one)
            one.setdefault("measured_bundle", None if "trained_on" in one else one["final_bundle"])
            one["bundle"] = BEST if one["name"] == name else one["final_bundle"]
    report["test"] = {**(report["test"] or {}), name: dict(test)}
    words, by, line = fitted["verdict"], FIT, fitted["command"]
    if name != fitted["chosen"]:
        report["by_fit"], by = fitted, HAND
        candidate, before = run.measured[name], run.measured.get(fitted["chosen"])
        beside, rows = _beside(run, candidate, before)
        said = by_hand(candidate, before, beside, rows, run.primary)
        line = f"{line or ''}\nhalfpint choose {quote(str(run.out))} {quote(name)}".lstrip()
        words = f"{said} {on_test(candidate, test, run.primary, run.limits)} {SEEN}"
    more = {"chosen": name, "verdict": words, "command": line, "recipe": recipe.toml(), "out": str(run.out)}
    return {**report, **more, "chosen_by": by}


def _beside(
    run: Finished, one: Mapping[str, Any], other: Mapping[str, Any] | None
) -> tuple[tuple[float, float, float] | None, int]:
    """The difference of two candidates on the validation rows with the ends of its interval, and the rows; nothing
    where what they answered there is not kept."""
    counts = []
    for candidate in filter(None, (one, other)):
        name = candidate.get("measured_bundle", None if "trained_on" in candidate else final_bundle(run, candidate))
        found = None if name is None else recorded(run.out / _inside(name, run))
        if found is not None and found.figures.get("metrics") == candidate["metrics"]:
            counts.append(found.counts)
    if len(counts) != 2 or len(counts[0]) != len(counts[1]):
        return None, 0
    return difference(counts[0], counts[1], run.task.metrics[run.primary]), len(counts[0])


def _no_fit(out: Path, got: str, said: str, todo: str = "") -> HalfpintError:
    wanted = "the output folder of a finished `halfpint fit`"
    return HalfpintError(str(out), wanted=wanted, got=got, todo=todo, said=said)


def _not_ours(place: str, why: str) -> HalfpintError:
    todo = "Was it changed by hand? `halfpint fit` into another folder writes a good one."
    return HalfpintError(
        place, wanted="the report of `halfpint fit`", got=why, todo=todo, said=f"{place} cannot be used: {why}."
    )
