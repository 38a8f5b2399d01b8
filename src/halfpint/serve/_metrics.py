"""Counts of a running server in the Prometheus text format."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What a server has done since it started; changed on the event loop alone."""

    def __init__(self) -> None:
        self.started_at, self._started = time.time(), time.monotonic()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.texts = 0
        self._latencies = [0] * len(_BUCKETS_S)
        self._latency_count, self._latency_sum_s = 0, 0.0

    @property
    def uptime_s(self) -> float:
        """Seconds since the server was made."""
        return time.monotonic() - self._started

    def request(self, route: str, status: int) -> None:
        """Count one answered request."""
        self.requests[route, status] += 1

    def classified(self, texts: int, seconds: float) -> None:
        """Count one request that got its labels."""
        self.texts += texts
        self._latency_count += 1
        self._latency_sum_s += seconds
        for index, bound in enumerate(_BUCKETS_S):
            self._latencies[index] += seconds <= bound

    def render(self, *, queued: int, batches: int, loaded: bool, model: dict[str, str]) -> str:
        """All figures in the Prometheus text exposition format, version 0.0.4.

        Args:
            queued: requests that wait for the model now.
            batches: calls of the model so far.
            loaded: whether the model is loaded.
            model: labels of the model's info line.
        """
        lines = [
            *_head("halfpint_requests_total", "counter", "Answered requests."),
            *(
                f"halfpint_requests_total{_labels(route=route, status=str(status))} {count}"
                for (route, status), count in sorted(self.requests.items())
            ),
            *_single("halfpint_texts_total", "counter", "Texts classified.", self.texts),
            *_single("halfpint_batches_total", "counter", "Calls of the model; each joins what waited.", batches),
            *_head("halfpint_latency_seconds", "histogram", "Time from a whole request to its labels."),
            *(
                f"halfpint_latency_seconds_bucket{_labels(le=repr(bound))} {count}"
                for bound, count in zip(_BUCKETS_S, self._latencies, strict=True)
            ),
            f'halfpint_latency_seconds_bucket{{le="+Inf"}} {self._latency_count}',
            f"halfpint_latency_seconds_sum {self._latency_sum_s:.6f}",
            f"halfpint_latency_seconds_count {self._latency_count}",
            *_single("halfpint_queue_length", "gauge", "Requests that wait for the model.", queued),
            *_single("halfpint_model_loaded", "gauge", "1 once the model is loaded.", int(loaded)),
            *_head("halfpint_model_info", "gauge", "The model served, in labels."),
            f"halfpint_model_info{_labels(**model)} 1",
            *_single("halfpint_uptime_seconds", "gauge", "Time since the server started.", round(self.uptime_s, 3)),
            *_single("process_start_time_seconds", "gauge", "Start, in Unix time.", round(self.started_at, 3)),
        ]
        if (resident := _resident_bytes()) is not None:
            lines += _single("process_resident_memory_bytes", "gauge", "Memory in use (RSS).", resident)
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _single(name: str, kind: str, text: str, value: float) -> list[str]:
    return [*_head(name, kind, text), f"{name} {value}"]


def _labels(**labels: str) -> str:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _resident_bytes() -> int | None:
    """Resident memory of this process; None where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
