"""The page of a classifier: its name, its report, and a CSV file that is answered row by row."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfpint.serve.classify import build_app

sys.path.insert(0, str(Path(__file__).parent))
from browser import Page, browser, chromium

REPORT = '<!doctype html><html><style>p{}</style><body><p style="margin:0">Right for 82</p></body></html>'


@pytest.fixture
def chosen(bundle_path: Path) -> Path:
    """A run's best bundle, its report beside it."""
    out = bundle_path.parent / "tickets"
    out.mkdir()
    shutil.move(bundle_path, out / "best")
    (out / "report.html").write_text(REPORT, encoding="utf-8")
    return out / "best"


def answers(app: Any, *paths: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        async with app.router.lifespan_context(app), client:
            while (await client.get("/health")).json()["status"] == "loading":
                await asyncio.sleep(0.005)
            return [await client.get(path) for path in paths]

    return asyncio.run(run())


def test_the_name_is_that_of_the_run_and_its_report_is_for_this_machine(chosen: Path) -> None:
    health, report = answers(build_app(chosen, hosts=[]), "/health", "/report")
    told = health.json()
    assert (told["title"], told["model"], told["report"]) == ("tickets", "best", True)
    assert (told["labels"], told["label_names"], told["max_batch"]) == (2, ["a", "b"], 256)
    assert report.text == REPORT and "style-src-attr" in report.headers["content-security-policy"]
    for settings in ({"hosts": None}, {"hosts": [], "api_key": "key"}):
        health, report = answers(build_app(chosen, **settings), "/health", "/report")  # type: ignore[arg-type]
        assert (health.json()["report"], report.status_code) == (False, 404), "it shows texts that were learned from"


def test_a_report_that_is_a_link_is_not_followed(chosen: Path) -> None:
    report = chosen.parent / "report.html"
    report.rename(chosen.parent / "elsewhere")
    report.symlink_to(chosen.parent / "elsewhere")
    health, answer = answers(build_app(chosen, hosts=[]), "/health", "/report")
    assert (health.json()["report"], answer.status_code) == (False, 404)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page in a browser."""
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_a_file_is_answered(page: Page, chosen: Path, listening: Callable[[Any], AbstractContextManager[str]]) -> None:
    table = 'id;note\r\n1;"a ""long"" text; with\nmore"\r\n2;\r\n3;fine and good\r\n'
    with listening(build_app(chosen, hosts=[], max_batch=1)) as address:
        page.open(f"{address}/", 390, 844)
        page.until("!at('go').disabled")
        assert page.run("[document.title, at('status').textContent, at('report').hidden].join('|')") == (
            "tickets – halfpint|Classifies a text into 2 labels: a, b.|false"
        )
        page.run(f"const d = new DataTransfer(); d.items.add(new File([{json.dumps(table)}], 'notes.csv'));"
                 "at('file').files = d.files; choose()")  # fmt: skip
        page.until("!at('rows').disabled")
        assert page.run("at('column').selectedOptions[0].textContent") == "note"
        page.run("at('rows').click()")
        page.until("at('table-state').querySelector('a') !== null")
        assert page.run("at('table-state').textContent") == "3 rows: notes-labelled.csv"
        written = page.run("csvOf({...table, rows: [table.rows[0], table.rows[1]]})")
        assert written == '\ufeffid;note\r\n1;"a ""long"" text; with\nmore"\r\n'
        assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
        page.run("at('text').value = 'a lost card'; submit()")
        assert page.until("at('latency').textContent").startswith("Took ")
        assert page.faults() == []
