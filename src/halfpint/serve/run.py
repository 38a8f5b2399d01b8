"""The server process: a socket, a web application, signals."""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint import registry
from halfpint.bundle import Bundle, open_bundle
from halfpint.errors import HalfpintError, SettingError
from halfpint.lookup import need_command
from halfpint.progress import Log

if TYPE_CHECKING:
    import uvicorn

_BACKLOG = 512


def serve(
    bundle_path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    max_batch: int = 256,
    max_body_bytes: int = 1_000_000,
    timeout_s: float | None = None,
    max_queue: int = 64,
    slots: int | None = None,
    context: int | None = None,
    threads: int | None = None,
    allow_hosts: Sequence[str] = (),
    drain_s: float = 25.0,
    engine_loader: Callable[[Bundle, int | None], Any] | None = None,
    log: Log | None = None,
) -> None:
    """Serve a bundle over HTTP until SIGTERM or Ctrl-C; requests in flight are then finished.

    Args:
        bundle_path: the bundle; its card's task names the file of this room that serves it.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        api_key: asked of every use of the model; see the task's `build_app`, also for the limits.
        timeout_s, slots, context: None takes the task's; a task without it refuses another value.
        allow_hosts: names by which a server without a key may be called, besides those of this machine; where it
            listens for other machines it may be called by any, unless some are given.
        drain_s: seconds that requests in flight have to finish after the signal.
        engine_loader: opens the engine; None takes the one that the card names.
        log: where the address and faults are told; None takes standard error.

    Raises:
        HalfpintError: no bundle there, one that its engine does not read, a setting out of range, or an address not to
            be had.
    """
    from halfpint.serve._connections import server_of

    log = log or Log()
    task = need_command(open_bundle(bundle_path), "serve")
    room = registry.load("serve", task.routes, place=f"{bundle_path}/card.json: task")
    own = {name: value for name, value in (("timeout_s", timeout_s), ("slots", slots), ("context", context)) if value}
    for name in own:
        if name not in signature(room.build_app).parameters:
            raise HalfpintError(
                f"--{name}",
                wanted="a language model for it",
                got=f"a bundle of the task {task.name!r}",
                said=f"--{name} needs a language model; this is a model for the task {task.name!r}.",
            )
    listener = _listen(host, port)
    with listener:
        address = _address(host, listener.getsockname()[1])
        app = room.build_app(
            bundle_path,
            api_key=api_key,
            max_batch=max_batch,
            max_body_bytes=max_body_bytes,
            max_queue=max_queue,
            threads=threads,
            hosts=tuple(allow_hosts) if allow_hosts or _is_loopback(listener) else None,
            engine_loader=engine_loader,
            log=log,
            on_ready=lambda: log.write(
                _ready(address, room.how_to_call(bundle_path, address, api_key), is_loopback=_is_loopback(listener))
            ),
            **own,
        )
        if api_key is None and not _is_loopback(listener):
            log.say(
                f"Warning: {host} can be reached from other machines, and no API key is asked for. "
                "Give one with --api-key, or listen on 127.0.0.1.",
                kind="open_to_all",
            )
        log.say(f"Listening on {address}; the model is loading.", kind="listening", address=address)
        server = server_of(app, drain_s, log)
        model = app.state.model

        def end_if_failed() -> None:
            if not model.loaded():
                server.should_exit = True

        threading.Thread(target=end_if_failed, name="halfpint-loading", daemon=True).start()
        with _stopped_by_signals(server):
            server.run(sockets=[listener])
    if isinstance(model.failure, HalfpintError):
        raise model.failure
    if model.failure is not None:
        raise HalfpintError(
            str(bundle_path), wanted="a model that its engine loads", got=repr(model.failure)[:300],
            todo="Make the bundle again, or report this.",
        ) from model.failure  # fmt: skip
    log.say("Stopped.", kind="stopped")


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Signals ask the server to stop.

    uvicorn has its own handlers while it runs, and raises the signal again when it is done: without these the process
    would end by the signal and not with exit code 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`.

    Raises:
        HalfpintError: the port is taken or not allowed, or the host is not of this machine.
    """
    place = f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise SettingError("--port", wanted="a port from 0 to 65535", got=str(port))
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise HalfpintError(
            place,
            wanted="a host name or address of this machine",
            got=str(error),
            todo="Try --host 127.0.0.1.",
            said=f"{place} is not an address of this machine ({error}).",
        ) from None
    # "localhost" is often both ::1 and 127.0.0.1: the latter is what older clients try.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise HalfpintError(
            place,
            wanted="an address to listen on",
            got=(error.strerror or str(error)).lower(),
            todo="Give another port with --port (0 takes a free one), or stop the program that has this one.",
            said=f"Port {port} is already in use."
            if error.errno == errno.EADDRINUSE
            else f"The server cannot listen on {place}: {(error.strerror or str(error)).lower()}.",
        ) from None
    listener.setblocking(False)
    return listener


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _address(host: str, port: int) -> str:
    """The address to type on this machine."""
    shown = "localhost" if host in ("", "0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _ready(address: str, calls: str, *, is_loopback: bool) -> str:
    share = "  to share it on a network: --host 0.0.0.0 with --api-key KEY, behind a proxy with TLS"
    lines = [f"Ready: {address} (a page to try it), {address}/docs (API documentation)", calls]
    return "\n".join([*lines, share] if is_loopback else lines)
