"""`halfpint fill`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import HalfpintError
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.model import Answer


@dataclass(frozen=True)
class Filled(Result):
    """What stands in the gaps of some texts.

    Attributes:
        answers: one per [MASK], in order.
    """

    answers: tuple[Answer, ...]

    def as_json(self) -> str:
        """One object per gap, each on its own line."""
        return "\n".join(json.dumps(answer.row, ensure_ascii=False) for answer in self.answers)

    def __str__(self) -> str:
        return "\n".join(f"{answer}  |  {answer.text}" for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class Fill(Command):
    """Fill the gaps in a text with a masked language model: each [MASK] gets the most likely tokens.

    Args:
        bundle: Folder of a masked language model.
        texts: Texts with [MASK] where a token is missing, such as "the [MASK] of".
        top: Tokens per gap, most likely first.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.USE
    synonyms: ClassVar[tuple[str, ...]] = ("mask", "fill-mask")

    bundle: str = positional(metavar="BUNDLE")
    texts: tuple[str, ...] = positional((), metavar="TEXT...")
    top: int = option(5, least=1)
    json: bool = False

    def run(self, log: Log) -> Filled:
        """Fill the gaps of each text."""
        from halfpint.lookup import need_command
        from halfpint.model import Model
        from halfpint.models.pull_language import find_bundle

        bundle = find_bundle(self.bundle, log)
        need_command(bundle, self.word())
        if not self.texts:
            raise HalfpintError(
                "halfpint fill", wanted="a text", got="none",
                said=f'Give a text with a gap: halfpint fill {self.bundle} "the [MASK] of".',
            )  # fmt: skip
        return Filled(answers=Model(bundle).fill(self.texts, self.top))
