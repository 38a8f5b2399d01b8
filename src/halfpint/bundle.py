"""Bundle: what every stage takes and gives, a folder in Hugging Face layout with a card.json."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum, auto
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from halfpint import __version__
from halfpint.errors import DamagedError, HalfpintError, nearest
from halfpint.files import is_temporary, new_folder, refuse_unreadable_name, write_text
from halfpint.progress import plain

CARD = "card.json"
_BEST = "best"  # of a run's folder: the model that was chosen
_DEEPEST = 100
_USED = (".json", ".jinja", ".safetensors", ".onnx", ".gguf", ".npy", ".bin", ".model", "vocab.txt", "merges.txt")
"""How names of files end that an engine, or a package that it uses, opens without being asked to."""
_LONGEST_HEADER = 100_000_000  # bytes: the limit of the package safetensors
REPORTS = ("report.json", "report.html")
"""The report of the run that made a bundle may lie in its folder: it is no part of the bundle."""
LEARNED = "learned_texts.hashes"
"""Hashes of the texts that the model learned from (`data.learned`): part of the bundle, but it may be deleted."""


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
        if _is_deep(value):
            raise ValueError(f"more than {_DEEPEST} levels")
    except FileNotFoundError:
        raise _no_json(path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(
            str(path), wanted="a readable JSON file", got=f"a damaged one ({error})", todo="Make the bundle again.",
            said=f"{path} is damaged: it is not valid JSON ({error}).",
        ) from None  # fmt: skip
    if not isinstance(value, dict):
        raise DamagedError(str(path), wanted="a JSON object", got=type(value).__name__, todo="Make the bundle again.")
    return value


def _no_json(path: Path) -> HalfpintError:
    """A folder without a file of bundles, or of reports: what was meant, as far as it can be seen."""
    folder, todo = path.parent, f"Give OUT/{_BEST} of `halfpint fit` or `run`, OUT of `pretrain` or `finetune`."
    if path.name == REPORTS[0]:
        todo = "Give the output folder of a finished fit, run, pretrain, finetune, distil or compress."
    elif (folder / _BEST / CARD).is_file():
        todo = f"Did you mean {folder / _BEST}?"
    shown = folder.absolute().name if str(folder) == "." else folder
    said = f"There is no {path.name} in the folder {shown}." if folder.is_dir() else f"There is no folder {folder}."
    return HalfpintError(str(folder), wanted=f"a {path.name} in it", got="none", todo=todo, said=said)


def _is_deep(value: Any) -> bool:
    """Whether a JSON value has more levels than any of ours: who goes through it level by level would not come back."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            part for one in level if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
        if not level:
            return False
    return True


def open_bundle(path: Path | str, *, task: str | None = None) -> Bundle:
    """The bundle in folder `path`, with its files checked against the sizes and hashes of the card.

    Raises:
        HalfpintError: no such folder, not a bundle, a file damaged or missing, or made for another task.
    """
    folder = Path(path)
    refuse_unreadable_name(folder)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise HalfpintError(
            str(path), wanted="the folder of a bundle", got=got,
            todo="Give OUT/best of `halfpint fit` or `run`, or OUT of `pretrain`, `finetune` or `export`.",
            said=f"{path} is a file, not the folder of a model." if folder.exists() else f"There is no folder {path}.",
        )  # fmt: skip
    bundle = Bundle(folder)
    _check_files(bundle)
    if task is not None:
        need_task(bundle, task)
    return bundle


def _check_files(bundle: Bundle) -> None:
    """Refuse a bundle with files that are damaged, lie elsewhere, or that nobody vouches for.

    Raises:
        HalfpintError: with the first of them.
    """
    folder, files = bundle.path, bundle.card.get("files")
    if not isinstance(files, dict) or not files:
        raise DamagedError(
            str(folder / CARD), wanted="the hashes of the bundle's files", got="none", todo="Make the bundle again."
        )
    for name, wanted in files.items():
        file = folder / name
        if not _is_inside(folder, name):
            raise HalfpintError(
                str(folder / CARD), wanted="names of files in the bundle's folder", got=f"{name[:80]!r}",
                todo="Do not use this bundle: it is not as halfpint wrote it.",
            )  # fmt: skip
        if name in REPORTS:  # listed by bundles of version 0.1.0: it may be deleted, or written again
            continue
        if not file.is_file():
            if name == LEARNED:
                continue
            raise DamagedError(
                str(folder),
                wanted=f"the file {name}",
                got="no such file",
                todo="Make or copy it again.",
                said=f"The model in {folder} is not whole: its file {name} is missing.",
            )
        if file_sha256(file) != wanted:
            raise DamagedError(
                str(file),
                wanted="the content that its card.json lists",
                got="other content (the file is damaged or was changed)",
                todo="Make or copy the bundle again.",
                said=f"{file} is damaged or was changed: it is not what card.json lists.",
            )
        if file.suffix == ".safetensors":
            safetensors_header(file)
    if "config.json" in files and without_kernels(bundle.config) != bundle.config:
        raise HalfpintError(
            str(folder / "config.json"), wanted="a model that runs no code from elsewhere",
            got="the name of kernels to download", todo="Do not use this bundle: it is not as halfpint wrote it.",
        )  # fmt: skip
    for name in other_files(bundle):
        if name.endswith(_USED):
            raise HalfpintError(
                str(folder / name), wanted="only files that card.json lists", got="another one that would be used",
                todo="Remove it, or make or copy the bundle again.",
                said=f"{folder / name} is not a file of this model (card.json does not list it), but it would be used.",
            )  # fmt: skip


def without_kernels(config: Any) -> Any:
    """A config.json without the names of kernels on the Hub (owner/name), which transformers would download and run."""
    if isinstance(config, list):
        return [without_kernels(one) for one in config]
    if not isinstance(config, dict):
        return config
    return {
        key: without_kernels(value) for key, value in config.items()
        if not ("implementation" in key and "/" in str(value))
    }  # fmt: skip


def other_files(bundle: Bundle) -> list[str]:
    """What lies in a bundle's folder, or below, and is neither listed by its card nor the report of its run."""
    known = {CARD, *REPORTS, *bundle.card.get("files", {})}
    found = (path for path in bundle.path.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(bundle.path).as_posix() for path in found if not is_temporary(path)]
    return sorted(name for name in names if name not in known)


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a name in a card is that of a file in the folder or below, by no link that leads out of it."""
    parts = name.replace("\\", "/").split("/")
    plain_name = bool(name) and "\0" not in name and not {"", ".", ".."} & set(parts) and not Path(name).is_absolute()
    return plain_name and (folder / name).resolve().is_relative_to(folder.resolve())


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: by tensor its dtype, shape and data_offsets; "__metadata__" besides.

    Raises:
        HalfpintError: the file is cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        size = 8 + length + max(ends, default=0)
        if path.stat().st_size != size:
            raise ValueError(f"{path.stat().st_size} bytes where its header has {size}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DamagedError(
            str(path), wanted="a whole safetensors file", got=f"a damaged one ({str(error)[:120]})",
            todo="Make or copy the bundle again.",
            said=f"{path} is damaged: it is not a whole safetensors file ({str(error)[:120]}).",
        ) from None  # fmt: skip
    return header


def need_task(bundle: Bundle, task: str) -> None:
    """Refuse a bundle of another task.

    Raises:
        HalfpintError: with what it is.
    """
    if (found := bundle.card.get("task")) != task:
        raise HalfpintError(
            str(bundle.path), wanted=f"a bundle of the task {task!r}", got=f"one of the task {found!r}",
            todo="Give another bundle, or the command that serves that task.",
            said=f"{bundle.path} is a model for the task {found!r}, not {task!r}.",
        )  # fmt: skip


def copy_files(bundle: Bundle, folder: Path, *without: str, nested: bool = False) -> None:
    """Copy the files that a bundle's card lists into the folder of a new one, but for what each has of its own.

    Args:
        without: names, or patterns of names, of files that are left out.
        nested: also copy what lies in folders of the bundle.
    """
    for name in bundle.card["files"]:
        file = bundle.path / name
        own = name in (CARD, "README.md", LEARNED, *REPORTS) or ("/" in name and not nested)
        if own or any(fnmatch(part, one) for part in name.split("/") for one in without):
            continue
        if not file.is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)


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
    old = parent.card if parent else {}
    card: dict[str, Any] = {
        "halfpint": __version__,
        "task": old.get("task"),
        "kind": parent.kind if parent and kind == Kind.SAME else kind,
        "engine": old.get("engine"),
        "parent": parent.fingerprint if parent else None,
        "stages": list(old.get("stages", [])),
    }
    with new_folder(target) as folder:
        yield folder, card
        for name in REPORTS:  # copied from the parent: its own run is another one
            (folder / name).unlink(missing_ok=True)
        write_text(folder / "README.md", model_card(card))
        card["files"] = {
            file.relative_to(folder).as_posix(): file_sha256(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        write_json(folder / CARD, card)


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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(plain(value), ensure_ascii=False, indent=1) + "\n")
