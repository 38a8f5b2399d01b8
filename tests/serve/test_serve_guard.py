"""What other web pages send to a server without a key, bodies that are not JSON, and what a route never sees."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfpint.progress import Log
from halfpint.serve._guard import Guard
from halfpint.serve.classify import build_app
from halfpint.serve.language import build_app as build_language_app

Use = Callable[[httpx.AsyncClient], Awaitable[None]]
BODY = {"text": "a lost card"}


def use(app: Any, what: Use, address: str = "http://localhost:8000") -> None:
    async def run() -> None:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=address)
        async with app.router.lifespan_context(app), client:
            while (await client.get("/health", headers={"Host": "localhost"})).json()["status"] == "loading":
                await asyncio.sleep(0.005)
            await what(client)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "mine.localhost"}, 200),
        ({"Host": "models.example"}, 200),
        ({"Host": "models.example", "Origin": "https://models.example", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "application/vnd.mine+json"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8000"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
    ],
    ids=str,
)
def test_who_may_ask_a_server_without_a_key(bundle_path: Path, headers: dict[str, str], status: int) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", json=BODY, headers=headers)
        assert answer.status_code == status, answer.text
        if status != 200:
            assert answer.json()["error"]["type"] in ("forbidden", "unsupported_media_type")
            assert "--allow-host" in answer.text or "application/json" in answer.text

    use(build_app(bundle_path, hosts=["models.example"]), check)


def test_a_page_of_another_name_reads_nothing(bundle_path: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for path in ("/", "/health", "/metrics", "/docs"):
            assert (await client.get(path, headers={"Host": "evil.example"})).status_code == 403
            assert (await client.get(path, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200, "a link"

    use(build_app(bundle_path, hosts=[]), check)


def test_with_a_key_or_for_other_machines_any_name_will_do(bundle_path: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        headers = {"Host": "models.example", "X-API-Key": "key", "Origin": "https://models.example"}
        assert (await client.post("/v1/classify", json=BODY, headers=headers)).status_code == 200
        assert (await client.post("/v1/classify", content=b"x", headers=headers)).status_code == 415

    use(build_app(bundle_path, api_key="key", hosts=[]), check)
    assert Guard(None).refusal("POST", {"host": "models.example"}) is None


def test_language_models_are_guarded_as_well(bundles: Callable[[str], Any]) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        body = {"prompt": "I was", "max_tokens": 1}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
        for headers, status in (({"Origin": "http://evil.example"}, 403), ({"Content-Type": "text/plain"}, 415)):
            answer = await client.post("/v1/completions", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")

    use(build_language_app(bundles("ngram").path, hosts=[]), check)


def test_head_is_get_without_its_body_and_a_slash_more_leads_nowhere(bundle_path: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for path in ("/", "/health", "/docs"):
            head, got = await client.head(path), await client.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == got.headers["content-length"]
        assert (await client.head("/nothing")).status_code == 404
        answer = await client.post("/v1/classify/", json=BODY, headers={"Host": "evil.example"})
        assert (answer.status_code, "location" in answer.headers) == (404, False)

    use(build_app(bundle_path), check)


class PanicError(BaseException):
    """As a Rust library panics: no Exception."""


def test_a_panic_is_told_in_json_and_in_a_line(bundles: Callable[[str], Any], capsys: Any) -> None:
    class Panicking:
        context = 64

        def encode(self, text: str, special: bool = True) -> list[int]:
            raise PanicError("the tokenizer broke")

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/completions", json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert (await client.get("/health")).status_code == 200

    path = bundles("ngram").path
    use(build_language_app(path, engine_loader=lambda bundle, threads: Panicking(), log=Log()), check)  # type: ignore[arg-type,return-value]
    told = capsys.readouterr().err
    assert re.search(r"/v1/completions failed: PanicError\('the tokenizer broke'\)", told)
    assert "Traceback" not in told


def test_a_port_of_a_name_is_no_part_of_it() -> None:
    guard = Guard(["models.example"])
    assert guard.refusal("GET", {"host": "Models.Example:8443"}) is None
    assert guard.refusal("GET", {"host": "models.example.evil"}) is not None
    assert guard.refusal("POST", {"host": "127.0.0.2:80", "origin": "http://127.0.0.2:80"}) is None
