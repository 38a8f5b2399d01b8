"""Counts of a running server in the Prometheus text format."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """Times in buckets.

    Args:
        name: without the unit.
        text: what the times are.
        bounds: of the buckets, in seconds.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float] = _BUCKETS_S) -> None:
        self._name, self._text, self._bounds = f"{name}_seconds", text, bounds
        self._counts = [0] * len(bounds)
        self._count, self._sum_s = 0, 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._count += 1
        self._sum_s += seconds
        for index, bound in enumerate(self._bounds):
            self._counts[index] += seconds <= bound

    def lines(self) -> list[str]:
        """As Prometheus reads it."""
        return [
            *_head(self._name, "histogram", self._text),
            *(
                f"{self._name}_bucket{_labels(le=repr(bound))} {count}"
                for bound, count in zip(self._bounds, self._counts, strict=True)
            ),
            f'{self._name}_bucket{{le="+Inf"}} {self._count}',
            f"{self._name}_sum {self._sum_s:.6f}",
            f"{self._name}_count {self._count}",
        ]


class Metrics:
    """What a server has done since it started; changed on the event loop alone."""

    def __init__(self) -> None:
        self.started_at, self._started = time.time(), time.monotonic()
        self.requests: Counter[tuple[str, int]] = Counter()

    @property
    def uptime_s(self) -> float:
        """Seconds since the server was made."""
        return time.monotonic() - self._started

    def request(self, route: str, status: int) -> None:
        """Count one answered request."""
        self.requests[route, status] += 1

    def text(self, own: Sequence[str], *, loaded: bool, model: dict[str, str]) -> str:
        """All figures in the Prometheus text exposition format, version 0.0.4.

        Args:
            own: the lines of the task.
            loaded: whether the model is loaded.
            model: labels of the model's info line.
        """
        lines = [
            *_head("halfpint_requests_total", "counter", "Answered requests."),
            *(
                f"halfpint_requests_total{_labels(route=route, status=str(status))} {count}"
                for (route, status), count in sorted(self.requests.items())
            ),
            *own,
            *_single("halfpint_model_loaded", "gauge", "1 once the model is loaded.", int(loaded)),
            *_head("halfpint_model_info", "gauge", "The model served, in labels."),
            f"halfpint_model_info{_labels(**model)} 1",
            *_single("halfpint_uptime_seconds", "gauge", "Time since the server started.", round(self.uptime_s, 3)),
            *_single("process_start_time_seconds", "gauge", "Start, in Unix time.", round(self.started_at, 3)),
        ]
        if (resident := _resident_bytes()) is not None:
            lines += _single("process_resident_memory_bytes", "gauge", "Memory in use (RSS).", resident)
        return "\n".join(lines) + "\n"


class ClassifyMetrics(Metrics):
    """Counts of a classifier's server."""

    def __init__(self) -> None:
        super().__init__()
        self._texts = 0
        self._latency = Histogram("halfpint_latency", "Time from a whole request to its labels.")

    def classified(self, texts: int, seconds: float) -> None:
        """Count one request that got its labels."""
        self._texts += texts
        self._latency.add(seconds)

    def render(self, *, queued: int, batches: int, loaded: bool, model: dict[str, str]) -> str:
        """All figures (see `text`).

        Args:
            queued: requests that wait for the model now.
            batches: calls of the model so far.
        """
        own = [
            *_single("halfpint_texts_total", "counter", "Texts classified.", self._texts),
            *_single("halfpint_batches_total", "counter", "Calls of the model; each joins what waited.", batches),
            *self._latency.lines(),
            *_single("halfpint_queue_length", "gauge", "Requests that wait for the model.", queued),
        ]
        return self.text(own, loaded=loaded, model=model)


class LanguageMetrics(Metrics):
    """Counts of a language model's server."""

    def __init__(self) -> None:
        super().__init__()
        self._prompt_tokens = self._tokens = 0
        self._writing_s = 0.0
        self._ends: Counter[str] = Counter()
        self._first = Histogram(
            "halfpint_time_to_first_token", "Time from a whole request to its first token.", (*_BUCKETS_S, 60.0, 120.0)
        )
        self._whole = Histogram(
            "halfpint_generation", "Time from a whole request to its last token.", (*_BUCKETS_S, 60.0, 120.0, 300.0)
        )

    def asked(self, prompt_tokens: int) -> None:
        """Count a prompt that is to be gone on with."""
        self._prompt_tokens += prompt_tokens

    def wrote(self, end: str, tokens: int, *, first_s: float | None, writing_s: float, whole_s: float) -> None:
        """Count one text.

        Args:
            end: "stop", "length", "timeout", "cancelled", "refused" or "failed".
            tokens: written.
            first_s: seconds from the request to its first token; None where none came.
            writing_s: seconds from the first token to the last.
            whole_s: seconds from the request to its end.
        """
        self._ends[end] += 1
        self._tokens += tokens
        self._writing_s += writing_s
        self._whole.add(whole_s)
        if first_s is not None:
            self._first.add(first_s)

    def render(self, *, active: int, queued: int, loaded: bool, model: dict[str, str]) -> str:
        """All figures (see `text`).

        Args:
            active: texts that are written now.
            queued: texts that wait for it.
        """
        own = [
            *_single("halfpint_prompt_tokens_total", "counter", "Tokens of prompts.", self._prompt_tokens),
            *_single("halfpint_generated_tokens_total", "counter", "Tokens written.", self._tokens),
            *_single(
                "halfpint_writing_seconds_total", "counter",
                "Time from the first token to the last, of all texts: tokens by it are the speed of one.",
                round(self._writing_s, 6),
            ),
            *_head("halfpint_generations_total", "counter", "Texts written, by how they ended."),
            *(f"halfpint_generations_total{_labels(end=end)} {count}" for end, count in sorted(self._ends.items())),
            *self._first.lines(),
            *self._whole.lines(),
            *_single("halfpint_active_generations", "gauge", "Texts that are being written.", active),
            *_single("halfpint_queue_length", "gauge", "Texts that wait for it.", queued),
        ]  # fmt: skip
        return self.text(own, loaded=loaded, model=model)


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _single(name: str, kind: str, text: str, value: float) -> list[str]:
    return [*_head(name, kind, text), f"{name} {value}"]


def _labels(**named: str) -> str:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in named.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _resident_bytes() -> int | None:
    """Resident memory of this process; None where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
