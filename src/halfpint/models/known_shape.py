"""The shape of a model by its name, before anything of it is downloaded.

A folder and what is in the cache tell it by their `config.json`; the catalogue by its entry; of other models of the Hub
the configuration alone, a few kilobytes, is fetched.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache as remembered
from pathlib import Path

from halfpint.bundle import Kind, read_json
from halfpint.errors import HalfpintError, nearest, need
from halfpint.files import refuse_unreadable_name
from halfpint.models.known import BITS, ENCODER_DECODER, Known, known_by, known_models
from halfpint.models.serving_cost import cache_bytes, download_bytes, read_bytes, weight_bytes
from halfpint.models.shape import Shape, llama_like, shape_of_config
from halfpint.models.sizes import CAUSAL, MASKED, default_vocabulary, shown_parameters
from halfpint.models.sources import cached

_HUB_NAME = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:@(\w[\w./-]*))?")
_LEAST = ("layers", "width", "vocabulary")  # what a shape needs
_USUAL_RATIO = 12.0  # parameters of a layer in squares of its width, where a name tells parameters alone
_USUAL_ASPECT = 24  # of width to layers, between the fewest and the most
_FEWEST_LAYERS, _MOST_LAYERS = 4, 32


@dataclass(frozen=True)
class Sized:
    """A model that a plan is made for.

    Attributes:
        name: as it was given.
        shape: of it.
        folder: where it is on this machine; None where it is not.
        download_bytes: that having it would take from the network; 0 where it is here.
        source: what its shape was read from, in words.
        note: what the catalogue says of it.
    """

    name: str
    shape: Shape
    folder: Path | None
    download_bytes: int
    source: str
    note: str = ""

    @property
    def is_here(self) -> bool:
        """Whether nothing has to be downloaded."""
        return self.folder is not None


def known_shape(name: str) -> Sized:
    """The shape of the model `name`: a folder, a name in the catalogue, or a Hub name.

    Raises:
        HalfpintError: no such model; it is none that can be planned for; or it is on the Hub alone, which cannot be
            reached.
    """
    refuse_unreadable_name(name)
    if Path(name).is_dir():
        return _in_folder(name, Path(name), f"{name}/config.json")
    known = known_by(name)
    if known is not None:
        if known.kind == ENCODER_DECODER:
            raise HalfpintError(name, wanted="a model that halfpint can train or serve", got=known.refusal)
        here = next((place for one in (known.name, known.hub) if (place := cached(one)).is_dir()), None)
        if here is not None:
            return _in_folder(name, here, "the cache", known.note)
        return _told(name, known)
    if cached(name).is_dir():
        return _in_folder(name, cached(name), "the cache")
    found = _HUB_NAME.fullmatch(name)
    if found is None:
        raise HalfpintError(
            name, wanted="a folder, a name in the catalogue, or a Hub name", got="none of these",
            todo=nearest(name, known_models(), "halfpint models lists them; for a new model give --size, such as 30M."),
            said=f"There is no model {name!r}: no folder, no name in the catalogue, and no Hub name (owner/name).",
        )  # fmt: skip
    return _on_hub(name, found[1], found[2])


def _in_folder(name: str, folder: Path, source: str, note: str = "") -> Sized:
    place = folder if (folder / "config.json").is_file() else folder / "best"
    if not (place / "config.json").is_file():
        raise HalfpintError(
            str(folder), wanted="a model with a config.json", got="a folder without",
            todo="Plans are made for Transformers and their like; what counts words takes next to nothing.",
        )  # fmt: skip
    shape = shape_of_config(read_json(place / "config.json"), f"{place}/config.json")
    return Sized(name, shape, place, 0, source, note)


def _told(name: str, known: Known) -> Sized:
    """A model that is known and not here."""
    shape = shape_told(known)
    guessed = "" if _has_shape(known) else ", which does not have its shape: that is guessed"
    value = 4 if shape.objective == MASKED else 2
    return Sized(name, shape, None, download_bytes(shape, value), f"the catalogue{guessed}", known.note)


@remembered
def shape_told(known: Known) -> Shape:
    """The shape of a model as far as the catalogue tells it; where it does not, a usual one of as many parameters."""
    told = known.shape
    layers, width, vocabulary = (int(told.get(one) or 0) for one in _LEAST)
    if not _has_shape(known):
        layers, width, vocabulary = usual(known.parameters)
    tied, attending = told.get("tied"), told.get("attention_layers")
    return llama_like(
        known.model_type, parameters=known.parameters, layers=layers, width=width, vocabulary=vocabulary,
        heads=int(told.get("heads") or 0), kv_heads=int(told.get("kv_heads") or 0),
        head_width=int(told.get("head_dim") or 0), inner=int(told.get("ffn") or 0), context=known.context,
        objective=MASKED if known.kind == Kind.ENCODER else CAUSAL, is_tied=tied if isinstance(tied, bool) else None,
        keeping=None if attending is None else int(attending), windowed=int(told.get("window_layers", 0)),
        window=int(told.get("window", 0)),
    )  # fmt: skip


def _has_shape(known: Known) -> bool:
    return all(known.shape.get(one) for one in _LEAST)


@dataclass(frozen=True)
class Served:
    """What serving a known model takes, from its shape, in bytes.

    Attributes:
        weights: of the file.
        cache: of keys and values; None where the catalogue does not tell enough of the shape.
        read: of weights, for each token that it writes; 0 of an encoder, which writes none.
    """

    weights: int
    cache: int | None
    read: int

    @property
    def memory(self) -> int:
        """Weights and cache, where that is known; the program itself needs some more."""
        return self.weights + (self.cache or 0)


def served(known: Known, kind: str, context: int) -> Served:
    """What serving a model takes with weights of the type `kind` (of `known.BITS`) and so many tokens in the cache,
    or as many as it reads."""
    shape, type_ = shape_told(known), BITS[kind]
    kept = min(context, known.context or context)
    tells = {"kv_heads", "head_dim"} <= set(known.shape) and ("layers" in known.shape or shape.keeping is not None)
    cache = cache_bytes(shape, kept) if known.kind == Kind.ENCODER or shape.keeping == 0 or tells else None
    cache = None if known.kind == ENCODER_DECODER else cache
    read = 0 if known.kind == Kind.ENCODER else read_bytes(shape, type_)
    return Served(weight_bytes(shape, type_), cache, read)


def usual(parameters: int) -> tuple[int, int, int]:
    """Layers, width and vocabulary of a usual model of so many parameters, where no one tells."""
    vocabulary = default_vocabulary(parameters)

    def layers(width: int) -> int:
        return max(_FEWEST_LAYERS, min(_MOST_LAYERS, width // _USUAL_ASPECT))

    width = 64
    while layers(width + 64) * _USUAL_RATIO * (width + 64) ** 2 + vocabulary * (width + 64) <= parameters:
        width += 64
    return layers(width), width, vocabulary


def _on_hub(name: str, repository: str, revision: str | None) -> Sized:
    """What the Hub tells of a model: its configuration, and the bytes of its weights."""
    try:
        hub = need("huggingface_hub", "looking up a model on the Hub")
        listed = hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
        files = {one.rfilename: int(one.size or 0) for one in listed.siblings}
        place = hub.hf_hub_download(repository, "config.json", revision=revision)
        config = json.loads(Path(place).read_text(encoding="utf-8"))
    except HalfpintError:
        raise
    except Exception as error:  # the Hub's client raises many kinds; each means that nothing was learned
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HalfpintError(
            name, wanted="to look up its shape on the Hub", got=why[:200],
            todo="With no network: a name of the catalogue (halfpint models lists them), the folder of a model, or "
            "--size with --arch.",
            said=f"The model {name!r} is not in the catalogue, and the Hub cannot be asked for it: {why[:200]}.",
        ) from error  # fmt: skip
    shape = shape_of_config(config, f"{name}: config.json")
    size = sum(size for file, size in files.items() if Path(file).suffix == ".safetensors" and "/" not in file)
    return Sized(name, shape, None, size or download_bytes(shape), "its config.json on the Hub")


def too_large(known: Sized, bytes_needed: int, free: int, what: str, todo: str) -> HalfpintError:
    """The error for a model that memory does not hold, said before anything is downloaded.

    Args:
        bytes_needed: at the least.
        free: that there are.
        what: that takes them, such as "training all weights".
    """
    return HalfpintError(
        known.name, wanted=f"about {bytes_needed / 2**30:.1f} GiB of memory for {what}", got=f"{free / 2**30:.1f} GiB",
        todo=todo,
        said=f"{known.name} ({shown_parameters(known.shape.parameters)} parameters) does not fit this machine: {what} "
        f"takes about {bytes_needed / 2**30:.1f} GiB of memory, and there are {free / 2**30:.1f} GiB."
        + ("" if known.is_here else " Nothing was downloaded."),
    )  # fmt: skip
