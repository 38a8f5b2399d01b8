"""What is written to standard output and standard error: no text can steer a terminal, and no encoding can fail."""

from __future__ import annotations

import codecs
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TextIO

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but the tab and the end of a line
_AS_JSON = "halfpint.json"


def prepare() -> None:
    """Make the standard streams safe to write to: what their encoding lacks is written as JSON's escape, which a
    program that reads JSON turns back; one that the caller closed takes everything and keeps nothing."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a closed stream's number must not become that of a file
    os.close(handle)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115 - it lasts as long as the process
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
    codecs.register_error(_AS_JSON, _as_json)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_AS_JSON)


def amount(number: int, noun: str, plural: str = "") -> str:
    """A number of things in words: "1 row", "2,000 rows"; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def escaped(text: str) -> str:
    """The text with control characters spelled out, ESC as \\x1b: a terminal shows them instead of obeying them."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads it; a program that runs without streams has none."""
    return stream is not None and stream.isatty()


def show(text: str, stream: TextIO | None, *, end: str = "\n") -> None:
    """Write text at once, escaped where `stream` is a terminal."""
    if stream is not None:
        print(escaped(text) if stream.isatty() else text, end=end, file=stream, flush=True)


def keep_traceback(error: BaseException) -> Path | None:
    """Write the traceback of an error to a file that only its owner may read; None where there is no room for one."""
    try:
        handle, name = tempfile.mkstemp(prefix="halfpint-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return Path(name)


def _as_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True)), error.end
