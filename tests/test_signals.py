"""SIGTERM is told, and processes that measure end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from halfpint.bundle import Bundle

PATIENCE_S = 120.0


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
def test_sigterm_is_told(bundles: Callable[[str], Bundle]) -> None:
    code = (
        "import sys, io; from halfpint.cli import main\n"
        "class Waiting(io.StringIO):\n"
        "    def read(self, *size):\n"
        "        print('begun', file=sys.stderr, flush=True)\n"
        "        return sys.__stdin__.read()\n"
        "sys.stdin = Waiting(); main()"
    )
    words = [sys.executable, "-c", code, "generate", str(bundles("ngram").path), "-"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
        assert (process.wait(PATIENCE_S), told) == (143, "\nterminated\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has it")
def test_a_process_that_measures_ends_with_its_parent() -> None:
    child = "from halfpint.machine import end_with_parent; end_with_parent(); print('up', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    words = [sys.executable, "-c", parent]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
        # Its end closes the last writing end of the pipe; the child's input stays open all the while.
        assert process.stdout.read() == ""
