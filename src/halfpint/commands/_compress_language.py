"""A language model made smaller: what it kept after each step, what fewer bits alone keep, the best way to a target."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from halfpint.commands._compress_bits import PROBED_TOKENS, best_way, fewest_bits, row_of
from halfpint.commands._compress_control import Control, compared, control_of
from halfpint.commands._compress_refusals import refuse_early
from halfpint.commands._compress_steps import steps_of
from halfpint.commands._compress_time import Costs, need_minutes
from halfpint.compress.costs import seconds_of
from halfpint.compress.lossless import Lossless
from halfpint.compress.quantize import Quantize
from halfpint.distil.heal import Heal
from halfpint.evaluate.kept import WINDOW
from halfpint.pipeline import Made
from halfpint.stage import Stage

if TYPE_CHECKING:
    from halfpint.commands._compression import Compression

_ERRORS = 1.96  # standard errors that a 95 % interval goes to


def compress_language(run: Compression) -> tuple[Made, dict[str, Any]]:
    """Make the steps of a language model, one row of figures after each."""
    stages = steps_of(run.asked, str(run.start.path))
    refuse_early(run, stages)
    run.costs = Costs(*seconds_of(run.start, WINDOW))
    need_minutes(
        run.costs, [one for one in stages if not isinstance(one, Heal)] or [Quantize(packed=not run.asked.plain)],
        time.monotonic() - run.started, run.asked.minutes, searches=bool(run.asked.target_bytes or run.asked.keep),
    )  # fmt: skip
    if run.asked.target_bytes:
        stages = best_way(run)
    elif run.asked.keep:
        stages = fewest_bits(run)
    rows: list[dict[str, Any]] = []
    made, count, took = run.make(stages[:1]), 0, 0.0
    while count < len(stages):
        count += 1
        if isinstance(stages[count - 1], Quantize) or (stages[count:] and isinstance(stages[count], Lossless)):
            continue  # what was written runs in llama.cpp after the next stage, or is the same after it
        so_far = run.make(stages[:count])
        name = " + ".join(stage.use for stage in stages[:count])
        after, before = _healed(run, so_far, made) if isinstance(stages[count - 1], Heal) else (0.0, 0.0)
        if after > before:
            lost = f"KL {after:.3g} after it, {before:.3g} before: it is left out"
            run.log.say(f"  {stages[count - 1].use}: {lost}", kind="refused")
            run.points.append({"name": name, "refused": lost})
            count -= 1
            stages = [*stages[:count], *stages[count + 1 :]]
            continue
        made = so_far
        run.log.say(f"  made: {made.bundle.path}; what it kept is measured", kind="made", bundle=made.bundle.path)
        began = time.monotonic()
        row = row_of(run, name, made.bundle)
        took = time.monotonic() - began
        rows.append(row)
        said = f"  {stages[count - 1].use}: {row['file_bytes'] / 1e6:.1f} MB, ln(PPL/PPL0) {row['ln_ppl_ratio']:.4f}"
        run.log.say(said, kind="step", **row)
    control = control_of(run, made, rows[-1], stages, took)
    reference = {"file_bytes": rows[0]["reference_bytes"], "perplexity": rows[0]["reference_perplexity"]}
    report = {
        "task": run.pipeline.task.name, "reference": reference, "steps": rows, "control": control.row,
        "points": run.points,
        "verdict": verdict(rows[-1], control, stages, run.asked.target_bytes, run.asked.keep or 0.0),
        "data": _facts(run),
        "is_met": is_met(rows[-1], run.asked.target_bytes, run.asked.keep or 0.0),
    }  # fmt: skip
    return made, report


def _healed(run: Compression, after: Made, before: Made) -> list[float]:
    """The divergences with and without a step, on the text to choose by."""
    return [
        row_of(run, "", one.bundle, tokens=PROBED_TOKENS, to_choose=True)["kl"] for one in (after, before)
    ]  # fmt: skip


def _facts(run: Compression) -> dict[str, Any]:
    return run.pipeline.split.summary()


def is_met(row: dict[str, Any], target: int, keep: float) -> bool | None:
    """Whether what was made has no more bytes, or keeps as much, as was asked for; None where neither was.

    What is kept is known up to its error: the fewest bits that kept enough on one text miss it by a little on every
    second one.
    """
    if target:
        return bool(row["file_bytes"] <= target)
    return math.exp(_ERRORS * row["ln_ppl_ratio_error"] - row["ln_ppl_ratio"]) >= keep if keep else None


def verdict(
    row: dict[str, Any], control: Control, stages: Sequence[Stage], target: int = 0, keep: float = 0.0
) -> str:  # fmt: skip
    """One sentence on what was kept, and one on whether fewer bits alone had kept as much."""
    said = (
        f"{row['file_bytes'] / 1e6:.1f} MB of {row['reference_bytes'] / 1e6:.1f}: "
        f"ln(PPL/PPL0) {row['ln_ppl_ratio']:.4f} "
        f"± {row['ln_ppl_ratio_error']:.4f} (standard error), mean KL {row['kl']:.4f}, the same top token in "
        f"{row['same_top1']:.1%}"
    )
    read, wanted = row["windows"] * row["window"], min(row["asked_tokens"], row["text_tokens"])
    if read + row["window"] <= wanted:
        said += f", judged by {read:,} tokens instead of {wanted:,}, as no time was left for more"
    if "loaded_bytes" in row:
        said += f"; {row['loaded_bytes'] / 1e6:.1f} MB once it is loaded"
    if target and not is_met(row, target, keep):
        said += f"; over the target of {target / 1e6:.1f} MB"
    if keep:
        said += f"; {math.exp(-row['ln_ppl_ratio']):.4f} of the perplexity's inverse, {keep:g} asked for"
        met = is_met(row, target, keep)
        said += "" if met else ": not kept on text that nothing was chosen by"
    return f"{said}. {compared(row, control, stages)}"
