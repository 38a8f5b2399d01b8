"""What a bundle costs to use, measured by `probe` in a fresh process, so that nothing of this one weighs in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import halfpint
from halfpint.bundle import Bundle, read_json
from halfpint.errors import DeadlineError, HalfpintError
from halfpint.evaluate.probe import PROGRESS, RESULT, read_outputs
from halfpint.outputs import Outputs
from halfpint.progress import SILENT, Bar, Log

_LOOKED_EVERY_S = 1.0
_LEAST_TIMEOUT_S, _TIMEOUT_A_TEXT_S = 900.0, 0.5
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True)
class Measurement:
    """One bundle, measured.

    outputs: what the engine says of each text (`task.Outputs`), in the order of the texts;
    size_bytes: all files of the bundle;
    latency_p50_ms, latency_p95_ms: one text at a time, tokenisation included, over three passes;
    latency_p50_low_ms, latency_p50_high_ms: the p50 of the fastest and of the slowest pass;
    throughput_per_s: texts per second in chunks of 1,024, the median pass;
    cold_start_ms: from the start of the process until the first text is answered;
    peak_memory_bytes: resident, of the whole process, Python included; 0 where the system does not tell;
    energy_wh_per_1000, co2e_g_per_1000: of 1,000 texts in chunks; energy_source: "measured" or "modelled".
    """

    outputs: Outputs
    size_bytes: int
    latency_p50_ms: float
    latency_p50_low_ms: float
    latency_p50_high_ms: float
    latency_p95_ms: float
    throughput_per_s: float
    cold_start_ms: float
    peak_memory_bytes: int
    energy_wh_per_1000: float
    co2e_g_per_1000: float
    energy_source: str


def measure(
    bundle: Bundle, texts: Sequence[str], *, threads: int | None = None, log: Log = SILENT, timeout_s: float = 0
) -> Measurement:
    """Measure `bundle` on `texts` in a fresh process; it takes about 5 s, longer where one text takes over 10 ms.

    Args:
        bundle: the bundle; its files are checked against its card.
        texts: what it answers; at least one, better some hundreds as they come in use.
        threads: threads of the engine; None lets it choose.
        log: gets the event "measured".
        timeout_s: the process is ended after so many seconds; 0 takes 15 minutes and half a second for each text.

    Raises:
        HalfpintError: no text, or the bundle does not run: with the child's own error, or the end of what it wrote.
        DeadlineError: it took longer than `timeout_s`.
    """
    if not texts:
        raise HalfpintError("measure", wanted="at least one text", got="none", todo="Give data with rows.")
    with tempfile.TemporaryDirectory(prefix="halfpint-measure-") as name:
        out = Path(name)
        (out / "texts.json").write_text(json.dumps(list(texts)), encoding="utf-8")
        limit_s = timeout_s or _LEAST_TIMEOUT_S + _TIMEOUT_A_TEXT_S * len(texts)
        with log.bar(f"measuring on {len(texts):,} texts", 1.0) as bar, _shown(out / PROGRESS, bar):
            _run("halfpint.evaluate.probe", bundle, out, [str(out / "texts.json")], threads, limit_s)
        result = read_json(out / RESULT)
        outputs = read_outputs(out)
    told = {field.name: result[field.name] for field in fields(Measurement) if field.name in result}
    found = Measurement(outputs=outputs, size_bytes=bundle.size_bytes, **told)
    log.event("measured", bundle=bundle.path, texts=len(texts), threads=threads, **figures(found))
    return found


def figures(measurement: Measurement) -> dict[str, Any]:
    """The measurement's numbers by name, without the outputs."""
    return {field.name: getattr(measurement, field.name) for field in fields(measurement) if field.name != "outputs"}


@contextmanager
def _shown(file: Path, bar: Bar) -> Iterator[None]:
    """Move a bar to where the child writes that it is, now and then while the body waits for it."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOKED_EVERY_S):
            share, note = bar.done, bar.note
            with suppress(OSError, ValueError):  # it has not begun, or writes just now
                words = file.read_text(encoding="utf-8").partition(" ")
                share, note = float(words[0]), words[2]
            bar.advance(share - bar.done, note)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def in_fresh_process(module: str, bundle: Bundle, timeout_s: float) -> dict[str, Any]:
    """What `module`, run with a bundle and a folder, leaves in result.json there.

    Raises:
        HalfpintError: it does not run; DeadlineError: it took longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="halfpint-measure-") as name:
        _run(module, bundle, Path(name), [], None, timeout_s)
        return read_json(Path(name) / RESULT)


def child_environment() -> dict[str, str]:
    """The environment of a process of this Python that is to import the same halfpint."""
    environment = dict(os.environ)
    root = Path(halfpint.__file__).parents[1]
    if root.name not in ("site-packages", "dist-packages"):
        kept = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *([kept] if kept else [])])
    return environment


def _run(
    module: str, bundle: Bundle, out: Path, arguments: Sequence[str], threads: int | None, timeout_s: float
) -> None:
    """Run what measures to its end; a timeout or Ctrl-C here ends it at once."""
    environment = child_environment()
    if threads is not None:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    # -P: a file of the user's folder called like a package must not take its place.
    command = [sys.executable, "-P", "-m", module, str(bundle.path), *arguments, str(out)]
    command += ["--threads", str(threads)] if threads is not None else []
    try:
        done = subprocess.run(
            [*command, "--started", repr(time.monotonic())],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeadlineError(
            str(bundle.path),
            wanted=f"a measurement within {timeout_s:g} s",
            got="one that was still running and was ended",
            todo="Give fewer texts or more time, or choose a smaller model.",
        ) from None
    if done.returncode:
        raise _failure(bundle, out, done)


def _failure(bundle: Bundle, out: Path, done: subprocess.CompletedProcess[str]) -> HalfpintError:
    """The error that the child told of, or one made from how it ended."""
    if (out / RESULT).is_file():
        told = read_json(out / RESULT).get("error")
        if isinstance(told, dict):
            place, *rest = (str(told.get(key, "")) for key in ("place", "wanted", "got", "todo", "said"))
            return HalfpintError(place, **dict(zip(("wanted", "got", "todo", "said"), rest, strict=True)))
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    got = " / ".join(lines[-2:])[-600:] or f"exit code {done.returncode}, no output"
    if done.returncode < 0:
        number = -done.returncode
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        got = f"a process ended by signal {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return HalfpintError(
        str(bundle.path), wanted="a bundle that runs in a fresh process", got=got, todo="Make the bundle again."
    )
