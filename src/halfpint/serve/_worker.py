"""One thread that loads a model and then runs it, joining the requests that wait into one call."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from halfpint.engines import Engine, Probabilities
from halfpint.progress import Log

State = Literal["loading", "ok", "failed", "stopped"]

_STOP_WAIT_S = 2.0


class QueueFullError(Exception):
    """As many requests wait as may wait."""


class EngineError(Exception):
    """The model failed on a request."""


@dataclass(eq=False)
class _Job:
    texts: Sequence[str]
    answer: asyncio.Future[Probabilities]
    loop: asyncio.AbstractEventLoop


class Worker:
    """A model in a thread of its own.

    Args:
        open_engine: loads the model; called in the thread.
        max_batch: texts in one call of the model, at most.
        max_queue: requests that may wait.
        on_ready: called in the thread once the model is loaded.
    """

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        *,
        max_batch: int,
        max_queue: int,
        log: Log,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._open_engine, self._max_batch, self._max_queue = open_engine, max_batch, max_queue
        self._log, self._on_ready = log, on_ready
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.state: State = "loading"
        self.engine: Engine | None = None
        self.batches = 0

    @property
    def queued(self) -> int:
        """Requests that wait for the model; those in the running call do not count."""
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return len(self._jobs) >= self._max_queue

    def start(self) -> None:
        """Begin to load the model."""
        # A daemon, so that a model that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="halfpint-model", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the call it is in; waits a few seconds for that."""
        with self._changed:
            self.state = "stopped"
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_STOP_WAIT_S)

    async def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of at most `max_batch` texts: float32 of shape (texts, labels).

        Cancelling the wait takes the request out of the queue.

        Raises:
            QueueFullError: too many requests wait.
            EngineError: the model failed.
        """
        loop = asyncio.get_running_loop()
        job = _Job(texts, loop.create_future(), loop)
        with self._changed:
            if self.full:
                raise QueueFullError
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await job.answer
        finally:
            with self._changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def _run(self) -> None:
        try:
            self.engine = self._open_engine()
        except BaseException as error:
            self.state = "failed"
            self._log.say(f"The model was not loaded: {error}", kind="load_failed", error=type(error).__name__)
            return
        with self._changed:
            if self.state != "loading":
                return
            self.state = "ok"
        if self._on_ready is not None:
            self._on_ready()
        while jobs := self._take():
            self._answer(self.engine, jobs)

    def _take(self) -> list[_Job]:
        """The waiting requests that fit into one call, waiting for the first; none once stopped."""
        with self._changed:
            while not self._jobs and self.state == "ok":
                self._changed.wait()
            jobs: list[_Job] = []
            size = 0
            while self._jobs and (not jobs or size + len(self._jobs[0].texts) <= self._max_batch):
                jobs.append(self._jobs.popleft())
                size += len(jobs[-1].texts)
            return jobs

    def _answer(self, engine: Engine, jobs: list[_Job]) -> None:
        texts = [text for job in jobs for text in job.texts]
        self.batches += 1
        try:
            rows = engine.probabilities(texts)
            if len(rows) != len(texts):
                raise ValueError(f"the model gave {len(rows)} rows for {len(texts)} texts")
        except BaseException as error:  # a panic of a Rust tokenizer is no Exception
            if len(jobs) > 1:
                # A text that the model fails on must not fail the requests it happened to be joined with.
                for job in jobs:
                    self._answer(engine, [job])
                return
            self._log.say(f"The model failed on a request: {error!r}", kind="engine_failed")
            _hand_over(jobs[0], EngineError(str(error)))
            return
        begin = 0
        for job in jobs:
            _hand_over(job, rows[begin : begin + len(job.texts)])
            begin += len(job.texts)


def _hand_over(job: _Job, result: Probabilities | EngineError) -> None:
    def settle() -> None:
        if job.answer.done():  # it was given up in the meantime
            return
        if isinstance(result, EngineError):
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)

    # The loop may have ended while the model ran: then nobody waits any more.
    with suppress(RuntimeError):
        job.loop.call_soon_threadsafe(settle)
