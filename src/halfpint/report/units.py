"""Figures in the units people read, text that is safe inside HTML and SVG, and tolerant reading of a report."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import Any

MISSING = "–"
NO_TIME = "no time left"
"""How the reason of a candidate begins that was skipped because no time was left for it."""
_SPACE = "\u00a0"  # keeps a number and its unit on one line
# XML 1.0, section 2.2: these characters are allowed nowhere in a document, escaped or not.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_FRACTIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "calibration_error", "coverage")
_LOWER = ("calibration_error", "log_loss", "loss", "brier", "perplexity")
_NAMES = {"f1": "F1", "log_loss": "Log loss", "mcc": "MCC"}


def text(value: object, limit: int | None = None) -> str:
    """`value` as text that is safe in HTML and XML, in content and in quoted attributes.

    Args:
        value: anything; None gives a dash.
        limit: the most characters kept (before escaping); a longer text ends in an ellipsis.
    """
    plain = MISSING if value is None else str(value)
    if limit is not None and len(plain) > limit:
        plain = plain[: limit - 1].rstrip() + "…"
    return html.escape(_FORBIDDEN.sub("\ufffd", plain))


def number(value: object) -> float | None:
    """`value` as a finite float, or None when it is not one (a bool is not)."""
    if isinstance(value, bool):
        return None
    try:
        got = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return got if math.isfinite(got) else None


def mapping(value: object) -> dict[str, Any]:
    """`value` when it is a dict, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[Any]:
    """`value` as a list when it is a list or tuple, otherwise an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def pair(value: object) -> tuple[float, float] | None:
    """An interval as (low, high), or None when either end is missing."""
    ends = [number(end) for end in rows(value)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return min(ends[0], ends[1]), max(ends[0], ends[1])


def _digits(value: float) -> str:
    """Three significant digits below 100, whole numbers with thousands commas above."""
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    value = float(f"{value:.3g}")  # 0.9996 is 1.00, not 1.000
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 6)}f}"


def _scaled(value: object, steps: list[tuple[float, str]]) -> str:
    got = number(value)
    if got is None:
        return MISSING
    for factor, unit in steps:
        if abs(got) >= factor * 0.9995:
            return f"{_digits(got / factor)}{_SPACE}{unit}"
    factor, unit = steps[-1]
    return f"{_digits(got / factor)}{_SPACE}{unit}"


def count(value: object) -> str:
    """A count with thousands commas: 13,083."""
    got = number(value)
    return MISSING if got is None else f"{got:,.0f}"


def rate(value: object) -> str:
    """A rate with three significant digits: 412, 8.25."""
    got = number(value)
    return MISSING if got is None else _digits(got)


def size(value: object) -> str:
    """Bytes with decimal units: 22.9 MB is 22,900,000 bytes."""
    got = number(value)
    if got is not None and abs(got) < 1000:
        return f"{got:.0f}{_SPACE}B"
    return _scaled(value, [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")])


def milliseconds(value: object) -> str:
    """A time given in milliseconds: 4.20 ms, 0.31 ms, from one second on 1.24 s, under 0.01 ms 4.00 µs."""
    got = number(value)
    return _scaled(got, [(1e3, "s"), (1, "ms")] if got is None or not 0 < got < 0.01 else [(1e-3, "µs")])


def latency(row: Mapping[str, Any]) -> str:
    """The p50 of one text in milliseconds, and between which values it lay in repeated passes: 2.80 (2.71-3.05)."""
    found = f"{row['latency_p50_ms']:.2f}"
    low, high = number(row.get("latency_p50_low_ms")), number(row.get("latency_p50_high_ms"))
    if low is None or high is None or f"{low:.2f}" == f"{high:.2f}":
        return found
    return f"{found} ({low:.2f}-{high:.2f})"


def latency_passes(row: Mapping[str, Any]) -> str:
    """Between which values the p50 lay in repeated passes, in words; empty where it was measured once."""
    low, high = number(row.get("latency_p50_low_ms")), number(row.get("latency_p50_high_ms"))
    return "" if low is None or high is None else f"{milliseconds(low)} to {milliseconds(high)} when repeated"


def seconds(value: object) -> str:
    """A time given in seconds: 0.8 s, 14 min 29 s, 2 h 5 min."""
    got = number(value)
    if got is None:
        return MISSING
    if got < 60:
        return f"{_digits(got)}{_SPACE}s"
    whole = round(got)
    big, unit, small, rest = (
        (whole // 3600, "h", round(whole % 3600 / 60), "min")
        if whole >= 3600
        else (whole // 60, "min", whole % 60, "s")
    )
    return f"{big}{_SPACE}{unit}" + (f"{_SPACE}{small}{_SPACE}{rest}" if small else "")


def watt_hours(value: object) -> str:
    """Energy given in Wh: 12.4 Wh, 0.83 mWh, 1.20 kWh."""
    got = number(value)
    return _scaled(got, [(1e3, "kWh"), (1, "Wh")] if got is None or not 0 < got < 0.01 else [(1e-3, "mWh")])


def grams(value: object) -> str:
    """A mass given in grams: 1.90 g, 5.30 mg, 2.10 kg."""
    return _scaled(value, [(1e3, "kg"), (1, "g"), (1e-3, "mg")])


def gram_names(orders: int) -> list[str]:
    """What n-grams of 1, 2 and so on are called: unigrams, bigrams, trigrams, 4-grams."""
    return [
        ("unigrams", "bigrams", "trigrams")[order - 1] if order < 4 else f"{order}-grams"
        for order in range(1, orders + 1)
    ]


def trim(shown: str) -> str:
    """`shown` without zeros that say nothing, for limits and scales: 25.0 MB gives 25 MB."""
    return re.sub(r"(\.\d*?)0+(?!\d)", r"\1", shown).replace("." + _SPACE, _SPACE).replace(".%", "%").removesuffix(".")


def metric_name(metric: object) -> str:
    """A metric's key as words, not escaped: f1_macro gives F1 (macro)."""
    key = str(metric or "quality")
    for start in ("precision", "recall", "f1"):
        if key.startswith(start + "_"):
            return f"{_NAMES.get(start, start.capitalize())} ({key[len(start) + 1 :].replace('_', ' ')})"
    words = key.replace("_", " ")
    return _NAMES.get(key, words[:1].upper() + words[1:])


def primary(report: dict[str, Any]) -> str:
    """The metric that the run was judged by."""
    return str(report.get("primary_metric") or "accuracy")


def is_fraction(metric: object) -> bool:
    """Whether the metric lies between 0 and 1 and reads best in percent."""
    return any(str(metric) == start or str(metric).startswith(start + "_") for start in _FRACTIONS)


def lower_is_better(metric: object) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return str(metric) in _LOWER


def quality(metric: object, value: object) -> str:
    """A metric's value: 93.2% where it is a fraction, four significant digits elsewhere."""
    got = number(value)
    if got is None:
        return MISSING
    return f"{got * 100:.1f}%" if is_fraction(metric) else f"{got:.4g}"


def interval(metric: object, value: object) -> str:
    """An interval: 92.4 to 94.0%; empty when there is none."""
    ends = pair(value)
    if ends is None:
        return ""
    low, high = quality(metric, ends[0]), quality(metric, ends[1])
    return f"{low.removesuffix('%')} to {high}"


def is_late(candidate: Mapping[str, Any]) -> bool:
    """Whether a candidate was skipped because no time was left for it."""
    return candidate.get("status") == "skipped" and str(candidate.get("why")).startswith(NO_TIME)
