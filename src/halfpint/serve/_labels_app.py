"""Serving a model that gives labels: a JSON interface, a page, health and metrics, for every task that has any."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, PlainTextResponse, Response

from halfpint import __version__
from halfpint.bundle import Bundle, open_bundle
from halfpint.engines import Engine, open_engine
from halfpint.errors import SettingError
from halfpint.lookup import need_routes
from halfpint.outputs import Outputs
from halfpint.progress import SILENT, Log
from halfpint.serve import _about, _http, _metrics
from halfpint.serve._docs import docs_page
from halfpint.serve._guard import Guard
from halfpint.serve._pages import page_of, style
from halfpint.serve._worker import EngineError, QueueFullError, Worker
from halfpint.task import LabelTask, label_task

EngineLoader = Callable[[Bundle, int | None], Engine]

_MOST_NAMES = 100  # of labels, told by /health
_OTHER_ROUTES = ("/", "/report", "/health", "/metrics", "/docs", "/openapi.json")


class Asked(BaseModel):
    """Exactly one of `text` and `texts`."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    text: str | None = Field(None, description="One text.")
    texts: list[str] | None = Field(None, description="Several texts.")


class Part(BaseModel):
    """A part of an answer; what a field is stands in the text below it."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Answer(Part):
    """The results, in the order of the texts."""

    model: str = Field(description="The name of the model.")
    latency_ms: float = Field(description="Milliseconds in the server, waiting included.")


@dataclass(frozen=True, kw_only=True)
class Route:
    """What a task's own file says of how it is served.

    Args:
        module: that file's `__name__`; its last part names the page and the route, /v1/NAME.
        about: what the server does, as a sentence: "Classifies texts."
        does: what the route does, as a sentence; gives: what it gives, in a word or two.
        example: a request; call: one to type.
        asked: a request, with `text` and `texts`; answer: what is sent back, with "results".
        finish: turns `LabelTask.rows` of some texts into the results, given the request.
    """

    module: str
    about: str
    does: str
    gives: str
    example: Mapping[str, Any]
    call: Mapping[str, Any]
    asked: type[Asked]
    answer: type[Answer]
    finish: Callable[[LabelTask[Any], Any, Sequence[str], list[dict[str, Any]]], list[dict[str, Any]]] | None = None

    @property
    def name(self) -> str:
        """The name of the page and of the route."""
        return self.module.rpartition(".")[2]

    @property
    def path(self) -> str:
        """Where it answers."""
        return f"/v1/{self.name}"


class Fault(BaseModel):
    """What is wrong."""

    message: str = Field(description="In words.")
    type: str = Field(description="For programs: invalid_request, too_large, unauthorized, queue_full, …")


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: Fault


def build_labels_app(
    route: Route,
    bundle_path: Path,
    *,
    api_key: str | None = None,
    max_batch: int = 256,
    max_body_bytes: int = 1_000_000,
    timeout_s: float = 30.0,
    max_queue: int = 64,
    threads: int | None = None,
    hosts: Collection[str] | None = None,
    engine_loader: EngineLoader | None = None,
    log: Log = SILENT,
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """The web application that serves the bundle at `bundle_path`; its model is loaded in a thread once it starts.

    Args:
        route: what the task's file says of itself.
        bundle_path: a bundle of a task that this file serves.
        api_key: asked of /v1/* and /metrics; None leaves them open.
        max_batch: texts in one request and in one call of the model, at most.
        max_body_bytes: a larger request body is refused while it is read.
        timeout_s: seconds from the start of a request to its answer, at most.
        max_queue: requests that may wait for the model; one more is told to come back.
        threads: threads of the engine; None takes one a core.
        hosts: names by which a server without a key may be called, besides local ones; None: any.
        engine_loader: opens the engine of the bundle; None takes the engine that its card names.
        log: where a failed load or a failed call is told.
        on_ready: called from the model's thread once the model is loaded.

    Raises:
        HalfpintError: no bundle there, one of another task, or a setting out of range.
    """
    for name, value in (
        ("max_batch", max_batch),
        ("max_body_bytes", max_body_bytes),
        ("timeout_s", timeout_s),
        ("max_queue", max_queue),
    ):
        if value <= 0:
            raise SettingError(name, wanted="a number above 0", got=repr(value))
    key_needed = _http.key_needed(api_key)
    bundle = Bundle(bundle_path)
    task = label_task(need_routes(bundle, route.module), str(bundle_path))
    model = _model_info(bundle)

    def written(asked: Asked, texts: Sequence[str], rows: Outputs, labels: Sequence[str], begun: float) -> Response:
        results = task.rows(texts, rows, labels, getattr(asked, "top", 1))
        results = route.finish(task, asked, texts, results) if route.finish else results
        latency_ms = round((time.perf_counter() - begun) * 1000, 3)
        return JSONResponse({"model": model["model"], "results": results, "latency_ms": latency_ms})

    def load() -> Engine:
        return (engine_loader or _open_engine)(open_bundle(bundle_path), threads)

    worker = Worker(load, max_batch=max_batch, max_queue=max_queue, log=log, on_ready=on_ready)
    metrics = _metrics.ClassifyMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    app = FastAPI(
        title=f"halfpint: {model['model']}",
        description=route.about,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    guard = Guard(hosts) if api_key is None else None
    _http.install(app, metrics, (route.path, *_OTHER_ROUTES), log=log, guard=guard)
    page = page_of(task.routes)

    app.state.model = worker
    has_report = _about.add_report(app, bundle_path, is_local=api_key is None and hosts is not None)
    about = {"title": _about.title_of(bundle_path), "report": has_report}

    @app.post(
        route.path,
        response_model=route.answer,
        response_description=route.gives,
        description=route.does,
        dependencies=key_needed,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": route.asked.model_json_schema(), "example": dict(route.example)}
                },
            }
        },
        responses=_refusals(*((401,) if api_key else (403,)), 400, 408, 413, 415, 422, 429, 503, 504),
    )
    async def label(request: Request) -> Response:
        begun = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + timeout_s
        if worker.state != "ok":
            raise _not_ready(worker)
        if worker.full:  # before the body is read, so that an overload costs no memory
            raise _busy()
        try:
            async with asyncio.timeout_at(deadline):
                body = await _http.read_body(request, max_body_bytes)
        except TimeoutError:
            raise _http.ApiError(408, "timeout", f"The body did not come within {timeout_s:g} s.") from None
        asked, texts = _parse(route.asked, body, max_batch)
        try:
            async with asyncio.timeout_at(deadline):
                rows = await worker.probabilities(texts)
                assert worker.model is not None
                # In a thread: while a long answer is put together, other requests go on.
                answer = await asyncio.to_thread(written, asked, texts, rows, worker.model.labels, begun)
        except TimeoutError:
            message = f"The answer was not ready within {timeout_s:g} s. Send fewer texts, or come back later."
            raise _http.ApiError(504, "timeout", message) from None
        except QueueFullError:
            raise _busy() from None
        except EngineError:
            raise _http.ApiError(500, "internal", "The model failed on this request.") from None
        metrics.classified(len(texts), time.perf_counter() - begun)
        return answer

    @app.get("/health", response_description="the model is ready", responses={503: {"description": "it is not"}})
    async def health() -> Response:
        """Whether the model is ready: 200 when it is, 503 while it loads or when loading failed."""
        told = {"status": worker.state, "version": __version__, "api_key": api_key is not None, **model, **about}
        if worker.state == "ok" and worker.model is not None:
            names = list(task.names(worker.model.labels))
            return JSONResponse(
                {**told, "labels": len(names), "label_names": names[:_MOST_NAMES], "max_batch": max_batch}
            )
        return JSONResponse(told, status_code=503, headers={"Retry-After": "1"})

    @app.get(
        "/metrics", response_description="Prometheus text", response_class=PlainTextResponse, dependencies=key_needed
    )
    async def show_metrics() -> Response:
        """Requests, texts, latency, queue and memory, for Prometheus."""
        loaded = worker.state == "ok"
        text = metrics.render(queued=worker.queued, batches=worker.batches, loaded=loaded, model=model)
        return Response(text, headers={"Content-Type": _metrics.CONTENT_TYPE})

    @app.get("/", include_in_schema=False)
    async def try_page() -> Response:
        return _http.page_response(page)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _http.page_response(docs_page(app.openapi(), style()))

    return app


def how_to_call(route: Route, bundle_path: Path, address: str, api_key: str | None) -> str:
    """What to type to try the server at `address`."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if api_key is not None else ""
    body = shlex.quote(json.dumps(dict(route.call), ensure_ascii=False))
    return f"  curl {address}{route.path}{key} -H 'Content-Type: application/json' -d {body}"


def _open_engine(bundle: Bundle, threads: int | None) -> Engine:
    return open_engine(bundle, threads=threads)


def _model_info(bundle: Bundle) -> dict[str, str]:
    """What is told of the model: its name (the folder's), its engine, and the start of its fingerprint."""
    return {
        "model": bundle.path.resolve().name,
        "engine": str(bundle.card.get("engine")),
        "fingerprint": bundle.fingerprint[:12],
    }


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    said = {
        400: "not JSON",
        401: "no API key, or not the right one",
        403: "a page of another site, or a name that is not this server's; with --allow-host it is taken",
        408: "request timed out",
        413: "too many texts, or a body that is too large",
        415: "a body that is not sent as JSON",
        422: "invalid request body",
        429: "too many requests wait; come back after Retry-After seconds",
        503: "the model is not loaded",
        504: "not ready in time",
    }
    return {status: {"description": said[status], "model": ErrorAnswer} for status in statuses}


def _not_ready(worker: Worker) -> _http.ApiError:
    if worker.state == "loading":
        return _http.ApiError(503, "loading", "The model is still loading.", {"Retry-After": "1"})
    return _http.ApiError(503, worker.state, f"The model is not there: {worker.state}.", {"Retry-After": "30"})


def _busy() -> _http.ApiError:
    return _http.ApiError(429, "queue_full", "Too many requests wait for the model.", {"Retry-After": "1"})


def _parse(kind: type[Asked], body: bytes, max_batch: int) -> tuple[Asked, list[str]]:
    """A request body and its texts.

    Raises:
        ApiError: 400 for what is not JSON, 422 for other wrong bodies, 413 for too many texts.
    """
    try:
        asked = kind.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        message = f"{place}: {fault['msg']}" if place else fault["msg"]
        status = 400 if fault["type"] == "json_invalid" else 422
        raise _http.ApiError(status, "invalid_request", f'{message}. Send {{"text": "…"}}.') from None
    if (asked.text is None) == (asked.texts is None):
        raise _http.ApiError(422, "invalid_request", "Send either 'text' or 'texts'.")
    texts = [asked.text] if asked.text is not None else asked.texts or []
    if not texts:
        raise _http.ApiError(422, "invalid_request", "texts: the list is empty.")
    if len(texts) > max_batch:
        message = f"texts: {len(texts):,} in one request; at most {max_batch:,} are taken. Send them in parts."
        raise _http.ApiError(413, "too_large", message)
    for index, text in enumerate(texts):
        if not text.strip():
            place = "text" if asked.text is not None else f"texts.{index}"
            raise _http.ApiError(422, "invalid_request", f"{place}: the text is empty.")
    return asked, texts
