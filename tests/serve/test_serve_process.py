"""A real server process on this machine: loading, answering, refusing, ending."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from halfpint.bundle import Bundle
from halfpint.engines import Engine
from halfpint.errors import HalfpintError
from halfpint.serve.run import serve

_PATIENCE_S = 300.0
_JSON = {"Content-Type": "application/json"}

# The engine waits for the file `load` before it is there, and a text "wait" waits for the file `go`.
_SERVER = """
import sys, time
from pathlib import Path
from halfpint.engines import open_engine
from halfpint.serve.run import serve

folder = Path(sys.argv[1])

def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)

class Waiting:
    def __init__(self, engine):
        self.engine, self.labels = engine, engine.labels

    def probabilities(self, texts):
        if "wait" in texts:
            (folder / "begun").touch()
            wait_for("go")
        return self.engine.probabilities(texts)

def load(bundle, threads):
    wait_for("load")
    return Waiting(open_engine(bundle, threads=threads))

serve(folder / "tiny", host=sys.argv[2], port=0, api_key=sys.argv[3] or None, max_body_bytes=5000, engine_loader=load)
"""


@dataclass
class Server:
    process: subprocess.Popen[str]
    client: httpx.Client
    port: int

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE_S)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def serving(bundle_path: Path, *, host: str = "127.0.0.1", api_key: str = "") -> Iterator[Server]:
    """A server process whose standard error goes to the file `log` beside the bundle."""
    folder = bundle_path.parent
    log = folder / "log"
    with log.open("w", encoding="utf-8") as errors:
        command = [sys.executable, "-c", _SERVER, str(folder), host, api_key]
        process = subprocess.Popen(command, stderr=errors, text=True)
    try:
        until(lambda: process.poll() is not None or "Listening on http" in log.read_text(encoding="utf-8"))
        found = re.search(r"Listening on http://[\w.]+:(\d+)", log.read_text(encoding="utf-8"))
        assert found, log.read_text(encoding="utf-8")
        port = int(found[1])
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_S, trust_env=False, headers=_JSON
        ) as client:
            yield Server(process, client, port)
    finally:
        process.kill()
        process.wait()


def test_a_life_from_loading_to_the_drained_end(bundle_path: Path) -> None:
    folder = bundle_path.parent
    with serving(bundle_path) as server, ThreadPoolExecutor() as pool:
        client = server.client
        assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (503, "loading")
        assert client.post("/v1/classify", json={"text": "early"}).status_code == 503
        (folder / "load").touch()
        until(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json()["status"] == "ok"

        one = client.post("/v1/classify", json={"text": "one"}).json()["results"]
        many = client.post("/v1/classify", json={"texts": ["one", "two"], "top": 1}).json()["results"]
        assert [result["label"] for result in (*one, *many)] == ["a", "a", "a"]
        assert "/v1/classify" in client.get("/docs").text
        assert 'halfpint_requests_total{route="/v1/classify",status="503"} 1' in client.get("/metrics").text

        slow = pool.submit(client.post, "/v1/classify", json={"text": "wait"})
        until((folder / "begun").exists)
        server.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port), _PATIENCE_S).close()
            except ConnectionError:
                return True
            return False

        until(refused)
        assert server.process.poll() is None, "the request in flight is still to be answered"
        (folder / "go").touch()
        assert slow.result(_PATIENCE_S).json()["results"][0]["label"] == "a"
        assert server.process.wait(_PATIENCE_S) == 0
    log = (folder / "log").read_text(encoding="utf-8")
    assert re.search(r"curl http://127\.0\.0\.1:\d+/v1/classify", log)
    assert "Traceback" not in log


def test_keys_and_large_bodies_over_the_wire(bundle_path: Path) -> None:
    (bundle_path.parent / "load").touch()
    key = "schlüssel"
    with serving(bundle_path, api_key=key) as server:
        client = server.client
        until(lambda: client.get("/health").status_code == 200)
        assert client.post("/v1/classify", json={"text": "a"}).status_code == 401
        assert client.get("/metrics").status_code == 401
        keys = {b"Authorization": b"Bearer " + key.encode()}
        assert client.post("/v1/classify", json={"text": "a"}, headers=keys).status_code == 200

        def chunks(count: int) -> Iterator[bytes]:
            yield from (b"x" * 1000 for _ in range(count))

        for body in (b"x" * 6000, chunks(6), chunks(30)):  # just over the limit: the sender reads the refusal
            answer = client.post("/v1/classify", content=body, headers=keys)
            assert (answer.status_code, answer.json()["error"]["type"]) == (413, "too_large")

        # A length far over the limit is refused before anything of it is sent.
        raw = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_S)
        raw.putrequest("POST", "/v1/classify")
        for name, value in (
            ("X-API-Key", key.encode()),
            ("Content-Length", b"1000000000"),
            ("Content-Type", b"application/json"),
            ("Expect", b"100-continue"),
        ):
            raw.putheader(name, value)
        raw.endheaders()
        refusal = raw.getresponse()
        assert (refusal.status, refusal.getheader("connection")) == (413, "close")
        raw.close()
        assert client.post("/v1/classify", json={"text": "a"}, headers=keys).status_code == 200
        assert server.stop() == 0


def test_ending_while_the_model_loads_and_listening_for_everyone(bundle_path: Path) -> None:
    with serving(bundle_path, host="0.0.0.0") as server:
        assert server.client.get("/health").json()["status"] == "loading"
        assert "no API key" in (bundle_path.parent / "log").read_text(encoding="utf-8")
        assert server.stop() == 0


def no_engine(bundle: Bundle, threads: int | None) -> Engine:
    raise AssertionError("nothing may be loaded")


def test_a_port_in_use_is_told_before_loading(bundle_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HalfpintError, match=f"Port {port} is already in use.*--port") as raised:
            serve(bundle_path, port=port, engine_loader=no_engine)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("host", "port", "said"), [("127.0.0.1", 70_000, "65535"), ("no.such.host.invalid", 0, "host")]
)
def test_addresses_that_cannot_be_listened_on(bundle_path: Path, host: str, port: int, said: str) -> None:
    with pytest.raises(HalfpintError, match=said):
        serve(bundle_path, host=host, port=port, engine_loader=no_engine)
