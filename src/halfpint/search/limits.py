"""Limits: what a person asks of a model, read from how people write it, and whether a candidate meets them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from halfpint.counts import INTERVAL, Metric, check_metric
from halfpint.errors import SettingError, nearest
from halfpint.settings import LATER

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)\s*")
_Number = TypeVar("_Number", int, float)
WITHIN = 0.01
"""How far below the best candidate the chosen one may be, where nobody says."""
CARD_ROOM = 2048
"""Bytes kept free for the final figures that the winner's card.json gains."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the chosen candidate has to meet; None and empty ask nothing.

    Args:
        max_size_bytes: all files of the bundle.
        max_latency_ms: p50 of one text in one process.
        floor: the least value of metrics, on validation.
        keep: the least share of the best candidate's primary metric.
        minutes: how long the search may take.
        within: how far below the best candidate the chosen one may be, in the primary metric.
    """

    max_size_bytes: int | None = None
    max_latency_ms: float | None = None
    floor: Mapping[str, float] = field(default_factory=dict)
    keep: float | None = None
    minutes: float = 20.0
    within: float = field(default=WITHIN, metadata=LATER)

    @property
    def asks(self) -> bool:
        """Whether quality is asked for, rather than the best within the limits."""
        return bool(self.floor) or self.keep is not None

    def misses(self, candidate: Mapping[str, Any], *, proof: bool = True) -> list[str]:
        """Which of size, latency and floor a measured candidate misses, in words; empty when it meets them.

        A floor is met where the lower end of the interval is above it; without `proof` where the figure is. Latency is
        judged by the slowest of the repeated passes.
        """
        found = []
        size = candidate["size_bytes"] + CARD_ROOM
        if self.max_size_bytes is not None and size > self.max_size_bytes:
            found.append(f"{bytes_text(candidate['size_bytes'])} is over {bytes_text(self.max_size_bytes)}")
        latency = slowest(candidate)
        if self.max_latency_ms is not None and latency > self.max_latency_ms:
            found.append(f"{latency:.1f} ms is over {self.max_latency_ms:g} ms")
        for name, least in self.floor.items():
            one = candidate["floors"][name]
            if one["value"] < least:
                found.append(f"{name} {one['value']:.4f} is under {least:g}")
            elif proof and one["low"] < least:
                found.append(_unshown(name, least, **one))
        return found

    def distance(self, candidate: Mapping[str, Any]) -> float:
        """How far a candidate is from meeting the limits: the sum of relative excesses, 0 when it meets them."""
        far: float = 0.0
        if self.max_size_bytes is not None:
            far += max(0.0, (candidate["size_bytes"] + CARD_ROOM) / self.max_size_bytes - 1)
        if self.max_latency_ms is not None:
            far += max(0.0, slowest(candidate) / self.max_latency_ms - 1)
        # Quality is bounded by 1, so its gap counts in tenths of that range: else bytes would always outweigh it.
        short = (max(0.0, least - candidate["floors"][name]["low"]) for name, least in self.floor.items())
        return float(far + sum(10 * one for one in short))


def slowest(candidate: Mapping[str, Any]) -> float:
    """Milliseconds for one text (median) in the slowest of the repeated passes."""
    return float(candidate.get("latency_p50_high_ms") or candidate["latency_p50_ms"])


def _unshown(name: str, least: float, value: float, low: float, rows: int) -> str:
    """That a floor is met by the figure and not by its interval, and how many rows would do."""
    found = f"{name} {value:.4f} is not shown to reach {least:g}: its {INTERVAL} on {rows:,} rows begins at {low:.4f}"
    if value <= least:
        return found
    needed = math.ceil(rows * ((value - low) / (value - least)) ** 2)
    return f"{found}; about {needed:,} rows would show it"


def bytes_text(size: float) -> str:
    """Bytes as people write them, in powers of 1,000: "23.4 MB"."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= step:
            return f"{size / step:.3g} {unit}" if size < 100 * step else f"{size / step:,.0f} {unit}"
    return f"{size:.0f} B"


def parse_size(text: str, place: str = "--max-size") -> int:
    """Bytes from "25MB", "800 kB", "1.5GiB" or a plain number; MB is 10^6 bytes, MiB 2^20."""
    match = _NUMBER.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or (unit or "b") not in _UNITS:
        todo = nearest(unit.upper(), ["KB", "MB", "GB", "KiB", "MiB", "GiB"]) if unit else ""
        raise SettingError(place, wanted="a size such as 25MB or 800KB", got=repr(text), todo=todo)
    return _positive(int(Decimal(match[1]) * _UNITS[unit or "b"]), place, text)


def parse_latency(text: str, place: str = "--max-latency") -> float:
    """Milliseconds from "10ms", "0.5s" or a plain number of milliseconds."""
    match = _NUMBER.fullmatch(text)
    factors = {"": 1.0, "ms": 1.0, "s": 1000.0, "us": 0.001, "µs": 0.001}
    if match is None or match[2].lower() not in factors:
        raise SettingError(place, wanted="a time such as 10ms or 0.5s", got=repr(text))
    return _positive(float(match[1]) * factors[match[2].lower()], place, text)


def parse_floor(texts: Sequence[str] | None, metrics: Mapping[str, Metric], place: str = "--floor") -> dict[str, float]:
    """Metrics with their least values from "f1_macro=0.85", each between 0 and 1."""
    floors = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"0?\.\d+|[01](\.0*)?", value.strip()):
            raise SettingError(
                place, wanted="METRIC=VALUE with a value from 0 to 1, such as f1_macro=0.85", got=repr(text)
            )
        check_metric(name.strip(), metrics, place)
        floors[name.strip()] = float(value)
    return floors


def parse_within(value: float, place: str = "--within") -> float:
    """How far below the best the chosen one may be: from 0, below 1."""
    if not 0 <= value < 1:
        raise SettingError(place, wanted="a margin from 0, below 1, such as 0.01", got=f"{value:g}")
    return value


def parse_share(value: float | None, place: str = "--keep") -> float | None:
    """A share above 0 and up to 1."""
    if value is not None and not 0 < value <= 1:
        raise SettingError(place, wanted="a share above 0 and up to 1, such as 0.98", got=str(value))
    return value


def _positive(value: _Number, place: str, text: str) -> _Number:
    if value <= 0:
        raise SettingError(place, wanted="more than 0", got=repr(text))
    return value
