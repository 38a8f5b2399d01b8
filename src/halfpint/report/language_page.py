"""The parts of a language model's page: each takes the report and gives its HTML, empty where it has nothing for it."""

from __future__ import annotations

import math
import shlex
from typing import Any

from halfpint.report import details, units
from halfpint.report.curve import shown_tokens
from halfpint.report.details import counted, facts_shown, said
from halfpint.report.language import against_counting, answers_messages, figure
from halfpint.report.learning import learning
from halfpint.report.sections import Part, section, steps_shown, tile
from halfpint.report.tables import cell, table
from halfpint.terminal import amount

_COMPARED = (
    ("Bits per byte", "bits_per_byte"),
    ("Perplexity per token", "perplexity_per_token"),
    ("Perplexity per word", "perplexity_per_word"),
    ("Nats per token", "nats_per_token"),
)
_MOST_DROPPED = 20


def headline(report: dict[str, Any]) -> str:
    """The page's title, escaped: what the perplexity means, and that of what there is to beat."""
    answers, found = units.mapping(report.get("taught")), units.mapping(report.get("validation"))
    if not answers and units.number(found.get("perplexity_per_token")) is None:
        return f"{_kind(report)}, not evaluated yet"
    counted = units.number(units.mapping(report.get("baseline")).get("perplexity_per_token"))
    if answers:
        return _choosing("Writes an answer", answers.get("perplexity_per_assistant_token"), "before",
                         answers.get("perplexity_per_assistant_token_before"), "Higher than before: ")  # fmt: skip
    after = found.get("perplexity_per_token")
    if report.get("objective") == "masked":
        return _choosing("Fills a gap", after, "by frequency alone", counted, "Higher than by frequency: ")
    ends = against_counting(report)
    worse = "" if ends is None or ends[1] <= 0 else "Worse than counting: "
    return _choosing("Predicts the next token", after, "n-gram counts", counted, worse)


def _kind(report: dict[str, Any]) -> str:
    """What a model is that has no figures yet."""
    size = units.mapping(report.get("model"))
    grams, parameters = [units.number(one) or 0 for one in units.rows(size.get("ngrams"))], size.get("parameters")
    if grams:
        return f"An n-gram model of order {len(grams)} with {sum(grams):,.0f} n-grams"
    parameters = units.number(parameters)
    return "A language model" + ("" if parameters is None else f" of {shown_tokens(parameters)} parameters")


def _choosing(what: str, perplexity: object, beside: str, other: object, worse: str) -> str:
    """A perplexity in words: as sure as one would be who chooses among so many tokens, each as likely."""
    after, before = units.number(perplexity) or math.nan, units.number(other)
    said = f"{what} as if choosing among {figure(after)} tokens"
    if before is None:
        return said
    said = f"{said} ({beside}: {figure(before)})"
    return worse + said[0].lower() + said[1:] if worse and after > before else said


def _architecture(size: dict[str, Any]) -> str:
    return "n-gram" if size.get("ngrams") else said(size.get("architecture"))


def _trained(report: dict[str, Any]) -> dict[str, Any]:
    """The last training; empty where there was none."""
    return next((units.mapping(one) for one in reversed(units.rows(report.get("training")))), {})


def _tiles(report: dict[str, Any]) -> str:
    found, answers = units.mapping(report.get("validation")), units.mapping(report.get("taught"))
    counts, size = units.mapping(report.get("baseline")), units.mapping(report.get("model"))
    trained = _trained(report)
    tiles = []
    if answers:
        tiles.append(
            tile(
                "Nats per token of an answer", figure(answers.get("nats_per_assistant_token")),
                f"before {figure(answers.get('nats_per_assistant_token_before'))}",
            )
        )  # fmt: skip
        tiles.append(
            tile(
                "Perplexity per token of an answer", figure(answers.get("perplexity_per_assistant_token")),
                f"before {figure(answers.get('perplexity_per_assistant_token_before'))}",
            )
        )  # fmt: skip
    elif report.get("objective") == "masked":
        beside = f"by frequency {figure(counts.get('nats_per_token'))}" if counts else ""
        tiles.append(tile("Nats per hidden token", figure(found.get("nats_per_token")), beside))
        tiles.append(tile("Perplexity per hidden token", figure(found.get("perplexity_per_token"))))
    elif found:
        beside = f"n-grams {figure(counts.get('bits_per_byte'))}" if counts else ""
        tiles.append(tile("Bits per byte", figure(found.get("bits_per_byte")), beside))
        tiles.append(
            tile(
                "Perplexity per token", figure(found.get("perplexity_per_token")),
                f"per word {figure(found.get('perplexity_per_word'))}",
            )
        )  # fmt: skip
    parameters = units.number(size.get("parameters"))
    tiles.append(
        tile(
            "Size", units.size(size.get("size_bytes")),
            f"{shown_tokens(parameters)} parameters" if parameters is not None else "", _architecture(size),
        )
    )  # fmt: skip
    share = units.number(trained.get("share_of_peak"))
    speed = trained.get("tokens_per_s") if trained else found.get("tokens_per_s")
    if speed is not None:
        tiles.append(tile("Tokens per second", units.rate(speed), "in training" if trained else "in scoring",
            f"{share:.0%} of the machine's peak" if share is not None else "",
        ))  # fmt: skip
    spent = units.mapping(report.get("energy"))
    notes = (f"{units.grams(spent.get('co2e_g'))} CO₂e", said(spent.get("source"))) if spent else ()
    tiles.append(tile("Energy of the run", units.watt_hours(spent.get("wh")), *notes))
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def verdict(report: dict[str, Any]) -> Part:
    """The answer: what it came to, beside what, and the key figures."""
    data = units.mapping(report.get("data"))
    sources = ", ".join(map(str, units.rows(data.get("sources")))) or data.get("source")
    over = ["Language model report", f'<span class="path">{units.text(sources, 120)}</span>' if sources else ""]
    words = f'<p class="verdict">{units.text(report["verdict"])}</p>' if report.get("verdict") else ""
    line = " · ".join(part for part in over if part)
    html = f'<p class="over">{line}</p><h1>{headline(report)}</h1>{words}{_tiles(report)}'
    return Part(html=f'<section class="answer" id="verdict" aria-label="Verdict">{html}</section>', key="verdict")


def commands_of(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What to type next: what it is for, and the command."""
    if not report.get("bundle"):
        return []
    folder = shlex.quote(str(report["bundle"]))
    judged = ("Evaluate it on other text", f"halfpint evaluate {folder} TEXT")
    if report.get("objective") == "masked":
        return [("Fill a gap", f'halfpint fill {folder} "the [MASK] of"'), judged]
    written = ("Continue a text", f'halfpint generate {folder} "Once"')
    if answers_messages(report):
        written = ("Chat with it", f"halfpint chat {folder}")
    if report.get("objective") == "counted":
        return [written, judged, ("For KenLM and others", f"halfpint export {folder} --to arpa --out model.arpa")]
    exported = (
        "A file for llama.cpp, a quarter of the size",
        f"halfpint export {folder} --to gguf --out {folder}-gguf",
    )
    return [written, judged, exported, ("Serve it over HTTP", f"halfpint serve {folder}")]


def commands(report: dict[str, Any]) -> Part:
    """What to type next."""
    return steps_shown(commands_of(report))


def beside(report: dict[str, Any]) -> Part:
    """The model beside one that counts, on the same documents, figure by figure."""
    found, counts = units.mapping(report.get("validation")), units.mapping(report.get("baseline"))
    if not found or not counts:
        return Part(html="")
    masked = report.get("objective") == "masked"
    keys = [one for one in _COMPARED if not masked or one[1] in ("nats_per_token", "perplexity_per_token")]
    lines = []
    for title, key in keys:
        line = [title]
        for figures in (found, counts):
            ends = units.pair(figures.get(f"{key}_interval"))
            interval = f"<small>{figure(ends[0])} to {figure(ends[1])}</small>" if ends else ""
            line.append(cell(figure(figures.get(key)) + interval, figure=True))
        lines.append(line)
    order, tokens = units.count(counts.get("order")), units.number(counts.get("train_tokens"))
    how = "Frequency" if masked else f"Counting, {order}-grams"
    share = units.number(counts.get("train_share"))
    part = "" if share is None or share >= 1 else f" ({share:.0%} of the documents, spread evenly: more takes too long)"
    read = f"{shown_tokens(tokens)} tokens of the training text{part}" if tokens is not None else "the training text"
    if masked:
        lead = f"Baseline: guess each masked token by its frequency in {read}."
    else:
        lead = (
            f"The {order}-gram model (modified Kneser-Ney) was counted in {read}. It is over the same tokens as the "
            "model, so that both predict every byte of the same documents."
        )
    head = [("", False), ("This model", True), (how, True)]
    body = table("The model and the n-gram baseline", head, lines, style="side")
    return section("beside", "n-gram baseline", body, lead, "n-gram baseline")


def written(report: dict[str, Any]) -> Part:
    """What the model writes, or fills in; and what it wrote while it learned."""
    items = []
    for one in map(units.mapping, units.rows(report.get("samples"))):
        if "filled" in one:
            guesses = ", ".join(
                f"<b>{units.text(pair[0], 40)}</b> {units.quality('accuracy', pair[1])}"
                for pair in map(units.rows, units.rows(one.get("filled")))
                if len(pair) == 2
            )
            note = f'<p class="note">Answer: <b>{units.text(one.get("word"), 60)}</b>. Guesses: {guesses}</p>'
            items.append(f'<li><p class="said">{units.text(one.get("prompt"), 400)}</p>{note}</li>')
            continue
        prompt, text = units.text(one.get("prompt"), 400), units.text(one.get("text"), 1200)
        items.append(f'<li><p class="said written" dir="auto"><b>{prompt}</b>{text}</p></li>')
    body = f'<ol class="worst">{"".join(items)}</ol>' if items else ""
    along = [units.mapping(one) for one in units.rows(_trained(report).get("samples"))]
    if along:
        rows = "".join(
            f'<li><p class="note">after {shown_tokens(units.number(one.get("tokens")) or 0)} tokens</p>'
            f'<p class="said written" dir="auto">{units.text(one.get("text"), 500)}</p></li>'
            for one in along
        )
        asked = report.get("asked")
        question = f'<p class="said written"><b>{units.text(asked, 600)}</b></p>' if asked else ""
        body += f'<h3>Samples during training</h3>{question}<ol class="worst">{rows}</ol>'
    lead = "Samples written by the model, with a fixed random seed"
    lead += "; the prompt is in bold." if items or report.get("asked") else "."
    return section("samples", "Samples", body, lead)


def data_found(report: dict[str, Any]) -> Part:
    """The text or the conversations: how much of it, in which languages, and what was dropped."""
    data = units.mapping(report.get("data"))
    facts = [("Source", said(", ".join(map(str, units.rows(data.get("sources")))) or data.get("source")))]
    for name, title in (("train", "Training"), ("validation", "Validation")):
        side = data.get(name)
        if isinstance(side, dict):
            size = f"{_number_of(side.get('documents'), 'document')}, {units.size(side.get('bytes'))}"
            facts.append((title, f"{size}, {_number_of(side.get('words'), 'word')}"))
        elif side is not None:
            facts.append((title, _number_of(side, "conversation")))
    languages = units.mapping(data.get("languages"))
    shown = [f"{units.text(name, 12)} {units.count(number)}" for name, number in list(languages.items())[:6]]
    facts += [
        ("Form", said(data.get("form"))),
        ("Answers", counted(data.get("answers"))),
        ("Languages (documents)", ", ".join(shown)),
        ("Fingerprint", f"<code>{said(data['fingerprint'])}</code>" if data.get("fingerprint") else ""),
    ]
    lines = []
    for row in map(units.mapping, units.rows(data.get("dropped"))[:_MOST_DROPPED]):
        first = next((units.mapping(one) for one in units.rows(row.get("examples"))), {})
        where = units.text(first["place"], 80) if first.get("place") else details.row_numbers(row.get("rows"))
        what = cell(units.count(row.get("count")), row.get("count"), figure=True)
        lines.append([units.text(row.get("reason") or row.get("why"), 80), what, cell(where or units.MISSING)])
    for reason, number in units.mapping(data.get("left_out")).items():
        what = cell(units.count(number), number, figure=True)
        lines.append([f"left out: {units.text(reason, 80)}", what, cell(units.MISSING)])
    head = [("Why", False), ("Documents" if "sources" in data else "Conversations", True), ("Such as", False)]
    dropped = "<h3>Dropped</h3>" + table("What was dropped", head, lines) if lines else ""
    return section("data", "The data", facts_shown(facts) + dropped, short="Data")


def _number_of(value: object, noun: str) -> str:
    return amount(int(units.number(value) or 0), noun)


def cost(report: dict[str, Any]) -> Part:
    """What it took: time by stage, speed against the machine's peak, energy."""
    trained, spent = _trained(report), units.mapping(report.get("energy"))
    share, flops = units.number(trained.get("share_of_peak")), units.number(trained.get("flops_per_token"))
    peak = units.number(trained.get("peak_flops_per_s"))
    facts = [
        ("Training speed", f"{units.rate(trained['tokens_per_s'])} tokens/s" if trained.get("tokens_per_s") else ""),
        ("Compute per token", f"{flops / 1e6:,.3g} MFLOP" if flops else ""),
        ("The machine's peak", f"{peak / 1e9:,.3g} GFLOP/s" if peak else ""),
        ("Share of it", f"{share:.0%}" if share is not None else ""),
        ("Energy", units.watt_hours(spent.get("wh")) if spent else ""),
        ("CO₂e", units.grams(spent.get("co2e_g")) if spent else ""),
        ("Source", said(spent.get("source"))),
        ("Total time", units.seconds(report.get("seconds"))),
    ]
    lines = [
        [f"<code>{units.text(one.get('use'))}</code>", cell(units.seconds(one.get("seconds")), figure=True)]
        for one in map(units.mapping, units.rows(report.get("stages")))
    ]
    body = facts_shown(facts)
    body += (
        "<h3>Stages</h3>" + table("Stages", [("Stage", False), ("Time", True)], lines, style="side") if lines else ""
    )
    lead = []
    if share is not None:
        lead.append(
            "Compute per token is 6 operations per weight (4 for a frozen one) plus attention; the peak is that of a "
            "large matrix product, measured here. Looks at validation are in the time."
        )
    if spent.get("method"):
        lead.append(f"Energy is {said(spent.get('source'))}: {units.text(spent['method'])}.")
    return section("cost", "What it took", body, " ".join(lead), "Cost")


def model(report: dict[str, Any]) -> Part:
    """What kind of model it is, and how large."""
    found = units.mapping(report.get("model"))
    parameters = units.number(found.get("parameters"))
    facts = [
        ("Architecture", _architecture(found)),
        ("Parameters", counted(found.get("parameters")) if parameters is not None else ""),
        ("Layers", counted(found.get("num_hidden_layers"))),
        ("Width", counted(found.get("hidden_size"))),
        ("Heads", counted(found.get("num_attention_heads"))),
        ("Tokens in the vocabulary", counted(found.get("vocabulary"))),
        ("Context", f"{counted(found['context'])} tokens" if counted(found.get("context")) else ""),
        ("Order", counted(found.get("order"))),
        ("N-grams", _grams(units.rows(found.get("ngrams")))),
        ("Size", units.size(found.get("size_bytes")) if found.get("size_bytes") else ""),
    ]
    return section("model", "The model", facts_shown(facts), short="Model")


def _grams(counts: list[Any]) -> str:
    return ", ".join(
        f"{units.count(one)} {name}" for one, name in zip(counts, units.gram_names(len(counts)), strict=True)
    )


ORDER = (
    verdict, commands, learning, beside, written, model, data_found, cost, details.machine, details.recipe,
)  # fmt: skip
"""The parts of the page, in the order of reading."""
