"""One thread that loads a model and then runs it, joining the requests that wait into one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from halfpint.engines import Engine
from halfpint.outputs import Outputs
from halfpint.progress import Log
from halfpint.serve._model_thread import ModelThread


class QueueFullError(Exception):
    """As many requests wait as may wait."""


class EngineError(Exception):
    """The model failed on a request."""


@dataclass(eq=False)
class _Job:
    texts: Sequence[str]
    answer: asyncio.Future[Outputs]
    loop: asyncio.AbstractEventLoop


class Worker(ModelThread[Engine]):
    """A model that gives labels in a thread of its own.

    Args:
        load: loads the model; called in the thread.
        max_batch: texts in one call of the model, at most.
        max_queue: requests that may wait.
        on_ready: called in the thread once the model is loaded.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        *,
        max_batch: int,
        max_queue: int,
        log: Log,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(load, log=log, on_ready=on_ready)
        self._max_batch, self._max_queue = max_batch, max_queue
        self._jobs: deque[_Job] = deque()
        self.batches = 0

    @property
    def queued(self) -> int:
        """Requests that wait for the model; those in the running call do not count."""
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return len(self._jobs) >= self._max_queue

    async def probabilities(self, texts: Sequence[str]) -> Outputs:
        """Probabilities of the labels of at most `max_batch` texts.

        Cancelling the wait takes the request out of the queue.

        Raises:
            QueueFullError: too many requests wait.
            EngineError: the model failed.
        """
        loop = asyncio.get_running_loop()
        job = _Job(texts, loop.create_future(), loop)
        with self.changed:
            if self.full:
                raise QueueFullError
            self._jobs.append(job)
            self.changed.notify()
        try:
            return await job.answer
        finally:
            with self.changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def use(self, model: Engine) -> None:
        """Answer requests until stopped."""
        while jobs := self._take():
            self._answer(model, jobs)

    def _take(self) -> list[_Job]:
        """The waiting requests that fit into one call, waiting for the first; none once stopped."""
        with self.changed:
            while not self._jobs and self.state == "ok":
                self.changed.wait()
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


def _hand_over(job: _Job, result: Outputs | EngineError) -> None:
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
