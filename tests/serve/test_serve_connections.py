"""Connections that send nothing, too many of them, and bodies that never end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from halfpint.serve import _connections

PATIENCE_S = 300.0
_CODE = """
import sys
from pathlib import Path
from halfpint.serve import _connections
from halfpint.serve.run import serve
_connections._HEADERS_S = float(sys.argv[2])
serve(Path(sys.argv[1]), port=0)
"""


class Serving:
    """A server process with few files, told by its log."""

    def __init__(self, bundle: Path, *, files: int, headers_s: float) -> None:
        self.log = bundle.parent / "log"
        words = ["-c", f'ulimit -n {files}; exec "$@"', "sh", sys.executable, "-c", _CODE, str(bundle), str(headers_s)]
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(["sh", *words], stderr=errors)
        end = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"Ready: http://127\.0\.0\.1:(\d+)", self.log.read_text())):
            assert time.monotonic() < end and self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        self.port = int(found[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def test_more_connections_than_files_are_closed_and_the_others_served(bundle_path: Path) -> None:
    serving = Serving(bundle_path, files=160, headers_s=0.3)
    try:
        idle = [serving.connect() for _ in range(170)]
        for one in idle:  # each is closed: at once, or as it sends no headers
            one.settimeout(PATIENCE_S)
            with suppress(ConnectionError):
                assert one.recv(1) == b""
        with serving.connect() as trickling:
            trickling.sendall(b"GET /health HTT")
            trickling.settimeout(PATIENCE_S)
            assert trickling.recv(1) == b""
        with serving.connect() as last:
            last.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert last.recv(100).startswith(b"HTTP/1.1 200")
        assert len(serving.log.read_bytes()) < 2000, serving.log.read_text()[:2000]
    finally:
        serving.end()


def test_an_unfinished_body_does_not_hold_up_the_end(bundle_path: Path) -> None:
    serving = Serving(bundle_path, files=256, headers_s=60)
    try:
        with serving.connect() as hanging:
            head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            hanging.sendall(head + b'Content-Length: 100\r\n\r\n{"text')
            serving.process.send_signal(signal.SIGINT)
            assert serving.process.wait(20) == 0, "it has 25 s for requests that are being answered"
        assert "Traceback" not in serving.log.read_text()
    finally:
        serving.end()


def test_room_goes_by_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for files, most in ((64, 40), (1024, 1000), (1_000_000, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, files=files: (files, files))
        monkeypatch.setattr(_connections, "_OTHER_FILES", 8)
        connections, backlog = _connections.room()
        assert 1 <= backlog <= 512
        assert 2 <= connections <= most
    assert (connections, backlog) == (1000, 512)


def test_what_nothing_takes_care_of_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from halfpint.progress import Log

    server = _connections._Server(_connections.uvicorn.Config("nothing"), 1, Log())
    loop = asyncio.new_event_loop()
    for _ in range(1000):
        context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "too many")}
        server._failed(loop, context)
    loop.close()
    assert capsys.readouterr().err == f"The server: socket.accept() out of system resource: {os.strerror(24)}\n"
