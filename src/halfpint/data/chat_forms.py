"""The forms that conversations come in -> messages: OpenAI, ShareGPT, Alpaca, and prompts with completions (TRL).

What a row holds besides its texts changes what is learned too: marks that a turn is not to be learned from, tool calls,
thoughts. Messages carry them; a field that nothing reads is counted, so that it can be named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halfpint.data.encoding import whole_characters
from halfpint.data.messages import ASSISTANT, CALLS, SYSTEM, TOOL, USER, Conversation, Message
from halfpint.data.read import Table
from halfpint.errors import HalfpintError, nearest

# Of each place in a form the names that its column may have.
_FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "OpenAI": (("messages",),),
    "ShareGPT": (("conversations", "conversation"),),
    "Alpaca": (("instruction",), ("output", "response")),
    "TRL": (("prompt",), ("completion", "response")),
}
_ASKED = ("input", "context")  # what follows an Alpaca instruction
_SYSTEM = ("system", "system_prompt")
VALUES, SETTINGS = ("tools", "documents", "parallel_tool_calls"), "chat_template_kwargs"
"""Columns that a chat template may read besides the messages, and the one with all others that it is given."""
_LISTS = ("tools", "documents")
_ROLES = {
    "system": SYSTEM, "developer": SYSTEM, "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT,
    "chatgpt": ASSISTANT, "model": ASSISTANT, "bot": ASSISTANT, "tool": TOOL, "function": TOOL, "observation": TOOL,
    "ipython": TOOL, "function_call": ASSISTANT,
}  # fmt: skip
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_LEARNED = ("weight", "train", "training", "trainable", "loss")
_SEEN_OR_HEARD = ("image", "images", "image_url", "video", "videos", "audio", "audios", "input_audio")
_PREFERRED = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
_GOOD_OR_BAD = ("label", "kto_tag")


@dataclass
class Found:
    """What the rows of a table gave.

    Attributes:
        conversations: the sound ones.
        cut: rows whose last turn nobody answers; it is left out.
        faults: what is wrong, with its rows; those rows gave no conversation.
        masked: rows with answers that are marked as not to be learned from, each once per answer.
        unread: fields that nothing reads, with their rows.
    """

    conversations: list[Conversation] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    faults: dict[str, list[int]] = field(default_factory=dict)
    masked: list[int] = field(default_factory=list)
    unread: dict[str, list[int]] = field(default_factory=dict)


def form_of(table: Table) -> str:
    """OpenAI, ShareGPT, Alpaca or TRL, by the names of the columns.

    Raises:
        HalfpintError: it is none of them, or holds preferences.
    """
    form = next((form for form in _FORMS if _columns(table.columns, form)), None)
    if form != "OpenAI":  # there messages are whole, whatever preferences stand beside them
        _refuse_preferences(table)
    if form is not None:
        return form
    known = [name for places in _FORMS.values() for names in places for name in names]
    near = [nearest(name, known) for name in table.columns]
    raise HalfpintError(
        f"{table.source}: columns",
        wanted="messages (OpenAI), conversations (ShareGPT), instruction and output (Alpaca), or prompt and completion "
        "(TRL)",
        got=", ".join(map(str, table.columns)),
        todo=next((text for text in near if text.startswith("Did you mean")), "Rename the columns."),
        said=f"{table.source} has no columns of conversations: messages (OpenAI), conversations (ShareGPT), "
        "instruction and output (Alpaca), or prompt and completion (TRL), only "
        f"{', '.join(map(str, table.columns))}.",
    )


def _refuse_preferences(table: Table) -> None:
    """Rows that are known, and are no conversations to learn from."""
    pair = next((pair for pair in _PREFERRED if all(name in table.columns for name in pair)), None)
    if pair:
        raise HalfpintError(
            f"{table.source}: columns", wanted="conversations to learn answers from",
            got=f"preferences: pairs of a better and a worse answer ({', '.join(pair)})",
            todo=f"No command of halfpint trains on preferences (DPO). `halfpint finetune` takes the better answers "
            f"alone: keep the column {pair[0]!r} and name it messages, or completion beside prompt.",
        )  # fmt: skip
    if name := _good_or_bad(table):
        raise HalfpintError(
            f"{table.source}: columns", wanted="conversations to learn answers from",
            got=f"preferences: answers marked as good or bad ({name})",
            todo=f"No command of halfpint trains on preferences (KTO). `halfpint finetune` takes the good answers "
            f"alone: keep the rows where {name!r} is true, and leave that column out.",
        )  # fmt: skip
    if "custom_id" in table.columns:
        raise HalfpintError(
            f"{table.source}: columns", wanted="conversations to learn answers from",
            got="requests or answers of a batch (custom_id)",
            todo="Join each request with its answer: one object per line with messages, the last of the assistant.",
        )  # fmt: skip


def _good_or_bad(table: Table) -> str:
    """The column that marks answers as good or bad, or nothing."""
    for name in _GOOD_OR_BAD:
        values = {type(value) for value in table.columns.get(name, []) if value is not None}
        if values == {bool}:
            return name
    return ""


def _columns(columns: Iterable[str], form: str) -> tuple[str, ...]:
    """The columns of a form by what the file calls them; none where one is missing."""
    held = set(columns)
    found = [next((name for name in names if name in held), None) for names in _FORMS[form]]
    return () if None in found else tuple(map(str, found))


def is_conversation(cells: object) -> bool:
    """Whether an object of a JSON file has the fields of one of the forms."""
    return isinstance(cells, Mapping) and any(_columns(cells, form) for form in _FORMS)


def conversations_of(table: Table, form: str) -> Found:
    """The conversations of a table in that form."""
    found = Found()
    reader = _Reader(form, _columns(table.columns, form), arrow=not {"JSON", "JSONL"} & set(table.notes))
    for index, row in enumerate(table.rows):
        cells = {name: values[index] for name, values in table.columns.items()}
        try:
            messages, values = reader.read(cells)
        except _FaultError as fault:
            found.faults.setdefault(str(fault), []).append(row)
            continue
        for name in reader.unread:
            found.unread.setdefault(name, []).append(row)
        if messages[-1].role != ASSISTANT:
            found.cut.append(row)
            while messages[-1].role != ASSISTANT:
                messages.pop()
        found.conversations.append(Conversation(tuple(messages), row, values))
        found.masked += [row for message in messages if message.role == ASSISTANT and not message.learn]
    return found


class _FaultError(Exception):
    """What is wrong with one conversation, in words that rows are grouped by."""


class _Reader:
    """Reads rows of one form.

    Args:
        columns: of the form, as the file calls them.
        arrow: whether objects hold nulls for fields that other rows have, as they do in Parquet.
    """

    def __init__(self, form: str, columns: tuple[str, ...], *, arrow: bool) -> None:
        self._columns, self._arrow = columns, arrow
        self._messages = {"Alpaca": self._alpaca, "TRL": self._prompted}.get(form, self._turns)
        self._own = {*columns, *_SYSTEM, *VALUES, SETTINGS}
        if form == "Alpaca":
            self._own |= {*_ASKED, "history"}
        self.unread: dict[str, None] = {}

    def read(self, cells: Mapping[str, object]) -> tuple[list[Message], tuple[tuple[str, str], ...]]:
        """Messages and values of a row; `unread` then names what was not read of it."""
        self.unread = {name: None for name, value in cells.items() if name not in self._own and _filled(value)}
        for name in _SEEN_OR_HEARD:
            if _filled(cells.get(name)):
                raise _FaultError(f"{name}: a language model of text does not see or hear it")
        messages = self._messages(cells)
        system = next((cells[name] for name in _SYSTEM if _filled(cells.get(name))), None)
        if isinstance(system, str) and messages[0].role != SYSTEM:
            messages.insert(0, Message(SYSTEM, _clean(system)))
        _check(messages)
        return messages, self._values(cells)

    def _values(self, cells: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
        values = {name: _parsed(cells[name]) for name in VALUES if _filled(cells.get(name))}
        for name, value in values.items():
            if name in _LISTS and (not isinstance(value, Sequence) or not all(isinstance(v, Mapping) for v in value)):
                raise _FaultError(f"{name}: no list of objects")
            if name not in _LISTS and not isinstance(value, bool):
                raise _FaultError(f"{name}: neither true nor false")
        settings = _parsed(cells.get(SETTINGS) or {})
        if not isinstance(settings, Mapping):
            raise _FaultError(f"{SETTINGS}: no object")
        taken = {"messages", "add_generation_prompt", "chat_template", "tokenize", *VALUES} & set(settings)
        if taken:
            raise _FaultError(f"{SETTINGS}: sets {', '.join(sorted(taken))}")
        return tuple((name, self._json(value)) for name, value in {**values, **settings}.items() if value is not None)

    def _turns(self, cells: Mapping[str, object]) -> list[Message]:
        return self._listed(cells[self._columns[0]])

    def _listed(self, turns: object) -> list[Message]:
        turns = _parsed(turns)
        if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
            raise _FaultError("no messages")
        return [self._message(turn) for turn in turns]

    def _alpaca(self, cells: Mapping[str, object]) -> list[Message]:
        """What is asked about follows the instruction after a blank line; `history` holds earlier pairs."""
        messages: list[Message] = []
        history = _parsed(cells.get("history"))
        for pair in history if isinstance(history, Sequence) and not isinstance(history, str) else ():
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise _FaultError("a history that is no list of pairs")
            messages += [Message(USER, _clean(pair[0])), Message(ASSISTANT, _clean(pair[1]))]
        instruction, output = self._columns
        asked = [_clean(cells.get(name)) for name in (instruction, *_ASKED)]
        question = "\n\n".join(text for text in asked if text.strip())
        return [*messages, Message(USER, question), Message(ASSISTANT, _clean(cells[output]))]

    def _prompted(self, cells: Mapping[str, object]) -> list[Message]:
        """A prompt and its completion: texts, or lists of messages. Only the completion is learned."""
        prompt, completion = (cells[name] for name in self._columns)
        if isinstance(prompt, str):
            before = [Message(USER, _clean(prompt))]
        else:
            before = [replace(one, learn=one.role != ASSISTANT) for one in self._listed(prompt)]
        if isinstance(completion, Mapping):
            completion = [completion]
        after = [Message(ASSISTANT, _clean(completion))] if isinstance(completion, str) else self._listed(completion)
        return [*before, *after]

    def _message(self, turn: object) -> Message:
        if not isinstance(turn, Mapping):
            raise _FaultError("a message that is no object")
        named, content = _first(turn, _ROLE), _first(turn, _CONTENT)
        if not isinstance(named, str):
            raise _FaultError("a message without a role")
        named = named.strip().lower()
        role = _ROLES.get(named)
        if role is None:
            raise _FaultError(f"the unknown role {named!r} (known: {', '.join(_ROLES)})")
        extras = {name: value for name, value in turn.items() if name not in (*_ROLE, *_CONTENT, *_LEARNED)}
        extras = {name: value for name, value in extras.items() if _filled(value)}
        for name in _SEEN_OR_HEARD:
            if name in extras:
                raise _FaultError(f"{name}: a language model of text does not see or hear it")
        if named == "function_call":  # ShareGPT with tools
            content, calls = None, _parsed(content)
            extras[CALLS] = list(calls) if isinstance(calls, Sequence) and not isinstance(calls, str) else [calls]
        if "function_call" in extras:  # what OpenAI had before tool_calls
            extras[CALLS] = [extras.pop("function_call")]
        if CALLS in extras:
            extras[CALLS] = _calls(extras[CALLS])
        marked = tuple((name, self._json(value)) for name, value in extras.items())
        return Message(role, _text_of(content), self._is_learned(turn, role), marked)

    def _is_learned(self, turn: Mapping[str, object], role: str) -> bool:
        marks = {name: turn[name] for name in _LEARNED if turn.get(name) is not None}
        for name, value in marks.items():
            if value not in (0, 1):
                raise _FaultError(f"{name} {value!r}: a turn is learned (1, true) or not (0, false)")
            if role != ASSISTANT and value:
                self.unread[f"{name} of turns that are not the assistant's"] = None
        return role != ASSISTANT or all(marks.values())

    def _json(self, value: object) -> str:
        return json.dumps(_without_nulls(value) if self._arrow else value, ensure_ascii=False, default=str)


def _first(turn: Mapping[str, object], names: Sequence[str]) -> object:
    """The first of these fields that is not null: in Parquet every message has every field."""
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _filled(value: object) -> bool:
    return value is not None and not (isinstance(value, str | Sequence | Mapping) and not value)


def _parsed(value: object) -> Any:
    """A list or an object that a text holds as JSON; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _calls(calls: object) -> list[dict[str, Any]]:
    """Tool calls as chat templates take them: each a function, its arguments an object."""
    made = []
    for call in calls if isinstance(calls, Sequence) and not isinstance(calls, str) else [calls]:
        if not isinstance(call, Mapping):
            raise _FaultError(f"{CALLS}: no list of objects")
        function = call.get("function") if isinstance(call.get("function"), Mapping) else call
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _FaultError(f"{CALLS}: a call without the name of a function")
        named = {**function, "arguments": _parsed(function.get("arguments") or {})}
        made.append({"type": "function", **call, "function": named} if function is not call else
                    {"type": "function", "function": named})  # fmt: skip
    return made


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(held) for name, held in value.items() if held is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(one) for one in value]
    return value


def _text_of(content: object) -> str:
    """A text, or OpenAI's parts of one."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return _clean(content)
    for part in content:
        if isinstance(part, Mapping) and not isinstance(part.get("text"), str):
            raise _FaultError(f"content of the type {part.get('type')!r}, which is no text")
    if not all(isinstance(part, Mapping) for part in content):
        raise _FaultError("content that is no text")
    return _clean("".join(part["text"] for part in content))


def _clean(content: object) -> str:
    """The text as UTF-8 can hold it; a number as it is written."""
    if content is None:
        return ""
    if isinstance(content, int | float) and not isinstance(content, bool):
        return str(content)
    if not isinstance(content, str):
        raise _FaultError("content that is no text")
    return whole_characters(content)


def _check(messages: Sequence[Message]) -> None:
    roles = [message.role for message in messages]
    if any(not one.content.strip() and one.role != TOOL and not one.has_calls for one in messages):
        raise _FaultError("empty content")
    if ASSISTANT not in roles:
        raise _FaultError("no assistant turn")
    turns = messages[1:] if roles[0] == SYSTEM else messages
    before: Message | None = None
    for turn in turns:
        expected = {USER} if before is None else {ASSISTANT}
        if before is not None and before.role == ASSISTANT:
            expected = {TOOL, USER} if before.has_calls else {USER}
        if before is not None and before.role == TOOL:
            expected = {TOOL, ASSISTANT}
        if turn.role not in expected:
            raise _FaultError("roles out of order")
        before = turn
