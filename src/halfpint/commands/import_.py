"""`halfpint import`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halfpint.command import Command, Group, option, positional, stem_of
from halfpint.commands._made import Made, figures_of
from halfpint.progress import Log


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Import an n-gram model that another program wrote as an ARPA file.

    Args:
        file: ARPA file of KenLM or another program, also .gz.
        out: Output folder (default: FILE-ngram).
        force: Replace an earlier model in the output folder.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.MOVE
    synonyms: ClassVar[tuple[str, ...]] = ("load", "arpa")

    file: Path = positional(metavar="FILE")
    out: Path | None = option(None, metavar="FOLDER")
    force: bool = False
    json: bool = False

    @property
    def target(self) -> Path:
        """Where the model is written."""
        return self.out or Path(f"{stem_of(str(self.file))}-ngram")

    def writes(self) -> tuple[Path, ...]:
        """The folder of the model."""
        return (self.target,)

    def run(self, log: Log) -> Made:
        """Read the file and write a bundle."""
        return Made.of(read_arpa(self.file, self.target, force=self.force))


def read_arpa(file: Path, out: Path, *, force: bool) -> dict[str, Any]:
    """A bundle at `out` of the n-gram model in an ARPA file; gives what was done.

    Raises:
        HalfpintError: no such file, a damaged one, or an `out` that holds something else.
    """
    from halfpint.bundle import Kind, file_sha256, new_bundle
    from halfpint.lookup import text_task
    from halfpint.models.ngram import NgramModel
    from halfpint.workspace import disk_errors, refuse_other_files

    refuse_other_files(out, force=force)
    started = time.monotonic()
    model = NgramModel.from_arpa(file)
    config = model.config()
    with disk_errors(out), new_bundle(out, kind=Kind.NGRAM) as (folder, card):
        model.save(folder)
        card.update(task=text_task().name, engine="ngram")
        seconds = round(time.monotonic() - started, 3)
        told = {"ngrams": config["ngrams"], "vocabulary": config["vocabulary_size"], "sha256": file_sha256(file)}
        card["stages"].append({"use": "import", "settings": {"file": file.name}, "seconds": seconds, **told})
    return figures_of(out, started, validation=None)
