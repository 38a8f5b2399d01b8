"""Decoding through `halfpint serve` against bare llama.cpp on the same GGUF file, in one run.

Both are the same wheel (xllamacpp), built for AVX2 alone: this is what serving costs, not how fast llama.cpp can be.
Bare: the engine of halfpint, which calls llama.cpp's C interface for each token, greedy. Served: one stream, and four
at once, through a real server process and HTTP; tokens a second from the first token to the last of all streams. Each
text has the same prompt and, as nothing may end it, the same number of tokens.

    python benchmarks/serve_language.py BUNDLE [--tokens 128] [--repeats 3] [--threads 0] [--write]
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import alternated, llama_cpp, write

from halfpint.bundle import open_bundle
from halfpint.engines.llama_cpp import LlamaCppEngine, load
from halfpint.machine import cores

PROMPT = "The best way to learn a new language is to"
STREAMS = 4
BODY = {"prompt": PROMPT, "temperature": 0, "stream": True}


def main() -> None:
    """Run all three in turn; with --write keep results/serve_language.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    bundle, threads = open_bundle(given.bundle), given.threads or cores()
    engine = load(bundle, threads)
    body = {**BODY, "max_tokens": given.tokens, "logit_bias": {str(one): -100 for one in engine.ends}}
    bare_speed(engine, 8)
    with serving(given.bundle, threads) as port:
        streams_speed(port, {**body, "max_tokens": 8}, STREAMS)
        figures = alternated(
            {
                "bare": lambda: bare_speed(engine, given.tokens),
                "served, 1 stream": lambda: streams_speed(port, body, 1),
                f"served, {STREAMS} streams": lambda: streams_speed(port, body, STREAMS),
            },
            given.repeats,
        )
    one = figures["served, 1 stream"]["median"]
    result = {
        "unit": "tokens/s",
        "llama_cpp": llama_cpp(),
        "bundle": {"name": given.bundle.name, "stages": bundle.card["stages"][-1]["settings"]},
        "tokens": given.tokens,
        "threads": threads,
        "figures": figures,
        "one_stream_by_bare": round(one / figures["bare"]["median"], 3),
        "streams_by_one": round(figures[f"served, {STREAMS} streams"]["median"] / one, 3),
    }
    if given.write:
        write("serve_language", result)
    else:
        print(json.dumps(result, indent=1))


def bare_speed(engine: LlamaCppEngine, tokens: int) -> float:
    """Tokens a second after the first, each the likeliest."""
    ids = engine.start(PROMPT)
    begun = 0.0
    for number in range(tokens):
        logits = engine.after(ids)
        logits[list(engine.ends)] = -float("inf")
        ids = [*ids, int(logits.argmax())]
        if number == 0:
            begun = time.perf_counter()
    return (tokens - 1) / (time.perf_counter() - begun)


def streams_speed(port: int, body: dict[str, object], streams: int) -> float:
    """Tokens a second of all streams together, from the first token of any to the end of the last."""
    times: list[tuple[float, float]] = []
    threads = [threading.Thread(target=lambda: times.append(stream(port, body))) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = int(str(body["max_tokens"]))
    return streams * (tokens - 1) / (max(end for _, end in times) - min(begun for begun, _ in times))


def stream(port: int, body: dict[str, object]) -> tuple[float, float]:
    """When the first and the last piece of a stream came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    begun, last = 0.0, b""
    while line := answer.readline():
        begun = begun or time.perf_counter()
        last = line if line.startswith(b"data: {") else last
    end = time.perf_counter()
    assert json.loads(last[6:])["choices"][0]["finish_reason"] == "length"
    connection.close()
    return begun, end


@contextmanager
def serving(bundle: Path, threads: int) -> Iterator[int]:
    """The port of a server process."""
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "halfpint", "serve", str(bundle), "--port", "0", "--threads", str(threads)]
        process = subprocess.Popen(command, stderr=log)
        try:
            found = None
            while found is None:
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
                log.seek(0)
                found = re.search(r"Ready: http://127\.0\.0\.1:(\d+)", log.read())
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    main()
