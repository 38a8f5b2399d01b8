"""`halfpint export`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.command import Command, Group, Result, named_after, option, positional
from halfpint.commands._made import Made, figures_of
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
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
        out: Output folder, for arpa the output file (default: BUNDLE-FORMAT, or BUNDLE.arpa).
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
    synonyms: ClassVar[tuple[str, ...]] = ("convert", "gguf", "onnx")

    bundle: str = positional(metavar="BUNDLE")
    out: Path | None = option(None, metavar="FOLDER")
    to: str = option("gguf", metavar="FORMAT")
    type: str = ""
    nearest: bool = False
    pack: bool = False
    merge_unknown: bool = False
    force: bool = False
    json: bool = False

    def run(self, log: Log) -> Made | Arpa:
        """Write it, and compare it with the model."""
        from halfpint.lookup import refuse_other

        self._check()
        refuse_other(self.bundle, self.word())
        out = self.out or (Path(f"{self.bundle}.arpa") if self.to == "arpa" else named_after(self.bundle, self.to))
        if self.to == "arpa":
            result = write_arpa(self.bundle, out, merge_unknown=self.merge_unknown, force=self.force)
            return Arpa(out, result["size_bytes"])
        stages = self._stages()
        return Made.of(export(self.bundle, stages, out, log, force=self.force, rounded_to=self.type))

    def _check(self) -> None:
        if self.to not in _FORMATS:
            raise SettingError("--to", wanted=" or ".join(_FORMATS), got=repr(self.to), todo=nearest(self.to, _FORMATS))
        for name, formats in _OF_FORMATS.items():
            if getattr(self, name) and self.to not in formats:
                self.refuse(name, wanted=f"--to {' or '.join(formats)}", got=f"--to {self.to}")
        if self.to == "compressed-tensors" and self.type not in ("", *_ROUNDED):
            todo = nearest(self.type, _ROUNDED)
            raise SettingError("--type", wanted=" or ".join(_ROUNDED), got=repr(self.type), todo=todo)

    def _stages(self) -> list[Stage]:
        from halfpint.compress.lossless import Lossless
        from halfpint.export.compressed_tensors import CompressedTensors
        from halfpint.export.gguf import Gguf

        if self.to == "compressed-tensors":
            return [CompressedTensors(nearest=self.nearest)]
        written = Gguf(type=self.type or Gguf.type)
        return [written, Lossless()] if self.pack else [written]


def export(
    name: str, stages: Sequence[Stage], out: Path, log: Log, *, force: bool = False, rounded_to: str = ""
) -> dict[str, Any]:
    """Export a language model to `out` by a stage of export/ and what may follow it; a packed one is unpacked instead,
    to the file that it was made from. Gives what was done.

    Args:
        rounded_to: the type of weights that a model is rounded to first where the stage wants it quantised.

    Raises:
        HalfpintError: no such model, a stage that does not fit it, or an `out` that holds something else.
        RefusedError: the export does not say what the model says.
    """
    from halfpint.bundle import Kind, open_bundle
    from halfpint.compress.lossless import Lossless
    from halfpint.export.unpacked import Unpacked
    from halfpint.files import replace_folder
    from halfpint.lookup import text_task
    from halfpint.models.packed_gguf import PACKED_FILE
    from halfpint.models.pull_language import base_bundle, can_start
    from halfpint.pipeline import Pipeline
    from halfpint.task import Split
    from halfpint.workspace import open_workspace

    packed = (Path(name) / PACKED_FILE).is_file()
    started = time.monotonic()
    with open_workspace(out, log, force=force) as space:
        if packed and any(isinstance(stage, Lossless) for stage in stages):
            raise HalfpintError(
                name,
                wanted="a model that is not packed yet",
                got="one that is",
                todo="Use it as it is.",
                said=f"{name} is packed already.",
            )
        if packed and Kind.LANGUAGE not in stages[0].needs:
            raise HalfpintError(
                name, wanted="a quantised model for that format", got="a packed GGUF file",
                todo="Export the bundle that it was made from, or this one with --to gguf.",
            )  # fmt: skip
        stages = [Unpacked()] if packed else stages
        for stage in stages:
            stage.check()
        try:
            start = open_bundle(name) if packed else can_start(base_bundle(name, space.folder / "base", log))
            for stage in stages:
                stage.fits(start)
            if Kind.LANGUAGE not in stages[0].needs:
                stages = [*_rounding(start, rounded_to), *stages]
            task = text_task()
            nothing: Split[str] = Split(train=(), validation=())
            made = Pipeline(nothing, space.folder, task, task.primary(()), log).make(stages, start=start)
            replace_folder(made.bundle.path, out)
        finally:
            space.clear()
    return figures_of(out, started, validation=None)


def _rounding(start: Bundle, type_: str) -> list[Stage]:
    """What quantises a model before a stage that wants it quantised: none where it is.

    Raises:
        HalfpintError: a type, and a model that is quantised; or neither.
    """
    from halfpint.bundle import Kind
    from halfpint.compress.quantize import Quantize

    if start.kind == Kind.LANGUAGE and not type_:
        raise HalfpintError(
            str(start.path), wanted="a quantised model, or --type", got="neither",
            todo="Give --type q8_0 or q4_0, which rounds it, or quantise it by compress/quantize in a recipe.",
            said=f"{start.path} is not quantised, and --type is not given.",
        )  # fmt: skip
    if start.kind == Kind.QUANTIZED and type_:
        raise HalfpintError(
            "--type",
            wanted="none, as the model is quantised",
            got=type_,
            todo="Leave it out.",
            said=f"--type {type_} does not fit: the model is quantised already.",
        )
    if start.kind != Kind.LANGUAGE:
        return []
    ends = ["embeddings"] if start.config.get("tie_word_embeddings", True) else ["embeddings", "output"]
    types = ",".join([type_, *(f"{role}=q8_0" for role in ends)])  # these are written in fp16 anyway
    return [Quantize(types=types, method="round")]


def write_arpa(name: str, out: Path, *, merge_unknown: bool, force: bool) -> dict[str, Any]:
    """Write the n-gram model in the bundle `name` as an ARPA file; gives its bytes.

    Raises:
        HalfpintError: no n-gram model there, or an `out` that is there already.
    """
    from halfpint.bundle import open_bundle
    from halfpint.models.ngram import NgramModel
    from halfpint.workspace import disk_errors

    if out.is_dir() or (out.exists() and not force):
        got = "a folder" if out.is_dir() else "one that is there"
        raise HalfpintError(
            f"--out {out}",
            wanted="a new file",
            got=got,
            todo="Give another --out, or --force.",
            said=f"--out {out} is a folder; a file is written." if out.is_dir() else f"The file {out} exists already.",
        )
    bundle = open_bundle(name)
    if bundle.card.get("engine") != "ngram":
        raise HalfpintError(
            str(name),
            wanted="an n-gram model",
            got=f"a bundle of {bundle.card.get('engine')}",
            said=f"{name} is not an n-gram model; its engine is {bundle.card.get('engine')}.",
        )
    with disk_errors(out):
        NgramModel.load(bundle.path).to_arpa(out, merge_unknown=merge_unknown)
    return {"file": str(out), "size_bytes": out.stat().st_size}
