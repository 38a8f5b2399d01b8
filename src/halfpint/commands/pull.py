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


@dataclass(frozen=True, kw_only=True)
class Pull(Command):
    """Download a base model into the cache and verify its hash.

    Args:
        name: Model in the catalogue, or a Hub name (owner/model).
    """

    group: ClassVar[Group] = Group.MOVE

    name: str = positional(metavar="NAME")

    def run(self, log: Log) -> Pulled:
        """Download it where it is not in the cache."""
        from halfpint.models.sources import locate

        return Pulled(locate(self.name, log))
