"""What distilling came to, in a terminal: teacher, student, and the same student without a teacher."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from halfpint.counts import INTERVAL
from halfpint.report.compressed import compressed
from halfpint.report.terminal import table
from halfpint.report.units import latency, size

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
    command = f"halfpint predict {out}" if of_labels else f"halfpint generate {out}"
    lines.append(f'  {command} "a text of yours"')
    if energy := report.get("energy"):
        lines.insert(-2, f"{report['seconds']:,.0f} s, {energy['wh']:.2f} Wh ({energy['source']}).")
    return "\n".join([*lines, f"  all figures: {out}/report.json"])


def shown(report: Mapping[str, Any]) -> str:
    """What `distil` or `compress` had printed, from its report."""
    return distilled(report) if "differences" in report else compressed(report)


def _labelled(report: Mapping[str, Any], primary: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "validation", "test", INTERVAL, "size", "p50 ms", "texts/s")]
    for name, row in report["models"].items():
        low, high = row["test"]["interval"]
        costs = ("", "", "")
        if "size_bytes" in row:
            costs = (size(row["size_bytes"]), latency(row), f"{row['throughput_per_s']:,.0f}")
        scores = (f"{row['validation'][primary]:.4f}", f"{row['test'][primary]:.4f}", f"{low:.4f}-{high:.4f}")
        rows.append((_NAMES[name], *scores, *costs))
    return rows


def _running(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    head = ("", "bits per byte", INTERVAL, "perplexity per token", "size", "write tok/s", "first ms")
    rows: list[tuple[str, ...]] = [head]
    for name, row in report["models"].items():
        low, high = row["test"]["bits_per_byte_interval"]
        scores = (f"{row['test']['bits_per_byte']:.4f}", f"{low:.4f}-{high:.4f}")
        speed = ("", "")
        if "written_tokens_per_s" in row:
            speed = (f"{row['written_tokens_per_s']:,.0f}", f"{row['first_token_ms']:.1f}")
        told = f"{row['test']['perplexity_per_token']:.4g}"
        rows.append((_NAMES.get(name, name), *scores, told, size(row["size_bytes"]), *speed))
    return rows
