"""Serving classification: a JSON interface, a page, health and metrics around one model."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, PlainTextResponse, Response

from halfpint import __version__
from halfpint.bundle import Bundle, open_bundle
from halfpint.engines import Engine, open_engine
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT, Log
from halfpint.serve import _http, _metrics
from halfpint.serve._docs import docs_page
from halfpint.serve._pages import page_of, style
from halfpint.serve._worker import EngineError, QueueFullError, Worker
from halfpint.task import label_task, need_routes

EngineLoader = Callable[[Bundle, int | None], Engine]

_EXAMPLE = {"texts": ["My card has not arrived.", "How do I change my PIN?"], "top": 3}
_ROUTES = ("/", "/v1/classify", "/health", "/metrics", "/docs", "/openapi.json")


class ClassifyRequest(BaseModel):
    """Exactly one of `text` and `texts`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | None = Field(None, description="One text.")
    texts: list[str] | None = Field(None, description="Several texts.")
    top: int = Field(5, ge=1, description="How many labels to give for each text; 5 if not given.")


class Score(BaseModel):
    """A label and its probability."""

    label: str
    probability: float = Field(description="From 0 to 1.")


class Result(Score):
    """The likeliest label of one text."""

    scores: list[Score] = Field(description="The likeliest labels, the best first.")


class ClassifyAnswer(BaseModel):
    """The results, in the order of the texts."""

    model: str = Field(description="The name of the model.")
    results: list[Result]
    latency_ms: float = Field(description="Milliseconds in the server, waiting included.")


class Fault(BaseModel):
    """What is wrong."""

    message: str = Field(description="In words.")
    type: str = Field(description="For programs: invalid_request, too_large, unauthorized, queue_full, …")


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: Fault


def build_app(
    bundle_path: Path,
    *,
    api_key: str | None = None,
    max_batch: int = 256,
    max_body_bytes: int = 1_000_000,
    timeout_s: float = 30.0,
    max_queue: int = 64,
    threads: int | None = None,
    engine_loader: EngineLoader | None = None,
    log: Log = SILENT,
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """The web application that serves the bundle at `bundle_path`; its model is loaded in a thread once it starts.

    Args:
        bundle_path: a bundle of the task `classify`.
        api_key: asked of /v1/* and /metrics; None leaves them open.
        max_batch: texts in one request and in one call of the model, at most.
        max_body_bytes: a larger request body is refused while it is read.
        timeout_s: seconds from the start of a request to its answer, at most.
        max_queue: requests that may wait for the model; one more is told to come back.
        threads: threads of the engine; None takes one a core.
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
            raise HalfpintError(name, wanted="a number above 0", got=repr(value))
    key_needed = _http.key_needed(api_key)
    bundle = Bundle(bundle_path)
    task = label_task(need_routes(bundle, __name__), str(bundle_path))
    model = _model_info(bundle)

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
        description="Classifies texts.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _http.install(app, metrics, _ROUTES)
    page = page_of(task.routes)

    app.state.model = worker

    @app.post(
        "/v1/classify",
        response_model=ClassifyAnswer,
        response_description="the labels",
        dependencies=key_needed,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ClassifyRequest.model_json_schema(), "example": _EXAMPLE}},
            }
        },
        responses=_refusals(*((401,) if api_key else ()), 400, 408, 413, 422, 429, 503, 504),
    )
    async def classify(request: Request) -> Response:
        """Labels for one text or for several, with their probabilities."""
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
        texts, top = _parse(body, max_batch)
        try:
            async with asyncio.timeout_at(deadline):
                rows = await worker.probabilities(texts)
        except TimeoutError:
            message = f"The labels were not ready within {timeout_s:g} s. Send fewer texts, or come back later."
            raise _http.ApiError(504, "timeout", message) from None
        except QueueFullError:
            raise _busy() from None
        except EngineError:
            raise _http.ApiError(500, "internal", "The model failed on this request.") from None
        assert worker.model is not None
        results = task.rows(texts, rows, worker.model.labels, top)
        seconds = time.perf_counter() - begun
        metrics.classified(len(texts), seconds)
        return JSONResponse({"model": model["model"], "results": results, "latency_ms": round(seconds * 1000, 3)})

    @app.get("/health", response_description="the model is ready", responses={503: {"description": "it is not"}})
    async def health() -> Response:
        """Whether the model is ready: 200 when it is, 503 while it loads or when loading failed."""
        told = {"status": worker.state, "version": __version__, "api_key": api_key is not None, **model}
        if worker.state == "ok" and worker.model is not None:
            return JSONResponse({**told, "labels": len(worker.model.labels)})
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


def how_to_call(bundle_path: Path, address: str, api_key: str | None) -> str:
    """What to type to try the server at `address`."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if api_key is not None else ""
    body = shlex.quote('{"text": "What is this about?"}')
    return f"  curl {address}/v1/classify{key} -H 'Content-Type: application/json' -d {body}"


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
        408: "the body came too slowly",
        413: "too many texts, or a body that is too large",
        422: "not the body that is wanted",
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


def _parse(body: bytes, max_batch: int) -> tuple[list[str], int]:
    """The texts of a request body and how many labels are wanted.

    Raises:
        ApiError: 400 for what is not JSON, 422 for other wrong bodies, 413 for too many texts.
    """
    try:
        asked = ClassifyRequest.model_validate_json(body)
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
    return texts, asked.top
