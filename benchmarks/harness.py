"""What the benchmarks share: medians of repeated runs, and the JSON in results/ that they print."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from halfpint.machine import describe

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def llama_cpp() -> dict[str, str]:
    """The llama.cpp that a benchmark ran beside: the wheel's version, and the instruction sets that it was built for.

    Prebuilt wheels are built for AVX2 alone: on other processors a native build is faster, so no speed of ours is
    compared with such a wheel alone.
    """
    import xllamacpp

    return {"xllamacpp": version("xllamacpp"), "built_for": str(xllamacpp.get_system_info())}


def timed(work: Callable[[], Any]) -> float:
    """Seconds that one call of `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternated(runs: dict[str, Callable[[], float]], repeats: int = 3) -> dict[str, dict[str, Any]]:
    """Each run's figure, taken in turn so that a noisy minute hits all of them: the median and every value."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name, run in runs.items():
            found[name].append(run())
            print(f"  {repeat + 1}/{repeats} {name}: {found[name][-1]:.2f}", flush=True)
    return {name: {"median": statistics.median(values), "values": values} for name, values in found.items()}


def write(name: str, result: dict[str, Any]) -> None:
    """Print the result and keep it as results/NAME.json."""
    full = {
        "benchmark": name,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        **result,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(full, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
