"""What writes the texts that a server is asked for, several at once: slots, a queue, and a thread that takes turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from halfpint.engines import Generation, LanguageEngine, Piece
from halfpint.errors import HalfpintError
from halfpint.progress import Log
from halfpint.serve._feed import Feed
from halfpint.serve._model_thread import ModelThread, State


class QueueFullError(Exception):
    """As many requests wait as may wait."""


class StoppedError(Exception):
    """The server ends."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One text that is asked for.

    Args:
        prompt: the text to go on from, or its ids, taken as they are.
        settings: of the generation.
        presence_penalty, frequency_penalty: what OpenAI means by them; 0 has none.
        logit_bias: what is added to the logits of some ids.
    """

    prompt: str | tuple[int, ...]
    settings: Generation
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Backend(Protocol):
    """Writes texts, at most `slots` of them at once.

    Attributes:
        state: "loading", then "ok" or "failed"; "stopped" after `stop`.
        slots: texts that it writes at once.
        biases: whether it has penalties for what was written, and biases of tokens.
    """

    state: State
    slots: int
    biases: bool

    @property
    def context(self) -> int:
        """Tokens of a prompt and what is written after it."""
        ...

    def start(self) -> None:
        """Begin to load the model."""
        ...

    def stop(self) -> None:
        """End what is being written, and let the model go."""
        ...

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone; with `special`, names of special tokens in it are those tokens."""
        ...

    def begin(self, text: str) -> tuple[str | tuple[int, ...], int]:
        """The prompt of a text that stands by itself, and its tokens."""
        ...

    def check_schema(self, schema: Mapping[str, Any]) -> None:
        """Compile a JSON schema ahead, not on the event loop: it may take a while, and others are written meanwhile.

        Raises:
            HalfpintError: it cannot be kept to.
        """
        ...

    def write(self, asked: Asked, feed: Feed[Piece]) -> None:
        """Write a text into `feed`, whose last piece tells how it ended, and close the feed.

        What the model cannot do, such as a schema that it cannot keep to, closes the feed with a `HalfpintError`.
        """
        ...


class Ticket:
    """A place in a slot, or in the queue for one.

    Attributes:
        turn: done once the slot is there.
        begun: whether a backend has it, and gives it back when it is done.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun = False

    def release(self) -> None:
        """Give it back: the next in the queue gets the slot."""
        self._slots.give_back(self)


class Slots:
    """Texts that are written at once, and those that wait for it, first come first served.

    Args:
        number: texts at once.
        max_queue: texts that may wait.
    """

    def __init__(self, number: int, max_queue: int) -> None:
        self.number, self.max_queue = number, max_queue
        self._active: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()

    @property
    def active(self) -> int:
        """Texts that are being written."""
        return len(self._active)

    @property
    def queued(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    def full(self, wanted: int = 1) -> bool:
        """Whether so many more would be refused."""
        return self.active + self.queued + wanted > self.number + self.max_queue

    def take(self, wanted: int) -> list[Ticket]:
        """Places for so many texts; each `turn` is done once it may be written.

        Raises:
            QueueFullError: too many wait.
        """
        if self.full(wanted):
            raise QueueFullError
        tickets = [Ticket(self) for _ in range(wanted)]
        self._waiting.extend(tickets)
        self._call()
        return tickets

    def give_back(self, ticket: Ticket) -> None:
        """Free the place of a ticket, in a slot or in the queue; once or more often."""
        self._active.discard(ticket)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        self._call()

    def _call(self) -> None:
        while self._waiting and len(self._active) < self.number:
            ticket = self._waiting.popleft()
            self._active.add(ticket)
            if not ticket.turn.done():
                ticket.turn.set_result(None)


@dataclass(eq=False)
class _Running:
    pieces: Iterator[Piece]
    feed: Feed[Piece]


class EngineBackend(ModelThread[LanguageEngine]):
    """Any engine of language models: one thread advances all texts in turn, a token each.

    A new text joins between two tokens. A text alone goes as fast as the engine does; several share that speed.

    Args:
        load: loads the engine; called in the thread.
        slots: texts that are written at once.
        context: tokens of a prompt and its answer; 0 takes the engine's.
    """

    biases = False

    def __init__(
        self,
        load: Callable[[], LanguageEngine],
        *,
        slots: int,
        context: int,
        log: Log,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(load, log=log, on_ready=on_ready)
        self.slots, self._context = slots, context
        self._new: deque[tuple[Asked, Feed[Piece]]] = deque()

    @property
    def context(self) -> int:
        """Tokens of a prompt and what is written after it."""
        most = self._engine.context
        return min(self._context, most) if self._context else most

    @property
    def _engine(self) -> LanguageEngine:
        assert self.model is not None, "asked before it was loaded"
        return self.model

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone."""
        return self._engine.encode(text, special)

    def begin(self, text: str) -> tuple[str, int]:
        """The text itself, as the engine knows how one begins; and its tokens, that of the beginning too."""
        return text, len(self.encode(text)) + 1

    def check_schema(self, schema: Mapping[str, Any]) -> None:
        """Have the engine compile it, in the thread that asks."""
        self._engine.constraint(schema)

    def write(self, asked: Asked, feed: Feed[Piece]) -> None:
        """Have the thread write a text into `feed`."""
        with self.changed:
            if self.state != "ok":
                feed.close(StoppedError())
                return
            self._new.append((asked, feed))
            self.changed.notify_all()

    def use(self, model: LanguageEngine) -> None:
        """Write all texts in turn until stopped."""
        running: list[_Running] = []
        while self._join(model, running):
            running = [one for one in running if self._advance(one)]
        for one in running:
            one.feed.close(StoppedError())
        for _, feed in self._new:
            feed.close(StoppedError())

    def _join(self, engine: LanguageEngine, running: list[_Running]) -> bool:
        """Take in what is new, waiting for it if there is nothing to write; False once stopped."""
        with self.changed:
            while not self._new and not running and self.state == "ok":
                self.changed.wait()
            if self.state != "ok":
                return False
            new = list(self._new)
            self._new.clear()
        for asked, feed in new:
            try:
                running.append(_Running(engine.write(asked.prompt, asked.settings), feed))
            except BaseException as error:  # a panic of a Rust tokenizer is no Exception
                self._failed(feed, error)
        return True

    def _advance(self, one: _Running) -> bool:
        """Write one more token of a text; gives whether it goes on."""
        if one.feed.cancelled:
            one.feed.close()
            return False
        try:
            piece = next(one.pieces)
        except BaseException as error:
            self._failed(one.feed, error)
            return False
        one.feed.put(piece)
        if piece.finish:
            one.feed.close()
        return not piece.finish

    def _failed(self, feed: Feed[Piece], error: BaseException) -> None:
        if not isinstance(error, HalfpintError):
            self._log.say(f"The model failed on a request: {error!r}", kind="engine_failed")
        feed.close(error)
