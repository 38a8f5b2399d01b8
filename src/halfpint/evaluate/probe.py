"""Measure one bundle in a process of its own.

`python -m halfpint.evaluate.probe BUNDLE TEXTS.json OUT_DIR --threads N`, TEXTS.json being a list of texts.
Writes OUT_DIR/result.json and OUT_DIR/probabilities.npy (float32, units x labels; where texts have other numbers of
units than one, these in units.npy), or result.json with an "error".
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from halfpint.bundle import Bundle, open_bundle, write_json
from halfpint.energy import EnergyMeter
from halfpint.engines import Engine, open_engine
from halfpint.errors import HalfpintError
from halfpint.machine import end_with_parent, peak_memory_bytes
from halfpint.outputs import Outputs, joined, per_text

RESULT, PROBABILITIES, UNITS, PROGRESS = "result.json", "probabilities.npy", "units.npy", "progress"

Told = Callable[[float, str], None]
"""Takes the share of the work that is done, and a note."""

_WARM_UP = 10
_LATENCY_PASSES = 3
_MIN_CALLS, _MAX_CALLS = 70, 350
_LATENCY_S, _LATENCY_LIMIT_S = 1.0, 10.0
_CHUNK = 1024
_PASSES, _THROUGHPUT_S, _SHORTEST_S = 3, 2.0, 0.2


def probe(
    bundle: Bundle, texts: Sequence[str], threads: int | None, started: float, told: Told = lambda share, note: None
) -> tuple[dict[str, Any], Outputs]:
    """The measurements of `bundle` by the names `Measurement` has, and what it says of all `texts`; `told` is told the
    share of the texts that are answered.

    Cold start: from `started` (a `time.monotonic()`) until the first text is answered, the check of the files' hashes
    and the loading of the engine included.
    """
    engine = open_engine(bundle, threads=threads, check=False)  # its answers are, below
    engine.probabilities(texts[:1])
    cold_start_s = time.monotonic() - started
    told(0.0, "one text at a time")
    rounds_s = [latencies(engine, texts)]
    with EnergyMeter() as meter:
        passes_s, outputs = throughput(engine, texts, told)
    # The other passes come after the texts in chunks: a machine that is busy for a second is not busy in all of them.
    rounds_s += [latencies(engine, texts) for _ in range(_LATENCY_PASSES - 1)]
    _check(bundle, outputs, len(texts))
    answered = len(texts) * len(passes_s)
    result = {
        **latency_figures(rounds_s),
        "throughput_per_s": len(texts) / median(passes_s),
        "cold_start_ms": cold_start_s * 1000,
        "peak_memory_bytes": peak_memory_bytes(),
        "energy_wh_per_1000": meter.energy.wh * 1000 / answered,
        "co2e_g_per_1000": meter.energy.co2e_g * 1000 / answered,
        "energy_source": meter.energy.source,
        "energy_method": meter.energy.method,
        "calls": sum(map(len, rounds_s)),
        "passes": len(passes_s),
    }
    return result, outputs


def latency_figures(rounds_s: Sequence[Sequence[float]]) -> dict[str, float]:
    """The latencies in milliseconds, from the seconds of single calls in several passes over the same texts.

    p50 and p95 are of all calls together; the low and the high p50 are those of the fastest and the slowest pass.
    """
    every = [call for one in rounds_s for call in one]
    medians = [float(np.percentile(one, 50)) * 1000 for one in rounds_s]
    return {
        "latency_p50_ms": float(np.percentile(every, 50)) * 1000,
        "latency_p50_low_ms": min(medians),
        "latency_p50_high_ms": max(medians),
        "latency_p95_ms": float(np.percentile(every, 95)) * 1000,
    }


def latencies(engine: Engine, texts: Sequence[str]) -> list[float]:
    """Seconds of single-text calls, tokenisation included, over the texts in one fixed shuffled order.

    Ten calls go before, unmeasured. Calls go on for 1 s and to at least 70, but to at most 350; an engine too slow
    for 70 in 10 s stops there.
    """
    order = list(range(len(texts)))
    random.Random(0).shuffle(order)
    for call in range(_WARM_UP):
        engine.probabilities([texts[order[call % len(order)]]])
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < _MAX_CALLS:
        spent = time.perf_counter() - begun
        if spent >= (_LATENCY_S if len(found) >= _MIN_CALLS else _LATENCY_LIMIT_S):
            break
        one = [texts[order[len(found) % len(order)]]]
        before = time.perf_counter()
        engine.probabilities(one)
        found.append(time.perf_counter() - before)
    return found


def throughput(
    engine: Engine, texts: Sequence[str], told: Told = lambda share, note: None
) -> tuple[list[float], Outputs]:
    """Seconds of each pass over all texts in chunks of 1,024, and what the engine says of them.

    Passes go on until 2 s are spent or three are done, but for 0.2 s at least: shorter is not measured but guessed.
    """
    found: list[float] = []
    spent = 0.0
    outputs: Outputs | None = None
    while spent < _THROUGHPUT_S and (len(found) < _PASSES or spent < _SHORTEST_S):
        before = time.perf_counter()
        chunks = []
        for at in range(0, len(texts), _CHUNK):
            if not found:  # the first pass may take long; others are there where it is quick
                told(at / len(texts), "")
            chunks.append(engine.probabilities(texts[at : at + _CHUNK]))
        found.append(time.perf_counter() - before)
        spent += found[-1]
        if outputs is None:
            whole = all(isinstance(chunk, np.ndarray) for chunk in chunks)
            outputs = (
                np.concatenate([np.asarray(chunk) for chunk in chunks])
                if whole
                else [one for chunk in chunks for one in chunk]
            )
    assert outputs is not None  # the loop runs once at least
    return found, outputs


def _check(bundle: Bundle, outputs: Outputs, n_texts: int) -> None:
    labels = len(bundle.labels)
    wrong = [one.shape for one in outputs if one.shape[-1:] != (labels,)]
    values = np.zeros((0, labels), np.float32) if wrong else joined(outputs, labels)
    if wrong or len(outputs) != n_texts or not np.isfinite(values).all():
        raise HalfpintError(
            str(bundle.path),
            wanted=f"finite probabilities of {labels} labels for {n_texts} texts",
            got=f"{len(outputs)} answers, {f'some of shape {wrong[0]}' if wrong else 'all of the right shape'}, "
            f"{int(np.isfinite(values).sum())} of {values.size} values finite",
            todo="Make the bundle again.",
        )


def write_outputs(outputs: Outputs, labels: int, out: Path) -> None:
    """Leave what an engine says of texts in the folder `out`."""
    np.save(out / PROBABILITIES, joined(outputs, labels).astype(np.float32, copy=False), allow_pickle=False)
    if not isinstance(outputs, np.ndarray):
        np.save(out / UNITS, np.array([len(one) for one in outputs], dtype=np.int64), allow_pickle=False)


def read_outputs(out: Path) -> Outputs:
    """What `write_outputs` left there."""
    values = np.load(out / PROBABILITIES, allow_pickle=False)
    units = out / UNITS
    return per_text(values, np.load(units, allow_pickle=False) if units.is_file() else None)


def told_of(error: HalfpintError, out: Path) -> int:
    """Leave an error in the folder `out` for the process that waits; gives its exit code."""
    told = {"place": error.place, "wanted": error.wanted, "got": error.got, "todo": error.todo, "said": error.said}
    write_json(out / RESULT, {"error": told})
    print(error, file=sys.stderr)
    return error.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the probe; the exit code is that of the error when there is one."""
    parser = argparse.ArgumentParser(prog="python -m halfpint.evaluate.probe", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path, help="a JSON file with a list of texts")
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--started",
        type=float,
        default=time.monotonic(),
        help="time.monotonic() when this process was started; without it, the imports are no part of the cold start",
    )
    given = parser.parse_args(arguments)
    try:
        before = time.monotonic()
        texts = json.loads(given.texts.read_text(encoding="utf-8"))
        # Reading the texts is the measuring's work, not the bundle's.
        started = given.started + time.monotonic() - before
        bundle = open_bundle(given.bundle)

        def told(share: float, note: str) -> None:
            (given.out / PROGRESS).write_text(f"{share} {note}", encoding="utf-8")

        result, outputs = probe(bundle, texts, given.threads, started, told)
    except HalfpintError as error:
        return told_of(error, given.out)
    write_outputs(outputs, len(bundle.labels), given.out)
    write_json(given.out / RESULT, result)
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
