"""A plan as text: what a model takes on this machine, in a short table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halfpint.report import units

_WHAT = {"full": "training all weights", "lora": "training adapters (LoRA)"}


def shown(plan: Mapping[str, Any]) -> str:
    """The plan for one model, or what the machine can do with models of some sizes."""
    lines = _overview(plan) if "sizes" in plan else _model(plan)
    return "\n".join(line.replace("\u00a0", " ") for line in (*lines, *_machine(plan)))


def _model(plan: Mapping[str, Any]) -> list[str]:
    model, data, download = plan["model"], plan["data"], plan["download"]
    heads = f" with {model['heads']} heads" if model["heads"] else ""
    lines = [
        f"{model['name']}: {model['parameters'] / 1e6:,.1f}M parameters, {model['layers']} layers of {model['width']}"
        f"{heads}, {model['vocabulary']:,} tokens in the vocabulary (from {model['source']})",
    ]
    if model["is_new"]:
        lines.append("download: none")
    elif model["is_here"]:
        lines.append("download: none, it is on this machine")
    else:
        short = "" if download["fits_disk"] else ": there is not so much"
        lines.append(
            f"download: about {units.size(download['bytes'])}, and {units.size(download['disk_bytes'])} of disk{short}"
        )
    read = (
        f"{units.count(data['tokens'])} tokens" if not isinstance(data["tokens"], str) else f"{data['tokens']} tokens"
    )
    passes = f"{plan['epochs']:g} pass{'es' * (plan['epochs'] != 1)}"
    lines += [f"data: {read} ({data['from']}), {passes}; sequences of {plan['context']:,} tokens", ""]
    head = ("", "memory", "tokens/s", "time", "energy", "")
    rows = [_training(one) for one in plan["training"]]
    lines += [*_table((head, *rows)), ""]
    writes = any("decode_tokens_per_s" in one for one in plan["serving"])
    encoder = model["objective"] != "causal"
    head = ("serving", "memory", "file", "reads", "writes" if writes else "", "")
    rows = [_serving(one) for one in plan["serving"]]
    lines += [*_table((head, *rows))]
    if not model["in_llama_cpp"] and not encoder:
        lines.append(f"  (llama.cpp has no {model['architecture']}: PyTorch runs it, whose speed is not foretold)")
    elif not encoder and not writes:
        lines.append("  (llama.cpp is not installed, so its speed is unknown: pip install 'halfpint[gguf]')")
    if not encoder:
        lines.append(f"  keys and values for {plan['serving_context']:,} tokens are in it; speeds in tokens per second")
    lines.append("")
    for one in plan["training"]:
        if plan["minutes"] and one["minutes_for_all"] > plan["minutes"]:
            enough = units.seconds(60 * one["minutes_for_all"])
            got = f"{units.count(one['tokens'])} tokens" if one["tokens"] >= 1 else "no training step"
            lines.append(f"{_WHAT[one['kind']]} in {plan['minutes']:g} minutes: {got}; all of it takes about {enough}")
    lines.append(_verdict(plan))
    return lines


def _training(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _WHAT[one["kind"]], units.size(one["memory_bytes"]), units.rate(one["tokens_per_s"]),
        units.seconds(one["seconds"]), units.watt_hours(one["wh"]), "" if one["fits"] else "does not fit",
    )  # fmt: skip


def _serving(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"  {one['type']}", units.size(one["memory_bytes"]), units.size(one["file_bytes"]),
        units.rate(one["prefill_tokens_per_s"]) if "prefill_tokens_per_s" in one else "",
        units.rate(one["decode_tokens_per_s"]) if "decode_tokens_per_s" in one else "",
        "" if one["fits"] else "does not fit",
    )  # fmt: skip


def _verdict(plan: Mapping[str, Any]) -> str:
    free = units.size(plan["room"]["free"]) if plan["room"]["free"] else "an unknown amount"
    if not plan["unfit"]:
        return f"All of it fits this machine ({free} of memory free)."
    return f"Does not fit this machine ({free} of memory free): {'; '.join(plan['unfit'])}."


def _overview(plan: Mapping[str, Any]) -> list[str]:
    head = ("parameters", "train: memory", "tokens/s", "LoRA: memory", "tokens/s", "serve q4_0: memory", "writes/s")
    rows = []
    for one in plan["sizes"]:
        cells = [one["size"]]
        for kind, speed in (("full", "tokens_per_s"), ("lora", "tokens_per_s"), ("serving", "decode_tokens_per_s")):
            found = one[kind]
            cells += [units.size(found["memory_bytes"]) if found["fits"] else "does not fit", ""]
            if found["fits"] and speed in found:
                cells[-1] = units.rate(found[speed])
        rows.append(tuple(cells))
    free = units.size(plan["room"]["free"]) if plan["room"]["free"] else "an unknown amount"
    return [
        f"What this machine can do with models shaped like a Llama ({free} of memory free):", "",
        *_table((head, *rows)), "",
        "next:", "  halfpint plan MODEL --data FILE    (a model in the catalogue: halfpint models lists them)",
        "  halfpint plan --size 30M --data FILE", "",
    ]  # fmt: skip


def _machine(plan: Mapping[str, Any]) -> list[str]:
    machine, error = plan["machine"], plan["error"]
    busy = f", {machine['busy']:.0%} of the processor used by other programs then" if machine["busy"] > 0.05 else ""
    age = machine["age_s"]
    when = "now" if age < 60 else f"{units.seconds(age)} ago"
    kinds = [("fp32_flops", "fp32"), ("bf16_flops", "bf16"), ("int8_ops", "int8")]
    products = ", ".join(f"{machine[key] / 1e9:,.0f} G/s {name}" for key, name in kinds if machine[key])
    return [
        f"measured {when} on {machine['cores']} cores of {machine['cpu']}{busy}: products {products}; memory "
        f"{machine['memory_bytes_per_s'] / 1e9:,.1f} GB/s; disk {machine['disk_write_bytes_per_s'] / 1e9:,.2f} GB/s "
        f"to and {machine['disk_read_bytes_per_s'] / 1e9:,.2f} GB/s from it",
        f"all else is a forecast; the aim is memory within {error['memory']:.0%} and time within {error['time']:.0%}, "
        "which benchmarks/planner.py checks; energy is modelled",
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width each, the first to the left and the others to the right."""
    rows = [tuple(cell.replace("\u00a0", " ") for cell in row) for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(
            zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
