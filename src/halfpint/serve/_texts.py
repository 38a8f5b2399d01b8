"""The texts of one request: they wait for slots, are written, counted, and given up when nobody waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from halfpint.engines import Piece
from halfpint.errors import HalfpintError
from halfpint.serve._feed import Feed
from halfpint.serve._generation import Asked, Backend, Slots, Ticket
from halfpint.serve._metrics import LanguageMetrics


class LateError(Exception):
    """The time was over before there was anything to give."""


class Texts:
    """Texts that are asked for together.

    Args:
        asked: one a text.
        backend: writes them.
        slots: where they wait.
        metrics: where they are counted.
        timeout_s: seconds until a text is broken off ("length"), or given up where nothing of it came.
        gather_s: seconds between the pieces of a text; infinite gives all of it at its end.

    Raises:
        QueueFullError: too many wait.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        backend: Backend,
        slots: Slots,
        metrics: LanguageMetrics,
        *,
        timeout_s: float,
        gather_s: float,
    ) -> None:
        self._backend, self._metrics, self._gather_s = backend, metrics, gather_s
        self._begun, self._deadline = time.perf_counter(), time.monotonic() + timeout_s
        self._parts = list(zip(asked, slots.take(len(asked)), strict=True))

    async def pieces(self) -> AsyncGenerator[tuple[int, list[Piece]]]:
        """The number of a text, and pieces of it as they come; the last of each tells how it ended.

        Leaving it gives up what is not written yet.

        Raises:
            LateError: the time was over before anything came.
            HalfpintError: the model cannot do what is asked.
            Exception: it failed.
        """
        try:
            if len(self._parts) == 1:
                async with aclosing(self._write(*self._parts[0])) as batches:
                    async for batch in batches:
                        yield 0, batch
                return
            queue: asyncio.Queue[tuple[int, list[Piece] | None, BaseException | None]] = asyncio.Queue()
            tasks = [
                asyncio.create_task(self._hand_on(number, asked, ticket, queue))
                for number, (asked, ticket) in enumerate(self._parts)
            ]
            left = len(tasks)
            try:
                while left:
                    number, found, error = await queue.get()
                    if error is not None:
                        raise error
                    if found is None:
                        left -= 1
                    else:
                        yield number, found
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self.release()

    def release(self) -> None:
        """Leave the queue with what was not begun."""
        for _, ticket in self._parts:
            if not ticket.begun:
                ticket.release()

    async def _hand_on(
        self,
        number: int,
        asked: Asked,
        ticket: Ticket,
        queue: asyncio.Queue[tuple[int, list[Piece] | None, BaseException | None]],
    ) -> None:
        try:
            async with aclosing(self._write(asked, ticket)) as batches:
                async for batch in batches:
                    queue.put_nowait((number, batch, None))
            queue.put_nowait((number, None, None))
        except Exception as error:
            queue.put_nowait((number, None, error))

    async def _write(self, asked: Asked, ticket: Ticket) -> AsyncGenerator[list[Piece]]:
        end, written = "cancelled", 0
        feed: Feed[Piece] | None = None
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                await ticket.turn
            feed = Feed(self._gather_s, self._deadline, ticket.release)
            ticket.begun = True  # from here on the slot is free once the writing has ended
            self._backend.write(asked, feed)
            async with aclosing(feed.batches()) as batches:
                async for batch in batches:
                    written = batch[-1].written
                    if batch[-1].finish:
                        end = batch[-1].finish
                    yield batch
            if feed.late and end == "cancelled":
                end = "timeout"
                if not written:
                    raise LateError
                yield [Piece("", (), "length", written)]
        except TimeoutError:
            end = "timeout"
            raise LateError from None
        except HalfpintError:
            end = "refused"
            raise
        except Exception:
            end = "timeout" if end == "timeout" else "failed"
            raise
        finally:
            self._count(end, written, feed)

    def _count(self, end: str, written: int, feed: Feed[Piece] | None) -> None:
        now = time.perf_counter()
        first = None if feed is None else feed.first_at
        self._metrics.wrote(
            end, written, first_s=None if first is None else first - self._begun,
            writing_s=0.0 if first is None else now - first, whole_s=now - self._begun,
        )  # fmt: skip
