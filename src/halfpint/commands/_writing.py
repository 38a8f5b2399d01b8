"""The settings of generated text, which several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfpint.command import Command, option

if TYPE_CHECKING:
    from halfpint.engines import Generation


@dataclass(frozen=True, kw_only=True)
class Writing(Command):
    """A command that generates text.

    Args:
        max_tokens: Most tokens to generate.
        temperature: Sampling temperature; 0 always takes the most likely token.
        top_k: Sample from the k most likely tokens; 0 from all.
        top_p: Sample from the most likely tokens that together have this probability.
        min_p: Skip tokens less likely than this share of the most likely one.
        repetition_penalty: Above 1 discourages repetition.
        stop: Text that ends the output; repeatable.
        seed: Random seed; the same seed gives the same text.
        json_schema: JSON schema that the output follows, as JSON or as a file; {} for any object.
        system: System message.
    """

    max_tokens: int = option(200, least=1)
    temperature: float = option(0.8, least=0)
    top_k: int = option(0, least=0)
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    json_schema: str = option("", metavar="SCHEMA")
    system: str = ""

    def generation(self, **more: Any) -> Generation:
        """The settings as engines take them.

        Raises:
            HalfpintError: one of them is out of its range, or the schema cannot be read.
        """
        from halfpint.engines import Generation
        from halfpint.generation import read_schema

        return Generation(
            max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
            min_p=self.min_p, repetition_penalty=self.repetition_penalty, seed=self.seed, stop=self.stop,
            schema=read_schema(self.json_schema), **more,
        )  # fmt: skip
