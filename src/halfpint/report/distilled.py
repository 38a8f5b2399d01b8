"""What distilling came to, in a terminal: teacher, student, and the same student without a teacher."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from halfpint.report.terminal import table
from halfpint.report.units import size

_NAMES = {"teacher": "teacher", "student": "student", "control": "the student without a teacher"}


def distilled(report: Mapping[str, Any]) -> str:
    """What `distil` prints at its end."""
    primary = report["primary_metric"]
    words = "bits per byte" if primary == "bits_per_byte" else primary
    of_labels = "validation" in report["models"]["student"]
    held = report["models"]["student"]["test"]
    count = f"{held['rows']:,} test texts" if of_labels else f"{held['documents']:,} held-out documents"
    rows = _labelled(report, primary) if of_labels else _running(report)
    out = shlex.quote(str(report["bundle"]))
    lines = ["", f"{words}, on {count}:", table(rows, left=(0,)), "", report["verdict"], "", "next:"]
    lines.append(f'  halfpint {"predict" if of_labels else "generate"} {out} "a text of yours"')
    return "\n".join([*lines, f"  all figures: {out}/report.json"])


def _labelled(report: Mapping[str, Any], primary: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "validation", "test", "95% interval", "size", "p50 ms", "texts/s")]
    for name, row in report["models"].items():
        low, high = row["test"]["interval"]
        costs = ("", "", "")
        if "size_bytes" in row:
            costs = (size(row["size_bytes"]), f"{row['latency_p50_ms']:.2f}", f"{row['throughput_per_s']:,.0f}")
        scores = (f"{row['validation'][primary]:.4f}", f"{row['test'][primary]:.4f}", f"{low:.4f}-{high:.4f}")
        rows.append((_NAMES[name], *scores, *costs))
    return rows


def _running(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "bits per byte", "95% interval", "perplexity per token", "size")]
    for name, row in report["models"].items():
        low, high = row["test"]["bits_per_byte_interval"]
        scores = (f"{row['test']['bits_per_byte']:.4f}", f"{low:.4f}-{high:.4f}")
        rows.append((_NAMES[name], *scores, f"{row['test']['perplexity_per_token']:.4g}", size(row["size_bytes"])))
    return rows
