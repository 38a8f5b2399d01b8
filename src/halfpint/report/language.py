"""The report of a language model: what its page and report.json hold, put together from what was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halfpint import __version__
from halfpint.bundle import Bundle, Kind
from halfpint.counts import INTERVAL
from halfpint.data.corpus import BOTH
from halfpint.energy import energy_spent
from halfpint.lookup import tasks
from halfpint.machine import describe
from halfpint.models.weights import WEIGHTS_FILE, header_of
from halfpint.report import units
from halfpint.report.learning import trainings
from halfpint.terminal import amount

KIND = str(Kind.LANGUAGE)
_ANSWERS = "nats_per_assistant_token"


def answers_messages(report: Mapping[str, Any]) -> bool:
    """Whether a report is of a model that answers messages."""
    name = report.get("task")
    return name in {task.name for task in tasks() if task.answers}


def taught(card: Mapping[str, Any]) -> dict[str, float]:
    """What teaching on conversations came to, of a card's last such stage; empty where there is none.

    Gives nats (and perplexity) per token of what the assistant says on the validation conversations, after and before.
    """
    for entry in reversed(card.get("stages", [])):
        after, before = units.number(entry.get(_ANSWERS)), units.number(entry.get("nats_before"))
        if after is not None and before is not None:
            return {
                _ANSWERS: after, f"{_ANSWERS}_before": before, "perplexity_per_assistant_token": math.exp(after),
                "perplexity_per_assistant_token_before": math.exp(before),
            }  # fmt: skip
    return {}


def language_report(
    bundle: Bundle,
    *,
    place: Path,
    out: Path,
    figures: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    baseline: Mapping[str, Any] | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
    asked: str = "",
    events: Path | None = None,
    recipe: str = "",
    command: str = "",
    seconds: float = 0.0,
) -> dict[str, Any]:
    """The report of a language model, as `html.write_report` takes it.

    Args:
        bundle: the model.
        place: where it stays.
        out: the folder of the report: the bundle's own, or the one that holds it.
        figures: those of `language.judge` on the validation documents; None or empty where there were none.
        data: `summary()` of the corpus or the conversations.
        baseline: `evaluate.counted_baseline`'s figures.
        samples: `evaluate.samples`' samples.
        asked: the question that it answered at each look at validation.
        events: the run's events.jsonl, for the loss of each step, the speed and the energy.
        recipe: a recipe (TOML) that does it again.
        command: what was typed.
        seconds: how long all of it took.
    """
    last: dict[str, Any] = next(
        (one for one in reversed(bundle.card["stages"]) if "history" in one or "ngrams" in one), {}
    )
    training = trainings(bundle.card, events)
    counted = dict(baseline or {})
    if training and counted:
        words = "each token by its frequency" if counted.get("order") == 1 else "counting"
        training[-1]["lines"].append([counted.get("nats_per_token"), words])
    if (
        training
        and last.get("objective") == "masked"
        and units.number((figures or {}).get("nats_per_token")) is not None
    ):
        # The curve hides many tokens at once, so its figure is another one than that of the headline.
        training[-1]["lines"].append([dict(figures or {})["nats_per_token"], "one token hidden at a time"])
    report: dict[str, Any] = {
        "halfpint": __version__,
        "kind": KIND,
        "task": bundle.card.get("task"),
        "objective": "counted" if bundle.card.get("engine") == "ngram" else last.get("objective") or "causal",
        "out": str(out),
        "bundle": str(place),
        "verdict": "",
        "model": _model(bundle, last),
        "validation": dict(figures or {}) or None,
        "taught": taught(bundle.card) or None,
        "baseline": counted or None,
        "training": training,
        "samples": [dict(one) for one in samples],
        "asked": asked,
        "data": dict(data),
        "stages": [{"use": one["use"], "seconds": one.get("seconds")} for one in bundle.card["stages"]],
        "energy": energy_spent(events) or None,
        "machine": describe(),
        "recipe": recipe,
        "command": command,
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    report["verdict"] = verdict(report)
    return report


def _model(bundle: Bundle, last: Mapping[str, Any]) -> dict[str, Any]:
    config = bundle.config
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "order", "smoothing")
    shape = {name: config.get(name, config.get({"num_hidden_layers": "n_layer", "hidden_size": "n_embd"}.get(name, "")))
             for name in names}  # fmt: skip
    return {
        "architecture": config.get("model_type"),
        "parameters": None if bundle.card.get("engine") == "ngram" else _parameters(bundle.path),
        "vocabulary": config.get("vocab_size", config.get("vocabulary_size")),
        "context": last.get("context") or units.mapping(last.get("settings")).get("context"),
        **{name: value for name, value in shape.items() if value is not None},
        "ngrams": last.get("ngrams"),
        "size_bytes": bundle.size_bytes,
    }


def _parameters(folder: Path) -> int | None:
    """Numbers in model.safetensors, by its header; None where there is no file."""
    try:
        header = header_of(folder / WEIGHTS_FILE)
    except (OSError, ValueError):
        return None
    return sum(int(math.prod(held["shape"])) for held in header.values())


def figure(value: object) -> str:
    """A figure with four significant digits: 1.924, 14.13, 56,819."""
    got = units.number(value)
    if got is None:
        return units.MISSING
    return f"{got:.3e}" if abs(got) >= 1e6 else f"{got:,.0f}" if abs(got) >= 1000 else f"{got:.4g}"


def verdict(report: Mapping[str, Any]) -> str:
    """What it came to, in words: which figure of what, on how much text, and beside what."""
    answers, found = units.mapping(report.get("taught")), units.mapping(report.get("validation"))
    if answers:
        return _taught_words(answers)
    bits = units.number(found.get("bits_per_byte"))
    if bits is None:
        return "There was no validation text: evaluate it on other text."
    ends = units.pair(found.get("bits_per_byte_interval"))
    on = f"on {amount(int(units.number(found.get('documents')) or 0), 'validation document')}"
    if units.mapping(report.get("data")).get("choosing") == BOTH:
        on += ", by which its weights were chosen too"
    said = f"{bits:.3f} bits per byte {on}"
    said += f" ({INTERVAL} {ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    counted = units.mapping(report.get("baseline"))
    perplexity = f"Perplexity {_shown(found, 'per_token')} per token, {_shown(found, 'per_word')} per word."
    if report.get("objective") == "masked":
        said = f"{_nats(found)} nats per hidden token {on}"
        rest = f"{_nats(counted)} by the token's frequency alone. " if counted else ""
        if counted and (units.number(found.get("nats_per_token")) or 0) > (
            units.number(counted.get("nats_per_token")) or 0
        ):
            rest += "On this text that is no less: train it for longer, or on more text. "
        return (
            f"{said}{f', against {rest}' if rest else '. '}It sees both sides of a gap: compare it with masked models."
        )
    beside = units.number(counted.get("bits_per_byte"))
    if beside is None:
        return f"{said}. {perplexity}"
    baseline = f"the n-gram baseline ({beside:.3f}, {counted.get('order')}-grams of the same tokens"
    gap = against_counting(report)
    if gap is None:
        return f"{said}, {baseline.removeprefix('the ').replace(' (', ' ', 1)}. {perplexity}"
    value, low, high = gap
    how = f"{abs(value):.3f} {'worse' if low > 0 else 'better'} than" if low > 0 or high < 0 else "not told apart from"
    over = f"; {INTERVAL} of the difference {low:+.3f} to {high:+.3f}"
    return f"{said}: {how} {baseline}{over}). {perplexity}"


def against_counting(report: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Bits per byte of the model less those of the n-gram baseline on the same documents, and the ends of the interval;
    None where they were not compared document by document."""
    told = units.mapping(report.get("baseline")).get("difference")
    found = [units.number(one) for one in told] if isinstance(told, list | tuple) and len(told) == 3 else [None]
    if any(one is None for one in found):
        return None
    value, low, high = (float(one) for one in found if one is not None)
    return value, low, high


def _taught_words(found: Mapping[str, Any]) -> str:
    after, before = found[_ANSWERS], found[f"{_ANSWERS}_before"]
    ppl = found["perplexity_per_assistant_token"], found["perplexity_per_assistant_token_before"]
    return (
        f"{after:.3f} nats per token of the assistant's on the validation conversations, by which its weights were "
        f"chosen (before: {before:.3f}). Perplexity per "
        f"token of the assistant's {ppl[0]:.4g}, before {ppl[1]:.4g}."
    )


def _nats(figures: Mapping[str, Any]) -> str:
    found = units.number(figures.get("nats_per_token"))
    return units.MISSING if found is None else f"{found:.3f}"


def _shown(figures: Mapping[str, Any], name: str) -> str:
    return figure(figures.get(f"perplexity_{name}"))
