"""What OpenAI's clients are sent: whole answers, the pieces of a stream, log-probabilities, counts."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

from halfpint.engines import Piece, TokenScore

DONE = b"data: [DONE]\n\n"
_LEAST = -9999.0  # as OpenAI's; JSON has no infinity


class Answer:
    """The answer to one request.

    Args:
        chat: whether it is a message, or a text.
        model: the model's name.
        fingerprint: the start of the model's fingerprint.
        prompt_tokens: of all prompts.
        usage: whether a stream ends with the counts.
    """

    def __init__(self, *, chat: bool, model: str, fingerprint: str, prompt_tokens: int, usage: bool) -> None:
        self._chat, self._prompt_tokens, self._usage = chat, prompt_tokens, usage
        self._written: dict[int, int] = {}
        self._told: dict[int, int] = {}  # characters so far, by choice: where the next token of a text begins
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": ("chat.completion" if chat else "text_completion"),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, texts: list[list[Piece]], *, scored: bool) -> dict[str, Any]:
        """All of it.

        Args:
            texts: the pieces of each choice.
            scored: whether log-probabilities were asked for.
        """
        choices = []
        for number, pieces in enumerate(texts):
            self._written[number] = pieces[-1].written
            text = "".join(piece.text for piece in pieces)
            own = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
            tokens = [token for piece in pieces for token in piece.tokens]
            choices.append(
                {"index": number, **own, "logprobs": self._scores(number, tokens) if scored else None,
                 "finish_reason": pieces[-1].finish}
            )  # fmt: skip
        return {**self._head, "choices": choices, "usage": self._counts()}

    def pieces(self, number: int, pieces: list[Piece]) -> bytes:
        """The events for what came of a choice."""
        made = b""
        if self._chat and number not in self._written:
            made += self._event(number, {"delta": {"role": "assistant", "content": "", "refusal": None}}, None, "")
        self._written[number] = pieces[-1].written
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        finish = pieces[-1].finish
        if text or tokens:
            own = {"delta": {"content": text}} if self._chat else {"text": text}
            made += self._event(number, own, self._scores(number, tokens) if tokens else None, "")
        if finish:
            made += self._event(number, {"delta": {}} if self._chat else {"text": ""}, None, finish)
        return made

    def last(self) -> bytes:
        """The events at the end of a stream."""
        if not self._usage:
            return DONE
        return event({**self._stream_head(), "choices": [], "usage": self._counts()}) + DONE

    def _event(self, number: int, own: dict[str, Any], scores: dict[str, Any] | None, finish: str) -> bytes:
        choice = {"index": number, **own, "logprobs": scores, "finish_reason": finish or None}
        more = {"usage": None} if self._usage else {}
        return event({**self._stream_head(), "choices": [choice], **more})

    def _stream_head(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"} if self._chat else self._head

    def _counts(self) -> dict[str, int]:
        written = sum(self._written.values())
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
        }

    def _scores(self, number: int, tokens: Iterable[TokenScore]) -> dict[str, Any]:
        tokens = list(tokens)
        if self._chat:
            return {"content": [_chat_score(token) for token in tokens], "refusal": None}
        offsets, at = [], self._told.get(number, 0)
        for token in tokens:
            offsets.append(at)
            at += len(token.text)
        self._told[number] = at
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_finite(token.log_probability) for token in tokens],
            "top_logprobs": [_by_text(token.top) for token in tokens] if any(one.top for one in tokens) else None,
            "text_offset": offsets,
        }


def _chat_score(token: TokenScore) -> dict[str, Any]:
    top = [{"token": text, "logprob": _finite(value), "bytes": list(text.encode())} for text, value in token.top]
    return {
        "token": token.text,
        "logprob": _finite(token.log_probability),
        "bytes": list(token.bytes),
        "top_logprobs": top,
    }


def _by_text(top: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text, value in top:
        found.setdefault(text, _finite(value))
    return found


def _finite(value: float) -> float:
    return max(value, _LEAST)


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
