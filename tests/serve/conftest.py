"""Real bundles for the tests of serving."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from halfpint import registry
from halfpint.bundle import Bundle, new_bundle
from halfpint.lookup import task_of

sys.path.insert(0, str(Path(__file__).parent))
from served import Served

PATIENCE_S = 300.0
_JSON = {"Content-Type": "application/json"}


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A bundle of the majority class: 0.7 for `a`, 0.3 for `b`."""
    target = tmp_path / "tiny"
    with new_bundle(target) as (folder, card):
        card["task"], card["engine"] = "classify", "majority"
        config = {"model_type": "majority", "id2label": {"0": "a", "1": "b"}, "shares": [0.7, 0.3]}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


@contextmanager
def _listening(app: Any) -> Iterator[str]:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, http="h11", ws="none", lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    end = time.monotonic() + PATIENCE_S
    while not server.started:
        assert time.monotonic() < end and thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()


@pytest.fixture(scope="session")
def listening() -> Callable[[Any], AbstractContextManager[str]]:
    """Serves a web application from a thread of this process: gives its address."""
    return _listening


@pytest.fixture(scope="session")
def serve_bundle(
    bundles: Callable[[str], Bundle], listening: Callable[[Any], AbstractContextManager[str]]
) -> Callable[..., Any]:
    """Serves a bundle of the tests."""

    class Serving:
        def __init__(self, name: str | Bundle, **settings: Any) -> None:
            self.bundle = bundles(name) if isinstance(name, str) else name
            build_app = registry.load("serve", task_of(self.bundle).routes).build_app
            self._app = build_app(self.bundle.path, threads=1, **settings)
            self._listening = listening(self._app)

        def __enter__(self) -> Served:
            address = self._listening.__enter__()
            http = httpx.Client(base_url=address, timeout=PATIENCE_S, trust_env=False, headers=_JSON)
            end = time.monotonic() + PATIENCE_S
            while (health := http.get("/health").json())["status"] == "loading":
                assert time.monotonic() < end
                time.sleep(0.01)
            assert health["status"] == "ok"
            client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=PATIENCE_S)
            return Served(address, self.bundle.path.name, self.bundle, client, http, self._app)

        def __exit__(self, *error: Any) -> None:
            self._listening.__exit__(*error)

    return Serving


@pytest.fixture(scope="module")
def torch(serve_bundle: Callable[..., Any]) -> Iterator[Served]:
    """A language model in PyTorch; a bundle of the task chat."""
    with serve_bundle("chat", slots=2) as served:
        yield served


@pytest.fixture(params=["gguf", "torch"])
def served(request: pytest.FixtureRequest) -> Served:
    """Each of them; a file has the fixture `gguf` with what it tries in llama.cpp."""
    found: Served = request.getfixturevalue(request.param)
    return found
