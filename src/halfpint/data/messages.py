"""Messages and conversations: what was said, what the loss counts of it, and what a chat template reads besides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
CALLS = "tool_calls"


@dataclass(frozen=True)
class Message:
    """What one side said.

    Attributes:
        role: system, user, assistant or tool.
        content: the text.
        learn: whether the loss counts it, where it is the assistant's.
        extras: what else a chat template may read of it, such as tool_calls, each as JSON.
    """

    role: str
    content: str
    learn: bool = True
    extras: tuple[tuple[str, str], ...] = ()

    @property
    def has_calls(self) -> bool:
        """Whether it calls tools."""
        return any(name == CALLS for name, _ in self.extras)


@dataclass(frozen=True)
class Conversation:
    """Messages that end with the assistant's, and where a person finds them (see `read.Table.rows`).

    A system message may come first; then user and assistant take turns; what tools gave follows their calls.

    Attributes:
        values: what a chat template may read besides the messages, such as tools, each as JSON.
    """

    messages: tuple[Message, ...]
    row: int
    values: tuple[tuple[str, str], ...] = ()

    @cached_property
    def key(self) -> str:
        """The hash of all that is learned from."""
        return _hash(self.messages, self.values)

    @cached_property
    def question_key(self) -> str:
        """The hash of what comes before the first answer: conversations that begin alike share it."""
        first = next(place for place, message in enumerate(self.messages) if message.role == ASSISTANT)
        return _hash(self.messages[:first])

    @property
    def learns(self) -> bool:
        """Whether there is an answer to learn from."""
        return any(message.learn for message in self.messages if message.role == ASSISTANT)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The messages as chat templates take them."""
        return [
            {"role": one.role, "content": one.content, **{name: json.loads(text) for name, text in one.extras}}
            for one in self.messages
        ]

    def template_values(self) -> dict[str, Any]:
        """What the chat template is given besides the messages."""
        return {name: json.loads(text) for name, text in self.values}

    def without(self, name: str) -> Conversation:
        """The same without the field `name` of its messages and of its values."""
        messages = (
            replace(one, extras=tuple(extra for extra in one.extras if extra[0] != name)) for one in self.messages
        )
        return Conversation(tuple(messages), self.row, tuple(value for value in self.values if value[0] != name))

    def fields(self) -> list[str]:
        """The names of all extras and values."""
        extras = (name for message in self.messages for name, _ in message.extras)
        return list(dict.fromkeys([*extras, *(name for name, _ in self.values)]))


def _hash(messages: Iterable[Message], values: Sequence[tuple[str, str]] = ()) -> str:
    told: list[Any] = [
        [one.role, one.content] if one.learn and not one.extras else [one.role, one.content, one.learn, one.extras]
        for one in messages
    ]
    content = json.dumps([*told, values] if values else told)
    return sha256(content.encode()).hexdigest()
