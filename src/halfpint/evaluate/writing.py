"""How fast a language model writes, measured in a process of its own.

`python -m halfpint.evaluate.writing BUNDLE OUT_DIR` writes OUT_DIR/result.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from halfpint.bundle import Bundle, open_bundle, write_json
from halfpint.engines import Generation, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.evaluate.measure import in_fresh_process
from halfpint.evaluate.probe import RESULT, told_of
from halfpint.machine import end_with_parent, peak_memory_bytes

_PROMPT = "The"
_WRITTEN = 64  # tokens a run
_RUNS, _LIMIT_S = 5, 8.0
_TIMEOUT_S = 900.0


def writing(bundle: Bundle) -> dict[str, Any]:
    """How fast `bundle`, a language model, writes with all cores, measured in a fresh process; takes some seconds.

    Returns:
        written_tokens_per_s: after a first token, the median of up to 5 runs of 64 tokens (0 of a model that ends at
        once); first_token_ms: until the
        first, of a prompt of one word, the median; cold_start_ms: from the start of the process until the first token
        of all, hashes checked and weights unpacked and loaded; peak_memory_bytes: of the process, Python included.

    Raises:
        HalfpintError: the bundle does not run; DeadlineError: nor within 15 minutes.
    """
    return in_fresh_process("halfpint.evaluate.writing", bundle, _TIMEOUT_S)


def timed(bundle: Bundle, started: float) -> dict[str, Any]:
    """The figures of `writing`, measured here; the process began at `started`."""
    engine: Any = open_language_engine(bundle)
    speeds: list[float] = []
    waits: list[float] = []
    cold_start_s, begun = 0.0, time.monotonic()
    for _ in range(_RUNS):
        asked = time.monotonic()
        times = [
            (time.monotonic(), piece.written)
            for piece in engine.write(_PROMPT, Generation(max_tokens=_WRITTEN, temperature=0.0))
            if piece.written
        ] or [(time.monotonic(), 0)]
        (first, before), (last, count) = times[0], times[-1]
        cold_start_s = cold_start_s or first - started
        waits.append(first - asked)
        if count > before:
            speeds.append((count - before) / (last - first))
        if last - begun > _LIMIT_S:
            break
    return {
        "written_tokens_per_s": round(median(speeds), 1) if speeds else 0.0,
        "first_token_ms": round(1000 * median(waits), 2),
        "cold_start_ms": round(1000 * cold_start_s, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code is that of the error when there is one."""
    parser = argparse.ArgumentParser(prog="python -m halfpint.evaluate.writing", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--started", type=float, default=time.monotonic(), help="when this process was started")
    given = parser.parse_args(arguments)
    try:
        write_json(given.out / RESULT, timed(open_bundle(given.bundle), given.started))
    except HalfpintError as error:
        return told_of(error, given.out)
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
