"""Serving a language model as OpenAI's clients expect it, with a page, health and metrics around it."""

from __future__ import annotations

import asyncio
import json
import math
import shlex
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from halfpint import __version__
from halfpint.bundle import CARD, Bundle, open_bundle
from halfpint.engines import LanguageEngine, Piece, open_language_engine
from halfpint.errors import HalfpintError, SettingError
from halfpint.lookup import need_routes
from halfpint.progress import SILENT, Log
from halfpint.serve import _about, _http, _metrics
from halfpint.serve._docs import docs_page
from halfpint.serve._events import EventStream, GoneError, unless_gone
from halfpint.serve._generation import Backend, EngineBackend, QueueFullError, Slots, StoppedError
from halfpint.serve._guard import Guard
from halfpint.serve._llama_server import LlamaBackend, LlamaServer
from halfpint.serve._openai_answers import Answer, event
from halfpint.serve._openai_fields import ChatRequest, CompletionRequest, OpenAIErrorAnswer
from halfpint.serve._openai_requests import Job, Reader, refused
from halfpint.serve._pages import page_of, style
from halfpint.serve._texts import LateError, Texts
from halfpint.tokenizers.chat_template import ChatTemplate

EngineLoader = Callable[[Bundle, int | None], LanguageEngine]
Batch = tuple[int, list[Piece]]

GATHER_S = 0.02
"""Seconds between the pieces of a stream: waking for each token would cost a small model a part of its speed."""

_BODY_S = 60.0
_CHAT, _COMPLETIONS, _MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
_ROUTES = ("/", "/report", _CHAT, _COMPLETIONS, _MODELS, "/health", "/metrics", "/docs", "/openapi.json")
_CHAT_EXAMPLE = {"messages": [{"role": "user", "content": "What is a half-pint?"}], "max_tokens": 64}
_TEXT_EXAMPLE = {"prompt": "A half-pint is", "max_tokens": 32}
_REFERENCE = "#/components/schemas/{model}"
_STATUSES = {
    400: "not JSON, a field that is wrong or not supported, or a prompt longer than the context",
    401: "no API key, or not the right one",
    404: "a model of another name",
    403: "a page of another site, or a name that is not this server's; with --allow-host it is taken",
    408: "request timed out",
    413: "a body that is too large",
    415: "a body that is not sent as JSON",
    429: "too many requests wait; come back after Retry-After seconds",
    500: "the model failed",
    503: "the model is not loaded",
    504: "no token in time",
}


def build_app(
    bundle_path: Path,
    *,
    api_key: str | None = None,
    max_batch: int = 256,
    max_body_bytes: int = 1_000_000,
    timeout_s: float = 600.0,
    max_queue: int = 64,
    slots: int = 4,
    context: int = 0,
    threads: int | None = None,
    hosts: Collection[str] | None = None,
    engine_loader: EngineLoader | None = None,
    log: Log = SILENT,
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """The web application that writes with the language model at `bundle_path`; it loads it once it starts.

    Args:
        bundle_path: the bundle of a language model.
        api_key: asked of /v1/* and /metrics; None leaves them open.
        max_batch: texts (prompts times n) in one request, at most.
        max_body_bytes: a larger request body is refused while it is read.
        timeout_s: seconds for a whole request, its wait too: what was written until then is sent, as if max_tokens had
            ended it; a request without a token by then is refused.
        max_queue: texts that may wait for a slot; a request with more is told to come back.
        slots: texts that are written at once.
        context: tokens of a prompt and its answer; 0 takes the model's, as far as memory for all slots is reasonable.
        threads: threads of the engine; None takes one a core.
        hosts: names by which a server without a key may be called, besides local ones; None: any.
        engine_loader: opens the engine of the bundle; None takes the engine that its card names.
        log: where a failed load or a failed call is told.
        on_ready: called once the model is loaded.

    Raises:
        HalfpintError: no bundle there, one of another task, or a setting out of range.
    """
    for name, value, least in (
        ("max_batch", max_batch, 1),
        ("max_body_bytes", max_body_bytes, 1),
        ("timeout_s", timeout_s, 1e-3),
        ("max_queue", max_queue, 1),
        ("slots", slots, 1),
        ("context", context, 0),
    ):
        if value < least:
            raise SettingError(name, wanted="a number above 0", got=repr(value))
    key_needed = _http.key_needed(api_key)
    bundle = Bundle(bundle_path)
    task = need_routes(bundle, __name__)
    model = {
        "model": bundle.path.resolve().name,
        "engine": str(bundle.card.get("engine")),
        "fingerprint": bundle.fingerprint[:12],
    }
    backend = _backend(
        bundle, threads, engine_loader, slots=slots, context=context, log=log, on_ready=on_ready
    )  # fmt: skip
    metrics = _metrics.LanguageMetrics()
    queue = Slots(slots, max_queue)
    reader = Reader(bundle, backend, model["model"], max_batch)
    body_s = min(timeout_s, _BODY_S)
    created = int((bundle.path / CARD).stat().st_mtime)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend.start()
        yield
        await asyncio.to_thread(backend.stop)

    app = FastAPI(
        title=f"halfpint: {model['model']}",
        description="Writes text, by the routes of OpenAI's interface.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.model = backend
    has_report = _about.add_report(app, bundle_path, is_local=api_key is None and hosts is not None)
    about = {"title": _about.title_of(bundle_path), "report": has_report}
    guard = Guard(hosts) if api_key is None else None
    _http.install(app, metrics, _ROUTES, log=log, guard=guard, openai=True)
    page = page_of(task.routes)
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": said, "model": OpenAIErrorAnswer}
        for status, said in _STATUSES.items()
        if status != (401 if api_key is None else 403)
    }

    async def answer(request: Request, read: Callable[[bytes], Job], *, chat: bool) -> Response:
        begun = time.monotonic()
        if backend.state != "ok":
            raise _not_ready(backend)
        if queue.full():  # before the body is read, so that an overload costs no memory
            raise _busy()
        try:
            async with asyncio.timeout(body_s):
                body = await _http.read_body(request, max_body_bytes)
        except TimeoutError:
            raise _http.ApiError(408, "timeout", f"The body did not come within {body_s:g} s.") from None
        try:
            # A template is rendered and a schema compiled there; both are bounded, so that the thread ends soon.
            async with asyncio.timeout(timeout_s - (time.monotonic() - begun)):
                job = await asyncio.to_thread(read, body)
        except TimeoutError:
            raise _told(LateError(), timeout_s) from None
        try:
            texts = Texts(
                job.asked, backend, queue, metrics, timeout_s=timeout_s - (time.monotonic() - begun),
                gather_s=GATHER_S if job.stream else math.inf,
            )  # fmt: skip
        except QueueFullError:
            raise _busy() from None
        metrics.asked(job.prompt_tokens)
        made = Answer(
            chat=chat, model=model["model"], fingerprint=model["fingerprint"], prompt_tokens=job.prompt_tokens,
            usage=job.include_usage,
        )  # fmt: skip
        batches = texts.pieces()
        handed_over = False
        try:
            if not job.stream:
                whole = await unless_gone(request.receive, _gathered(batches, len(job.asked)))
                return JSONResponse(made.whole(whole, scored=job.asked[0].settings.logprobs is not None))
            # The status is told only once something came: until then there may be a refusal.
            first = await unless_gone(request.receive, anext(batches))
            handed_over = True
            return EventStream(_events(made, first, batches, timeout_s), batches)
        except GoneError:
            return Response(status_code=499)
        except Exception as error:
            raise _told(error, timeout_s) from None
        finally:
            if not handed_over:
                await batches.aclose()
                texts.release()

    @app.post(_CHAT, responses=refusals, dependencies=key_needed, openapi_extra=_body(ChatRequest, _CHAT_EXAMPLE),
              response_description="a message, as a whole or as server-sent events")  # fmt: skip
    async def chat_completions(request: Request) -> Response:
        """The next message of a conversation, by the model's own chat template."""
        return await answer(request, reader.chat, chat=True)

    @app.post(_COMPLETIONS, responses=refusals, dependencies=key_needed,
              openapi_extra=_body(CompletionRequest, _TEXT_EXAMPLE),
              response_description="a text, as a whole or as server-sent events")  # fmt: skip
    async def completions(request: Request) -> Response:
        """What goes on from a text."""
        return await answer(request, reader.completion, chat=False)

    def described() -> dict[str, Any]:
        return {"id": model["model"], "object": "model", "created": created, "owned_by": "halfpint"}

    @app.get(_MODELS, dependencies=key_needed, response_description="a list of one")
    async def models() -> Response:
        """The model that is served."""
        return JSONResponse({"object": "list", "data": [described()]})

    @app.get(_MODELS + "/{name}", dependencies=key_needed, response_description="the model")
    async def one_model(name: str) -> Response:
        """The model of a name."""
        if name != model["model"]:
            message = f"There is no model {name!r} here; there is {model['model']!r}."
            raise _http.ApiError(404, "model_not_found", message, param="model")
        return JSONResponse(described())

    @app.get("/health", response_description="the model is ready", responses={503: {"description": "it is not"}})
    async def health() -> Response:
        """Whether the model is ready: 200 when it is, 503 while it loads or when loading failed."""
        told = {"status": backend.state, "version": __version__, "api_key": api_key is not None, **model, **about}
        if backend.state != "ok":
            return JSONResponse(told, status_code=503, headers={"Retry-After": "1"})
        template = reader.template
        more = dict(chat=template is not None, system=template is not None and template.takes_system)
        return JSONResponse({**told, "context": backend.context, "slots": slots, **more})

    @app.get(
        "/metrics", response_description="Prometheus text", response_class=PlainTextResponse, dependencies=key_needed
    )
    async def show_metrics() -> Response:
        """Requests, tokens, times, queue and memory, for Prometheus."""
        text = metrics.render(active=queue.active, queued=queue.queued, loaded=backend.state == "ok", model=model)
        return Response(text, headers={"Content-Type": _metrics.CONTENT_TYPE})

    _tell_parts(app, ChatRequest, CompletionRequest)

    @app.get("/", include_in_schema=False)
    async def try_page() -> Response:
        return _http.page_response(page)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _http.page_response(docs_page(app.openapi(), style()))

    return app


def how_to_call(bundle_path: Path, address: str, api_key: str | None) -> str:
    """What to type to try the server at `address`."""
    name, key = bundle_path.resolve().name, "" if api_key is None else " -H 'Authorization: Bearer YOUR_KEY'"
    try:
        ChatTemplate(bundle_path)
        route, body = _CHAT, {"model": name, **_CHAT_EXAMPLE}
    except HalfpintError:
        route, body = _COMPLETIONS, {"model": name, **_TEXT_EXAMPLE}
    sent = shlex.quote(json.dumps(body))
    return (
        f"  curl {address}{route}{key} -H 'Content-Type: application/json' -d {sent}\n"
        f'  or from Python: OpenAI(base_url="{address}/v1", api_key="{"none" if api_key is None else "YOUR_KEY"}")'
    )


def _backend(
    bundle: Bundle,
    threads: int | None,
    engine_loader: EngineLoader | None,
    *,
    slots: int,
    context: int,
    log: Log,
    on_ready: Callable[[], None] | None,
) -> Backend:
    if bundle.card.get("engine") == "llama_cpp" and engine_loader is None:
        return LlamaBackend(
            lambda: LlamaServer(open_bundle(bundle.path), threads, slots=slots, context=context),
            slots=slots, log=log, on_ready=on_ready,
        )  # fmt: skip

    def load() -> LanguageEngine:
        opened = open_bundle(bundle.path)
        if engine_loader:
            return engine_loader(opened, threads)
        engine = open_language_engine(opened, threads=threads)
        engine.check_writes("serve")
        return engine

    return EngineBackend(load, slots=slots, context=context, log=log, on_ready=on_ready)


async def _gathered(batches: AsyncIterator[Batch], texts: int) -> list[list[Piece]]:
    """All pieces of each text."""
    found: list[list[Piece]] = [[] for _ in range(texts)]
    async for number, some in batches:
        found[number] += some
    return found


async def _events(made: Answer, first: Batch, batches: AsyncIterator[Batch], timeout_s: float) -> AsyncGenerator[bytes]:
    """The events of a stream; what goes wrong in it is an event too, as the status was sent."""
    try:
        yield made.pieces(*first)
        async for number, some in batches:
            if sent := made.pieces(number, some):
                yield sent
        yield made.last()
    except Exception as error:
        yield event(_told(error, timeout_s).content(openai=True))


def _told(error: Exception, timeout_s: float) -> _http.ApiError:
    if isinstance(error, LateError):
        message = f"There was no token within {timeout_s:g} s. Send less, or come back later."
        return _http.ApiError(504, "timeout", message)
    if isinstance(error, StoppedError):
        return _http.ApiError(503, "stopped", "The server is shutting down.", {"Retry-After": "30"})
    if isinstance(error, HalfpintError):
        return refused(error)
    return _http.ApiError(500, "internal", "The model failed on this request.")


def _not_ready(backend: Backend) -> _http.ApiError:
    if backend.state == "loading":
        return _http.ApiError(503, "loading", "The model is still loading.", {"Retry-After": "1"})
    return _http.ApiError(503, backend.state, f"The model is not there: {backend.state}.", {"Retry-After": "30"})


def _busy() -> _http.ApiError:
    return _http.ApiError(429, "queue_full", "Too many requests wait for the model.", {"Retry-After": "1"})


def _tell_parts(app: FastAPI, *kinds: type[BaseModel]) -> None:
    """Have the OpenAPI description hold the objects that requests are made of."""
    before = app.openapi

    def openapi() -> dict[str, Any]:
        api = before()
        schemas = api.setdefault("components", {}).setdefault("schemas", {})
        for kind in kinds:
            schemas.update(kind.model_json_schema(ref_template=_REFERENCE).get("$defs", {}))
        return api

    app.openapi = openapi  # type: ignore[method-assign]


def _body(kind: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    schema = kind.model_json_schema(ref_template=_REFERENCE)
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
