"""Language models over HTTP: queues, times, refusals, ends; with an engine whose tokens wait to be let through."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from halfpint.bundle import Bundle
from halfpint.engines import Generation, LanguageEngine, Piece, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.serve import language
from halfpint.serve.run import serve

PATIENCE_S = 300.0
JSON = {"Content-Type": "application/json"}
COMPLETIONS = "/v1/completions"


class Gated:
    """A counted language model whose tokens wait, each for one `let`; it fails on the prompt "poison"."""

    def __init__(self, bundle: Bundle) -> None:
        self._engine = open_language_engine(bundle)
        self._allowed = threading.Semaphore(0)
        self.context = self._engine.context
        self.begun: list[str] = []

    def let(self, tokens: int) -> None:
        self._allowed.release(tokens)

    def waits(self) -> bool:
        """Whether every `let` was used."""
        return self._allowed._value == 0

    def encode(self, text: str, special: bool = True) -> list[int]:
        return self._engine.encode(text, special)

    def write(self, prompt: str | Sequence[int], settings: Generation) -> Iterator[Piece]:
        if prompt == "poison":
            raise ValueError("a prompt that this engine cannot take")
        self.begun.append(str(prompt))
        return self._write(prompt, settings)

    def _write(self, prompt: str | Sequence[int], settings: Generation) -> Iterator[Piece]:
        for number in range(1, settings.max_tokens + 1):
            assert self._allowed.acquire(timeout=PATIENCE_S)
            yield Piece(f"{prompt}{number} ", (), "length" if number == settings.max_tokens else "", number)


@pytest.fixture
def gated(bundles: Callable[[str], Bundle]) -> Gated:
    """It."""
    return Gated(bundles("ngram"))


@asynccontextmanager
async def client_of(app: Any) -> Any:
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers=JSON, timeout=PATIENCE_S
    )
    async with app.router.lifespan_context(app), client:
        while (await client.get("/health")).json()["status"] == "loading":
            await asyncio.sleep(0.005)
        yield client


def use(
    bundles: Callable[[str], Bundle],
    engine: Any,
    what: Callable[[httpx.AsyncClient], Awaitable[None]],
    **settings: Any,
) -> None:
    app = language.build_app(bundles("ngram").path, engine_loader=lambda bundle, threads: engine, **settings)

    async def run() -> None:
        async with client_of(app) as client:
            await what(client)

    asyncio.run(run())


async def figure(client: httpx.AsyncClient, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", (await client.get("/metrics")).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def until(client: httpx.AsyncClient, **figures: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for name, value in figures.items():
            while await figure(client, f"halfpint_{name}") != value:
                await asyncio.sleep(0.002)


def ask(client: httpx.AsyncClient, prompt: str, tokens: int = 2, **more: Any) -> asyncio.Task[httpx.Response]:
    body = {"prompt": prompt, "max_tokens": tokens, **more}
    return asyncio.create_task(client.post(COMPLETIONS, json=body))


def test_texts_take_turns_and_a_new_one_joins_between_two_tokens(bundles: Any, gated: Gated) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        first = ask(client, "a", 300)
        await until(client, active_generations=1)
        gated.let(2)
        second = ask(client, "b", 3)
        while not second.done():
            if gated.waits():
                gated.let(1)
            await asyncio.sleep(0.01)
        assert second.result().json()["choices"][0]["text"] == "b1 b2 b3 "
        assert not first.done(), "the later and shorter one does not wait for the earlier one"
        gated.let(300)
        assert (await first).json()["choices"][0]["text"].endswith(" a299 a300 ")

    use(bundles, gated, check)


def test_one_text_too_many_is_told_to_come_back(bundles: Any, gated: Gated) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        running = ask(client, "a")
        await until(client, active_generations=1)
        waiting = ask(client, "b")
        await until(client, queue_length=1)
        both = await ask(client, "c", n=2)
        one = await ask(client, "d")
        for refused in (both, one):
            assert refused.status_code == 429
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
        gated.let(4)
        assert [(await task).status_code for task in (running, waiting)] == [200, 200]
        assert gated.begun == ["a", "b"]

    use(bundles, gated, check, slots=1, max_queue=1)


def test_more_choices_than_slots_take_turns(bundles: Any, gated: Gated) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        gated.let(12)
        answer = (await ask(client, "a", 3, n=4)).json()
        assert [choice["text"] for choice in answer["choices"]] == ["a1 a2 a3 "] * 4
        assert answer["usage"]["completion_tokens"] == 12

    use(bundles, gated, check, slots=2, max_queue=4)


def test_who_waits_too_long_leaves_the_queue_and_who_writes_is_cut_off(bundles: Any, gated: Gated) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        long = ask(client, "a", 50)
        await until(client, active_generations=1)
        gated.let(3)
        late = await ask(client, "b")
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        choice = (await long).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("a1 a2 a3 ", "length")
        gated.let(1)  # the thread sees only now that nobody waits
        await until(client, active_generations=0, queue_length=0)
        assert await figure(client, 'halfpint_generations_total{end="timeout"}') == 2
        assert gated.begun == ["a"], "what was given up must not be written"
        gated.let(2)
        assert (await ask(client, "c")).json()["choices"][0]["text"] == "c1 c2 "

    use(bundles, gated, check, slots=1, timeout_s=3.0)


def test_a_stream_is_cut_off_as_well(bundles: Any, gated: Gated) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        stream = ask(client, "a", 50, stream=True, stream_options={"include_usage": True})
        await until(client, active_generations=1)
        gated.let(2)
        lines = [line.removeprefix("data: ") for line in (await stream).text.split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        *pieces, last = map(json.loads, lines)
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == "a1 a2 "
        assert pieces[-1]["choices"][0]["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == 2
        gated.let(1)

    use(bundles, gated, check, timeout_s=3.0)


def test_a_request_that_the_model_fails_on_fails_alone(bundles: Any, gated: Gated) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        good = ask(client, "good")
        await until(client, active_generations=1)
        gated.let(2)
        for stream in (False, True):
            failed = await ask(client, "poison", stream=stream)
            assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        assert (await good).status_code == 200
        assert await figure(client, 'halfpint_generations_total{end="failed"}') == 2
        await until(client, active_generations=0)

    use(bundles, gated, check)


def test_before_the_model_is_there_and_when_it_fails(bundles: Any) -> None:
    gate = threading.Event()

    def load(bundle: Bundle, threads: int | None) -> LanguageEngine:
        assert gate.wait(PATIENCE_S)
        raise HalfpintError("model.safetensors", wanted="a model", got="nothing")

    async def run() -> None:
        app = language.build_app(bundles("ngram").path, engine_loader=load)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=JSON)
        async with app.router.lifespan_context(app), client:
            assert (await client.get("/health")).status_code == 503
            early = await client.post(COMPLETIONS, json={"prompt": "a"})
            assert (early.status_code, early.json()["error"]["code"]) == (503, "loading")
            gate.set()
            while (health := await client.get("/health")).json()["status"] == "loading":
                await asyncio.sleep(0.002)
            assert (health.status_code, health.json()["status"]) == (503, "failed")

    asyncio.run(run())


def test_docs_tell_every_route_and_their_examples_work(bundles: Any) -> None:
    async def run() -> None:
        async with client_of(language.build_app(bundles("ngram").path)) as client:
            api = (await client.get("/openapi.json")).json()
            page = (await client.get("/docs")).text
            routes = {"/v1/chat/completions", COMPLETIONS, "/v1/models", "/v1/models/{name}", "/health", "/metrics"}
            assert set(api["paths"]) == routes
            for word in (*routes, "<code>messages</code>", "<code>prompt</code>", "<code>response_format</code>"):
                assert word in page
            for name in re.findall(r'href="#(\w+)"', page):
                assert f'id="{name}"' in page, name
            body = api["paths"][COMPLETIONS]["post"]["requestBody"]["content"]["application/json"]["example"]
            assert (await client.post(COMPLETIONS, json=body)).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize("setting", ["max_batch", "max_body_bytes", "timeout_s", "max_queue", "slots"])
def test_settings_out_of_range_are_refused(bundles: Any, setting: str) -> None:
    wrong: dict[str, Any] = {setting: 0}
    with pytest.raises(HalfpintError, match=setting):
        language.build_app(bundles("ngram").path, **wrong)


def test_settings_of_language_models_are_refused_elsewhere(bundle_path: Path) -> None:
    with pytest.raises(HalfpintError, match="--slots needs a language model"):
        serve(bundle_path, slots=2, port=0)


def listening_ports(process: int) -> set[int]:
    """The TCP ports that a process listens on."""
    sockets = {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def test_a_process_serves_drains_and_ends(bundles: Any, tmp_path: Path) -> None:
    """A real one, with llama.cpp: told to end, it takes no one new, and finishes what it writes."""
    log = tmp_path / "log"
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from halfpint.serve import _llama_server, run\n"
        "before = _llama_server.LlamaServer.complete\n"
        "def slow(self, body, told):\n"  # the end of each text waits for a file: there is time to be told to end
        "    before(self, body, told)\n"
        "    while not Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
        "_llama_server.LlamaServer.complete = slow\n"
        "run.serve(Path(sys.argv[1]), port=0, threads=1)\n"
    )
    go = tmp_path / "go"
    with log.open("w") as errors:
        process = subprocess.Popen([sys.executable, "-c", code, bundles("gguf").path, go], stderr=errors)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"Ready: http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert time.monotonic() < end and process.poll() is None, log.read_text()
            time.sleep(0.02)
        port = int(found[1])
        if Path("/proc/self/net/tcp").exists():
            assert listening_ports(process.pid) == {port}, "llama.cpp's own listener is for nobody"
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0)
        stream = client.completions.create(model="gguf", prompt="I was", max_tokens=20, stream=True)
        text = next(stream).choices[0].text
        process.send_signal(signal.SIGTERM)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
            except ConnectionError:
                break
            assert time.monotonic() < end
            time.sleep(0.01)
        assert process.poll() is None, "a text is still to be finished"
        go.touch()
        pieces = list(stream)
        assert pieces[-1].choices[0].finish_reason == "length"
        assert text + "".join(piece.choices[0].text for piece in pieces)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    told = log.read_text()
    assert re.search(r"curl http://127\.0\.0\.1:\d+/v1/chat/completions.*\n.*OpenAI\(base_url=", told)
    assert told.endswith("Stopped.\n")
    assert "Traceback" not in told
