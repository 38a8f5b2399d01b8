"""What every served task needs of HTTP: errors as JSON, bounded bodies, the API key, security headers, counting."""

from __future__ import annotations

import asyncio
import hmac
import re
from base64 import b64encode
from collections.abc import Collection
from hashlib import sha256
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halfpint.errors import HalfpintError
from halfpint.progress import Log
from halfpint.serve._guard import Guard, no_json
from halfpint.serve._metrics import Metrics

# A refused body up to this many times the limit is still taken in, so that the sender reads the refusal and not a
# broken connection.
_DISCARD = 8
_SHOWN = 400  # characters

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_NO_CONTENT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_TYPES = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 500: "internal"}


class ApiError(Exception):
    """A refusal: answered as `{"error": {"message", "type"}}` with its status, or as OpenAI's clients read it.

    Args:
        status: of HTTP.
        kind: a word for programs.
        message: a sentence for people.
        param: the field at fault, if it is one.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        headers: dict[str, str] | None = None,
        *,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers, self.param = status, kind, message, headers or {}, param

    def content(self, *, openai: bool = False) -> dict[str, Any]:
        """What is sent; with `openai`, the type goes by the status and the kind is the code."""
        if not openai:
            return {"error": {"message": self.message, "type": self.kind}}
        kind = _OPENAI_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.kind}}

    def response(self, *, openai: bool = False) -> Response:
        """The answer to send."""
        return JSONResponse(self.content(openai=openai), status_code=self.status, headers=self.headers)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 413 as soon as more than `max_bytes` are announced or have come.
    """
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isascii() and declared.isdigit() else 0
    if length > max_bytes:
        raise _too_large(max_bytes, close=length > _DISCARD * max_bytes)
    body, size = bytearray(), 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > _DISCARD * max_bytes:
                raise _too_large(max_bytes, close=True)
            if size <= max_bytes:
                body += piece
    except ClientDisconnect:
        raise ApiError(400, "invalid_request", "The body ended early.") from None
    if size > max_bytes:
        raise _too_large(max_bytes, close=False)
    return bytes(body)


def _too_large(max_bytes: int, *, close: bool) -> ApiError:
    message = f"The body is larger than {max_bytes:,} bytes. Send fewer or shorter texts."
    return ApiError(413, "too_large", message, {"Connection": "close"} if close else None)


def key_needed(api_key: str | None) -> list[Any]:
    """Route dependencies that let a request with `api_key` through; none when there is no key.

    Raises:
        HalfpintError: a key that no header can carry.
    """
    if api_key is None:
        return []
    if not api_key or not api_key.isprintable() or api_key != api_key.strip():
        raise HalfpintError(
            "--api-key",
            wanted="a key of printable characters without spaces around it",
            got="an empty key" if not api_key else "another",
            todo="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            said=f"--api-key is {'empty' if not api_key else 'not a key'}: it takes printable characters without "
            "spaces around them.",
        )
    key = api_key.encode()

    async def check(request: Request) -> None:
        for given in _given_keys(request):
            if hmac.compare_digest(given, key):
                return
        raise ApiError(
            401,
            "unauthorized",
            "This server needs its API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
            {"WWW-Authenticate": 'Bearer realm="halfpint"'},
        )

    # The first two only tell OpenAPI of the headers; `check` reads them as bytes, since a key may be any text.
    schemes = (HTTPBearer(auto_error=False), APIKeyHeader(name="X-API-Key", auto_error=False))
    return [*(Depends(scheme) for scheme in schemes), Depends(check)]


def _given_keys(request: Request) -> list[bytes]:
    found = []
    for name, value in request.headers.raw:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
    return found


def page_response(html: str, *, style_attributes: bool = False) -> HTMLResponse:
    """A page whose own <style> and <script> may run and nothing else, but for style attributes where it needs them."""

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(part.encode()).digest()).decode()}'" for part in parts) or "'none'"

    own = f"style-src {hashes('style')}; script-src {hashes('script')}"
    own += "; style-src-attr 'unsafe-inline'" if style_attributes else ""
    policy = f"{_NO_CONTENT}; connect-src 'self'; img-src data:; {own}"
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


def install(
    app: FastAPI, metrics: Metrics, routes: Collection[str], *, log: Log, guard: Guard | None, openai: bool = False
) -> None:
    """Give `app` its error answers (as OpenAI's with `openai`), its headers, its guard, and counting by `routes`."""

    async def told(request: Request, error: Exception) -> Response:
        if isinstance(error, ApiError):
            return error.response(openai=openai)
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = {404: "There is nothing at this address.", 405: "This address takes another method."}.get(status)
        message = text or (str(error.detail) if isinstance(error, HTTPException) else "Something failed.")
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else None
        return ApiError(status, _TYPES.get(status, "invalid_request"), message, headers).response(openai=openai)

    app.add_exception_handler(ApiError, told)
    app.add_exception_handler(HTTPException, told)
    app.add_middleware(
        _Surround, metrics=metrics, routes=frozenset(routes), openai=openai, log=log, guard=guard
    )  # fmt: skip


class _Surround:
    """Counts requests, adds the headers, refuses what is not for any route, and answers what fails with a 500 in JSON.

    HEAD is GET without the body.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: frozenset[str], *, openai: bool, log: Log, guard: Guard | None
    ) -> None:
        self.app, self.metrics, self.routes, self.openai = app, metrics, routes, openai
        self.log, self.guard = log, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, is_head = 0, scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                missing = [pair for pair in _HEADERS if pair[0] not in given]
                if b"content-security-policy" not in given:
                    missing.append((b"content-security-policy", _NO_CONTENT.encode()))
                message = {**message, "headers": [*message["headers"], *missing]}
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            if (refused := self._refusal(scope)) is not None:
                await refused.response(openai=self.openai)(scope, receive, sending)
            else:
                await self.app({**scope, "method": "GET"} if is_head else scope, receive, sending)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a Rust tokenizer is no Exception
            if not status:
                failed = ApiError(500, "internal", "Something failed in the server.")
                await failed.response(openai=self.openai)(scope, receive, sending)
            self.log.say(f"A request to {scope['path'][:80]} failed: {error!r}"[:_SHOWN], kind="request_failed")
        finally:
            # Other paths share one name: a scan of random addresses must not grow the metrics.
            self.metrics.request(scope["path"] if scope["path"] in self.routes else "other", status or 499)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        found = self.guard.refusal(scope["method"], headers) if self.guard is not None else None
        if found is None and scope["method"] == "POST" and scope["path"] in self.routes:
            found = no_json(headers)
        return None if found is None else ApiError(*found)
