"""Answers in a conversation: a language model goes on with what a user said, turn by turn."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.data.chat_forms import is_conversation
from halfpint.data.conversations import ChatData, prepare_chat, read_chat
from halfpint.data.messages import Conversation
from halfpint.data.rows import opened
from halfpint.errors import HalfpintError, need
from halfpint.progress import Log
from halfpint.task import Split, Task
from halfpint.tasks import predict

_READ = 65_536  # bytes of a file that its form is guessed by


class Chat(Task[Conversation]):
    """The task; an example is a conversation."""

    name = "chat"
    about = "answers in a conversation"
    data = ChatData
    routes = "language"
    commands = predict.Predict.commands
    ends = predict.Predict.ends
    metrics = predict.Predict.metrics
    answers = True

    def recognises(self, source: str) -> float:
        """Sure of JSON whose first object, and of Parquet whose columns, are those of a conversation."""
        return 0.9 if is_conversation(_first_object(Path(source).expanduser())) else 0.0

    def read(self, settings: Any, folder: Path, log: Log) -> Split[Conversation]:
        """Read, check and split conversations."""
        return prepare_chat(settings, log)

    def given(self, settings: Any, log: Log) -> Sequence[Conversation]:
        """All conversations, in the order of the file."""
        return read_chat(settings, log)

    def primary(self, train: Sequence[Conversation]) -> str:
        """Perplexity of the assistant's tokens, for models that share a tokenizer."""
        return "perplexity_per_token"

    def documents(self, split: Split[Conversation]) -> Split[str]:
        """Conversations are no running text: turns need a template around them."""
        raise HalfpintError("data", wanted="running text", got="conversations", todo="Give a text file.")


def _first_object(path: Path) -> Any:
    """The first JSON object in a file, the columns of a Parquet file, or None."""
    try:
        if path.suffix == ".parquet":
            return dict.fromkeys(need("pyarrow.parquet", f"reading {path}").read_schema(path).names)
        with opened(path) as file:  # a pipe gives what it has once: all who guess have to read the same copy
            start = (gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(_READ)
        text = start.decode("utf-8-sig", "replace").lstrip().removeprefix("[")
        return json.JSONDecoder().raw_decode(text.lstrip())[0]
    except (OSError, EOFError, ValueError, RecursionError, zlib.error):
        return None


TASK = Chat()
