"""What a language model is given: a text as it is, or the ids of a conversation that begins with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halfpint.bundle import Bundle
from halfpint.errors import HalfpintError
from halfpint.lookup import task_of
from halfpint.tokenizers.chat_template import ChatTemplate

if TYPE_CHECKING:
    from halfpint.engines import LanguageEngine


def prompt_of(
    bundle: Bundle, engine: LanguageEngine, prompt: str, *, chat: bool | None = None, system: str = ""
) -> str | Sequence[int]:
    """What the model is given: the text as it is, or the ids of a conversation that begins with it; see `generate`."""
    if not as_chat(bundle, chat):
        if system:
            raise HalfpintError(
                "--system",
                wanted="a model that answers",
                got="one that goes on with a text",
                todo="Give --chat.",
                said="--system needs a model that answers, and this one continues a text.",
            )
        return prompt
    if not prompt.strip():
        raise HalfpintError(
            "PROMPT",
            wanted="a message to answer",
            got="none",
            todo="Give one, or --no-chat.",
            said="There is no message to answer.",
        )
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    ids = ChatTemplate(bundle.path).ids(messages, engine.encode)
    if len(ids) >= engine.context:
        raise HalfpintError(
            "PROMPT",
            wanted=f"fewer than {engine.context} tokens",
            got=str(len(ids)),
            said=f"The prompt is too long: {len(ids):,} tokens, where fewer than {engine.context:,} fit.",
        )
    return ids


def as_chat(bundle: Bundle, chat: bool | None) -> bool:
    """Whether a prompt is a user's message: as `chat` says, else as the bundle's task does."""
    return task_of(bundle).answers if chat is None else chat
