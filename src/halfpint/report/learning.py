"""How a language model learned: what its card and the events of its run recorded, and the pictures of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfpint.progress import events_of, passes_shown
from halfpint.report import units
from halfpint.report.curve import NARROW, curve_svg, shown_tokens
from halfpint.report.sections import Part, figure, section
from halfpint.terminal import amount

_MOST_POINTS = 240
_NATS = "nats_per_"  # what the loss on validation is called in a history: nats_per_token, nats_per_assistant_token


def trainings(card: dict[str, Any], events: Path | None = None) -> list[dict[str, Any]]:
    """Each training of a language model that a bundle's card tells of, as the page and `curve_svg` take it.

    The training loss is that of every step where `events` (events.jsonl) has it, in means over equal numbers of steps;
    else it is the mean between two looks at validation, which the card holds.
    """
    told = list(events_of(events))
    found = []
    for number, entry in enumerate(card.get("stages", [])):
        history = [units.mapping(row) for row in units.rows(entry.get("history"))]
        name = next((key for row in history for key in row if key.startswith(_NATS)), "")
        if not name or not all("tokens" in row for row in history):
            continue
        of = " masked token" if entry.get("objective") == "masked" else f" {name[len(_NATS) :].replace('_', ' ')}"
        steps, speed = _steps_of(told, str(entry["use"]))
        before = units.number(entry.get("nats_before"))
        found.append(
            {
                "key": number, "use": entry["use"], "title": entry["use"], "unit": f"nats per{of}",
                "train": steps or [[row["tokens"], row["loss"]] for row in history],
                "validation": [[row["tokens"], row.get(name)] for row in history],
                "lines": [] if before is None else [[before, "before"]],
                "kept": next((row["tokens"] for row in history if row["step"] == entry.get("best_step")), None),
                "tokens": history[-1]["tokens"], "text_tokens": entry.get("train_tokens"),
                "steps": entry.get("steps"), "stopped": entry.get("stopped") or "",
                "learning_rate": entry.get("learning_rate"), "tokens_per_s": entry.get("tokens_per_s"),
                "seconds": entry.get("seconds"), **_share_of_peak(speed, units.number(entry.get("tokens_per_s"))),
                "samples": [
                    {"tokens": row["tokens"], "text": row["sample"]} for row in _spread(history) if row.get("sample")
                ],
            }
        )  # fmt: skip
    return found


def _steps_of(told: list[dict[str, Any]], use: str) -> tuple[list[list[float]], dict[str, Any]]:
    """The loss of each step of the last time that a stage was run, in means; and its event "speed".

    A run that was interrupted went back to its last checkpoint and did some steps again: the later ones count.
    """
    steps: dict[int, tuple[float, float]] = {}
    speed: dict[str, Any] = {}
    current = key = ""
    for event in told:
        kind = event.get("event")
        if kind == "stage":
            current = str(event.get("use"))
            if current == use and event.get("key") != key:
                key, steps, speed = str(event.get("key")), {}, {}
        elif kind == "stage done":
            current = ""
        elif current == use and kind == "speed":
            speed = event
        elif current == use and kind == "step":
            step, tokens, loss = (units.number(event.get(name)) for name in ("step", "tokens", "loss"))
            if step is not None and tokens is not None and loss is not None:
                steps[int(step)] = (tokens, loss)
    points = [steps[number] for number in sorted(steps)]
    width = max(1, -(-len(points) // _MOST_POINTS))
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [[group[-1][0], sum(loss for _, loss in group) / len(group)] for group in groups], speed


def _share_of_peak(speed: dict[str, Any], tokens_per_s: float | None) -> dict[str, float]:
    cost, peak = units.number(speed.get("flops_per_token")), units.number(speed.get("peak_flops_per_s"))
    if not cost or not peak or tokens_per_s is None:
        return {}
    return {"flops_per_token": cost, "peak_flops_per_s": peak, "share_of_peak": tokens_per_s * cost / peak}


def _spread(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row, one in the middle and the last one, each once."""
    return [history[place] for place in sorted({0, len(history) // 2, len(history) - 1})]


def learning(report: dict[str, Any]) -> Part:
    """The loss of each training of a language model, against the tokens that it read."""
    body = ""
    rows = [units.mapping(row) for row in units.rows(report.get("training"))]
    for training in rows:
        svg = curve_svg(training)
        if not svg:
            continue
        text = units.number(training.get("text_tokens"))
        read = units.number(training.get("tokens"))
        caption = [amount(int(units.number(training.get("steps")) or 0), "step")]
        if read is not None:
            caption.append(f"{shown_tokens(read)} tokens read")
        if text and read is not None:
            caption[-1] += f", {passes_shown(read / text)} over the text"
        if units.number(training.get("learning_rate")):
            caption.append(f"learning rate {training['learning_rate']:.3g}")
        if training.get("stopped"):
            caption.append(f"stopped: {units.text(training['stopped'])}")
        heading = f"<h3><code>{units.text(training.get('use'))}</code></h3>" if len(rows) > 1 else ""
        body += heading + figure(svg, curve_svg(training, NARROW), " · ".join(caption))
    lead = "Lower is better. The validation line is what counts: where it rises again, the model overfits."
    return section("loss", "How it learned", body, lead, "Loss")
