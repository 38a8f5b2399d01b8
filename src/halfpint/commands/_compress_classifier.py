"""A classifier made smaller: before and after, each as ONNX in a fresh process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from halfpint.bundle import Kind
from halfpint.commands._compress_steps import steps_of
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.errors import HalfpintError, RefusedError
from halfpint.export.onnx import Onnx
from halfpint.pipeline import Made

if TYPE_CHECKING:
    from halfpint.commands._compression import Compression


def compress_classifier(run: Compression) -> tuple[Made, dict[str, Any]]:
    """Make the steps of a classifier; each end is judged as ONNX in a fresh process."""
    if run.asked.target_bytes or run.asked.keep:
        target = bool(run.asked.target_bytes)
        raise HalfpintError(
            "--target" if target else "--keep", wanted="a language model for it", got="a classifier",
            todo=f"halfpint fit DATA {'--max-size' if target else '--keep'} finds the smallest classifier that is "
            "enough.",
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
    before, after = (rows[name]["metrics"][run.pipeline.primary] for name in ("before", "after"))
    sizes = [rows[name]["size_bytes"] for name in ("before", "after")]
    if sizes[1] >= sizes[0] and rows["after"]["latency_p50_ms"] >= rows["before"]["latency_p50_ms"]:
        raise RefusedError(
            "halfpint compress", wanted="fewer bytes or less time",
            got=f"{sizes[1]:,} of {sizes[0]:,} bytes, and no time",
            todo="Leave these steps out.",
        )  # fmt: skip
    if not (run.asked.prune or run.asked.low_rank or run.asked.vocab):  # what was cut may cost, and is told
        refuse_if_worse(rows["before"], rows["after"], run.pipeline.primary)
    said = (
        f"{sizes[1] / 1e6:.2f} MB of {sizes[0] / 1e6:.2f}: {run.pipeline.primary} {after:.4f} of {before:.4f} on "
        f"validation, {after / max(before, 1e-9):.1%} kept."
    )
    return made, {
        "task": run.pipeline.task.name, "primary_metric": run.pipeline.primary, "models": rows, "verdict": said,
        "data": {"source": run.asked.data},
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
