"""Stage: take a language model from the catalogue, the Hub or a folder, as a bundle."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from halfpint.bundle import CARD, REPORTS, Bundle, Kind, new_bundle, open_bundle, read_json, without_kernels, write_json
from halfpint.errors import HalfpintError
from halfpint.files import refuse_unreadable_name
from halfpint.lookup import text_task
from halfpint.models.architectures import refuse_foreign
from halfpint.models.known import names_of
from halfpint.models.sources import SOURCE, cache_folder, locate
from halfpint.progress import Log
from halfpint.stage import Stage, Work

_OWN = (CARD, "README.md", SOURCE, *REPORTS)  # what a bundle has of its own
_NAMED_BY = 12  # characters of a hash that name a folder
_WRITES = ("LM", "Generation")  # in the names of architectures with an output layer over the vocabulary


@dataclass(frozen=True, kw_only=True)
class PullLanguage(Stage):
    """A language model to go on from.

    Args:
        base: a name in the catalogue, a Hub name (owner/model or owner/model@revision), a folder in Hugging Face
            layout, or a bundle's folder.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.LANGUAGE
    uses_data: ClassVar[bool] = False

    base: str = "smollm2-135m-instruct"

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Put its files into a bundle."""
        return pull_language(self.base, work.target, work.log)


def pull_language(base: str, target: Path, log: Log) -> Bundle:
    """The language model `base` as a new bundle at `target`; of a bundle the lineage goes on.

    Raises:
        HalfpintError: there is no such model, it cannot be had, or it is no Transformer with an output layer.
    """
    started = time.monotonic()
    folder = locate(base, log)
    parent = open_bundle(folder) if (folder / CARD).is_file() else None
    engine = parent.card.get("engine") if parent else "torch_lm"
    config = read_json(folder / "config.json")
    refuse_foreign(config, str(folder / "config.json"))
    kinds = [str(name) for name in config.get("architectures") or []]
    if engine != "torch_lm" or (kinds and not any(part in name for name in kinds for part in _WRITES)):
        raise HalfpintError(
            str(base), wanted="a Transformer language model",
            got=f"a bundle of the engine {engine}" if engine != "torch_lm" else ", ".join(kinds),
            todo="Give one with an output layer, such as a LlamaForCausalLM.",
        )  # fmt: skip
    with new_bundle(target, parent, Kind.SAME if parent else Kind.LANGUAGE) as (made, card):
        for file in sorted(folder.iterdir()):
            is_of_it = file.name in parent.card["files"] if parent else _is_of(folder, file)
            if is_of_it and file.is_file() and file.name not in _OWN:
                _linked(file, made / file.name)
        if without_kernels(config) != config:
            (made / "config.json").unlink()  # it may be another name of the file that is given
            write_json(made / "config.json", without_kernels(config))
        card.update(task=card["task"] or text_task().name, engine="torch_lm")
        card["stages"].append(PullLanguage(base=base).entry(started))
    return Bundle(target)


def base_bundle(name: str, folder: Path, log: Log) -> Bundle:
    """The language model `name`: a bundle as it is, a base model as a bundle in `folder`, which may hold others.

    Raises:
        HalfpintError: there is no such model, or it cannot be had.
    """
    refuse_unreadable_name(name)
    if (Path(name) / CARD).is_file() or (Path(name) / "best" / CARD).is_file():
        return open_bundle(name)  # of a run's folder it says where the model is
    files = sorted(one for one in Path(name).glob("[!.]*") if one.is_file() and one.suffix != ".md")
    told = [name, *(f"{one.name} {one.stat().st_size} {one.stat().st_mtime_ns}" for one in files)]
    target = folder / sha256("\n".join(told).encode()).hexdigest()[:_NAMED_BY]
    if not (target / CARD).is_file():
        pull_language(name, target, log)
    return open_bundle(target)


def can_start(start: Bundle) -> Bundle:
    """A bundle that stages of language models can start from.

    Raises:
        HalfpintError: it is no language model that can be trained or exported.
    """
    if start.card.get("engine") != "torch_lm":
        raise HalfpintError(
            str(start.path), wanted="a Transformer language model", got=f"one of {start.card.get('engine')}"
        )
    if start.kind == Kind.COMPRESSED_TENSORS:
        raise HalfpintError(
            str(start.path), wanted="a model that is not exported yet", got="one in compressed-tensors",
            todo="Take the one that it was made from.",
        )  # fmt: skip
    return start


def find_bundle(name: Path | str, log: Log | None = None) -> Bundle:
    """The bundle in a folder; of a language model known by name the one in the cache, made where there is none yet.

    Raises:
        HalfpintError: there is neither, or the model cannot be had.
    """
    if Path(name).exists() or str(name) not in names_of(Kind.LANGUAGE):
        return open_bundle(name)
    target = cache_folder() / "bundles" / str(name)
    try:
        return open_bundle(target)
    except HalfpintError:  # there is none yet, or it is damaged
        pull_language(str(name), target, log or Log())
    return open_bundle(target)


def _is_of(folder: Path, file: Path) -> bool:
    """Whether a file is in a base model's folder, or in the cache of the Hub's client, where its links lead."""
    whole, place = folder.resolve(), file.resolve()
    return place.is_relative_to(whole) or place.parent == whole.parent.parent / "blobs"


def _linked(source: Path, target: Path) -> None:
    """The same file under another name: weights are large, and nobody writes into the files of a bundle."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another device
        shutil.copyfile(source, target)
