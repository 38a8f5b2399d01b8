"""Bundle: what every stage takes and gives, a folder in Hugging Face layout with a card.json."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum, auto
from functools import cached_property
from pathlib import Path
from typing import Any

from halfpint import __version__
from halfpint.errors import HalfpintError, nearest
from halfpint.progress import plain

CARD = "card.json"
REPORTS = ("report.json", "report.html")
"""The report of the run that made a bundle may lie in its folder: it is no part of the bundle."""
_PREFIX = ".halfpint-"


class Kind(StrEnum):
    """What a bundle is to the stages that take it; each stage says what it needs and what it gives."""

    NOTHING = auto()
    SAME = auto()  # as it was: given by stages that take several kinds
    ENCODER = auto()
    CLASSIFIER = auto()  # an encoder with the head of a task, trained
    LINEAR = auto()
    ONNX = auto()
    READY = auto()  # nothing goes on from it
    NGRAM = auto()
    LANGUAGE = auto()
    MIXED = auto()
    SPARSE = auto()
    QUANTIZED = auto()
    GGUF = auto()
    PACKED = auto()
    COMPRESSED_TENSORS = auto()
    ANSWERS = auto()


@dataclass(frozen=True)
class Bundle:
    """A folder that holds a model: config.json, weights, tokenizer, and card.json with its lineage.

    `card["task"]` names the task, `card["kind"]` what it is to stages, `card["engine"]` the engine that runs it,
    `card["stages"]` what made it (one entry per stage), `card["files"]` the sha256 of each file.
    """

    path: Path

    @cached_property
    def card(self) -> dict[str, Any]:
        """The parsed card.json."""
        return read_json(self.path / CARD)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The parsed config.json."""
        return read_json(self.path / "config.json")

    @property
    def kind(self) -> Kind:
        """What it is to the stages that take it."""
        if "kind" not in self.card:
            return _kind_before(self)
        try:
            return Kind(self.card["kind"])
        except ValueError:
            raise HalfpintError(
                str(self.path / CARD), wanted="a kind of bundle", got=repr(self.card["kind"])[:60],
                todo=nearest(str(self.card["kind"]), [kind.value for kind in Kind]),
            ) from None  # fmt: skip

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the model's outputs."""
        names = self.config.get("id2label", {})
        try:
            return tuple(names[str(index)] for index in range(len(names)))
        except (KeyError, TypeError):
            raise HalfpintError(
                str(self.path / "config.json"), wanted="id2label with the numbers from 0", got=f"{names!r:.60}",
                todo="Make the bundle again.",
            ) from None  # fmt: skip

    @property
    def size_bytes(self) -> int:
        """Bytes of all files in the folder, those of a report aside."""
        reports = [self.path / name for name in REPORTS]
        return folder_bytes(self.path) - sum(file.stat().st_size for file in reports if file.is_file())

    @property
    def fingerprint(self) -> str:
        """sha256 over the names and hashes of the bundle's files (the card's own text aside)."""
        digest = hashlib.sha256()
        for name, file_hash in sorted(self.card.get("files", {}).items()):
            digest.update(f"{name}\0{file_hash}\n".encode())
        return digest.hexdigest()


_KINDS_BEFORE = {
    "torch_classifier": Kind.CLASSIFIER, "linear": Kind.LINEAR, "onnx_encoder": Kind.ONNX, "onnx_linear": Kind.ONNX,
    "ngram": Kind.NGRAM, "mixed": Kind.MIXED, "torch_lm": Kind.LANGUAGE, "llama_cpp": Kind.GGUF,
}  # fmt: skip


def _kind_before(bundle: Bundle) -> Kind:
    """The kind of a bundle whose card does not say it: version 0.1.0 wrote none at first."""
    engine = bundle.card.get("engine")
    if engine is None:
        return Kind.ANSWERS if bundle.config.get("model_type") in ("answers", "token_answers") else Kind.ENCODER
    if engine == "torch_lm" and "quantization_config" in bundle.config:
        return Kind.COMPRESSED_TENSORS
    if engine == "torch_lm" and (bundle.path / "codes.safetensors").is_file():
        return Kind.QUANTIZED
    if engine == "llama_cpp" and not (bundle.path / "model.gguf").is_file():
        return Kind.PACKED
    return _KINDS_BEFORE.get(str(engine), Kind.READY)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a bundle.

    Raises:
        HalfpintError: the file is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HalfpintError(
            str(path.parent),
            wanted=f"a folder with a {path.name}",
            got=f"no {path.name} there",
            todo="Give the folder of a bundle: OUT/best of `halfpint fit` or `run`, OUT of `pretrain` or `finetune`.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise HalfpintError(
            str(path), wanted="a readable JSON file", got=f"a damaged one ({error})", todo="Make the bundle again."
        ) from None
    if not isinstance(value, dict):
        raise HalfpintError(str(path), wanted="a JSON object", got=type(value).__name__, todo="Make the bundle again.")
    return value


def open_bundle(path: Path | str, *, task: str | None = None) -> Bundle:
    """The bundle in folder `path`, with its files checked against the sizes and hashes of the card.

    Raises:
        HalfpintError: no such folder, not a bundle, a file damaged or missing, or made for another task.
    """
    folder = Path(path)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise HalfpintError(
            str(path),
            wanted="the folder of a bundle",
            got=got,
            todo="Give OUT/best of `halfpint fit` or `run`, or OUT of `pretrain`, `finetune` or `export`.",
        )
    bundle = Bundle(folder)
    files = bundle.card.get("files")
    if not isinstance(files, dict) or not files:
        raise HalfpintError(
            str(folder / CARD), wanted="the hashes of the bundle's files", got="none", todo="Make the bundle again."
        )
    for name, wanted in files.items():
        file = folder / name
        if not file.is_file():
            raise HalfpintError(
                str(folder), wanted=f"the file {name}", got="no such file", todo="Make or copy it again."
            )
        if file_sha256(file) != wanted:
            raise HalfpintError(
                str(file),
                wanted="the content that its card.json tells of",
                got="other content (the file is damaged or was changed)",
                todo="Make or copy the bundle again.",
            )
    if task is not None:
        need_task(bundle, task)
    return bundle


def need_task(bundle: Bundle, task: str) -> None:
    """Refuse a bundle of another task.

    Raises:
        HalfpintError: with what it is.
    """
    if bundle.card.get("task") != task:
        raise HalfpintError(
            str(bundle.path),
            wanted=f"a bundle of the task {task!r}",
            got=f"one of the task {bundle.card.get('task')!r}",
            todo="Give another bundle, or the command that serves that task.",
        )


def copy_files(bundle: Bundle, folder: Path, *without: str) -> None:
    """Copy the files of a bundle into the folder of a new one: not those named, nor what each bundle has of its own."""
    for file in bundle.path.iterdir():
        if file.is_file() and file.name not in (*without, CARD, "README.md"):
            shutil.copyfile(file, folder / file.name)


@contextmanager
def new_bundle(
    target: Path, parent: Bundle | None = None, kind: Kind = Kind.SAME
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Write a bundle: gives a temporary folder and its card to fill; on leaving it is moved to `target` whole.

    The card starts as the parent's lineage; the caller adds its entry to `card["stages"]`. Nothing is left behind when
    the body raises; an older bundle at `target` stays until the new one is whole.

    Args:
        kind: what the bundle is to the stages that take it; SAME as its parent.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=target.parent))
    old = parent.card if parent else {}
    card: dict[str, Any] = {
        "halfpint": __version__,
        "task": old.get("task"),
        "kind": parent.kind if parent and kind == Kind.SAME else kind,
        "engine": old.get("engine"),
        "parent": parent.fingerprint if parent else None,
        "stages": list(old.get("stages", [])),
    }
    try:
        yield folder, card
        for name in REPORTS:  # copied from the parent: its own run is another one
            (folder / name).unlink(missing_ok=True)
        write_text(folder / "README.md", model_card(card))
        card["files"] = {
            str(file.relative_to(folder)): file_sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()
        }
        write_json(folder / CARD, card)
        folder.chmod(0o755)
        replace_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Move folder `source` to `target`, taking the place of what is there."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=target.parent)) / "old"
        os.replace(target, old)
        os.replace(source, target)
        shutil.rmtree(old.parent, ignore_errors=True)
    else:
        os.replace(source, target)


def model_card(card: dict[str, Any]) -> str:
    """The README.md of a bundle, made from its card: what it is, how it was made, how to use it."""
    task = card.get("task") or "model"
    lines = ["---", "library_name: halfpint", f"tags: [{task}]", "---", "", f"# A halfpint bundle: {task}", ""]
    lines += ['Use it with `halfpint predict FOLDER "text"` or `halfpint serve FOLDER`.', "", "Made by, in order:", ""]
    for stage in card.get("stages", []):
        settings = ", ".join(f"{key}={value!r}" for key, value in stage.get("settings", {}).items())
        lines.append(f"1. `{stage['use']}`" + (f" ({settings})" if settings else ""))
    return "\n".join([*lines, "", "Figures, hashes and versions are in `card.json`.", ""])


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all: to a temporary name, then moved into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(plain(value), ensure_ascii=False, indent=1) + "\n")
