"""`halfpint import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from halfpint.command import Command, Group, option, positional
from halfpint.commands._made import Made
from halfpint.progress import Log


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Import an n-gram model that another program wrote as an ARPA file.

    Args:
        file: ARPA file of KenLM or another program, also .gz.
        out: Output folder.
        force: Replace an earlier model in the output folder.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.MOVE

    file: Path = positional(metavar="FILE")
    out: Path = option(metavar="FOLDER")
    force: bool = False
    json: bool = False

    def run(self, log: Log) -> Made:
        """Read the file and write a bundle."""
        from halfpint.language import read_arpa

        return Made.of(read_arpa(self.file, self.out, force=self.force))
