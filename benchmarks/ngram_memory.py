"""Memory that counting takes: a text made as it is read, counted in memory and on disk, each in a process of its own.

python benchmarks/ngram_memory.py [--tokens 20000000] [--order 5] [--prune "0 0 1"] [--budgets 0 512 128] [--write]

Words are drawn by Zipf's law, each by itself, so that nearly all longer sequences come once, which is the most that a
text can take. All ways write their model, and the files must be the same. Peaks are those of the whole process, with
Python and numpy in them. A budget is in MiB, half of it for the blocks; 0 takes the machine's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
from harness import write

from halfpint.machine import peak_memory_bytes
from halfpint.models import ngram

WORDS, LINE, LINES = 200_000, 20, 10_000  # words that there are, words in a line, lines drawn at once


def drawn(tokens: int) -> Iterator[str]:
    """Lines of about so many tokens together, ends of lines among them."""
    chance = np.random.default_rng(0)
    bounds = np.cumsum(1 / np.arange(3, WORDS + 3))
    names = [f"w{number}" for number in range(WORDS)]
    for _ in range(0, tokens, LINES * (LINE + 2)):
        numbers = np.searchsorted(bounds, chance.random((LINES, LINE)) * bounds[-1]).tolist()
        for line in numbers:
            yield " ".join(names[number] for number in line)


def measured(tokens: int, order: int, prune: str, budget: int, folder: Path) -> dict[str, Any]:
    """Count and write, in this process."""
    ngram._BUDGET = budget or None
    started = time.perf_counter()
    model = ngram.NgramModel.fit(drawn(tokens), order, prune=ngram.parse_prune(prune), scratch=folder)
    seconds, counted = time.perf_counter() - started, peak_memory_bytes()
    model.save(folder / "model")
    with (folder / "model" / "model.safetensors").open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    held = sum(
        values.nbytes for some in (model.tables.keys, model.tables.log10, model.tables.backoff) for values in some
    )
    return {
        "seconds": round(seconds, 1), "processor_seconds": round(time.process_time(), 1), "peak_mb": counted / 1e6,
        "peak_with_writing_mb": peak_memory_bytes() / 1e6, "model_mb": held / 1e6, "ngrams": model.tables.ngrams,
        "sha256": digest,
    }  # fmt: skip


def watched(command: list[str], folder: Path) -> dict[str, Any]:
    """What the command prints, and the most that lay in its scratch folder while it ran."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            sizes = []
            for path in folder.glob(".halfpint-ngrams-*/*.bin"):
                try:
                    sizes.append(path.stat().st_size)
                except FileNotFoundError:  # it has just gone
                    continue
            most = max(most, sum(sizes))
            time.sleep(0.2)
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return {**json.loads(printed), "disk_mb": most / 1e6}


def main() -> None:
    """Measure each way; print, and with --write keep, results/ngram_memory.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--prune", default="")
    parser.add_argument("--budgets", type=int, nargs="*", default=[0, 512, 128])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        budget, folder = int(chosen.one[0]) << 20, Path(chosen.one[1])
        print(json.dumps(measured(chosen.tokens, chosen.order, chosen.prune, budget, folder)))
        return
    settings = ["--tokens", str(chosen.tokens), "--order", str(chosen.order), "--prune", chosen.prune]
    result: dict[str, Any] = {"tokens": chosen.tokens, "order": chosen.order, "prune": chosen.prune}
    for budget in chosen.budgets:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, __file__, *settings, "--one", str(budget), scratch]
            name = f"on disk, {budget} MiB" if budget else "in memory"
            result[name] = watched(command, Path(scratch))
            print(f"  {name}: {json.dumps(result[name])}", flush=True)
    if len({values["sha256"] for values in result.values() if isinstance(values, dict)}) > 1:
        raise SystemExit("the models differ")
    if chosen.write:
        write("ngram_memory", result)
    else:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
