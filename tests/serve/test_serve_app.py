"""The web application in this process: bodies, keys, limits, joining, metrics, pages."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from halfpint.bundle import Bundle, new_bundle
from halfpint.engines import Engine
from halfpint.errors import HalfpintError
from halfpint.outputs import Floats
from halfpint.serve.classify import build_app

PATIENCE_S, JSON = 300.0, {"Content-Type": "application/json"}
Use = Callable[[httpx.AsyncClient], Awaitable[None]]


class GatedEngine:
    """Labels texts by their length; each call waits for the gate, and a text "poison" fails."""

    labels: tuple[str, ...] = ("even", "odd")

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[list[str]] = []

    def probabilities(self, texts: Sequence[str]) -> Floats:
        self.calls.append(list(texts))
        assert self.gate.wait(PATIENCE_S)
        if "poison" in texts:
            raise ValueError("a text that this engine cannot take")
        odd = np.array([len(text) % 2 for text in texts], dtype=np.float32)
        return np.stack([1 - odd, odd], axis=1)


@asynccontextmanager
async def running(app: FastAPI, *, wait: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` while it runs; with `wait`, once its model is there or failed."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=JSON)
    async with app.router.lifespan_context(app), client:
        while wait and (await client.get("/health")).json()["status"] == "loading":
            await asyncio.sleep(0.005)
        yield client


def use(app: FastAPI, what: Use) -> None:
    async def run() -> None:
        async with running(app) as client:
            await what(client)

    asyncio.run(run())


def gated(bundle_path: Path, engine: Engine, **settings: Any) -> FastAPI:
    return build_app(bundle_path, engine_loader=lambda bundle, threads: engine, **settings)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.002)


async def queue_of(client: httpx.AsyncClient, length: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while f"halfpint_queue_length {length}\n" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.002)


def test_one_text_gets_its_labels(bundle_path: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", json={"text": "a lost card"})
        assert answer.status_code == 200
        found = answer.json()
        assert found["model"] == "tiny"
        assert found["latency_ms"] > 0
        scores = [{"label": "a", "probability": 0.7}, {"label": "b", "probability": 0.3}]
        assert found["results"] == [{"label": "a", "probability": 0.7, "scores": scores}]

    use(build_app(bundle_path), check)


def test_several_texts_keep_their_order_and_top_cuts_the_scores(bundle_path: Path) -> None:
    engine = GatedEngine()
    engine.gate.set()

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", json={"texts": ["x", "yy", "zzz"], "top": 1})
        assert [result["label"] for result in answer.json()["results"]] == ["odd", "even", "odd"]
        assert [len(result["scores"]) for result in answer.json()["results"]] == [1, 1, 1]

    use(gated(bundle_path, engine), check)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "JSON"),
        (b"", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"text": "\xff"}', 400, "JSON"),
        (b'{"text": "half a pair \\ud800"}', 400, "JSON"),
        (b'"text"', 422, "text"),
        (b"{}", 422, "either"),
        (b'{"text": "a", "texts": ["b"]}', 422, "either"),
        (b'{"text": " \\n"}', 422, "text: the text is empty"),
        (b'{"texts": []}', 422, "empty"),
        (b'{"texts": ["a", ""]}', 422, "texts.1"),
        (b'{"text": 5}', 422, "text"),
        (b'{"text": "a", "top": 0}', 422, "top"),
        (b'{"text": "a", "topp": 1}', 422, "topp"),
        (b'{"texts": ["a", "b", "c", "d"]}', 413, "at most 3"),
        (b'{"text": "' + b"a" * 200_000 + b'"}', 413, "150,000"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_wrong_bodies_are_refused_in_json(bundle_path: Path, body: bytes, status: int, said: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", content=body)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert said in error["message"]
        assert error["type"] in ("invalid_request", "too_large")

    use(build_app(bundle_path, max_batch=3, max_body_bytes=150_000), check)


def test_a_body_without_a_length_is_refused_while_it_is_read(bundle_path: Path) -> None:
    taken = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:  # it never ends: only a server that stops reading answers
            taken += 1
            yield b"x" * 1000

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", content=pieces())
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert taken < 100

    use(build_app(bundle_path, max_body_bytes=5000), check)


def test_a_body_that_does_not_come_times_out(bundle_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"text"'
        await asyncio.sleep(PATIENCE_S)

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", content=pieces())
        assert (answer.status_code, answer.json()["error"]["type"]) == (408, "timeout")

    use(build_app(bundle_path, timeout_s=0.05), check)


@pytest.mark.parametrize("key", ["s3cret", "schlüssel € 鍵"])
def test_the_key_guards_use_and_metrics_and_nothing_else(bundle_path: Path, key: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        body = {"text": "a text"}
        wrong: list[dict[bytes, bytes]] = [
            {},
            {b"X-API-Key": b"wrong"},
            {b"Authorization": b"Bearer "},
            {b"Authorization": b"Basic " + key.encode()},
        ]
        for headers in wrong:
            for answer in (
                await client.post("/v1/classify", json=body, headers=headers),
                await client.get("/metrics", headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.json()["error"]["type"] == "unauthorized"
        for headers in ({b"X-API-Key": key.encode()}, {b"Authorization": b"bearer " + key.encode()}):
            assert (await client.post("/v1/classify", json=body, headers=headers)).status_code == 200
            assert (await client.get("/metrics", headers=headers)).status_code == 200
        for path in ("/", "/health", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/health")).json()["api_key"] is True
        assert key not in (await client.get("/docs")).text

    use(build_app(bundle_path, api_key=key), check)


@pytest.mark.parametrize("key", ["", " padded ", "two\nlines"])
def test_a_key_that_no_header_carries_is_refused(bundle_path: Path, key: str) -> None:
    with pytest.raises(HalfpintError, match="--api-key"):
        build_app(bundle_path, api_key=key)


def test_waiting_requests_are_joined_up_to_the_limit(bundle_path: Path) -> None:
    engine = GatedEngine()
    app = gated(bundle_path, engine, max_batch=4)

    async def check(client: httpx.AsyncClient) -> None:
        async def ask(*texts: str) -> list[str]:
            answer = await client.post("/v1/classify", json={"texts": texts})
            return [result["label"] for result in answer.json()["results"]]

        first = asyncio.create_task(ask("1"))
        await until(lambda: len(engine.calls) == 1)
        waiting = [asyncio.create_task(ask(*texts)) for texts in (("2", "22"), ("3",), ("4", "44"))]
        await queue_of(client, 3)
        engine.gate.set()
        assert await asyncio.gather(first, *waiting) == [["odd"], ["odd", "even"], ["odd"], ["odd", "even"]]
        assert engine.calls == [["1"], ["2", "22", "3"], ["4", "44"]]

    use(app, check)


def test_a_request_that_the_model_fails_on_fails_alone(bundle_path: Path) -> None:
    engine = GatedEngine()

    async def check(client: httpx.AsyncClient) -> None:
        def ask(text: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/v1/classify", json={"text": text}))

        first = ask("first")
        await until(lambda: len(engine.calls) == 1)
        waiting = [ask("good"), ask("poison"), ask("fine")]
        await queue_of(client, 3)
        engine.gate.set()
        answers = await asyncio.gather(first, *waiting)
        assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
        assert engine.calls[1] == ["good", "poison", "fine"]
        assert answers[2].json()["error"]["type"] == "internal"
        assert (await client.post("/v1/classify", json={"text": "after"})).status_code == 200

    use(gated(bundle_path, engine), check)


def test_one_request_too_many_is_told_to_come_back(bundle_path: Path) -> None:
    engine = GatedEngine()

    async def check(client: httpx.AsyncClient) -> None:
        def ask() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/v1/classify", json={"text": "a text"}))

        taken = ask()
        await until(lambda: len(engine.calls) == 1)
        waiting = ask()
        await queue_of(client, 1)
        refused = await ask()
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        engine.gate.set()
        assert [(await one).status_code for one in (taken, waiting)] == [200, 200]

    use(gated(bundle_path, engine, max_queue=1), check)


def test_a_request_that_waits_too_long_leaves_the_queue(bundle_path: Path) -> None:
    engine = GatedEngine()

    async def check(client: httpx.AsyncClient) -> None:
        def ask(text: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/v1/classify", json={"text": text}))

        taken = ask("taken")
        await until(lambda: len(engine.calls) == 1)
        for late in (await ask("waits"), await taken):
            assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout")
        await queue_of(client, 0)
        after = ask("after")
        await queue_of(client, 1)
        engine.gate.set()
        await after
        assert engine.calls == [["taken"], ["after"]], "what was given up must not be run"

    use(gated(bundle_path, engine, timeout_s=3.0), check)


def test_before_the_model_is_there_and_when_it_fails(bundle_path: Path) -> None:
    gate = threading.Event()

    def load(bundle: Bundle, threads: int | None) -> Engine:
        assert gate.wait(PATIENCE_S)
        raise HalfpintError("model.onnx", wanted="a model", got="nothing")

    async def run() -> None:
        async with running(build_app(bundle_path, engine_loader=load), wait=False) as client:
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "loading")
            answer = await client.post("/v1/classify", json={"text": "a"})
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "loading")
            assert int(answer.headers["retry-after"]) >= 1
            assert (await client.get("/")).status_code == 200
            gate.set()
            while (health := await client.get("/health")).json()["status"] == "loading":
                await asyncio.sleep(0.002)
            assert (health.status_code, health.json()["status"]) == (503, "failed")
            assert (await client.post("/v1/classify", json={"text": "a"})).json()["error"]["type"] == "failed"

    asyncio.run(run())


def test_a_damaged_bundle_is_told_by_health(bundle_path: Path) -> None:
    (bundle_path / "config.json").write_text("{}", encoding="utf-8")

    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).json()["status"] == "failed"

    use(build_app(bundle_path), check)


def test_metrics_read_as_prometheus_text(bundle_path: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        await client.post("/v1/classify", json={"texts": ["a", "b", "c"]})
        await client.post("/v1/classify", json={})
        for path in ("/wp-admin", "/.env"):
            assert (await client.get(path)).json()["error"]["type"] == "not_found"
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        line = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? -?[0-9.e+-]+')
        assert all(line.fullmatch(found) for found in answer.text.splitlines())
        figures = dict(found.rsplit(" ", 1) for found in answer.text.splitlines() if not found.startswith("#"))
        assert figures['halfpint_requests_total{route="/v1/classify",status="200"}'] == "1"
        assert figures['halfpint_requests_total{route="/v1/classify",status="422"}'] == "1"
        assert figures['halfpint_requests_total{route="other",status="404"}'] == "2"
        assert (figures["halfpint_texts_total"], figures["halfpint_batches_total"]) == ("3", "1")
        buckets = [int(count) for name, count in figures.items() if "latency_seconds_bucket" in name]
        assert buckets == sorted(buckets)
        assert buckets[-1] == int(figures["halfpint_latency_seconds_count"]) == 1
        assert float(figures["halfpint_uptime_seconds"]) > 0

    use(build_app(bundle_path), check)


def test_pages_need_no_network_and_run_only_what_they_hold(bundle_path: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for path in ("/", "/docs"):
            answer = await client.get(path)
            assert answer.headers["content-type"].startswith("text/html")
            assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            for tag in ("style", "script"):
                for part in re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, flags=re.DOTALL):
                    digest = b64encode(hashlib.sha256(part.encode()).digest()).decode()
                    assert f"{tag}-src 'sha256-{digest}'" in policy
            assert not re.search(r"\sstyle=|\son\w+=", answer.text), "the policy lets no inline attributes run"
            assert 'lang="en"' in answer.text
        page = (await client.get("/")).text
        for field in re.findall(r'<(?:textarea|input)[^>]* id="(\w+)"', page):
            assert f'for="{field}"' in page
        for path in ("/", "/docs", "/health", "/v1/classify", "/nothing"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"

    use(build_app(bundle_path), check)


def test_docs_tell_every_route_and_field(bundle_path: Path) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        api = (await client.get("/openapi.json")).json()
        page = (await client.get("/docs")).text
        assert set(api["paths"]) == {"/v1/classify", "/health", "/metrics"}
        for path in api["paths"]:
            assert path in page
        for name in ("text", "texts", "top", "probability", "latency_ms"):
            assert f"<code>{name}</code>" in page
        assert "Authorization: Bearer KEY" in page
        example = api["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = await client.post("/v1/classify", json=example, headers={"X-API-Key": "key"})
        assert len(answer.json()["results"]) == len(example["texts"])

    use(build_app(bundle_path, api_key="key"), check)


@pytest.mark.parametrize("setting", ["max_batch", "max_body_bytes", "timeout_s", "max_queue"])
def test_settings_out_of_range_are_refused(bundle_path: Path, setting: str) -> None:
    wrong: dict[str, Any] = {setting: 0}
    with pytest.raises(HalfpintError, match=setting):
        build_app(bundle_path, **wrong)


def test_bundles_of_other_tasks_and_folders_without_one_are_refused(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "other") as (folder, card):
        card["task"] = "translate"
        (folder / "config.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(HalfpintError, match="translate"):
        build_app(tmp_path / "other")
    with pytest.raises(HalfpintError, match=r"card\.json"):
        build_app(tmp_path)
