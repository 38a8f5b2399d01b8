"""Connections of a server: how many there may be, and when those that send nothing are closed."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from halfpint.progress import Log

_MOST_CONNECTIONS, _FEWEST_CONNECTIONS = 1000, 4
_MOST_BACKLOG = 512  # that wait to be accepted
_OTHER_FILES = 32  # that the process opens later: the model's, those of its threads
_GUESSED_FILES = 32  # open already, where the system does not tell
_KEEP_ALIVE_S = 15
_HEADERS_S = 15.0
_BODY_AT_END_S = 2.0  # for a body that is still coming when the server is told to end
_SWEEP_TICKS = 10  # of uvicorn, which has ten per second
_SAME_FAULT_S = 10.0


def server_of(app: Any, drain_s: float, log: Log) -> uvicorn.Server:
    """A server for `app` that gives requests in flight `drain_s` seconds at its end and tells faults to `log`."""
    most, backlog = room()
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=backlog,
        limit_concurrency=most,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(drain_s),
    )
    return _Server(config, most + backlog, log)


def room() -> tuple[int, int]:
    """How many connections the process has files for, and how many are accepted at a time.

    Where accepting one fails for want of a file, asyncio goes on to the next, with a traceback for each.
    """
    try:
        import resource
    except ImportError:  # a system without such a limit
        return _MOST_CONNECTIONS, _MOST_BACKLOG
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS, _MOST_BACKLOG
    try:
        used = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        used = _GUESSED_FILES
    left = max(_FEWEST_CONNECTIONS, allowed - used - _OTHER_FILES)
    backlog = max(1, min(_MOST_BACKLOG, left // 8))
    return max(_FEWEST_CONNECTIONS // 2, min(_MOST_CONNECTIONS, left - 2 * backlog)), backlog


class _Connection(H11Protocol):
    """A connection that knows since when a request is awaited."""

    awaited_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.awaited_since = time.monotonic()
        if len(self.connections) > getattr(self.config, "most_connections", math.inf):
            transport.abort()

    def on_response_complete(self) -> None:
        self.awaited_since = time.monotonic()
        super().on_response_complete()

    @property
    def is_silent(self) -> bool:
        """Whether the headers of a request should have come long ago."""
        awaits = self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete)
        return awaits and time.monotonic() - self.awaited_since > _HEADERS_S

    @property
    def sends_body(self) -> bool:
        """Whether a request has begun whose body is not all there."""
        return self.conn.their_state is h11.SEND_BODY


class _Server(uvicorn.Server):
    """uvicorn's server, with an eye on its connections."""

    def __init__(self, config: uvicorn.Config, most_connections: int, log: Log) -> None:
        super().__init__(config)
        config.most_connections = most_connections  # type: ignore[attr-defined]
        self._log = log
        self._told: dict[str, float] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_MOST_BACKLOG)  # asyncio made it as many as it accepts at a time

    async def on_tick(self, counter: int) -> bool:
        if counter % _SWEEP_TICKS == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, _Connection) and connection.is_silent:
                    connection.transport.close()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(_BODY_AT_END_S, self._give_up_bodies)
        await super().shutdown(sockets)

    def _give_up_bodies(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection) and connection.sends_body:
                connection.transport.close()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell of what nothing else took care of: a line, not more often than is of use."""
        what, now = str(context.get("message", "")), time.monotonic()
        if now - self._told.get(what, -math.inf) > _SAME_FAULT_S:
            self._told[what] = now
            error = context.get("exception")
            said = f"{what}: {os.strerror(error.errno)}" if isinstance(error, OSError) and error.errno else what
            self._log.say(f"The server: {said if error is None or said != what else f'{what}: {error!r}'}"[:400],
                          kind="server_fault")  # fmt: skip
