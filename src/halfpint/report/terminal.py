"""The report in a terminal: a table of candidates, the verdict, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halfpint.bundle import REPORTS
from halfpint.counts import INTERVAL
from halfpint.report import comparison_page, units
from halfpint.report.choices import others_to_choose, strongest, strongest_words
from halfpint.report.language import KIND, answers_messages, figure, taught
from halfpint.report.language_page import commands_of
from halfpint.report.sections import right
from halfpint.report.units import gram_names, grams, latency, size, watt_hours
from halfpint.terminal import amount

_SHOWN_ERRORS, _SHOWN_TEXT = 5, 100


def summary(report: Mapping[str, Any]) -> str:
    """What `fit` prints at its end; of a language model its report in short."""
    if report.get("kind") == KIND:
        return _language_summary(report)
    if report.get("kind") == comparison_page.KIND:
        return compared(report)
    primary, top, beside = report["primary_metric"], strongest(dict(report)), strongest_words(dict(report))
    rows = [("", "candidate", primary, INTERVAL, "size", "p50 ms", "texts/s", _energy_head(report), "train s", "")]
    late = sum(units.is_late(one) for one in report["candidates"])
    for one in report["candidates"]:
        if units.is_late(one):
            continue
        if one["status"] != "measured":
            rows.append(("", one["name"], "", "", "", "", "", "", "", f"{one['status']}: {one['why']}"[:70]))
            continue
        low, high = one["interval"]
        mark = "->" if one["name"] == report["chosen"] else ""
        notes = ["strongest"] if one is top and beside else []
        notes += [] if one["feasible"] else [one["why"]]
        rows.append(
            (
                mark, one["name"], f"{one['metrics'][primary]:.4f}", f"{low:.3f}-{high:.3f}", size(one["size_bytes"]),
                latency(one), f"{one['throughput_per_s']:,.0f}", _energy_of(one, report),
                f"{one['train_s']:.0f}", "; ".join(notes),
            )
        )  # fmt: skip
    said = right(dict(report))
    more = [f"    {late:,} more skipped for lack of time"] if late else []
    lines = ["", table(rows, left=(0, 1, 9)), *more, "", *([f"{said}."] if said else []), report["verdict"]]
    lines += [beside] if beside else []
    out = shlex.quote(str(report.get("out", "OUT")))
    if report["chosen"]:
        best = f"{out}/best"
        lines += ["", "next:", f'  halfpint predict {best} "a text of yours"', f"  halfpint serve {best}"]
        lines.append(
            f"  open {out}/report.html; repeat it with halfpint run {out}/{report.get('recipe_file', 'recipe.toml')}"
        )
    else:
        lines += ["", f"Everything tried is kept in {out}; see {out}/report.html."]
    lines += [f"  {line}   to use {what} instead" for what, line in others_to_choose(dict(report))]
    return "\n".join(lines)


def _sources(report: Mapping[str, Any]) -> list[str]:
    """Whether the energy of candidates was measured or modelled: each word once."""
    return sorted({str(one["energy_source"]) for one in report["candidates"] if one.get("energy_source")})


def _energy_head(report: Mapping[str, Any]) -> str:
    sources = _sources(report)
    return f"Wh/1000 {sources[0]}" if len(sources) == 1 else "Wh/1000"


def _energy_of(one: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    shown = f"{one['energy_wh_per_1000']:.4f}"
    return shown if len(_sources(report)) < 2 else f"{shown} {one.get('energy_source') or ''}".rstrip()


def _language_summary(report: Mapping[str, Any]) -> str:
    out = shlex.quote(str(report.get("out", "OUT")))
    lines = [str(report["verdict"])]
    trained = next(reversed(report.get("training") or []), None)
    if trained and trained.get("tokens_per_s"):
        share = f", {trained['share_of_peak']:.0%} of the machine's peak" if trained.get("share_of_peak") else ""
        lines.append(f"trained at {trained['tokens_per_s']:,.0f} tokens/s{share}")
    if report.get("energy"):
        spent = report["energy"]
        lines.append(f"{watt_hours(spent['wh'])}, {grams(spent['co2e_g'])} CO2e ({spent['source']})")
    lines += ["", "next:", *(f"  {command}" for _, command in commands_of(dict(report)))]
    return "\n".join([*lines, f"  open {out}/report.html"])


def evaluation(result: Mapping[str, Any]) -> str:
    """What `evaluate` prints."""
    primary = result["primary"]
    rows = [
        *(
            (name, f"{result[name]:.4f}", "{} {:.4f} to {:.4f}".format(INTERVAL, *result["intervals"][name]))
            for name in dict.fromkeys((primary, *result["intervals"]))
        ),
        *([("calibration error", f"{result['calibration_error']:.4f}", "")] if "calibration_error" in result else []),
        ("size", size(result["size_bytes"]), ""),
        ("latency", f"{latency(result)} ms", f"p95 {result['latency_p95_ms']:.2f} ms"),
        ("throughput", f"{result['texts_per_s']:,.0f} texts/s", ""),
        ("cold start", f"{result['cold_start_ms']:.0f} ms", ""),
        ("peak memory", size(result["peak_memory_bytes"]), ""),
        ("energy", f"{result['energy_wh_per_1000']:.4f} Wh", f"per 1,000 texts, {result['energy_source']}"),
        ("CO2e", f"{result['co2e_g_per_1000']:.4f} g", f"per 1,000 texts, {result['energy_source']}"),
    ]
    parts = (_learned(result), _coverage(result), _own_tables(result), _worst(result))
    return "\n".join([table(rows, left=(0, 2)), *(line for part in parts for line in part)])


def _learned(result: Mapping[str, Any]) -> list[str]:
    """How many of the rows the model knows from its training, and its figure on the others."""
    if "learned" not in result:
        return []
    found, primary, rows = result["learned"], result["primary"], result["rows"]
    sampled = found["recognisable"] < rows
    if sampled:
        checked = f"estimated from the {found['recognisable']:,} that can be recognised"
        share = f"about {found['share']:.0%} of the {rows:,} rows ({checked})"
    else:
        share = f"{found['rows']:,} of the {rows:,} rows"
    lines = ["", f"The model learned from, or was chosen by, the texts of {share}: figures on these are too good."]
    others = found["others"]
    if others is None:
        return [*lines, "None of them is left that it does not know: evaluate on other rows."]
    low, high = others["intervals"][primary]
    which = f"the {others['rows']:,} " + ("of these that it does not know" if sampled else "other rows")
    return [*lines, f"On {which}: {primary} {others[primary]:.4f}, {INTERVAL} {low:.4f} to {high:.4f}."]


def _coverage(result: Mapping[str, Any]) -> list[str]:
    """What a threshold below which the answer is "unsure" would leave."""
    found = result.get("coverage")
    if not found:
        return []
    rows = [("", "answered", "accuracy among them")]
    rows += [(f"{one['threshold']:g}", f"{one['answered']:.1%}", f"{one['accuracy']:.4f}") for one in found]
    others = " (rows that the model does not know)" if "learned" in result else ""
    return ["", f"Answers with at least this probability, as predict --unsure gives them{others}", table(rows, left=())]


def _own_tables(result: Mapping[str, Any]) -> list[str]:
    """The tables that a task has of its own, each under its title."""
    lines = []
    for one in result.get("tables", ()):
        rows = [[str(name) for name in one["head"]], *([_told(value) for value in row] for row in one["rows"])]
        words = (
            [number for number, value in enumerate(one["rows"][0]) if isinstance(value, str)] if one["rows"] else [0]
        )
        lines += ["", one["title"], table(rows, left=words)]
    return lines


def _told(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else _short(str(value))


def _worst(result: Mapping[str, Any]) -> list[str]:
    """The surest mistakes of a task that has tables of its own."""
    if "tables" not in result or not result.get("worst"):
        return []
    lines = ["", "Worst errors"]
    for one in result["worst"][:_SHOWN_ERRORS]:
        lines += [f"  {_short(one['text'])}", f"    labelled {one['label']}; predicted {one['predicted']}"]
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else text[: _SHOWN_TEXT - 1] + "…"


def table(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Rows with aligned columns; the columns in `left` to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(widths[column]) if column in left else cell.rjust(widths[column])
            for column, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def ran(result: Mapping[str, Any]) -> str:
    """What `run` prints at its end."""
    page = f"open {shlex.quote(str(Path(str(result['bundle'])).parent / REPORTS[-1]))}"
    if "variants" in result:
        return f"{compared(result)}\n{page}"
    if "test" in result:
        return f"{result['bundle']}, on {result['test']['rows']:,} test texts:\n{evaluation(result['test'])}\n{page}"
    if not result["validation"]:
        return f"{result['bundle']}; not evaluated: no validation text was kept\n{page}"
    figures = result["validation"]
    if "documents" not in figures:  # of conversations
        return f"{result['bundle']}\n{answers(figures)}\n{page}"
    return f"{result['bundle']}, on {figures['documents']:,} validation documents:\n{language(figures)}\n{page}"


def compared(report: Mapping[str, Any]) -> str:
    """Several models side by side, and which is the best."""
    return "\n".join(["", table(comparison_page.summary(report), left=(0, 1)), "", str(report["verdict"])])


def answers(figures: Mapping[str, Any]) -> str:
    """What teaching on conversations came to."""
    rows = [("", "after", "before")]
    for name, words in (("nats", "nats per token of an answer"), ("perplexity", "perplexity per token of an answer")):
        key = f"{name}_per_assistant_token"
        rows.append((words, f"{figures[key]:.4g}", f"{figures[f'{key}_before']:.4g}"))
    return table(rows, left=(0,))


def pretrained(result: Mapping[str, Any]) -> str:
    """What `pretrain` prints at its end."""
    out = shlex.quote(str(result["bundle"]))
    lines = [f"{out}: {size(result['size_bytes'])}, made in {result['seconds']:,.0f} s"]
    counts = result["stages"][-1].get("ngrams")
    if counts:
        lines.append(
            ", ".join(f"{number:,} {name}" for name, number in zip(gram_names(len(counts)), counts, strict=True))
        )
    if result["validation"]:
        lines.append(f"on {amount(result['validation']['documents'], 'validation document')}:")
        lines.append(language(result["validation"]))
    if found := taught({"stages": result["stages"][-1:]}):
        lines.append(answers(found))
    masked = any(stage.get("objective") == "masked" for stage in result["stages"])
    lines += ["", "next:"]
    if answers_messages(result):
        lines += [f"  halfpint chat {out}", f"  halfpint serve {out}"]
        if not any(str(stage.get("use")).startswith("export/") for stage in result["stages"]):
            lines.append(f"  halfpint export {out} --to gguf --type q8_0 --out {out}-gguf")
    else:
        words = 'fill {} "the [MASK] of"' if masked else 'predict {} "the beginning of"'
        lines.append(f"  halfpint {words.format(out)}")
        lines += [] if masked else [f'  halfpint generate {out} "Once"']
        lines.append(f"  halfpint evaluate {out} TEXT")
    if (Path(str(result["bundle"])) / REPORTS[-1]).is_file():
        lines.append(f"  open {out}/{REPORTS[-1]}")
    return "\n".join(lines)


def judged_answers(figures: Mapping[str, Any]) -> str:
    """What `evaluate` prints of a language model on conversations."""
    said = f"answers: {figures['answers']:,} in {amount(figures['conversations'], 'conversation')}"
    return f"{said}\n{language(figures)}"


def by_context(figures: Mapping[str, Any]) -> str:
    """What `evaluate --contexts` prints."""
    rows: list[tuple[str, ...]] = [("context", "perplexity per token", INTERVAL, "bits per byte", "tokens/s")]
    for one in figures["contexts"]:
        low, high = one["perplexity_per_token_interval"]
        rows.append((
            f"{one['context']:,}", figure(one["perplexity_per_token"]), f"{figure(low)} to {figure(high)}",
            figure(one["bits_per_byte"]), f"{one['tokens_per_s']:,.0f}",
        ))  # fmt: skip
    said = ", ".join(
        f"{length:,} tokens on {'all tokens' if share == '1' else f'the hardest {float(share):.0%}'}"
        for share, length in figures["effective_context"].items()
    )
    return f"{table(rows, left=(2,)).strip(chr(10))}\neffective context: {said}"


def language(figures: Mapping[str, Any]) -> str:
    """What `evaluate` prints of a language model."""
    rows = []
    for name, words in (
        ("perplexity_per_token", "perplexity per token"),
        ("perplexity_per_word", "perplexity per word"),
        ("bits_per_byte", "bits per byte"),
    ):
        low, high = figures[f"{name}_interval"]
        rows.append((words, figure(figures[name]), f"{INTERVAL} {figure(low)} to {figure(high)}"))
    if figures.get("perplexity_without_unknown") is not None:
        rows.append(
            (
                "without unknown words", figure(figures["perplexity_without_unknown"]),
                f"{figures['unknown_share']:.2%} of the tokens are unknown",
            )
        )  # fmt: skip
    rows.append(("scored", f"{figures['tokens']:,} tokens", f"{figures['words']:,} words, {figures['bytes']:,} bytes"))
    rows += [("speed", f"{figures['tokens_per_s']:,.0f} tokens/s", ""), ("size", size(figures["size_bytes"]), "")]
    return table([("", "", ""), *rows], left=(0, 2)).strip("\n")
