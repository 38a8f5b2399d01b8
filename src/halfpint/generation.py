"""Texts that a language model writes for `halfpint generate`: what it is given, and what is told of what it gave."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.bundle import Bundle
from halfpint.engines import Continuation, Generation, LanguageEngine, TokenScore, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.task import task_of
from halfpint.tokenizers.chat_template import ChatTemplate


@dataclass(frozen=True)
class Written:
    """What came of a prompt.

    Attributes:
        texts: one, or several with the best first.
        prompt_tokens: tokens that were read before.
        tokens: tokens that were written, of all texts.
        seconds: how long it took, the loading of the model aside.
    """

    texts: tuple[Continuation, ...]
    prompt_tokens: int
    tokens: int
    seconds: float

    def figures(self, *, scores: bool) -> dict[str, Any]:
        """All of it, as JSON can hold it; with `scores`, those of each token."""
        told = [
            {
                "text": one.text, "finish": one.finish,
                **({"mean_log_probability": round(one.mean_log_probability, 6)} if one.tokens else {}),
                **({"log_probabilities": [_score(token) for token in one.tokens]} if scores else {}),
            }
            for one in self.texts
        ]  # fmt: skip
        return {
            **(told[0] if told else {}), **({"texts": told} if len(told) > 1 else {}),
            "prompt_tokens": self.prompt_tokens, "tokens": self.tokens, "seconds": round(self.seconds, 3),
            "tokens_per_s": round(self.tokens / max(self.seconds, 1e-9), 1),
        }  # fmt: skip


def generate(
    bundle: Bundle,
    prompt: str,
    settings: Generation,
    *,
    best: int = 1,
    chat: bool | None = None,
    system: str = "",
    tell: Callable[[str], None] | None = None,
) -> Written:
    """What the model of `bundle` writes after `prompt`.

    Args:
        best: how many texts (see `Writer.best`).
        chat: whether `prompt` is a user's message, which the model answers; None asks the bundle's task.
        system: what the model is told before that message.
        tell: takes each piece of the text as it comes, where there is one text.

    Raises:
        HalfpintError: a bundle that cannot write, or not in that way; a prompt that fills the context.
    """
    engine = open_language_engine(bundle)
    given = prompt_of(bundle, engine, prompt, chat=chat, system=system)
    started = time.monotonic()
    if best != 1:
        found = engine.best(given, best, settings)
        tokens = sum(len(one.tokens) for one in found)
    else:
        text, scores, finish, total, tokens = "", list[TokenScore](), "", 0.0, 0
        for piece in engine.write(given, settings):
            text += piece.text
            scores += piece.tokens
            finish, total, tokens = piece.finish, piece.log_probability, piece.written
            if tell is not None and piece.text:
                tell(piece.text)
        mean = total / max(1, tokens + (finish == "stop"))
        found = [Continuation(text, tuple(scores), finish, total, mean)]
    seconds = time.monotonic() - started
    read = engine.count(given) if isinstance(given, str) else len(given)
    return Written(tuple(found), read, tokens, seconds)


def prompt_of(
    bundle: Bundle, engine: LanguageEngine, prompt: str, *, chat: bool | None = None, system: str = ""
) -> str | Sequence[int]:
    """What the model is given: the text as it is, or the ids of a conversation that begins with it; see `generate`."""
    if not as_chat(bundle, chat):
        if system:
            raise HalfpintError(
                "--system", wanted="a model that answers", got="one that goes on with a text", todo="Give --chat."
            )
        return prompt
    if not prompt.strip():
        raise HalfpintError("PROMPT", wanted="a message to answer", got="none", todo="Give one, or --no-chat.")
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    ids = ChatTemplate(bundle.path).ids(messages, engine.encode)
    if len(ids) >= engine.context:
        raise HalfpintError("PROMPT", wanted=f"fewer than {engine.context} tokens", got=str(len(ids)))
    return ids


def as_chat(bundle: Bundle, chat: bool | None) -> bool:
    """Whether a prompt is a user's message: as `chat` says, else as the bundle's task does."""
    return task_of(bundle).answers if chat is None else chat


def read_schema(text: str) -> Mapping[str, Any] | None:
    """A JSON schema from what was given: JSON itself, or a file of it; None where nothing was.

    Raises:
        HalfpintError: no such file, or what is no JSON object.
    """
    if not text.strip():
        return None
    place = "--json-schema"
    if not text.lstrip().startswith("{"):
        path, place = Path(text), text
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HalfpintError(
                "--json-schema", wanted="a JSON schema, or a file of one", got=f"{place} ({error})",
            ) from None  # fmt: skip
    try:
        found = json.loads(text)
    except ValueError as error:
        raise HalfpintError(place, wanted="a JSON schema", got=f"what is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise HalfpintError(place, wanted="a JSON schema: an object", got=type(found).__name__)
    return found


def scores_shown(tokens: Sequence[TokenScore]) -> list[str]:
    """A line for each token: its log-probability, itself, and the likeliest there."""
    lines = []
    for token in tokens:
        others = "  ".join(f"{json.dumps(name, ensure_ascii=False)} {value:.3f}" for name, value in token.top)
        lines.append(
            f"{token.log_probability:9.3f}  {json.dumps(token.text, ensure_ascii=False):<16}  {others}".rstrip()
        )
    return lines


def _score(token: TokenScore) -> dict[str, Any]:
    return {
        "token": token.text, "bytes": list(token.bytes), "log_probability": round(token.log_probability, 6),
        "top": [{"token": name, "log_probability": round(value, 6)} for name, value in token.top],
    }  # fmt: skip
