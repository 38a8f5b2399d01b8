"""`halfpint pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from halfpint.command import Command, Group, Result, positional
from halfpint.progress import Log


@dataclass(frozen=True)
class Pulled(Result):
    """A base model on this machine.

    Attributes:
        folder: where it is.
    """

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)


@dataclass(frozen=True)
class Known(Result):
    """The base models that come from the Python package index.

    Attributes:
        models: of each its name, what it is, its licence, its parameters and whether it is in the cache.
        others: how many more are known by name, which come from the Hub.
    """

    models: tuple[tuple[str, str, str, int, bool], ...]
    others: int

    def __str__(self) -> str:
        lines = []
        for name, note, licence, parameters, is_here in self.models:
            here = "; in the cache" if is_here else ""
            lines.append(f"{name}  ({parameters / 1e6:,.0f}M parameters, {licence}{here})\n    {note}")
        more = f"{self.others:,} more are known by name and come from the Hub:"
        named = "halfpint pull NAME (or owner/model, or owner/model@revision)"
        return "\n".join([*lines, "", f"{more} halfpint models", "", "next:", f"  {named}"])


@dataclass(frozen=True, kw_only=True)
class Pull(Command):
    """Download a base model into the cache and verify its hash; without a name: list what the package index has.

    Args:
        name: Model by name (`halfpint models` lists them), or a Hub name (owner/model, or owner/model@revision).
    """

    group: ClassVar[Group] = Group.MOVE
    synonyms: ClassVar[tuple[str, ...]] = ("download",)

    name: str = positional("", metavar="NAME")

    def run(self, log: Log) -> Pulled | Known:
        """Download it where it is not in the cache."""
        from halfpint.models.known import known_models
        from halfpint.models.sources import cached, catalogue, locate

        if self.name:
            return Pulled(locate(self.name, log))
        offered = catalogue("")
        listed = tuple(
            (name, str(one["note"]), str(one["licence"]), int(one["parameters"]), cached(name).is_dir())
            for name, one in offered.items()
        )
        return Known(listed, others=len(set(known_models()) - set(offered)))
