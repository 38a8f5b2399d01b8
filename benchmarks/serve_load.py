"""Many clients at a server of a classifier, hostile bodies beside others, and a drain: what is wrong, late or lost.

python benchmarks/serve_load.py [--clients 32] [--requests 10000]

A TF-IDF classifier on examples/tickets.csv. Each client keeps a connection and compares every answer with the model's
own. While hostile bodies are handled, the time of another client's requests is taken. For the drain all clients have a
batch in flight when SIGTERM comes. An answer that differs is wrong; a request that was sent and got none is lost.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import write

TICKETS = Path(__file__).resolve().parents[1] / "examples" / "tickets.csv"
PATIENCE_S = 120
BATCH = 200
# As large as the server's own limit, 1 MB, lets them be.
HOSTILE = {
    "one text of 0.9 MB": json.dumps({"text": "word " * 180_000}).encode(),
    "a batch of 250 texts, 0.9 MB": json.dumps({"texts": ["word " * 700] * 250}).encode(),
    "deeply nested": b'{"text": ' + b"[" * 900_000,
    "a number of 900,000 digits": b'{"text": "a", "top": ' + b"9" * 900_000 + b"}",
    "70,000 keys": b"{" + b",".join(b'"k%d": 1' % number for number in range(70_000)) + b"}",
    "no JSON": b"\xff" * 900_000,
    "escapes": b'{"text": "' + b"\\u0000" * 150_000 + b'"}',
}


def post(port: int, body: bytes, line: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
    """The status and the body of an answer, on a connection of its own or on `line`."""
    line = line or http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    line.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
    answer = line.getresponse()
    return answer.status, answer.read()


def labels_of(body: bytes) -> list[str]:
    """The labels of an answer."""
    return [one["label"] for one in json.loads(body)["results"]]


def beside_hostile(port: int) -> dict[str, dict[str, object]]:
    """Of each hostile body its status, and how long others waited meanwhile."""
    found: dict[str, dict[str, object]] = {}
    with ThreadPoolExecutor(1) as pool:
        for name, body in HOSTILE.items():
            started, waits = time.perf_counter(), []
            sent = pool.submit(post, port, body)
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            while not sent.done() or len(waits) < 20:
                before = time.perf_counter()
                assert post(port, b'{"text": "where is my parcel"}', line)[0] == 200
                waits.append(time.perf_counter() - before)
            try:
                status: object = sent.result()[0]
            except OSError as error:  # the server closed the connection while the body was still being sent
                status = type(error).__name__
            found[name] = {
                "status": status, "others": len(waits), "slowest_other_s": round(max(waits), 4),
                "median_other_s": round(statistics.median(waits), 4),
                "seconds": round(time.perf_counter() - started, 2),
            }  # fmt: skip
    return found


def load(port: int, texts: list[str], wanted: dict[str, str], clients: int, requests: int, stop: Callable[[], None]
         ) -> dict[str, object]:  # fmt: skip
    """Counts of answers; the last request of each client is a batch, during which the server is told to end."""
    counts: Counter[str] = Counter()
    lock, times = threading.Lock(), []
    ready = threading.Barrier(clients, action=lambda: threading.Timer(0.05, stop).start())

    def client(number: int) -> None:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        share = requests // clients + (number < requests % clients)
        for turn in range(share):
            last = turn == share - 1
            batch = [texts[(number * 977 + turn + k) % len(texts)] for k in range(BATCH if last else 1)]
            if last:
                ready.wait(PATIENCE_S)
            started = time.perf_counter()
            try:
                status, body = post(port, json.dumps({"texts": batch}).encode(), line)
                right = status == 200 and labels_of(body) == [wanted[text] for text in batch]
                kind = "right" if right else "wrong" if status == 200 else f"status {status}"
            except (OSError, http.client.HTTPException) as error:
                kind = f"lost ({type(error).__name__})"
            with lock:
                counts[f"{kind}, in the drain" if last else kind] += 1
                times.append(time.perf_counter() - started)

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    seconds = time.perf_counter() - started
    times.sort()
    return {
        "clients": clients, "requests": sum(counts.values()), "answers": dict(counts), "seconds": round(seconds, 1),
        "wrong": sum(n for kind, n in counts.items() if kind.startswith("wrong")),
        "lost": sum(n for kind, n in counts.items() if kind.startswith("lost")),
        "p50_s": round(times[len(times) // 2], 4), "p99_s": round(times[len(times) * 99 // 100], 4),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10_000)
    asked = parser.parse_args()
    command = [sys.executable, "-m", "halfpint"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        subprocess.run([*command, "fit", TICKETS, "--base", "none", "--quiet", "--out", out], check=True)
        from halfpint.bundle import open_bundle
        from halfpint.model import Model

        with TICKETS.open(encoding="utf-8", newline="") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
        wanted = {
            text: answer.label for text, answer in zip(texts, Model(open_bundle(out / "best"))(texts), strict=True)
        }
        log = Path(folder) / "log"
        with log.open("wb") as told:
            server = subprocess.Popen([*command, "serve", out / "best", "--port", "0"], stdout=told, stderr=told)
            try:
                end, found = time.monotonic() + PATIENCE_S, None
                while found is None:
                    assert time.monotonic() < end and server.poll() is None, log.read_text()
                    time.sleep(0.1)
                    found = re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())
                port = int(found[1])
                while post(port, b'{"text": "a"}')[0] == 503:
                    time.sleep(0.1)
                hostile = beside_hostile(port)
                many = load(port, texts, wanted, asked.clients, asked.requests,
                            lambda: server.send_signal(signal.SIGTERM))  # fmt: skip
                code = server.wait(PATIENCE_S)
            finally:
                server.kill()
        write("serve_load", {"hostile_bodies": hostile, "load": many, "exit_code": code,
                             "tracebacks": log.read_text().count("Traceback")})  # fmt: skip
