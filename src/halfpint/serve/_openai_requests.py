"""From what OpenAI's clients send to the texts that a backend is asked for."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from halfpint.bundle import Bundle, read_json
from halfpint.engines import Generation
from halfpint.errors import HalfpintError
from halfpint.serve._generation import Asked, Backend
from halfpint.serve._http import ApiError
from halfpint.serve._openai_fields import ALIASES, PASSED, REFUSED, ChatRequest, CompletionRequest, GenerationRequest
from halfpint.tokenizers.chat_template import ChatTemplate

Sent = TypeVar("Sent", bound=GenerationRequest)

DEFAULT = "default"
"""A model name that every server takes."""

_COMPLETION_TOKENS = 16  # as OpenAI's; a chat goes on to its end
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_LEAST_TOP_P = 1e-6  # some send 0
_NOTHING: tuple[Any, ...] = (None, False, "", [], {})
_LIKE = 0.85  # how alike a name is that was mistyped
_MOST_DIGITS = 9  # of a token's id
_TYPES_IN_PLACES = ("str", "int", "float", "bool", "dict")
_TODO = {
    "messages": 'Send {"messages": [{"role": "user", "content": "…"}]}.',
    "prompt": 'Send {"prompt": "…"}.',
}


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        asked: the texts, one a choice.
        prompt_tokens: of all prompts, each once.
        stream: whether the texts are sent piece by piece.
        include_usage: whether a stream ends with the counts.
    """

    asked: tuple[Asked, ...]
    prompt_tokens: int
    stream: bool
    include_usage: bool


class Reader:
    """Reads requests for one model.

    Args:
        bundle: the model's.
        backend: what is to write; asked only once it is loaded.
        name: the model's.
        most_texts: in one request.

    Attributes:
        template: the chat template; None where the model has none.
    """

    def __init__(self, bundle: Bundle, backend: Backend, name: str, most_texts: int) -> None:
        self._backend, self._name, self._most = backend, name, most_texts
        self._vocabulary = int(bundle.config.get("vocab_size") or 0)
        self._defaults = _defaults(bundle)
        self._untaught = ""
        self.template: ChatTemplate | None = None
        try:
            template = ChatTemplate(bundle.path)
            template.check_work()
            _ = template.takes_system  # kept, so that it is not rendered on the event loop
            self.template = template
        except HalfpintError as error:
            self._untaught = "it has no chat template" if error.got == "none" else f"its chat template: {error.got}"

    def chat(self, body: bytes) -> Job:
        """The job of a chat.

        Raises:
            ApiError: it cannot be done.
        """
        sent = self._read(ChatRequest, body, "messages")
        if self.template is None:
            message = (
                f"{self._name} cannot chat: {self._untaught}. POST /v1/completions goes on with a text; "
                "halfpint finetune BUNDLE DATA --template chatml teaches a model to answer."
            )
            raise ApiError(400, "no_chat_template", message, param="messages")
        messages = [message.plain() for message in sent.messages]
        values = dict(sent.chat_template_kwargs or {})
        try:
            ids = tuple(self.template.ids(messages, self._backend.encode, **values))
        except (HalfpintError, TypeError) as error:
            got = error.got if isinstance(error, HalfpintError) else str(error)
            message = f"messages: the model's chat template does not take them: {got}"
            raise ApiError(400, "chat_template", message, param="messages") from None
        return self._job(sent, sent.scores, [(ids, len(ids))], sent.max_tokens, "messages")

    def completion(self, body: bytes) -> Job:
        """The job of a completion.

        Raises:
            ApiError: it cannot be done.
        """
        sent = self._read(CompletionRequest, body, "prompt")
        prompts: list[tuple[str | tuple[int, ...], int]] = []
        for prompt in sent.prompts:
            if isinstance(prompt, str):
                prompts.append(self._backend.begin(prompt))
                continue
            if not all(0 <= one < self._vocabulary for one in prompt):
                got = f"ids from 0 to {self._vocabulary - 1} alone" if self._vocabulary else "texts alone, no ids"
                raise ApiError(400, "invalid_value", f"prompt: the model takes {got}.", param="prompt")
            prompts.append((prompt, len(prompt)))
        return self._job(sent, sent.scores, prompts, sent.max_tokens or _COMPLETION_TOKENS, "prompt")

    def _read(self, kind: type[Sent], body: bytes, place: str) -> Sent:
        try:
            sent = kind.model_validate_json(body)
        except ValidationError as error:
            raise _invalid(error, place) from None
        if sent.model not in (None, "", self._name, DEFAULT):
            message = f"There is no model {sent.model!r} here; there is {self._name!r}."
            raise ApiError(404, "model_not_found", message, param="model")
        _refuse_others(sent)
        sent = _by_one_name(sent)
        if not self._backend.biases:
            for field in ("presence_penalty", "frequency_penalty", "logit_bias"):
                if getattr(sent, field):
                    message = f"{field}: only GGUF bundles have it (halfpint export BUNDLE --to gguf). Leave it out."
                    raise ApiError(400, "unsupported_parameter", message, param=field)
        return sent

    def _job(
        self,
        sent: GenerationRequest,
        scores: int | None,
        prompts: list[tuple[str | tuple[int, ...], int]],
        wanted: int | None,
        place: str,
    ) -> Job:
        choices = sent.n or 1
        if not prompts or len(prompts) * choices > self._most:
            got = f"{len(prompts)} prompts with {choices} texts each"
            raise ApiError(400, "too_many", f"{place}: {got}; 1 to {self._most} are taken.", param=place)
        seed = secrets.randbits(31) if sent.seed is None else sent.seed % (1 << 32)
        biases = _biases(sent.logit_bias or {}, self._vocabulary)
        if (schema := _schema(sent)) is not None:
            try:
                self._backend.check_schema(schema)
            except HalfpintError as error:
                raise refused(error) from None
        asked: list[Asked] = []
        for prompt, tokens in prompts:
            if not tokens:
                raise ApiError(400, "invalid_value", f"{place}: there is nothing to go on from.", param=place)
            room = self._backend.context - tokens
            if room < 1:
                message = (
                    f"{place}: {tokens:,} tokens, and the context of {self._name} is {self._backend.context:,}, with "
                    "the answer. Send less."
                )
                raise ApiError(400, "context_length_exceeded", message, param=place)
            for choice in range(choices):
                settings = self._settings(sent, scores, min(wanted or room, room), seed + choice)
                asked.append(
                    Asked(
                        prompt=prompt, settings=settings, presence_penalty=sent.presence_penalty or 0.0,
                        frequency_penalty=sent.frequency_penalty or 0.0, logit_bias=biases,
                    )
                )  # fmt: skip
        usage = sent.stream_options is not None and sent.stream_options.include_usage
        return Job(tuple(asked), sum(tokens for _, tokens in prompts), bool(sent.stream), usage)

    def _settings(self, sent: GenerationRequest, scores: int | None, tokens: int, seed: int) -> Generation:
        sampling = {
            name: self._defaults.get(name) if (own := getattr(sent, name)) is None else own for name in _SAMPLING
        }
        if sampling["top_p"] is not None:
            sampling["top_p"] = max(sampling["top_p"], _LEAST_TOP_P)
        given = {name: value for name, value in sampling.items() if value is not None}
        stop = (sent.stop,) if isinstance(sent.stop, str) else tuple(sent.stop or ())
        try:
            return Generation(
                max_tokens=tokens, seed=seed, stop=tuple(text for text in stop if text), schema=_schema(sent),
                logprobs=scores, **given,
            )  # fmt: skip
        except HalfpintError as error:
            raise refused(error) from None


def _refuse_others(sent: GenerationRequest) -> None:
    """Refuse what would change the answer and is not done here.

    Raises:
        ApiError: 400 that names the field.
    """
    for field, value in (sent.model_extra or {}).items():
        asks = value not in (*_NOTHING, *REFUSED.get(field, ()))
        meant = get_close_matches(field, [*type(sent).model_fields, *REFUSED], 1, _LIKE)
        if asks and (field in REFUSED or meant):
            todo = "Leave it out." if field in REFUSED else f"Did you mean {meant[0]!r}?"
            message = f"{field[:80]}: this server does not do what it asks for. {todo}"
            raise ApiError(400, "unsupported_parameter", message, param=field[:80])
    for field in type(sent).model_fields:
        for place, part in _parts(getattr(sent, field), field):
            for name, value in (part.model_extra or {}).items():
                if name not in PASSED and value not in _NOTHING:
                    message = f"{place}.{name[:80]}: this server does not take it. Leave it out."
                    raise ApiError(400, "unsupported_parameter", message, param=field)


def _parts(value: Any, place: str) -> Iterator[tuple[str, BaseModel]]:
    """The objects inside a field of a request, each with its place."""
    if isinstance(value, BaseModel):
        yield place, value
        for name in type(value).model_fields:
            yield from _parts(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _parts(one, f"{place}.{number}")


def _by_one_name(sent: Sent) -> Sent:
    """The request with what other names say under the usual ones.

    Raises:
        ApiError: two names of one field say different things.
    """
    found: dict[str, Any] = {}
    for name, usual in ALIASES.items():
        value = getattr(sent, name, None)
        known = found.get(usual, getattr(sent, usual) if name != "max_completion_tokens" else None)
        if value is None:
            continue
        if known is not None and known != value:
            message = f"{name}: {value} where {usual} is {known}. Send one of them."
            raise ApiError(400, "invalid_value", message, param=name)
        found[usual] = value
    return sent.model_copy(update=found)


def refused(error: HalfpintError) -> ApiError:
    """The refusal of what a model or its settings do not take."""
    field = error.place.partition("/")[0].removeprefix("--")
    field = "response_format" if field == "schema" else field
    return ApiError(400, "invalid_value", str(error), param=field)


def _schema(sent: GenerationRequest) -> Mapping[str, Any] | None:
    asked = sent.response_format
    if asked is None or asked.type == "text":
        return None
    if asked.own_schema is not None:
        return asked.own_schema
    if asked.type == "json_object":
        return {}
    if asked.json_schema is None:
        message = "response_format.json_schema: missing. Send the schema as response_format.json_schema.schema."
        raise ApiError(400, "missing_field", message, param="response_format")
    return asked.json_schema.json_schema


def _biases(given: Mapping[str, float], vocabulary: int) -> dict[int, float]:
    found = {}
    for token, bias in given.items():
        known = token.isascii() and token.isdigit() and len(token) <= _MOST_DIGITS and int(token) < vocabulary
        if not (known and -100 <= bias <= 100):
            wanted = f"token ids below {vocabulary} with numbers from -100 to 100"
            message = f"logit_bias: expected {wanted}, got {token[:20]}: {bias}."
            raise ApiError(400, "invalid_value", message, param="logit_bias")
        found[int(token)] = bias
    return found


def _defaults(bundle: Bundle) -> dict[str, Any]:
    """How the model is sampled by those who made it: its generation_config.json, where that has it sampled."""
    if not (bundle.path / "generation_config.json").is_file():
        return {}
    held = read_json(bundle.path / "generation_config.json")
    if held.get("do_sample") is False:
        return {}
    return {name: held[name] for name in _SAMPLING if isinstance(held.get(name), int | float)}


def _invalid(error: ValidationError, place: str) -> ApiError:
    # Of what could be one thing or another, the fault deepest inside tells most.
    fault = max(error.errors(include_url=False, include_input=False), key=lambda one: len(one["loc"]))
    way = [str(part) for part in fault["loc"]]
    shown = [part for part in way if part not in _TYPES_IN_PLACES and not part.startswith(("list[", "constrained-"))]
    message = f"{'.'.join(shown)}: {fault['msg']}." if shown else f"{fault['msg']}."
    if fault["type"] == "json_invalid" or not shown or shown[0] == place:
        message += f" {_TODO[place]}"
    return ApiError(400, "invalid_json" if fault["type"] == "json_invalid" else "invalid_value", message,
                    param=shown[0] if shown else None)  # fmt: skip
