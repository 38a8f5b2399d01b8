"""A classifier made smaller: before and after, each as ONNX in a fresh process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from halfpint.bundle import Bundle, Kind
from halfpint.commands._compress_steps import steps_of
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.counts import INTERVAL, Counts
from halfpint.engines import open_engine
from halfpint.errors import RefusedError
from halfpint.evaluate.intervals import difference, interval
from halfpint.export.onnx import Onnx
from halfpint.pipeline import Made

if TYPE_CHECKING:
    from halfpint.commands._compression import Compression


def compress_classifier(run: Compression) -> tuple[Made, dict[str, Any]]:
    """Make the steps of a classifier; each end is judged as ONNX in a fresh process."""
    for name, flag in (("target", "--max-size"), ("keep", "--keep")):
        run.asked.refuse(
            name, wanted="a language model", got="a classifier",
            todo=f"halfpint fit DATA {flag} finds the smallest classifier that is enough.",
        )  # fmt: skip
    stages = steps_of(run.asked, str(run.start.path), is_classifier=True)
    if run.start.kind == Kind.ONNX:
        stages = [stage for stage in stages if not isinstance(stage, Onnx)]
    whole = run.start if run.start.kind == Kind.ONNX else run.make([Onnx()]).bundle
    rows = {}
    made = run.make(stages, in_time=not run.asked.heal)  # healing goes by passes
    ways = {"before": Made(whole, "before", ()), "after": made}
    if run.start.kind == Kind.CLASSIFIER:
        ways["8 bits alone"] = run.make([Onnx(), OnnxInt8()])
    for name, one in ways.items():
        found = rows[name] = run.pipeline.assess(Made(one.bundle, one.key, ())).figures
        primary = run.pipeline.primary
        run.log.say(
            f"  {name}: {primary} {found['metrics'][primary]:.4f}, {found['size_bytes'] / 1e6:.2f} MB", kind="step"
        )
    sizes = [rows[name]["size_bytes"] for name in ("before", "after")]
    if sizes[1] >= sizes[0] and not is_faster(rows["after"], rows["before"]):
        raise RefusedError(
            "halfpint compress", wanted="fewer bytes or less time",
            got=f"{sizes[1]:,} of {sizes[0]:,} bytes, and no time",
            todo="Leave these steps out.",
        )  # fmt: skip
    if not (run.asked.prune or run.asked.low_rank or run.asked.vocab):  # what was cut may cost, and is told
        refuse_if_worse(rows["before"], rows["after"], run.pipeline.primary)
    counts = {name: _tested(run, one.bundle, rows[name]) for name, one in ways.items()}
    task, primary = run.pipeline.labelled, run.pipeline.primary
    lost = difference(counts["after"], counts["before"], task.metrics[primary])
    return made, {
        "task": task.name, "primary_metric": primary, "models": rows, "differences": {"after less before": list(lost)},
        "verdict": verdict(rows["before"], rows["after"], lost, primary), "data": {"source": run.asked.data},
    }  # fmt: skip


def _tested(run: Compression, bundle: Bundle, row: dict[str, Any]) -> Counts:
    """How a bundle does on the test rows, by which no step chose anything, told in its row; gives the counts."""
    task, test = run.pipeline.labelled, run.pipeline.split.test
    outputs = open_engine(bundle).probabilities(task.texts(test))
    counts = task.counts(test, task.decode(task.texts(test), outputs, run.pipeline.labels), run.pipeline.labels)
    primary = run.pipeline.primary
    row["test"] = {
        primary: task.metrics[primary](counts), "interval": list(interval(counts, task.metrics[primary])),
        "rows": len(test),
    }  # fmt: skip
    return counts


def is_faster(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a text takes less time in every repetition."""
    return float(row["latency_p50_high_ms"]) < float(other["latency_p50_low_ms"])


def verdict(
    before: Mapping[str, Any], after: Mapping[str, Any], lost: tuple[float, float, float], primary: str
) -> str:  # fmt: skip
    """One sentence on what was kept, by the test rows.

    Args:
        before, after: "size_bytes", and under "test" the primary metric and the number of rows.
        lost: the difference and the ends of its interval, paired.
    """
    value, low, high = lost
    kept, whole = after["test"][primary], before["test"][primary]
    said = (
        f"{after['size_bytes'] / 1e6:.2f} MB of {before['size_bytes'] / 1e6:.2f}: {primary} {kept:.4f} of {whole:.4f} "
        f"on {before['test']['rows']:,} test rows, by which no step was chosen ({kept / max(whole, 1e-9):.1%} kept; "
        f"difference {value:+.4f}, {INTERVAL} {low:+.4f} to {high:+.4f})"
    )
    if high < 0:
        return f"{said}: something was lost."
    return f"{said}: these rows show no loss." if low <= 0 else f"{said}."


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
