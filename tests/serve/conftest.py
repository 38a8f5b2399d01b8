"""Real bundles for the tests of serving."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import new_bundle

PATIENCE_S = 300.0


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
