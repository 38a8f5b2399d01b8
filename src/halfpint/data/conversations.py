"""Conversations to learn to answer from: read, checked turn by turn, split, each step said.

Forms, known by the columns (`chat_forms`): OpenAI (`messages` of `role` and `content`), ShareGPT (`conversations` of
`from` and `value`), Alpaca (`instruction`, `input`, `output`) and TRL (`prompt`, `completion`), in any file that
`read.read_table` reads. A file that a `dataset_info.json` beside it describes is read with the names that stand there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from halfpint.data.chat_forms import conversations_of, form_of
from halfpint.data.dataset_info import read_described
from halfpint.data.messages import ASSISTANT, SYSTEM, Conversation
from halfpint.data.read import read_table
from halfpint.errors import HalfpintError, SettingError
from halfpint.progress import Log
from halfpint.task import Split
from halfpint.terminal import amount

_SHOWN_ROWS = 8
_MOST_VALIDATION_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class ChatData:
    """The [data] table of a recipe for the task chat.

    Args:
        source: a file of conversations (JSON, JSONL or Parquet, each also gzipped), a folder with one, or a Hub name.
        validation: conversations for validation; empty takes some out of `source`.
        validation_share: share of the conversations for validation where `validation` is empty.
        drop_faulty: leave faulty conversations out and say so, instead of stopping there.
        seed: of the split.
    """

    source: str
    validation: str = ""
    validation_share: float = 0.1
    drop_faulty: bool = False
    seed: int = 0


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
        raise SettingError(
            "data.validation_share", wanted=f"a share above 0, at most {_MOST_VALIDATION_SHARE}", got=str(share)
        )
    dropped: list[dict[str, Any]] = []
    unread: dict[str, int] = {}
    kept, form = _read(settings.source, settings, dropped, unread, log)
    if settings.validation:
        held, _ = _read(settings.validation, settings, dropped, unread, log)
        questions = {one.question_key for one in held}
        train = [one for one in kept if one.question_key not in questions]
        rows = sorted({one.row for one in kept} - {one.row for one in train})
        _tell(rows, "with a question of the validation file", settings.source, dropped, log)
    else:
        train, held = _split(kept, share, settings.seed)
    if not train or not held:
        raise HalfpintError(
            settings.source, wanted="conversations for training and some for validation",
            got=f"{len(train)} and {len(held)}", todo="Give more conversations, or a validation file of others.",
            said=f"{settings.source} has too few conversations: {len(train)} for training and {len(held)} for "
            "validation.",
        )  # fmt: skip
    answers = Counter(message.learn for one in (*train, *held) for message in one.messages if message.role == ASSISTANT)
    facts = {
        "source": settings.source, "validation_source": settings.validation or None, "form": form,
        "conversations": len(train) + len(held), "train": len(train), "validation": len(held),
        "answers": answers.total(), "masked_answers": answers[False], "unread": unread,
        "with_system": sum(one.messages[0].role == SYSTEM for one in (*train, *held)), "dropped": dropped,
    }  # fmt: skip
    key = sha256(json.dumps([[one.key for one in side] for side in (train, held)]).encode()).hexdigest()
    log.say(f"  {len(train):,} for training, {len(held):,} for choosing a model", kind="data", **facts)
    return Split(train=tuple(train), validation=tuple(held), key=key, facts={**facts, "fingerprint": key})


def read_chat(settings: ChatData, log: Log) -> list[Conversation]:
    """All sound conversations of `settings.source`, each once; not split.

    Raises:
        HalfpintError: as `prepare_chat`.
    """
    return _read(settings.source, settings, [], {}, log)[0]


def _read(
    source: str, settings: ChatData, dropped: list[dict[str, Any]], unread: dict[str, int], log: Log
) -> tuple[list[Conversation], str]:  # fmt: skip
    """The sound conversations of a source, each once, and its form."""
    table = read_described(source) or read_table(source)
    form = form_of(table)
    log.say(f"{source}: {amount(len(table), 'conversation')} in the form of {form}", kind="data")
    found = conversations_of(table, form)
    if found.faults and not settings.drop_faulty:
        raise HalfpintError(
            source, wanted="sound conversations: user and assistant in turn, after a system message if there is one",
            got="; ".join(f"{fault} ({shown_rows(rows)})" for fault, rows in found.faults.items()),
            todo="Repair those rows, or set drop_faulty to leave them out.",
            said=f"{source} has conversations that do not fit (user and assistant in turn, after a system message if "
            "there is one): "
            f"{'; '.join(f'{fault} ({shown_rows(rows)})' for fault, rows in found.faults.items())}.",
        )  # fmt: skip
    for fault, rows in found.faults.items():
        _tell(rows, f"with {fault}", source, dropped, log)
    if found.cut:
        log.say(
            f"  {len(found.cut):,} end with a user's turn that nobody answers; it was left out "
            f"({shown_rows(found.cut)})"
        )
    if found.masked:
        rows = list(dict.fromkeys(found.masked))
        log.say(
            f"  masked, as marked (weight 0, train false, prompt): {amount(len(found.masked), 'answer')} "
            f"({shown_rows(rows)})"
        )
    _tell_unread(found.unread, len(table), unread, log)
    nothing = [one.row for one in found.conversations if not one.learns]
    _tell(nothing, "of which no answer is to be learned", source, dropped, log)
    seen: set[str] = set()
    kept, again = [], []
    for one in found.conversations:
        if one.key in seen:
            again.append(one.row)
        elif one.learns:
            seen.add(one.key)
            kept.append(one)
    _tell(again, "that are there already (exact duplicates)", source, dropped, log)
    if not kept:
        raise HalfpintError(
            source,
            wanted="at least one sound conversation",
            got="none",
            todo="Check the file.",
            said=f"{source} has no sound conversation.",
        )
    return kept, form


def _tell_unread(fields: Mapping[str, Sequence[int]], rows: int, unread: dict[str, int], log: Log) -> None:
    """Name what nothing reads: a field in silence could be one that was to change what is learned."""
    for name, where in fields.items():
        unread[name] = unread.get(name, 0) + len(where)
    if fields:
        told = (f"{name} ({'all' if len(where) == rows else f'{len(where):,}'} rows)" for name, where in fields.items())
        log.say(f"  not used: {', '.join(told)}", kind="data")


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
        log.say(f"  dropped {amount(len(rows), 'conversation')} {why} ({shown_rows(rows)})", kind="dropped")


def shown_rows(rows: Sequence[int]) -> str:
    """The first of these rows, and how many more there are: "rows 3, 5 and 9 more"."""
    more = f" and {len(rows) - _SHOWN_ROWS:,} more" if len(rows) > _SHOWN_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_SHOWN_ROWS]))}{more}"
