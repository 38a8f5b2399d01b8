"""What a chat template reads of conversations besides roles and contents: tools, their calls, thoughts, names.

Each field is tried: a conversation is rendered with and without it. One that changes nothing is named with its rows,
and a conversation whose tool calls would be missing from what is learned is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from halfpint.data.conversations import shown_rows
from halfpint.data.messages import CALLS, TOOL, Conversation
from halfpint.errors import HalfpintError
from halfpint.progress import Log
from halfpint.terminal import amount
from halfpint.train._chat_tokens import ChatTokenizer


def readable(
    tokenizer: ChatTokenizer, conversations: Sequence[Conversation], what: str, log: Log
) -> list[Conversation]:
    """The conversations that the template writes whole; the log names each field that it does not read, with rows.

    Args:
        what: the side of the data, for the log.

    Raises:
        HalfpintError: the template refuses one, or writes none whole.
    """
    some = [place for place, one in enumerate(conversations) if one.fields() or _results(one)]
    texts = dict(zip(some, tokenizer.texts([conversations[place] for place in some]), strict=True))
    unread: dict[str, list[int]] = {}
    dropped: dict[str, set[int]] = {}
    for name in dict.fromkeys(name for place in some for name in conversations[place].fields()):
        places = [place for place in some if name in conversations[place].fields()]
        without = tokenizer.texts([conversations[place].without(name) for place in places])
        same = [place for place, text in zip(places, without, strict=True) if text == texts[place]]
        if same and name == CALLS:
            dropped["tool calls"] = set(same)
        elif same:
            unread[name] = [conversations[place].row for place in same]
    results = {place for place in some if any(text not in texts[place] for text in _results(conversations[place]))}
    dropped |= {"what tools answered": results} if results else {}
    for name, rows in unread.items():
        log.say(f"  {what}: the chat template does not write {name}: left out ({shown_rows(rows)})", kind="data")
    for name, gone in dropped.items():
        rows = [conversations[place].row for place in sorted(gone)]
        log.say(
            f"  {what}: dropped {amount(len(rows), 'conversation')} with {name}, which the chat template does not "
            f"write ({shown_rows(rows)})", kind="dropped", count=len(rows), rows=rows[:20],
        )  # fmt: skip
    away = set().union(*dropped.values())
    kept = [one for place, one in enumerate(conversations) if place not in away]
    if not kept:
        raise HalfpintError(
            "chat template", wanted=f"conversations that it writes whole ({what})",
            got=f"none: all have {', '.join(dropped)}",
            todo="Take a base model whose chat template knows tools, such as a Qwen3.",
        )  # fmt: skip
    return kept


def _results(conversation: Conversation) -> list[str]:
    """What tools answered."""
    return [one.content.strip() for one in conversation.messages if one.role == TOOL]
