"""The later parts of the page: what went wrong, the data, what it cost, and how to do it again."""

from __future__ import annotations

from typing import Any

from halfpint.report import units
from halfpint.report.choices import test_of
from halfpint.report.sections import Part, section
from halfpint.report.tables import cell, confusion, per_class, table

_SHOWN_ERRORS = 50
_SHOWN_ROWS = 12
_SEVERE = {"error": "bad", "warning": "warn"}
_MODELLED = "Modelled means estimated from the time and the load of the parts, not read off a meter."


def row_numbers(value: object, count: object = None) -> str:
    """The first row numbers of a list as words: 3, 17, 40 and 8 more; `count` is their number if some are left out."""
    found = [f"{row:.0f}" for row in map(units.number, units.rows(value)) if row is not None]
    rest = max(int(units.number(count) or 0), len(found)) - min(len(found), _SHOWN_ROWS)
    more = f" and {rest:,} more" if found and rest > 0 else ""
    return ", ".join(found[:_SHOWN_ROWS]) + more


def confused(report: dict[str, Any]) -> Part:
    """What the chosen candidate takes for what on the test rows."""
    body = confusion(test_of(report, report.get("chosen")).get("confusion"))
    title, lead = "Confusion matrix: which labels get mixed up", "The chosen candidate on the test rows."
    return section("confusion", title, body, lead, "Confusion")


def classes(report: dict[str, Any]) -> Part:
    """The scores of each label."""
    body = per_class(test_of(report, report.get("chosen")).get("per_class"))
    return section("labels", "Label by label", body, short="Labels")


def own_tables(report: dict[str, Any]) -> Part:
    """The tables that the task has of its own: each a title, a head, and rows of words, counts and shares."""
    shown = []
    for one in map(units.mapping, units.rows(test_of(report, report.get("chosen")).get("tables"))):
        lines = [row for row in map(units.rows, units.rows(one.get("rows"))) if row]
        if lines:
            figures = [units.number(value) is not None for value in lines[0]]
            head = [
                (units.text(name), figure) for name, figure in zip(units.rows(one.get("head")), figures, strict=False)
            ]
            body = [[value_shown(row[0]), *(_cell(value) for value in row[1:])] for row in lines]
            title = str(one.get("title"))
            shown.append(f"<h3>{units.text(title)}</h3>{table(title, head, body, sort=True)}")
    return section("tables", "In detail", "".join(shown), "The chosen candidate on the test rows.", "Detail")


def value_shown(value: object) -> str:
    """A value of a task's table (HTML): a share where it is no whole number, a count where it is one, or words."""
    if units.number(value) is None:
        return units.text(value, 120)
    return units.quality("f1", value) if isinstance(value, float) else units.count(value)


def _cell(value: object) -> str:
    return cell(value_shown(value), value, figure=units.number(value) is not None)


def worst(report: dict[str, Any]) -> Part:
    """The test rows on which the chosen candidate is surest and wrong."""
    lines, found = [], [units.mapping(row) for row in units.rows(test_of(report, report.get("chosen")).get("worst"))]
    found.sort(key=lambda row: -(units.number(row.get("probability")) or 0.0))
    for row in found[:_SHOWN_ERRORS]:
        sure = units.number(row.get("probability"))
        at = units.number(row.get("row"))
        lines.append(
            f'<li><p class="said" dir="auto">{units.text(row.get("text"), 400)}</p><p class="note">labelled '
            f"<b>{units.text(row.get('label'), 80)}</b>, predicted <b>{units.text(row.get('predicted'), 80)}</b>"
            + (f" at {units.quality('accuracy', sure)}" if sure is not None else "")
            + (f" · row&nbsp;{at:.0f}" if at is not None else "")
            + "</p></li>"
        )
    lead = (
        "Mistakes on the test set, most confident first. Read these: some will be wrong labels rather than wrong "
        "predictions."
    )
    body = f'<ol class="worst">{"".join(lines)}</ol>' if lines else ""
    return section("errors", "Worst errors", body, lead, "Errors")


def _findings(data: dict[str, Any]) -> str:
    lines = []
    for row in map(units.mapping, units.rows(data.get("findings"))):
        level = str(row.get("severity") or "note")
        at = row_numbers(row.get("rows"), row.get("count"))
        lines.append(
            f'<li><span class="tag {_SEVERE.get(level, "off")}">{units.text(level)}</span><div>'
            f"<p>{units.text(row.get('message') or row.get('kind'))}</p>"
            + (f'<p class="note">rows {at}</p>' if at else "")
            + "</div></li>"
        )
    return f'<h3>Found</h3><ul class="found">{"".join(lines)}</ul>' if lines else ""


def _dropped(data: dict[str, Any]) -> str:
    found = [units.mapping(row) for row in units.rows(data.get("dropped"))]
    if not found:
        return ""
    lines = [
        [
            units.text(row.get("message") or row.get("kind")),
            cell(units.count(row.get("count")), row.get("count"), figure=True),
            cell(row_numbers(row.get("rows"), row.get("count")) or units.MISSING),
        ]
        for row in found
    ]
    head = [("Why", False), ("Rows", True), ("First ones", False)]
    return "<h3>Left out of training</h3>" + table("Rows left out of training", head, lines)


def _labels(data: dict[str, Any]) -> str:
    counts = {label: units.number(n) or 0 for label, n in units.mapping(data.get("labels")).items()}
    if not counts:
        return ""
    most = max(counts.values()) or 1
    lines = [
        [
            units.text(label, 80),
            cell(units.count(n), n, figure=True),
            f'<td class="share"><i style="--s:{n / most:.3f}"></i></td>',
        ]
        for label, n in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    ]
    what = units.text(data.get("labels_of") or "texts")
    head = [("Label", False), (what.capitalize(), True), ("", False)]
    shown = table(f"{what.capitalize()} of each label", head, lines)
    least = min(counts, key=lambda label: counts[label])
    words = f"{len(counts):,} labels, {units.count(counts[least])} to {units.count(most)} {what} each"
    return f"<details><summary>{words}</summary>{shown}</details>"


def facts_shown(facts: list[tuple[str, str]]) -> str:
    """Names with their values (HTML); those without a value are left out."""
    kept = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts if value)
    return f'<dl class="facts">{kept}</dl>' if kept else ""


def said(value: object) -> str:
    """Text that is safe in HTML, or nothing where there is none."""
    return units.text(value) if value not in (None, "") else ""


def counted(value: object) -> str:
    """A count, or nothing where there is none."""
    return units.count(value) if units.number(value) is not None else ""


def data_found(report: dict[str, Any]) -> Part:
    """How many rows there were and how they were parted, what was found in them and what was dropped."""
    data = units.mapping(report.get("data"))
    columns = units.mapping(data.get("columns"))
    facts = [
        ("Source", said(data.get("source"))),
        ("Test source", said(data.get("test_source"))),
        ("Columns", " → ".join(said(columns[key]) for key in ("text", "label") if columns.get(key))),
        ("Rows", counted(data.get("rows"))),
        ("Training", counted(data.get("train"))),
        ("Validation", counted(data.get("validation"))),
        ("Test", counted(data.get("test"))),
        ("Fingerprint", f"<code>{said(data.get('fingerprint'))}</code>" if data.get("fingerprint") else ""),
    ]
    return section(
        "data", "The data", facts_shown(facts) + _findings(data) + _dropped(data) + _labels(data), short="Data"
    )


def energy(report: dict[str, Any]) -> Part:
    """What making this report took."""
    spent = units.mapping(report.get("energy"))
    source = str(spent.get("source") or "")
    facts = [
        ("Energy", units.watt_hours(spent.get("wh")) if units.number(spent.get("wh")) is not None else ""),
        ("CO₂e", units.grams(spent.get("co2e_g")) if units.number(spent.get("co2e_g")) is not None else ""),
        ("Over", units.seconds(spent.get("seconds")) if units.number(spent.get("seconds")) is not None else ""),
        ("Source", said(source)),
    ]
    lead = "Total of the run, including every candidate." + (f" {_MODELLED}" if "modelled" in source else "")
    return section("energy", "Energy of this run", facts_shown(facts), lead, "Energy")


def machine(report: dict[str, Any]) -> Part:
    """Where the figures were taken."""
    found = units.mapping(report.get("machine"))
    facts = [
        ("Processor", said(found.get("cpu"))),
        ("Cores", counted(found.get("cores"))),
        (
            "Memory",
            units.size(found.get("memory_bytes")) if units.number(found.get("memory_bytes")) is not None else "",
        ),
        ("System", said(found.get("os"))),
        ("Python", said(found.get("python"))),
    ]
    packages = units.mapping(found.get("packages"))
    lines = [[units.text(name), cell(units.text(packages[name]))] for name in sorted(packages, key=str)]
    shown = table("Packages", [("Package", False), ("Version", False)], lines) if lines else ""
    folded = f"<details><summary>{len(lines)} packages</summary>{shown}</details>" if lines else ""
    lead = "Latency, throughput and energy depend on the machine; quality and size do not."
    return section("machine", "The machine", facts_shown(facts) + folded, lead, "Machine")


def recipe(report: dict[str, Any]) -> Part:
    """The command and the resolved recipe that give this result again."""
    command, words = report.get("command"), report.get("recipe")
    body = f"<pre><code>{units.text(command)}</code></pre>" if command else ""
    if words:
        body += f"<h3>The recipe, resolved</h3><pre><code>{units.text(words)}</code></pre>"
    return section("recipe", "Reproduce this run", body, short="Recipe")


def colophon(report: dict[str, Any]) -> str:
    """The last line of the page: version, time, and where the figures are for machines."""
    took = units.seconds(report.get("seconds")) if units.number(report.get("seconds")) is not None else ""
    parts = [
        f"halfpint {units.text(report['halfpint'])}" if report.get("halfpint") else "halfpint",
        f"took {took}" if took else "",
        f"finished {units.text(report['finished'])}" if report.get("finished") else "",
        "all figures: <code>report.json</code> beside this page",
    ]
    return f"<p>{' · '.join(part for part in parts if part)}</p>"
