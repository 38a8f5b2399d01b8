"""`halfpint export`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.commands._made import Made
from halfpint.errors import HalfpintError, nearest
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.stage import Stage

_FORMATS = ("gguf", "compressed-tensors", "arpa")
_OF_FORMATS = {
    "merge_unknown": ("arpa",), "type": ("gguf", "compressed-tensors"), "pack": ("gguf",),
    "nearest": ("compressed-tensors",),
}  # fmt: skip
_ROUNDED = ("q8_0", "q4_0")


@dataclass(frozen=True)
class Arpa(Result):
    """An n-gram model that was written as an ARPA file."""

    file: Path
    size_bytes: int

    def as_json(self) -> str:
        """The file and its size."""
        return json.dumps({"file": str(self.file), "size_bytes": self.size_bytes})

    def __str__(self) -> str:
        return f"{self.file}: {self.size_bytes:,} bytes"


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Export a language model to GGUF, compressed-tensors or ARPA, and check that it works the same there.

    A packed model is unpacked to the file that it was made from.

    Args:
        bundle: Language model: a bundle, or a base model's name.
        out: Output folder; for arpa the output file.
        to: gguf for llama.cpp, compressed-tensors (4 or 8 bits) for vLLM, arpa (n-gram models) for KenLM.
        type: Type of the weights: f32, f16, q8_0 (default), q4_1 or q4_0 in GGUF; q8_0 or q4_0 in
            compressed-tensors, for a model that is not quantized yet.
        nearest: In compressed-tensors, round the offsets of q4_1 to the nearest that the format has.
        pack: In GGUF, fewer bytes on disk; the weights that halfpint loads are the same to the bit.
        merge_unknown: In ARPA, treat the word <unk> of the text, as in WikiText, as the unknown word.
        force: Replace an earlier export in the output folder.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.MOVE

    bundle: str = positional(metavar="BUNDLE")
    out: Path = option(metavar="FOLDER")
    to: str = option("gguf", metavar="FORMAT")
    type: str = ""
    nearest: bool = False
    pack: bool = False
    merge_unknown: bool = False
    force: bool = False
    json: bool = False

    def run(self, log: Log) -> Made | Arpa:
        """Write it, and compare it with the model."""
        from halfpint.language import export, write_arpa

        self._check()
        if self.to == "arpa":
            result = write_arpa(self.bundle, self.out, merge_unknown=self.merge_unknown, force=self.force)
            return Arpa(self.out, result["size_bytes"])
        stages = self._stages()
        return Made.of(export(self.bundle, stages, self.out, log, force=self.force, rounded_to=self.type))

    def _check(self) -> None:
        if self.to not in _FORMATS:
            raise HalfpintError(
                "--to", wanted=" or ".join(_FORMATS), got=repr(self.to), todo=nearest(self.to, _FORMATS)
            )
        for name, formats in _OF_FORMATS.items():
            if getattr(self, name) and self.to not in formats:
                self.refuse(name, wanted=f"--to {' or '.join(formats)} for it", got=f"--to {self.to}")
        if self.to == "compressed-tensors" and self.type not in ("", *_ROUNDED):
            todo = nearest(self.type, _ROUNDED)
            raise HalfpintError("--type", wanted=" or ".join(_ROUNDED), got=repr(self.type), todo=todo)

    def _stages(self) -> list[Stage]:
        from halfpint.compress.lossless import Lossless
        from halfpint.export.compressed_tensors import CompressedTensors
        from halfpint.export.gguf import Gguf

        if self.to == "compressed-tensors":
            return [CompressedTensors(nearest=self.nearest)]
        written = Gguf(type=self.type or Gguf.type)
        return [written, Lossless()] if self.pack else [written]
