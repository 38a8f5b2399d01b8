"""Tables that a task has of its own: on the page and in the terminal, whatever the task."""

from __future__ import annotations

from typing import Any

from halfpint.report.details import own_tables
from halfpint.report.sections import candidates
from halfpint.report.terminal import evaluation

TABLES = [
    {"title": "By <kind>", "head": ("Kind", "F1", "Texts"), "rows": [["a<b", 0.5, 1200], ["c", 1.0, 3]]},
    {"title": "Empty", "head": ("Kind",), "rows": []},
]
RESULT: dict[str, Any] = {
    "primary": "f1", "f1": 0.75, "intervals": {"f1": (0.7, 0.8)}, "size_bytes": 1000, "latency_p50_ms": 1.0,
    "latency_p95_ms": 2.0, "texts_per_s": 10.0, "cold_start_ms": 5.0, "peak_memory_bytes": 1000,
    "energy_wh_per_1000": 0.1, "co2e_g_per_1000": 0.1, "energy_source": "modelled", "tables": TABLES,
    "worst": [{"text": "x" * 200, "label": "this", "predicted": "that", "probability": 0.9, "row": 1}],
}  # fmt: skip


def test_a_page_shows_them_with_shares_and_counts() -> None:
    html = own_tables({"chosen": "one", "test": {"one": {"tables": TABLES}}}).html
    for words in ("By &lt;kind&gt;", "a&lt;b", "50.0%", "100.0%", "1,200", "F1"):
        assert words in html
    assert "Empty" not in html and "<kind>" not in html
    assert own_tables({"chosen": "one", "test": {"one": {}}}).html == ""


def test_a_page_bears_tables_that_are_none() -> None:
    for broken in (None, 3, [None], [{"rows": [[]]}], [{"rows": [["a"]], "head": None}]):
        own_tables({"chosen": "one", "test": {"one": {"tables": broken}}})


def test_the_terminal_shows_them_and_the_worst_errors() -> None:
    told = evaluation(RESULT)
    assert "By <kind>" in told and "0.5000  1,200" in told
    assert "labelled this; predicted that" in told and "x" * 120 not in told
    assert "Worst" not in evaluation({key: value for key, value in RESULT.items() if key != "tables"})


def test_a_latency_shows_its_range_where_it_was_repeated() -> None:
    repeated = {**RESULT, "latency_p50_ms": 2.8, "latency_p50_low_ms": 2.71, "latency_p50_high_ms": 3.76}
    assert "2.80 (2.71-3.76) ms" in evaluation(repeated)
    assert "1.00 ms" in evaluation(RESULT)
    page = candidates({"candidates": [{"name": "one", **repeated}, {"name": "old", **RESULT}]}).html
    assert page.count("when repeated") == 1 and "2.71\u00a0ms to 3.76\u00a0ms when repeated" in page
