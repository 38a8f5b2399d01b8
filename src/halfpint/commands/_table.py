"""The flags of commands that read tables."""

from __future__ import annotations

from dataclasses import dataclass

from halfpint.command import Command, option


@dataclass(frozen=True, kw_only=True)
class ReadsTable(Command):
    """A command that reads a table.

    Args:
        header: The first row of the file names the columns (default: guessed, and said).
        delimiter: Character between the cells of the file: comma, semicolon, tab, pipe or another (default: guessed).
        encoding: Encoding of the file, such as cp1252 or gb18030 (default: guessed).
        sheet: Sheet of a workbook (default: the first).
    """

    header: bool | None = None
    delimiter: str = option("", metavar="CHARACTER")
    encoding: str = option("", metavar="NAME")
    sheet: str = option("", metavar="NAME")

    def refuse_form(self, got: str) -> None:
        """Refuse what is said of a table where none is read as one.

        Raises:
            HalfpintError: something is said.
        """
        self.refuse(*self.written, wanted="a classifier", got=got)

    @property
    def written(self) -> dict[str, str]:
        """What was said of how the file is written, as settings of [data]."""
        header = {True: "yes", False: "no", None: ""}[self.header]
        return {"header": header, "delimiter": self.delimiter, "encoding": self.encoding, "sheet": self.sheet}
