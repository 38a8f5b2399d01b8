"""What a thread makes, piece by piece, handed to the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Feed(Generic[Item]):
    """A queue from one thread to one reader on the event loop.

    Waking the loop for every token would take a good part of the time that a small model needs for the token, so what
    comes is gathered: the first item is handed over at once, what follows every `gather_s` seconds, and the end at once
    again. The queue needs no bound of its own, as nothing makes more items than a model's context has tokens.

    Args:
        gather_s: seconds between what is handed over; infinite hands over all of it at the end.
        deadline: `time.monotonic()` at which the reader is told to go; what was made until then is handed over.
        on_close: called on the loop once the thread is done.

    Attributes:
        cancelled: nobody reads any more; the thread is to stop.
        late: the deadline came first.
        first_at: `time.perf_counter()` of the first item; None before.
    """

    def __init__(self, gather_s: float, deadline: float, on_close: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._gather_s, self._deadline, self._on_close = gather_s, deadline, on_close
        self._items: deque[Item] = deque()
        self._woken = asyncio.Event()
        self._asleep = self._closed = False
        self._error: Exception | None = None
        self.cancelled = self.late = False
        self.first_at: float | None = None

    def put(self, item: Item) -> bool:
        """Add an item, from the thread; gives whether there is still a reader."""
        if self.first_at is None:
            self.first_at = time.perf_counter()
        self._items.append(item)
        if self._asleep:
            self._asleep = False
            self._call(self._woken.set)
        return not self.cancelled

    def close(self, error: BaseException | None = None) -> None:
        """Tell, from the thread, that nothing follows, or what broke it off."""
        # A panic of a Rust tokenizer is no Exception.
        self._error = error if error is None or isinstance(error, Exception) else RuntimeError(repr(error))
        self._closed = True
        self._call(self._woken.set)
        self._call(self._on_close)

    def _call(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop may have ended: then nobody waits any more
            self._loop.call_soon_threadsafe(what)

    async def batches(self) -> AsyncGenerator[list[Item]]:
        """The items as they come, one or more at a time; leaving it, or the deadline, cancels the thread's work.

        Raises:
            Exception: what `close` was told.
        """
        timer = self._loop.call_later(max(0.0, self._deadline - time.monotonic()), self._expire)
        whole = math.isinf(self._gather_s)
        try:
            while not self._closed and not self.late:
                if not self._items or whole:
                    await self._wait(wake_on_item=not whole)
                    continue
                yield self._take()
                if not self._closed and not self.late:
                    gathered = self._loop.call_later(self._gather_s, self._woken.set)
                    await self._wait(wake_on_item=False)
                    gathered.cancel()
            if self._items:
                yield self._take()
            if self._closed and self._error is not None:
                raise self._error
        finally:
            timer.cancel()
            self.cancelled = True

    async def _wait(self, *, wake_on_item: bool) -> None:
        """Sleep until something wakes the reader."""
        # Here the flag is set first and looked after; the thread adds first and looks at the flag after.
        self._asleep = wake_on_item
        if self._closed or self.late or (wake_on_item and self._items):
            self._asleep = False
            return
        await self._woken.wait()
        self._woken.clear()

    def _take(self) -> list[Item]:
        return [self._items.popleft() for _ in range(len(self._items))]

    def _expire(self) -> None:
        self.late = self.cancelled = True
        self._woken.set()
