"""Processes that halfpint starts of itself, begun with the packages that take seconds to import.

A measurement, or the gate of an export, runs in a process of its own, and is done in less time than that takes to
import PyTorch. Here one process imports it and waits; what is asked for is a fork of it, which imports halfpint itself.
Tests of such a process itself (its memory, its end, its first answer) are marked `from_scratch` and take none of this.

Run as a program it is the process that waits: one line of JSON in, two out (the fork's number, and how it ended).
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama", "tokenizers",
)  # fmt: skip


class Ready:
    """Stands for `subprocess.run`: takes a fork for modules of halfpint, and is the real one for all else."""

    def __init__(self) -> None:
        self.real, self.from_scratch = subprocess.run, False
        self._waiting: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def __call__(self, *words: Any, **settings: Any) -> subprocess.CompletedProcess[Any]:
        command = words[0] if len(words) == 1 else ()
        if self.from_scratch or "torch" not in sys.modules or not _is_ours(command, settings):
            return self.real(*words, **settings)
        with self._lock, tempfile.TemporaryDirectory(prefix="halfpint-ready-") as folder:
            return self._fork(list(map(str, command)), Path(folder), **settings)

    def _fork(
        self, command: list[str], folder: Path, *, env: Mapping[str, str] | None = None, timeout: float | None = None,
        errors: str | None = None, **_: Any,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        waiting = self._started()
        assert waiting.stdin is not None and waiting.stdout is not None
        asked = {
            "words": command[command.index("-m") + 1 :], "environment": dict(os.environ if env is None else env),
            "folder": str(folder), "here": os.getcwd(),
        }  # fmt: skip
        waiting.stdin.write(json.dumps(asked) + "\n")
        waiting.stdin.flush()
        number, late = int(waiting.stdout.readline()), False
        try:
            late = not select.select([waiting.stdout], [], [], timeout)[0]
        finally:
            if late or sys.exc_info()[0]:
                os.kill(number, signal.SIGKILL)
            status = int(waiting.stdout.readline())
        out, err = ((folder / name).read_text(encoding="utf-8", errors=errors) for name in ("out", "err"))
        if late:
            raise subprocess.TimeoutExpired(command, timeout or 0.0, out, err)
        return subprocess.CompletedProcess(command, status, out, err)

    def _started(self) -> subprocess.Popen[str]:
        if self._waiting is None:
            self._waiting = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            atexit.register(self._end, self._waiting)
        return self._waiting

    @staticmethod
    def _end(waiting: subprocess.Popen[str]) -> None:
        waiting.communicate()  # its input ends, and so does it


def _is_ours(command: Sequence[Any], settings: Mapping[str, Any]) -> bool:
    """Whether it is `python -m halfpint.…` of this Python, all of whose output is wanted as text."""
    words = list(map(str, command)) if isinstance(command, list) else []
    module = words[words.index("-m") + 1] if "-m" in words[:3] else ""
    known = {"capture_output", "text", "check", "env", "stdin", "encoding", "errors", "timeout"}
    return (
        words[:1] == [sys.executable]
        and module.startswith("halfpint.")
        and set(settings) <= known
        and bool(settings.get("capture_output"))
        and not settings.get("check")
        and hasattr(os, "fork")
    )


def _wait() -> None:
    for name in PACKAGES:
        __import__(name)
    for line in sys.stdin:
        number = os.fork()
        if not number:
            _become(**json.loads(line))
        print(number, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)


def _become(words: list[str], environment: dict[str, str], folder: str, here: str) -> None:
    """Be the process that was asked for, to its end."""
    status = 1
    try:
        for place, name, mode in (
            (0, os.devnull, os.O_RDONLY),
            (1, f"{folder}/out", os.O_WRONLY | os.O_CREAT),
            (2, f"{folder}/err", os.O_WRONLY | os.O_CREAT),
        ):
            os.dup2(os.open(name, mode), place)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:0] = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
        sys.argv = ["", *words[1:]]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _wait()
