"""A conversation with a language model in the terminal, or over a pipe where a line is a message."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TextIO

from halfpint.bundle import Bundle
from halfpint.commands._writing import CUT_OFF
from halfpint.data.chat_forms import SETTINGS, VALUES, conversations_of, form_of
from halfpint.data.messages import ASSISTANT, SYSTEM, USER
from halfpint.data.read import read_table
from halfpint.engines import Generation, Piece, open_language_engine
from halfpint.errors import HalfpintError, nearest
from halfpint.files import write_text
from halfpint.terminal import amount, escaped
from halfpint.tokenizers.chat_template import ChatTemplate

COMMANDS = {
    "help": "this list",
    "reset": "start over; the system message and the settings stay",
    "system TEXT": "set the system message, which is never dropped",
    "set NAME VALUE": "change a setting, such as: /set temperature 0.3; without a name: show them",
    "retry": "another answer to the last message",
    "undo": "undo the last message and its answer",
    "save FILE": "add the conversation to a JSONL file, as `halfpint finetune` reads it",
    "load FILE": "continue the last conversation of a file",
    "quit": "end (so does Ctrl-D)",
}

_MOST_ANSWER = 0.5  # of the context, kept for an answer
_LEFT_IN = 0.75  # of what fits, once something no longer does: each time all that stays is read anew


class Talk:
    """A conversation: what was said, and what comes next.

    Attributes:
        messages: all that was said, in turn, without the system message.
        system: what the model is told before all else; empty for nothing.
        values: what the chat template is given besides messages, such as the tools of a loaded conversation.
        settings: of the answers.
        left_out: messages, from the first on, that the model is not given any more.

    Raises:
        HalfpintError: a bundle that is no language model, has no chat template, or cannot write.
    """

    def __init__(self, bundle: Bundle, settings: Generation, system: str = "", threads: int | None = None) -> None:
        self._engine = open_language_engine(bundle, threads=threads)
        self._engine.check_writes("a conversation")  # a masked model is none, whatever template it has
        self._template = ChatTemplate(bundle.path)
        self.messages: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}
        self.settings = settings
        self.system = ""
        self.left_out = 0
        self._tries = 0
        if system:
            self.tell(system)

    def tell(self, system: str) -> None:
        """Set the system message.

        Raises:
            HalfpintError: the model's template has no place for one.
        """
        if system and not self._template.takes_system:
            raise HalfpintError(
                "system", wanted="a model whose chat template takes a system message", got="one that does not",
                todo="Say it in the first message.", said="This model's chat template takes no system message.",
            )  # fmt: skip
        self.system = system

    def ask(self, text: str) -> Iterator[Piece]:
        """The model's answer to `text`, piece by piece; what came of it is kept, also when nobody takes the rest.

        Raises:
            HalfpintError: an empty message, or one that the context has no room for.
        """
        if not text.strip():
            raise HalfpintError("message", wanted="some words", got="none", said="The message is empty.")
        self._tries = 0
        return self._answer([*self.messages, {"role": USER, "content": text}])

    def retry(self) -> Iterator[Piece]:
        """Another answer to the last message, drawn with another seed; with a temperature of 0 it is the same one."""
        asked = self.messages[:-1] if self.messages and self.messages[-1]["role"] == ASSISTANT else self.messages
        if not asked:
            raise HalfpintError(
                "/retry",
                wanted="a message that was answered",
                got="none yet",
                said="There is no answered message to retry yet.",
            )
        self._tries += 1
        return self._answer(asked)

    def undo(self) -> None:
        """Take the last message and its answer back."""
        if not self.messages:
            raise HalfpintError(
                "/undo", wanted="something that was said", got="nothing yet", said="There is nothing to undo yet."
            )
        while self.messages and self.messages.pop()["role"] != USER:
            pass
        self.left_out = 0

    def reset(self) -> None:
        """Forget what was said."""
        self.messages, self.values, self.left_out = [], {}, 0

    def set(self, name: str, value: str) -> None:
        """Change a setting of `Generation`.

        Raises:
            HalfpintError: there is none of that name, or the value does not fit.
        """
        names = [item.name for item in fields(Generation) if item.name != "logprobs"]  # a conversation shows none
        if name not in names:
            raise HalfpintError(
                "/set",
                wanted="a setting",
                got=repr(name),
                todo=nearest(name, names),
                said=f"There is no setting {name!r}.",
            )
        try:
            found: Any = json.loads(value)
        except (ValueError, RecursionError):
            found = value
        now = getattr(Generation(), name)
        if name == "stop":
            found = tuple(found) if isinstance(found, list) else (str(value),) if value else ()
        elif name == "schema":
            found = found if isinstance(found, Mapping) else None if found in ("", None) else found
        elif isinstance(now, float) and isinstance(found, int) and not isinstance(found, bool):
            found = float(found)
        elif not isinstance(found, type(now)) or isinstance(found, bool):
            raise HalfpintError(f"/set {name}", wanted=f"a number such as {now}", got=repr(value))
        self.settings = replace(self.settings, **{name: found})

    def save(self, path: Path) -> int:
        """Add the conversation as a line of JSON to a file; gives how many lines that file has.

        Raises:
            HalfpintError: nobody answered yet.
        """
        if not any(message["role"] == ASSISTANT for message in self.messages):
            raise HalfpintError(
                "/save", wanted="a conversation with an answer", got="none yet", said="There is no answer to save yet."
            )
        whole = ([{"role": SYSTEM, "content": self.system}] if self.system else []) + self.messages
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        before += "\n" if before and not before.endswith("\n") else ""
        write_text(path, before + json.dumps({"messages": whole, **self._saved()}, ensure_ascii=False) + "\n")
        return before.count("\n") + 1

    def _saved(self) -> dict[str, Any]:
        """The values as `halfpint finetune` reads them: those that are no columns of their own in one object."""
        columns = {name: value for name, value in self.values.items() if name in VALUES}
        others = {name: value for name, value in self.values.items() if name not in VALUES}
        return {**columns, **({SETTINGS: others} if others else {})}

    def load(self, path: Path) -> None:
        """Go on with the last conversation of a file, in any form that `halfpint finetune` reads; its tools stay.

        Raises:
            HalfpintError: there is no such file, or no sound conversation in it.
        """
        table = read_table(str(path))
        found = conversations_of(table, form_of(table))
        if not found.conversations:
            raise HalfpintError(
                str(path),
                wanted="a sound conversation",
                got=", ".join(found.faults) or "none",
                said=f"{path} is not a conversation that can be continued: {', '.join(found.faults) or 'it has none'}.",
            )
        last = found.conversations[-1]
        messages = last.as_dicts()
        system = messages.pop(0)["content"] if messages[0]["role"] == SYSTEM else ""
        self.tell(system)
        self.messages, self.values, self.left_out = messages, last.template_values(), 0

    def _answer(self, asked: list[dict[str, Any]]) -> Iterator[Piece]:
        """The answer to the last of `asked`, which become the messages when there is one."""
        ids, left_out = self._ids(asked)
        pieces = self._engine.write(ids, replace(self.settings, seed=self.settings.seed + self._tries))
        self.left_out = left_out
        return self._kept(asked, pieces)

    def _kept(self, asked: list[dict[str, Any]], pieces: Iterator[Piece]) -> Iterator[Piece]:
        said = ""
        try:
            for piece in pieces:
                said += piece.text
                yield piece
        finally:
            if said.strip():  # a message that nobody answered is none: user and assistant take turns
                self.messages = [*asked, {"role": ASSISTANT, "content": said}]

    def _ids(self, asked: list[dict[str, Any]]) -> tuple[list[int], int]:
        """The ids of what fits, and how many of the oldest messages are left out, a question with its answer each."""
        context = self._engine.context
        most = context - min(self.settings.max_tokens, int(context * _MOST_ANSWER))
        system = [{"role": SYSTEM, "content": self.system}] if self.system else []
        wanted, first = most, self.left_out
        while True:
            ids = self._template.ids([*system, *asked[first:]], self._engine.encode, **self.values)
            if len(ids) <= wanted:
                return ids, first
            wanted = int(most * _LEFT_IN)
            following = next((place for place in range(first + 1, len(asked)) if asked[place]["role"] == USER), None)
            if following is None and len(ids) <= most:
                return ids, first
            if following is None:
                raise HalfpintError(
                    "message", wanted=f"at most {most} tokens with what is around it", got=str(len(ids)),
                    todo="Shorten it, or lower max_tokens, for which the rest is kept.",
                    said=f"The message is too long: {len(ids):,} tokens with what is around it, where {most:,} fit.",
                )  # fmt: skip
            first = following


class Terminal:
    """The conversation as a person types and reads it.

    Args:
        talk: the conversation.
        given: where lines come from.
        shown: where answers go.
        told: where notices go, when lines come over a pipe.

    Attributes:
        is_cut: whether JSON was cut off that came over a pipe.
    """

    def __init__(self, talk: Talk, given: TextIO, shown: TextIO, told: TextIO) -> None:
        self._talk, self._given, self._shown = talk, given, shown
        self._left_out, self.is_cut = 0, False
        self._typed = given.isatty()
        self._told = shown if self._typed and shown.isatty() else told
        self._dim = self._told is shown and not os.environ.get("NO_COLOR")

    def run(self) -> None:
        """Take lines until the end of them, or /quit.

        Raises:
            HalfpintError: something is wrong with a line that came over a pipe; a person is told and types another.
        """
        if self._typed:
            with suppress(ImportError):
                import readline  # noqa: F401 - `input` edits lines with it
            self._say("Type a message. /help lists the commands; Ctrl-C stops an answer, Ctrl-D ends.")
        while (line := self._line()) is not None:
            try:
                if not self._take(line):
                    return
            except HalfpintError as error:
                if not self._typed:
                    raise
                self._say(f"error: {error}")

    def _line(self) -> str | None:
        """The next line; None at the end."""
        if not self._typed:
            line = self._given.readline()
            return line.rstrip("\r\n") if line else None
        while True:
            try:
                return input("> ")
            except EOFError:
                print(file=self._shown)
                return None
            except KeyboardInterrupt:
                print(file=self._shown)
                self._say("Ctrl-D or /quit ends.")

    def _take(self, line: str) -> bool:
        """Do what a line asks for; gives whether it goes on."""
        if not line.strip():
            return True
        if not line.startswith("/") or line.startswith("//"):
            self._show(self._talk.ask(line.removeprefix("/") if line.startswith("//") else line))
            return True
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if name in ("quit", "exit"):
            return False
        self._command(name, rest)
        return True

    def _command(self, name: str, rest: str) -> None:
        talk = self._talk
        if name == "help":
            for words, what in COMMANDS.items():
                self._say(f"/{words:<16} {what}")
            self._say("A message that begins with a slash: write two of them.")
        elif name == "reset":
            talk.reset()
            self._say("started over")
        elif name == "system":
            talk.tell(rest)
            self._say(f"system: {rest}" if rest else "no system message")
        elif name == "set":
            key, _, value = rest.partition(" ")
            if key:
                talk.set(key, value.strip())
            shown = [key] if key else [item.name for item in fields(talk.settings)]
            self._say("  ".join(f"{one} {getattr(talk.settings, one)}" for one in shown))
        elif name == "retry":
            self._show(talk.retry())
        elif name == "undo":
            talk.undo()
            self._say(f"taken back; {amount(len(talk.messages), 'message')} left")
        elif name in ("save", "load"):
            if not rest:
                raise HalfpintError(
                    f"/{name}",
                    wanted="a file",
                    got="none",
                    todo=f"Type: /{name} talk.jsonl",
                    said=f"/{name} needs a file.",
                )
            if name == "save":
                self._say(f"saved as conversation {talk.save(Path(rest).expanduser())} of {rest}")
            else:
                talk.load(Path(rest).expanduser())
                with_values = f", with {', '.join(talk.values)}" if talk.values else ""
                self._say(f"{amount(len(talk.messages), 'message')} read{with_values}")
                for message in talk.messages[-2:]:
                    self._say(f"{message['role']}: {message['content']}")
        else:
            names = [words.split()[0] for words in COMMANDS]
            todo = nearest(name, names) + " /help lists them; two slashes begin a message with one."
            raise HalfpintError(
                f"/{name}", wanted="a command", got="no such command", todo=todo, said=f"There is no command /{name}."
            )

    def _show(self, pieces: Iterator[Piece]) -> None:
        """Write an answer as it comes; Ctrl-C ends it and what was said stays."""
        if self._talk.left_out > self._left_out:
            self._say(f"(the first {amount(self._talk.left_out, 'message')} no longer fit and are left out)")
        self._left_out = self._talk.left_out
        started, last = time.monotonic(), Piece("", (), "", 0)
        try:
            for last in pieces:
                print(escaped(last.text), end="", flush=True, file=self._shown)
        except KeyboardInterrupt:
            if not self._typed:
                raise
        finally:
            pieces.close()  # type: ignore[attr-defined]
            print(flush=True, file=self._shown)
        if last.finish == "length" and self._talk.settings.schema is not None and not self._typed:
            self.is_cut = True
            self._say(CUT_OFF)
        if self._typed:
            seconds = time.monotonic() - started
            ended = {"stop": "", "length": ", cut off at max_tokens", "": ", stopped"}[last.finish]
            if not last.written and not last.finish:
                self._say("stopped before an answer; the message is taken back")
                return
            self._say(f"{amount(last.written, 'token')}, {last.written / max(seconds, 1e-9):.1f} tokens/s{ended}")

    def _say(self, text: str) -> None:
        text = escaped(text) if self._told.isatty() else text
        print(f"\x1b[2m{text}\x1b[0m" if self._dim else text, file=self._told, flush=True)


def converse(bundle: Bundle, settings: Generation, system: str = "", threads: int | None = None) -> bool:
    """Talk with the model of `bundle` on standard input and output until the lines end.

    Gives whether an answer by a JSON schema was cut off, where lines came over a pipe; a person sees it.

    Raises:
        HalfpintError: a bundle that cannot be talked with, or a faulty line of a pipe.
    """
    terminal = Terminal(Talk(bundle, settings, system, threads), sys.stdin, sys.stdout, sys.stderr)
    terminal.run()
    return terminal.is_cut
