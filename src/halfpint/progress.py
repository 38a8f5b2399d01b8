"""What is told while work goes on: every event to events.jsonl, a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from halfpint import terminal

_LINE_EVERY_S = 15.0
_MOST_HELD = 100  # events told before there is a file


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: paths as text, numpy numbers as numbers, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def passes_shown(passes: float) -> str:
    """How often data is read: "2.7 % of one pass", "3.1 passes"."""
    return (
        f"{100 * passes:.2g} % of one pass" if passes < 0.995 else f"{passes:.2g} pass{'es' * (f'{passes:.2g}' != '1')}"
    )


class Bar:
    """One piece of work with a known end; `advance` moves it, `set` changes what stands behind it."""

    def __init__(self, log: Log, what: str, total: float) -> None:
        self.log, self.what, self.total = log, what, max(total, 1e-9)
        self.done = self.before = 0.0
        self.note = ""
        self.started = self.told = time.monotonic()
        self._rich: Any = None
        self._task: Any = None

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        """Move on by `amount` (of `total`); `note` replaces the text behind the bar."""
        self.done += amount
        if note is not None:
            self.note = note
        now = time.monotonic()
        if self.log.quiet or now - self.started < 2.0:
            return
        if self.log.terminal:
            self._draw()
        elif now - self.told >= _LINE_EVERY_S:
            self.told = now
            share = min(self.done / self.total, 1.0)
            begun = min(self.before / self.total, 1.0)
            left = (now - self.started) * (1 - share) / (share - begun) if share > begun else None
            told = "" if left is None else f", {left:.0f} s left"
            self.log.write(f"{self.what}: {share:.0%}{told} {self.note}".rstrip())

    def resume(self, amount: float) -> None:
        """So much of it was done before: it tells nothing of the time that the rest takes."""
        self.done = self.before = amount

    def _draw(self) -> None:
        if self._rich is None:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._rich = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.log.console(),
                transient=True,
            )
            self._rich.start()
            self._task = self._rich.add_task(terminal.escaped(self.what), total=self.total, note="")
        self._rich.update(self._task, completed=min(self.done, self.total), note=terminal.escaped(self.note))

    def close(self) -> None:
        """Take the bar away."""
        if self._rich is not None:
            self._rich.stop()
            self._rich = None


class Log:
    """Where a run tells what it does.

    Args:
        events: the events.jsonl to append to; None keeps no file. Set it later and the last events come first in it.
        quiet: say nothing on the terminal (events are still written).
        pieces: takes parts of the result as they come, such as words of a text that is generated; None waits for all.
    """

    def __init__(
        self, events: Path | None = None, *, quiet: bool = False, pieces: Callable[[str], None] | None = None
    ) -> None:
        self.events, self.quiet, self.pieces = events, quiet, pieces
        self.terminal = terminal.is_terminal(sys.stderr)
        self._console: Any = None
        self._held: deque[str] = deque(maxlen=_MOST_HELD)

    def console(self) -> Any:
        """The rich console on standard error (made when first asked for)."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        return self._console

    def write(self, text: str) -> None:
        """One line on standard error."""
        if self.quiet:
            return
        if self._console is not None:
            self._console.print(terminal.escaped(text), markup=False, highlight=False)
        else:
            terminal.show(text, sys.stderr)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event to events.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **plain(fields)}, ensure_ascii=False)
        self._held.append(line + "\n")
        if self.events is not None:
            with self.events.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(self._held)
            self._held.clear()

    def say(self, text: str, kind: str = "said", **fields: Any) -> None:
        """A line for the person and an event for the file."""
        self.write(text)
        self.event(kind, text=text, **fields)

    @contextmanager
    def bar(self, what: str, total: float) -> Iterator[Bar]:
        """A progress bar over `total` units; it shows itself once the work has taken two seconds."""
        bar = Bar(self, what, total)
        try:
            yield bar
        finally:
            bar.close()


SILENT = Log(quiet=True)


def events_of(file: Path | None) -> Iterator[dict[str, Any]]:
    """The events of an events.jsonl, none where there is no file; a line that was cut off is left out."""
    if file is None or not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                yield event
