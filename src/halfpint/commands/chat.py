"""`halfpint chat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from halfpint.command import Group, Result, option, positional
from halfpint.commands._writing import Writing
from halfpint.progress import Log


@dataclass(frozen=True)
class Chatted(Result):
    """A conversation that has ended.

    Attributes:
        is_cut: whether an answer that was to follow a JSON schema ended at the token limit: it is no whole value.
    """

    is_cut: bool = False

    @property
    def exit_code(self) -> int:
        """1 where JSON was cut off."""
        return int(self.is_cut)

    @property
    def is_shown(self) -> bool:
        """It was shown as it went."""
        return True

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True)
class Chat(Writing):
    """Chat with a language model in the terminal; /help lists what else you can type.

    From a pipe, each line is a message.

    Args:
        bundle: Folder of a language model, or a base model's name.
        max_tokens: Most tokens per answer.
    """

    group: ClassVar[Group] = Group.USE
    synonyms: ClassVar[tuple[str, ...]] = ("talk", "ask", "conversation")

    bundle: str = positional(metavar="BUNDLE")
    max_tokens: int = option(512, least=1)

    def run(self, log: Log) -> Chatted:
        """Talk until the lines end."""
        from halfpint.commands._conversation import converse
        from halfpint.lookup import need_command
        from halfpint.models.pull_language import find_bundle

        settings = self.generation()
        bundle = find_bundle(self.bundle, log)
        need_command(bundle, self.word())
        return Chatted(converse(bundle, settings, self.system))
