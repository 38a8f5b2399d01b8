"""Entities over HTTP: where they are, the text without them, and the page that marks them."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfpint.bundle import new_bundle, write_json
from halfpint.errors import HalfpintError
from halfpint.models.dictionary import Dictionary
from halfpint.serve import classify, tag
from halfpint.serve._labels_app import build_labels_app
from halfpint.serve._pages import page_of

Use = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
def tagger(tmp_path: Path) -> Path:
    """A dictionary that knows two names."""
    target = tmp_path / "names"
    entries: dict[str, Any] = {"Anna Berg": ((1, 2), 0.9), "Bonn": ((1,), 0.8)}
    with new_bundle(target) as (folder, card):
        Dictionary(entries, {}, 0, 0.95).write(folder)
        labels = {"0": "O", "1": "B-NAME", "2": "I-NAME"}
        write_json(folder / "config.json", {"model_type": "dictionary", "id2label": labels})
        card.update(task="tag", engine="dictionary")
    return target


def use(app: Any, what: Use) -> None:
    async def run() -> None:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test", headers={"Content-Type": "application/json"}
        )
        async with app.router.lifespan_context(app), client:
            while (await client.get("/health")).json()["status"] == "loading":
                await asyncio.sleep(0.005)
            await what(client)

    asyncio.run(run())


def test_entities_are_where_they_are_said_to_be(tagger: Path) -> None:
    texts = ["😀 Anna Berg of Bonn", "nobody"]

    async def check(client: httpx.AsyncClient) -> None:
        health = (await client.get("/health")).json()
        assert (health["labels"], health["label_names"]) == (1, ["NAME"])  # those that people know, no tags
        found = (await client.post("/v1/tag", json={"texts": texts})).json()
        assert found["model"] == "names" and found["latency_ms"] > 0
        first, second = found["results"]
        assert [texts[0][one["start"] : one["end"]] for one in first["entities"]] == ["Anna Berg", "Bonn"]
        assert [one["label"] for one in first["entities"]] == ["NAME", "NAME"]
        assert [one["probability"] for one in first["entities"]] == pytest.approx([0.9 * 0.9 * 0.975, 0.8], abs=1e-6)
        assert second == {"entities": []} and "redacted" not in first
        redacted = (await client.post("/v1/tag", json={"text": texts[0], "redact": True})).json()["results"][0]
        assert redacted["redacted"] == "😀 [NAME] of [NAME]"

    use(tag.build_app(tagger), check)


def test_a_long_answer_holds_no_other_request(tagger: Path) -> None:
    begun, gate, passed = threading.Event(), threading.Event(), []

    def slow(task: Any, asked: Any, texts: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        begun.set()
        passed.append(gate.wait(20))
        return rows

    async def check(client: httpx.AsyncClient) -> None:
        asking = asyncio.create_task(client.post("/v1/tag", json={"text": "Anna Berg"}))
        while not begun.is_set():
            await asyncio.sleep(0.005)
        assert (await client.get("/health")).status_code == 200
        gate.set()
        assert (await asking).status_code == 200 and passed == [True]
        gate.clear()
        late = await client.post("/v1/tag", json={"text": "Anna Berg"})
        gate.set()
        assert late.status_code == 504 and late.json()["error"]["type"] == "timeout"

    use(build_labels_app(replace(tag.ROUTE, finish=slow), tagger, timeout_s=3.0), check)


def test_requests_of_another_form_are_refused(tagger: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for body in ({"text": "a", "top": 3}, {"text": "a", "redact": "yes"}, {}, {"texts": []}):
            assert (await client.post("/v1/tag", json=body)).status_code == 422
        assert (await client.post("/v1/classify", json={"text": "a"})).status_code == 404

    use(tag.build_app(tagger), check)


def test_the_page_and_the_docs_tell_all_of_it(tagger: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.get("/")
        policy = answer.headers["content-security-policy"]
        assert (
            policy.count("'sha256-") == len(re.findall(r"<(?:style|script)>", answer.text)) and "/*" not in answer.text
        )
        docs = (await client.get("/docs")).text
        for word in ("redact", "entities", "start", "code points", "probability"):
            assert word in docs
        api = (await client.get("/openapi.json")).json()
        example = api["paths"]["/v1/tag"]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert (await client.post("/v1/tag", json=example)).status_code == 200

    use(tag.build_app(tagger), check)


def test_pages_of_labels_share_one_script() -> None:
    for name in ("classify", "tag"):
        page = page_of(name)
        assert page.count("<script>") == 1 and "async function ask(" in page and f'"v1/{name}"' in page


def test_each_file_serves_its_own_tasks(tagger: Path) -> None:
    with pytest.raises(HalfpintError, match="serve/tag serves it"):
        classify.build_app(tagger)
    assert "/v1/tag" in tag.how_to_call(tagger, "http://localhost:8000", None)
