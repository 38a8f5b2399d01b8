"""A table of many rows through `halfpint check` and `fit --base none`: time, peak memory, and what comes out.

The rows are no real ones: the tweets of shared/data/airline_tweets, then mixtures of two tweets of the same label, each
with a word of its own at its end, so that there are as many different words as in a table of that size. Such texts are
easier to tell apart than real ones: what is measured here is time and memory, not quality.

    python benchmarks/million_rows.py [--rows 1000000] [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import harness


def main() -> None:
    """Write the table, run both commands, keep the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--limit", type=int, default=1500, help="seconds that each command may take")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        table, out = Path(name) / "rows.csv", Path(name) / "out"
        write_rows(table, given.rows)
        columns = ["--text", "text", "--label", "label"]
        found = {
            "check": timed(["check", str(table), *columns], given.limit),
            "fit": timed(["fit", str(table), *columns, "--base", "none", "--out", str(out)], given.limit),
        }
        size = table.stat().st_size
    harness.write("million_rows", {"rows": given.rows, "bytes": size, "commands": found})


def write_rows(table: Path, count: int) -> None:
    """The tweets, then mixtures of them."""
    source = harness.DATA / "airline_tweets" / "tweets.csv.gz"
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        tweets = [(" ".join(row["text"].split()), row["sentiment"]) for row in csv.DictReader(file)]
    by_label: dict[str, list[list[str]]] = defaultdict(list)
    for text, label in tweets:
        by_label[label].append(text.split())
    draw = random.Random(0)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(count):
            text, label = tweets[number % len(tweets)]
            if number >= len(tweets):
                one, other = text.split(), draw.choice(by_label[label])
                both = one[: draw.randint(0, len(one))] + other[draw.randint(0, len(other)) :]
                text = " ".join([*both, f"x{number}"])
            writer.writerow([text, label])


def timed(command: list[str], limit: int) -> dict[str, Any]:
    """Seconds and peak memory of a command, its children's included, and the last lines that it said."""
    begun, load = time.monotonic(), round(os.getloadavg()[0], 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "halfpint", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[0] + "\n(ended: over the limit)"
    loads = [load, round(os.getloadavg()[0], 1)]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "exit_code": process.returncode, "seconds": round(time.monotonic() - begun),
        "processor_s_so_far": round(used.ru_utime + used.ru_stime), "peak_gb_so_far": round(used.ru_maxrss / 1e6, 2),
        "load_before_and_after": loads,
        "said": said.strip().replace(f"{Path(command[1]).parent}/", "").splitlines()[-25:],
    }  # fmt: skip
    print(result, flush=True)
    return result


if __name__ == "__main__":
    main()
