"""What is printed: it steers no terminal, no encoding fails, and streams that are closed or full end it plainly."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from halfpint import cli
from halfpint.bundle import Bundle
from halfpint.command import Command, Group, Result
from halfpint.progress import Log
from halfpint.terminal import escaped, show

STEERS = "\x1b]0;owned\x07\x1b[2Jred\x9b31m\x7f\r"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_are_shown_and_not_sent() -> None:
    assert escaped("a\tb\nc é 😀") == "a\tb\nc é 😀"
    assert escaped(STEERS) == r"\x1b]0;owned\x07\x1b[2Jred\x9b31m\x7f\x0d"
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        show(STEERS, stream)
    assert (terminal.getvalue(), file.getvalue()) == (escaped(STEERS) + "\n", STEERS + "\n")


def test_the_log_escapes_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    Log().say(STEERS)
    assert "\x1b" not in terminal.getvalue() and r"\x1b]0;owned" in terminal.getvalue()


def labelled(folder: Path) -> Path:
    """A table whose name no terminal should obey and most encodings cannot hold."""
    path = folder / f"😀é{STEERS[:-1]}.csv"
    path.write_text("text,label\n" + "fine,a\nbad,b\n" * 6, encoding="utf-8", newline="")
    return path


def run(*words: object, encoding: str = "utf-8", **streams: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "halfpint", *map(str, words)], env=environment, check=False, timeout=120,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_no_encoding_fails_and_json_stays_json(encoding: str, tmp_path: Path) -> None:
    done = run("check", labelled(tmp_path), encoding=encoding)
    assert b"Traceback" not in done.stderr and b"\\ud83d\\ude00" in done.stdout, done.stderr
    as_json = run("check", labelled(tmp_path), "--json", encoding=encoding)
    assert json.loads(as_json.stdout.decode(encoding)) == json.loads(run("check", labelled(tmp_path), "--json").stdout)


def test_nothing_reaches_a_terminal_raw(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        done = run("check", labelled(tmp_path), stdout=terminal, stderr=terminal)
    said = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.returncode in (0, 1) and b"\x1b" not in said and rb"\x1b]0;owned" in said


@pytest.mark.parametrize("what", ["--help", "check"])
def test_a_reader_that_ends_early(what: str, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    words = (what,) if what == "--help" else (what, labelled(tmp_path))
    with os.fdopen(writes, "wb") as pipe:
        done = run(*words, stdout=pipe)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("closed", [1, 2, (1, 2)])
def test_streams_that_are_closed(closed: int | tuple[int, ...], tmp_path: Path) -> None:
    """The exit code is the one of the command, and no file takes the place of a stream."""
    shut = " ".join(f"{number}>&-" for number in (closed if isinstance(closed, tuple) else (closed,)))
    code = run("check", labelled(tmp_path)).returncode
    for source, wanted in ((labelled(tmp_path), code), (tmp_path / "none.csv", 2)):
        line = f'"{sys.executable}" -m halfpint check "$1" {shut}'
        done = subprocess.run(
            ["sh", "-c", line, "sh", str(source)], capture_output=True, text=True, check=False, timeout=120
        )
        assert (done.returncode, "Traceback" in done.stderr) == (wanted, False), done.stderr


@dataclass(frozen=True)
class Nothing(Result):
    def __str__(self) -> str:
        return ""


def failing(error: BaseException) -> type[Command]:
    @dataclass(frozen=True, kw_only=True)
    class Fails(Command):
        group = Group.USE

        def run(self, log: Log) -> Nothing:
            raise error

    return Fails


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[BaseException], int]:
    """Runs a command that fails, and gives the exit code."""
    monkeypatch.setattr(sys, "argv", ["halfpint", "check", "x.csv"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run_it(error: BaseException) -> int:
        monkeypatch.setattr(cli, "_callback", lambda kind: failing(error)().run)
        monkeypatch.setattr(cli, "program", lambda names: lambda *rest, **more: failing(error)().run(Log(quiet=True)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(str(ended.value.code))

    return run_it


def test_a_fault_of_halfpint_has_a_code_of_its_own(
    ends: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ends(KeyError("x")) == 70
    told = capsys.readouterr().err
    (kept,) = tmp_path.glob("halfpint-error-*.txt")
    assert told.count("\n") == 1 and "KeyError: 'x'" in told and str(kept) in told
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and "Traceback" in kept.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "memory"),
        (
            OSError(24, "Too many open files", "model.onnx"),
            "model.onnx cannot be read or written: too many open files.",
        ),
    ],
)
def test_what_a_machine_lacks_is_no_fault_of_halfpint(
    error: BaseException, words: str, ends: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert ends(error) == 2 and words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_home_is_heeded_where_no_shell_did(
    bundles: Callable[[str], Bundle], tmp_path: Path, typed: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in.csv").write_text("text\nhello\n", encoding="utf-8")
    words = ("--file", "~/in.csv", "--out", "~/out.csv", "--text", "text")
    code, _, errors = typed("predict", bundles("linear").path, *words)
    assert code == 0, errors
    assert (tmp_path / "out.csv").is_file()
