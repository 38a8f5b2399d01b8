"""Making a model smaller from end to end: stages in their order, and what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfpint.bundle import CARD, REPORTS, Kind, read_json
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.compression.language import compress_language
from halfpint.compression.refusals import refuse_test_split
from halfpint.compression.request import Request, Run, steps_of
from halfpint.data.corpus import CorpusData, choosing, prepare_corpus
from halfpint.distillation.request import teacher_bundle
from halfpint.energy import metered
from halfpint.errors import HalfpintError, RefusedError
from halfpint.export.onnx import Onnx
from halfpint.models.pull_language import base_bundle
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.task import LabelTask, label_task, open_task, settings_of, task_of, text_task
from halfpint.workspace import open_workspace

_HELD_SHARE = 0.2  # of the text, to judge by
_CHOOSING = 0.1  # of the rest, where something is chosen


def compress(request: Request, log: Log) -> dict[str, Any]:
    """Make the model smaller, tell what it kept after each step, and compare with fewer bits alone; gives the report.

    The bundle goes to `request.out`, with report.json beside its weights. What is unfinished is kept in the folder's
    name with ".unfinished", and the same call goes on from there; seconds and energy are those of all parts together.

    Raises:
        HalfpintError: no such model or data, nothing to do, a step that does not fit, or an `out` that holds something
            else.
        RefusedError: a step that saves nothing, or an export that does not say what the model says.
    """
    with open_workspace(request.out, log, force=request.force) as space:
        refuse_test_split(request.data)
        stages = steps_of(request, is_classifier=_is_classifier(request.model))  # refuses settings that cannot be
        if all(isinstance(one, Onnx) for one in stages) and not request.target_bytes and not request.keep:
            raise HalfpintError(
                "halfpint compress", wanted="--prune, --low-rank, --vocab, --quantize, --target or --keep",
                got="none of them",
            )  # fmt: skip
        with metered(log):
            run = _opened(request, space.folder, log)
            space.begin()
            is_labelled = isinstance(run.pipeline.task, LabelTask)
            made, report = _classifier(run) if is_labelled else compress_language(run)
        told = [{"use": stage.use, **stage.settings()} for stage in made.stages]
        report = space.finish(made.bundle, {**report, "model": request.model, "stages": told})
        space.clear()
    return report


def _is_classifier(model: str) -> bool:
    """Whether a bundle, or what `fit` or `run` wrote, says of itself that it is a classifier."""
    card = next((folder / CARD for folder in (Path(model), Path(model) / "best") if (folder / CARD).is_file()), None)
    name = read_json(card).get("task") if card else None
    return name is not None and isinstance(open_task(str(name), f"{card}: task"), LabelTask)


def _opened(request: Request, work: Path, log: Log) -> Run:
    """The model and the data, each of its kind."""
    given = Path(request.model)
    if _is_classifier(request.model):
        start = teacher_bundle(request.model)
        task = label_task(task_of(start), str(start.path))
        asked = settings_of(
            task, source=request.data, test=request.test, text=request.text, label=request.label, seed=request.seed
        )
        split = task.read(asked, work / "data", log)
        _tell_of_split(given, split.key, log)
        if start.kind not in (Kind.CLASSIFIER, Kind.ONNX):
            raise HalfpintError(
                str(start.path),
                wanted="a fine-tuned encoder, or its export",
                got=f"a bundle of the kind '{start.kind}'",
            )
        return Run(request, Pipeline(split, work, task, task.primary(split.train), log), start, log)
    start = base_bundle(request.model, work / "base", log)
    refuse_test_split(request.data, below=True)
    if start.kind != Kind.LANGUAGE:
        raise HalfpintError(
            str(start.path), wanted="a model that is not quantised or exported yet",
            got=f"one of the kind '{start.kind}'",
            todo="Compress the model that it was made from.",
        )  # fmt: skip
    for name, value in (("--static", request.static), ("--test", request.test)):
        if value:
            raise HalfpintError(name, wanted="a classifier for it", got="a language model", todo="Leave it out.")
    data = CorpusData(
        sources=(request.data,), text=request.text, validation_share=_HELD_SHARE, clean=False, seed=request.seed
    )
    corpus = prepare_corpus(data, work / "corpus", log)
    judged = corpus.validation
    if request.target_bytes or request.keep or request.heal:
        corpus, judged = choosing(corpus, _CHOOSING)
    pipeline = Pipeline(corpus, work, text_task(), text_task().primary(()), log)
    return Run(request, pipeline, start, log, held=corpus.validation, judged=judged)


def _tell_of_split(given: Path, key: str, log: Log) -> None:
    """Say where `fit`, which made the model, had divided the texts otherwise."""
    report = next((folder / REPORTS[0] for folder in (given, given.parent) if (folder / REPORTS[0]).is_file()), None)
    told = read_json(report).get("data") if report else None
    if isinstance(told, dict) and told.get("fingerprint", key) != key:
        log.say(
            "  the model was trained on another part of these texts, or on others: it may know some that it is judged "
            "by now. Give DATA, --test and --seed as fit had them.", kind="finding",
        )  # fmt: skip


def _classifier(run: Run) -> tuple[Made, dict[str, Any]]:
    """Make the steps of a classifier; each end is judged as ONNX in a fresh process."""
    if run.request.target_bytes or run.request.keep:
        target = bool(run.request.target_bytes)
        raise HalfpintError(
            "--target" if target else "--keep", wanted="a language model for it", got="a classifier",
            todo=f"halfpint fit DATA {'--max-size' if target else '--keep'} finds the smallest classifier that is "
            "enough.",
        )  # fmt: skip
    stages = steps_of(run.request, str(run.start.path), is_classifier=True)
    if run.start.kind == Kind.ONNX:
        stages = [stage for stage in stages if not isinstance(stage, Onnx)]
    whole = run.start if run.start.kind == Kind.ONNX else run.make([Onnx()]).bundle
    rows = {}
    made = run.make(stages)
    ways = {"before": Made(whole, "before", ()), "after": made}
    if run.start.kind == Kind.CLASSIFIER:
        ways["8 bits alone"] = run.make([Onnx(), OnnxInt8()])
    for name, one in ways.items():
        found = rows[name] = run.pipeline.assess(Made(one.bundle, one.key, ())).figures
        primary = run.pipeline.primary
        run.log.say(
            f"  {name}: {primary} {found['metrics'][primary]:.4f}, {found['size_bytes'] / 1e6:.2f} MB", kind="step"
        )
    before, after = (rows[name]["metrics"][run.pipeline.primary] for name in ("before", "after"))
    sizes = [rows[name]["size_bytes"] for name in ("before", "after")]
    if sizes[1] >= sizes[0] and rows["after"]["latency_p50_ms"] >= rows["before"]["latency_p50_ms"]:
        raise RefusedError(
            "halfpint compress", wanted="fewer bytes or less time",
            got=f"{sizes[1]:,} of {sizes[0]:,} bytes, and no time",
            todo="Leave these steps out.",
        )  # fmt: skip
    if not (run.request.prune or run.request.low_rank or run.request.vocab):  # what was cut may cost, and is told
        refuse_if_worse(rows["before"], rows["after"], run.pipeline.primary)
    said = (
        f"{sizes[1] / 1e6:.2f} MB of {sizes[0] / 1e6:.2f}: {run.pipeline.primary} {after:.4f} of {before:.4f} on "
        f"validation, {after / max(before, 1e-9):.1%} kept."
    )
    return made, {
        "task": run.pipeline.task.name, "primary_metric": run.pipeline.primary, "models": rows, "verdict": said,
        "data": {"source": run.request.data},
    }  # fmt: skip


def refuse_if_worse(before: dict[str, Any], after: dict[str, Any], primary: str) -> None:
    """Raise a RefusedError where quantising took the metric below the lower end of the whole model's interval.

    Args:
        before, after: "metrics" by name, and the "interval" of `primary`.
    """
    low, high = before["interval"]
    if after["metrics"][primary] < low:
        raise RefusedError(
            "halfpint compress", wanted=f"{primary} of at least {low:.4f}, the lower end of the whole model's interval",
            got=f"{after['metrics'][primary]:.4f}, where the whole model has {before['metrics'][primary]:.4f} "
            f"({low:.4f} to {high:.4f})",
            todo="Quantise less; the whole model is kept.",
        )  # fmt: skip
