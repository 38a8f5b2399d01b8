"""What compressing came to, in a terminal: each step, and what fewer bits alone had kept."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from halfpint.counts import INTERVAL
from halfpint.report.terminal import table
from halfpint.report.units import latency, size

_HEAD = ("", "bytes", "ln(PPL/PPL0)", "KL", INTERVAL, "same top 1", "read tok/s", "write tok/s", "first ms")


def compressed(report: Mapping[str, Any]) -> str:
    """What `compress` prints at its end."""
    out = shlex.quote(str(report["bundle"]))
    if "models" in report:
        primary = report["primary_metric"]
        told = all("test" in row for row in report["models"].values())  # not in reports of earlier versions
        rows: list[tuple[str, ...]] = [
            ("", f"{primary}, {'test' if told else 'validation'}", INTERVAL, "size", "p50 ms", "texts/s")
        ]
        for name, row in report["models"].items():
            judged = row["test"] if told else {primary: row["metrics"][primary], "interval": row["interval"]}
            low, high = judged["interval"]
            rows.append(
                (
                    name, f"{judged[primary]:.4f}", f"{low:.4f}-{high:.4f}", size(row["size_bytes"]),
                    latency(row), f"{row['throughput_per_s']:,.0f}",
                )
            )  # fmt: skip
        use = f'  halfpint predict {out} "a text of yours"'
    else:
        reference = report["reference"]
        rows = [_HEAD, ("before", size(reference["file_bytes"]), "0", "0", "", "", "", "", "")]
        rows += [_row(row["name"], row) for row in report["steps"]]
        rows += [_row(f"control: {report['control']['name']}", report["control"])] if report["control"] else []
        use = f'  halfpint generate {out} "Once"\n  halfpint serve {out}'
    energy = report["energy"]
    lines = ["", table(rows, left=(0,)), "", report["verdict"]]
    lines.append(f"{report['seconds']:,.0f} s, {energy['wh']:.2f} Wh ({energy['source']}).")
    return "\n".join([*lines, "", "next:", use, f"  all figures: {out}/report.json"])


def kept_of(figures: Mapping[str, Any]) -> str:
    """What `evaluate --reference` prints."""
    low, high = figures["kl_interval"]
    first, last = figures["same_top1_interval"]
    rows = [
        ("ln(PPL/PPL0)", f"{figures['ln_ppl_ratio']:.4f}", f"standard error {figures['ln_ppl_ratio_error']:.4f}"),
        (
            "perplexity per token",
            f"{figures['perplexity']:.4g}",
            f"the reference's {figures['reference_perplexity']:.4g}",
        ),
        ("mean KL", f"{figures['kl']:.4f} nats", f"{INTERVAL} {low:.4f} to {high:.4f}"),
        ("same first choice", f"{figures['same_top1']:.1%}", f"{INTERVAL} {first:.1%} to {last:.1%}"),
        (
            "scored",
            f"{figures['positions']:,} tokens",
            f"second halves of {figures['windows']} windows; the text has {figures['text_tokens']:,}",
        ),
        ("weights", size(figures["file_bytes"]), f"the folder {size(figures['size_bytes'])}"),
        ("speed", f"{figures['tokens_per_s']:,.0f} tokens/s", "read"),
    ]
    return table(rows, left=(0, 2))


def _row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = row["kl_interval"]
    speed = ("", "")  # there may have been no time to measure it
    if "written_tokens_per_s" in row:
        speed = (f"{row['written_tokens_per_s']:,.0f}", f"{row['first_token_ms']:.1f}")
    return (
        name, size(row["file_bytes"]), f"{row['ln_ppl_ratio']:.4f} ± {row['ln_ppl_ratio_error']:.4f}",
        f"{row['kl']:.4f}", f"{low:.4f}-{high:.4f}", f"{row['same_top1']:.1%}", f"{row['tokens_per_s']:,.0f}",
        *speed,
    )  # fmt: skip
