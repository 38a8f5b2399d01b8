"""The report of a language model from end to end: what is measured for it, what was recorded, the page written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halfpint.bundle import Bundle
from halfpint.data.messages import ASSISTANT, Conversation
from halfpint.engines import ScoredText
from halfpint.evaluate.counted_baseline import counted_baseline
from halfpint.evaluate.samples import samples
from halfpint.progress import Log
from halfpint.report.html import write_report
from halfpint.report.language import language_report
from halfpint.task import Split


def write_language_report(
    bundle: Bundle,
    learned: Split[Any],
    figures: Mapping[str, Any] | None,
    *,
    out: Path,
    into: Path | None = None,
    events: Path | None,
    recipe: str = "",
    command: str = "",
    seconds: float = 0.0,
    judged: Sequence[str] | None = None,
    scores: Sequence[ScoredText] = (),
    log: Log,
) -> dict[str, Any]:
    """Measure what the report needs besides, write report.json and report.html, and give the report.

    Counting what there is to beat takes two or three seconds a million tokens, of which it takes four at most.

    Args:
        bundle: the model.
        learned: what it learned from.
        figures: those of `language.judge` on the validation documents.
        out: the folder that the report stays in: the bundle's own, or the one that holds it.
        into: where it is written, if that is not `out` yet: the bundle's folder, which becomes `out`.
        events: the run's events.jsonl: the loss of each step, the speed and the energy.
        recipe: a recipe (TOML) that does it again.
        command: what to type to do it again.
        seconds: how long it took so far.
        judged: the documents of the figures; None: all of validation.
        scores: of the model, of each of these.
    """
    baseline, written, asked = None, list[dict[str, Any]](), ""
    if learned.train and isinstance(learned.train[0], Conversation):
        asked = _question(learned)
    elif len(held := learned.validation if judged is None else judged):
        masked = any(entry.get("objective") == "masked" for entry in bundle.card["stages"])
        if bundle.card.get("engine") != "ngram":
            baseline = counted_baseline(bundle, learned.train, held, log, masked=masked, beside=scores)
        written = samples(bundle, held)
    report = language_report(
        bundle, place=out if into else bundle.path, out=out, figures=figures, data=learned.summary(),
        baseline=baseline, samples=written, asked=asked, events=events, recipe=recipe, command=command, seconds=seconds,
    )  # fmt: skip
    write_report(report, into or out)
    return report


def _question(conversations: Split[Conversation]) -> str:
    """What the model answers at each look at validation: the messages before the first answer."""
    messages = conversations.validation[0].messages
    first = next(place for place, message in enumerate(messages) if message.role == ASSISTANT)
    return "\n\n".join(message.content for message in messages[:first])
