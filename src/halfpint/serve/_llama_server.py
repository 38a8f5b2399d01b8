"""GGUF bundles: llama.cpp's own server core writes the texts, several at once by continuous batching.

The core runs in this process, through xllamacpp. It opens a listener of its own, which nobody must reach, as it knows
neither our keys nor our limits: it is given a socket in a private folder, which is gone once the core is up, and a key
that nobody knows.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from halfpint.bundle import Bundle
from halfpint.engines import Piece, TextBySchema, TokenScore, checked_schema
from halfpint.errors import HalfpintError, need
from halfpint.machine import cores
from halfpint.models.packed_gguf import GGUF_FILE, opened_gguf
from halfpint.progress import Log
from halfpint.serve._feed import Feed
from halfpint.serve._generation import Asked, StoppedError
from halfpint.serve._model_thread import ModelThread
from halfpint.tokenizers.gguf import read_for_gguf
from halfpint.tokenizers.load import open_tokenizer

_MOST_CONTEXT = 4096  # tokens of one text, unless more is asked for: what models were made for takes memory
_LEAST_CONTEXT = 512
_MOST_CACHE_BYTES = 1 << 30  # of the keys and values of all texts, unless a context is asked for
_BATCH = 256  # tokens of prompts read at a time: others write on, and a request can be given up, between two
_LONGEST_SOCKET = 100  # bytes of its path: systems take 104 or 108
# Between the parts of a JSON value: where any space may be, a weak model writes nothing else.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_STOP_WAIT_S = 5.0


class LlamaServer:
    """llama.cpp's server core with a bundle's GGUF file.

    Args:
        bundle: with model.gguf and its tokenizer.json.
        threads: of the processor; None takes one a core.
        slots: texts written at once.
        context: tokens of a prompt and its answer, at most the model's own; 0 takes the model's as far as memory for
            all slots is reasonable.

    Attributes:
        context: what it is.

    Raises:
        HalfpintError: xllamacpp is missing, or does not read the file.
    """

    def __init__(self, bundle: Bundle, threads: int | None, *, slots: int, context: int) -> None:
        package = need("xllamacpp", "serving a GGUF file")
        self.tokenizer = open_tokenizer(bundle.path)
        size = int(bundle.config.get("vocab_size") or self.tokenizer.get_vocab_size())
        self.first = read_for_gguf(bundle.path, bundle.config, size).start
        self.context = _context_of(bundle.config, slots, context)
        params = package.CommonParams()
        params.n_parallel, params.n_ctx, params.fit_params = slots, slots * self.context, False
        params.n_batch = params.n_ubatch = _BATCH
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or cores()
        params.cache_ram_mib = 0  # else copies of old conversations, up to 8 GiB of them
        params.sse_ping_interval, params.verbosity = -1, 0
        params.ui = params.endpoint_slots = False
        params.api_keys = [secrets.token_urlsafe(32)]
        with tempfile.TemporaryDirectory(prefix="halfpint-") as folder, opened_gguf(bundle.path) as path:
            params.model.path = str(path)
            socket = os.path.join(folder, "llama.sock")
            if os.name == "posix" and len(os.fsencode(socket)) <= _LONGEST_SOCKET:
                params.hostnames = [socket]
            try:
                self._server = package.Server(params)
            except RuntimeError as error:
                raise HalfpintError(
                    str(bundle.path / GGUF_FILE), wanted="a GGUF file that llama.cpp reads, and memory for it",
                    got=f"a refusal ({error})", todo="Export it again, or ask for a smaller context.",
                ) from None  # fmt: skip

    def complete(self, body: Mapping[str, Any], told: Callable[[dict[str, Any]], bool]) -> None:
        """Run one request of llama.cpp's /v1/completions; `told` gets what it answers and says whether to go on."""

        def on_answer(text: str) -> bool:
            return not told(json.loads(text))

        self._server.handle_completions(json.dumps(body), on_answer)


class LlamaBackend(ModelThread[LlamaServer]):
    """Writes texts with llama.cpp's server core.

    Args:
        load: loads it; called in a thread.
        slots: texts that it writes at once.
    """

    biases = True

    def __init__(
        self,
        load: Callable[[], LlamaServer],
        *,
        slots: int,
        log: Log,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(load, log=log, on_ready=on_ready)
        self.slots = slots
        self._running: dict[threading.Thread, Feed[Piece]] = {}
        self._encoding = threading.Lock()  # encode_special_tokens is a switch of the whole tokenizer

    @property
    def _core(self) -> LlamaServer:
        assert self.model is not None, "asked before it was loaded"
        return self.model

    @property
    def context(self) -> int:
        """Tokens of a prompt and what is written after it."""
        return self._core.context

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone."""
        tokenizer = self._core.tokenizer
        with self._encoding:
            tokenizer.encode_special_tokens = not special
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.encode_special_tokens = False
        return ids

    def begin(self, text: str) -> tuple[tuple[int, ...], int]:
        """The ids of `text` after the token that starts a document, if there is one; and how many they are."""
        ids, first = self.encode(text), self._core.first
        ids = ids if first is None or ids[:1] == [first] else [first, *ids]
        return tuple(ids), len(ids)

    def check_schema(self, schema: Mapping[str, Any]) -> None:
        """Compile it as llama.cpp will, over bytes."""
        TextBySchema(_schema(schema))

    def write(self, asked: Asked, feed: Feed[Piece]) -> None:
        """Write a text in a thread that waits for llama.cpp."""
        thread = threading.Thread(target=self._write, args=(asked, feed), name="halfpint-text", daemon=True)
        with self.changed:
            if self.state != "ok":
                feed.close(StoppedError())
                return
            self._running[thread] = feed
        thread.start()

    def use(self, model: LlamaServer) -> None:
        """Nothing: each text has a thread of its own."""

    def stop(self) -> None:
        """Give up what is being written, and let llama.cpp end."""
        super().stop()
        with self.changed:
            running = dict(self._running)
        for feed in running.values():
            feed.cancelled = True
        for thread in running:
            thread.join(_STOP_WAIT_S)
        if not any(thread.is_alive() for thread in running):
            # Taking llama.cpp's server down waits for ever now and then (xllamacpp 2026.10): the process must end.
            held, self.model = [self.model], None
            ending = threading.Thread(target=held.clear, daemon=True, name="halfpint-ending")
            ending.start()
            ending.join(_STOP_WAIT_S)

    def _write(self, asked: Asked, feed: Feed[Piece]) -> None:
        failed: BaseException | None = None

        def told(answer: dict[str, Any]) -> bool:
            nonlocal failed
            if "error" in answer:
                failed = RuntimeError(str(answer["error"].get("message", answer["error"])))
            elif "prompt_progress" not in answer and failed is None:
                try:
                    feed.put(reading.piece(answer))
                except HalfpintError as error:
                    failed = error
            return failed is None and not feed.cancelled

        try:
            body, reading = _body(asked, self.context), _Reading(asked)
            self._core.complete(body, told)
            if failed is None and self.state != "ok":
                failed = StoppedError()
            elif failed is not None and not isinstance(failed, HalfpintError):
                self._log.say(f"llama.cpp failed on a request: {failed}", kind="engine_failed")
        except BaseException as error:
            if not isinstance(error, HalfpintError):
                self._log.say(f"llama.cpp failed on a request: {error!r}", kind="engine_failed")
            failed = error
        finally:
            with self.changed:
                self._running.pop(threading.current_thread(), None)
            feed.close(failed)


class _Reading:
    """Pieces from what llama.cpp answers to one request.

    Where its grammar fails, llama.cpp writes on without one and tells nobody: the text is followed here as well.
    """

    def __init__(self, asked: Asked) -> None:
        self._logprobs, self._written = asked.settings.logprobs, 0
        schema = asked.settings.schema
        self._followed = None if schema is None else TextBySchema(_schema(schema))
        self._may_be_cut = bool(asked.settings.stop)

    def piece(self, answer: dict[str, Any]) -> Piece:
        choice = answer["choices"][0]
        if self._followed is not None:
            self._followed.take(choice["text"])
            if choice["finish_reason"] == "stop" and not self._may_be_cut:
                self._followed.end()
        scores = (choice.get("logprobs") or {}).get("content") or ()
        finish = choice["finish_reason"] or ""
        # It does not count what it wrote until the end: an answer is a token, but for characters of several.
        self._written += not finish
        if finish:
            self._written = int(answer.get("usage", {}).get("completion_tokens", self._written))
        return Piece(choice["text"], tuple(map(self._score, scores)), finish, self._written)

    def _score(self, entry: dict[str, Any]) -> TokenScore:
        top = tuple((one["token"], float(one["logprob"])) for one in entry["top_logprobs"][: self._logprobs])
        return TokenScore(entry["token"], float(entry["logprob"]), top, bytes(entry["bytes"]))


def _body(asked: Asked, context: int) -> dict[str, Any]:
    """The request to llama.cpp, whose penalties are to look at all of the context.

    Raises:
        HalfpintError: a schema that it cannot keep to.
    """
    settings = asked.settings
    body: dict[str, Any] = {
        "prompt": list(asked.prompt),
        "stream": True,  # else it could not be given up
        "return_progress": True,
        "n_predict": settings.max_tokens,
        # top_k first, which changes nothing and leaves less to reckon with; the likeliest is the first of one.
        "samplers": ["penalties", "top_k", "temperature", "top_p", "min_p"],
        "temperature": settings.temperature,
        "top_k": settings.top_k if settings.temperature else 1,
        "top_p": settings.top_p,
        "min_p": settings.min_p,
        "repeat_penalty": settings.repetition_penalty,
        "repeat_last_n": context,
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
        "logit_bias": [[token, bias] for token, bias in asked.logit_bias.items()],
        "seed": settings.seed % (1 << 32),
        "stop": list(settings.stop),
    }
    if settings.logprobs is not None:
        body["logprobs"] = max(1, settings.logprobs)
    if settings.schema is not None:
        body["json_schema"] = _schema(settings.schema)
    return body


def _schema(given: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as llama.cpp, which has llguidance inside, is given it: one that it cannot read it would pass over.

    Raises:
        HalfpintError: it is larger or more work than is taken.
    """
    return {**checked_schema(given), "x-guidance": _SPACING}


def _context_of(config: Mapping[str, Any], slots: int, wanted: int) -> int:
    """Tokens of one text: those wanted, or what memory for all slots is reasonable for; at most the model's own."""
    most = int(config.get("max_position_embeddings") or _MOST_CONTEXT)
    if wanted:
        return min(wanted, most)
    heads = int(config.get("num_attention_heads") or 1)
    width = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    keys = int(config.get("num_key_value_heads") or heads)
    a_token = 2 * 2 * int(config.get("num_hidden_layers") or 0) * keys * width  # two of them, two bytes each
    context = min(most, _MOST_CONTEXT)
    while context > _LEAST_CONTEXT and slots * context * a_token > _MOST_CACHE_BYTES:
        context //= 2
    return context
