"""Conversations to learn to answer from: read in the forms that are about, checked turn by turn, split, each step said.

Forms, told by the columns: OpenAI (`messages` of `role` and `content`), ShareGPT (`conversations` of `from` and
`value`) and Alpaca (`instruction`, `input`, `output`), in any file that `read.read_table` reads.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from halfpint.data.read import Table, read_table
from halfpint.errors import HalfpintError, nearest
from halfpint.progress import Log
from halfpint.task import Split

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"

_FORMS = {"OpenAI": ("messages",), "ShareGPT": ("conversations",), "Alpaca": ("instruction", "output")}
_ROLES = {
    "system": SYSTEM, "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT, "chatgpt": ASSISTANT,
    "model": ASSISTANT, "bot": ASSISTANT,
}  # fmt: skip
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SHOWN_ROWS = 8
_MOST_VALIDATION_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class ChatData:
    """The [data] table of a recipe for the task chat.

    Args:
        source: a file of conversations (JSON, JSONL or Parquet, each also gzipped), a folder with one, or a Hub name.
        validation: conversations of their own to choose by; empty takes some out of `source`.
        validation_share: share of the conversations that is kept to choose by where `validation` is empty.
        drop_faulty: leave faulty conversations out and say so, instead of stopping there.
        seed: of the split.
    """

    source: str
    validation: str = ""
    validation_share: float = 0.1
    drop_faulty: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Message:
    """What one side said; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Messages that end with the assistant's, and where a person finds them (see `read.Table.rows`).

    A system message may come first; then user and assistant take turns.
    """

    messages: tuple[Message, ...]
    row: int

    @cached_property
    def key(self) -> str:
        """The hash of roles and contents."""
        return _hash(self.messages)

    @cached_property
    def question_key(self) -> str:
        """The hash of what comes before the first answer: conversations that begin alike share it."""
        first = next(place for place, message in enumerate(self.messages) if message.role == ASSISTANT)
        return _hash(self.messages[:first])

    def as_dicts(self) -> list[dict[str, str]]:
        """The messages as chat templates take them."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


Conversations = Split[Conversation]
"""Conversations in the order of the file; no two are the same, and none of one side begins with the question of another
one on the other side. The facts are their form, counts of conversations and turns, and what was dropped, with its rows.
"""


def prepare_chat(settings: ChatData, log: Log) -> Conversations:
    """Read, check, drop exact duplicates and split. The split depends on contents and seed alone.

    Raises:
        HalfpintError: no such file, a form that is not known, faulty conversations (with their rows), nothing left, or
            too few to keep some for validation.
    """
    share = settings.validation_share
    if not settings.validation and not 0 < share <= _MOST_VALIDATION_SHARE:
        raise HalfpintError(
            "data.validation_share", wanted=f"a share above 0, at most {_MOST_VALIDATION_SHARE}", got=str(share)
        )
    dropped: list[dict[str, Any]] = []
    kept, form = _read(settings.source, settings, dropped, log)
    if settings.validation:
        held, _ = _read(settings.validation, settings, dropped, log)
        questions = {one.question_key for one in held}
        train = [one for one in kept if one.question_key not in questions]
        rows = sorted({one.row for one in kept} - {one.row for one in train})
        _tell(rows, "with a question of the validation file", settings.source, dropped, log)
    else:
        train, held = _split(kept, share, settings.seed)
    if not train or not held:
        raise HalfpintError(
            settings.source, wanted="conversations to learn from and some to choose by",
            got=f"{len(train)} and {len(held)}", todo="Give more conversations, or a validation file of others.",
        )  # fmt: skip
    turns = Counter(sum(message.role == ASSISTANT for message in one.messages) for one in (*train, *held))
    facts = {
        "source": settings.source, "validation_source": settings.validation or None, "form": form,
        "conversations": len(train) + len(held), "train": len(train), "validation": len(held),
        "answers": sum(number * count for number, count in turns.items()),
        "with_system": sum(one.messages[0].role == SYSTEM for one in (*train, *held)), "dropped": dropped,
    }  # fmt: skip
    key = sha256(json.dumps([[one.key for one in side] for side in (train, held)]).encode()).hexdigest()
    log.say(f"  {len(train):,} to learn from, {len(held):,} to choose by", kind="data", **facts)
    return Split(train=tuple(train), validation=tuple(held), key=key, facts={**facts, "fingerprint": key})


def _read(
    source: str, settings: ChatData, dropped: list[dict[str, Any]], log: Log
) -> tuple[list[Conversation], str]:  # fmt: skip
    """The sound conversations of a source, each once, and its form."""
    table = read_table(source)
    form = form_of(table)
    log.say(f"{source}: {len(table):,} conversations in the form of {form}", kind="data")
    found, cut, faults = conversations_of(table, form)
    if faults and not settings.drop_faulty:
        raise HalfpintError(
            source, wanted="sound conversations: user and assistant in turn, after a system message if there is one",
            got="; ".join(f"{fault} ({_shown(rows)})" for fault, rows in faults.items()),
            todo="Repair those rows, or set drop_faulty to leave them out.",
        )  # fmt: skip
    for fault, rows in faults.items():
        _tell(rows, f"with {fault}", source, dropped, log)
    if cut:
        log.say(f"  {len(cut):,} end with a user's turn that nobody answers; it was left out ({_shown(cut)})")
    seen: set[str] = set()
    kept, again = [], []
    for one in found:
        if one.key in seen:
            again.append(one.row)
        else:
            seen.add(one.key)
            kept.append(one)
    _tell(again, "that are there already (exact duplicates)", source, dropped, log)
    if not kept:
        raise HalfpintError(source, wanted="at least one sound conversation", got="none", todo="Check the file.")
    return kept, form


def form_of(table: Table) -> str:
    """OpenAI, ShareGPT or Alpaca, by the names of the columns.

    Raises:
        HalfpintError: it is none of them.
    """
    for form, columns in _FORMS.items():
        if all(name in table.columns for name in columns):
            return form
    known = [name for columns in _FORMS.values() for name in columns]
    near = [nearest(name, known) for name in table.columns]
    raise HalfpintError(
        f"{table.source}: columns",
        wanted="messages (OpenAI), conversations (ShareGPT), or instruction and output (Alpaca)",
        got=", ".join(map(str, table.columns)),
        todo=next((text for text in near if text.startswith("Did you mean")), "Rename the columns."),
    )


def conversations_of(table: Table, form: str) -> tuple[list[Conversation], list[int], dict[str, list[int]]]:
    """The sound conversations; rows whose last question nobody answers (it is left out); rows of each fault."""
    found: list[Conversation] = []
    cut: list[int] = []
    faults: dict[str, list[int]] = {}
    for index, row in enumerate(table.rows):
        cells = {name: values[index] for name, values in table.columns.items()}
        try:
            messages = _alpaca(cells) if form == "Alpaca" else _turns(cells, _FORMS[form][0])
            _check(messages)
        except _FaultError as fault:
            faults.setdefault(str(fault), []).append(row)
            continue
        if messages[-1].role == USER:
            cut.append(row)
            messages.pop()
        found.append(Conversation(tuple(messages), row))
    return found, cut, faults


class _FaultError(Exception):
    """What is wrong with one conversation, in words that rows are grouped by."""


def _turns(cells: Mapping[str, object], column: str) -> list[Message]:
    turns = cells[column]
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise _FaultError("no messages")
    messages = [_message(turn) for turn in turns]
    system = cells.get("system")
    if isinstance(system, str) and system.strip() and messages[0].role != SYSTEM:
        messages.insert(0, Message(SYSTEM, _clean(system)))
    return messages


def _message(turn: object) -> Message:
    if not isinstance(turn, Mapping):
        raise _FaultError("a message that is no object")
    role, content = (turn.get(name, turn.get(other)) for name, other in (("role", "from"), ("content", "value")))
    if not isinstance(role, str):
        raise _FaultError("a message without a role")
    known = _ROLES.get(role.strip().lower())
    if known is None:
        raise _FaultError(f"the unknown role {role!r} (known: {', '.join(_ROLES)})")
    if isinstance(content, Sequence) and not isinstance(content, str):  # OpenAI's parts
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise _FaultError("content that is no text")
        content = "".join(map(str, parts))
    return Message(known, _clean(content))


def _alpaca(cells: Mapping[str, object]) -> list[Message]:
    """`input` follows `instruction` after a blank line; `history` holds earlier pairs of question and answer."""
    system, history = cells.get("system"), cells.get("history")
    messages = [Message(SYSTEM, _clean(system))] if isinstance(system, str) and system.strip() else []
    for pair in history if isinstance(history, Sequence) and not isinstance(history, str) else ():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise _FaultError("a history that is no list of pairs")
        messages += [Message(USER, _clean(pair[0])), Message(ASSISTANT, _clean(pair[1]))]
    asked = [_clean(cells.get(name)) for name in ("instruction", "input")]
    question = "\n\n".join(text for text in asked if text.strip())
    return [*messages, Message(USER, question), Message(ASSISTANT, _clean(cells["output"]))]


def _clean(content: object) -> str:
    """The text as UTF-8 can hold it; a number as it is written."""
    if content is None:
        return ""
    if isinstance(content, int | float) and not isinstance(content, bool):
        return str(content)
    if not isinstance(content, str):
        raise _FaultError("content that is no text")
    return _SURROGATE.sub("\ufffd", content)


def _check(messages: Sequence[Message]) -> None:
    roles = [message.role for message in messages]
    if any(not message.content.strip() for message in messages):
        raise _FaultError("empty content")
    if ASSISTANT not in roles:
        raise _FaultError("no assistant turn")
    turns = roles[1:] if roles[0] == SYSTEM else roles
    if any(role != (USER, ASSISTANT)[place % 2] for place, role in enumerate(turns)):
        raise _FaultError("roles out of order")


def _split(found: Sequence[Conversation], share: float, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """Train and validation; which side a conversation is on is drawn by the hash of its question."""
    ranks = {one.question_key: sha256(f"{seed} {one.question_key}".encode()).hexdigest() for one in found}
    sizes = Counter(one.question_key for one in found)
    wanted = max(1, round(share * len(found)))
    chosen: set[str] = set()
    taken = 0
    for question in sorted(sizes, key=lambda name: ranks[name])[:-1]:  # the last one stays to learn from
        if taken >= wanted:
            break
        chosen.add(question)
        taken += sizes[question]
    train = [one for one in found if one.question_key not in chosen]
    return train, [one for one in found if one.question_key in chosen]


def _tell(rows: Sequence[int], why: str, source: str, dropped: list[dict[str, Any]], log: Log) -> None:
    if rows:
        dropped.append({"source": source, "why": why, "count": len(rows), "rows": list(rows[:20])})
        log.say(f"  dropped {len(rows):,} conversations {why} ({_shown(rows)})", kind="dropped")


def _shown(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - _SHOWN_ROWS:,} more" if len(rows) > _SHOWN_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_SHOWN_ROWS]))}{more}"


def _hash(messages: Iterable[Message]) -> str:
    content = json.dumps([[message.role, message.content] for message in messages])
    return sha256(content.encode()).hexdigest()


def is_conversation(cells: object) -> bool:
    """Whether an object of a JSON file has the fields of one of the forms."""
    return isinstance(cells, Mapping) and any(all(name in cells for name in names) for names in _FORMS.values())
