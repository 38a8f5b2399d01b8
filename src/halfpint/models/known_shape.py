"""The shape of a model by its name, before anything of it is downloaded.

A folder and what is in the cache tell it by their `config.json`; the catalogue by its entry; of other models of the Hub
the configuration alone, a few kilobytes, is fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.bundle import read_json
from halfpint.errors import HalfpintError, nearest, need
from halfpint.files import refuse_unreadable_name
from halfpint.models.serving_cost import download_bytes
from halfpint.models.shape import Shape, llama_like, shape_of_config
from halfpint.models.sizes import CAUSAL, MASKED, default_vocabulary, shown_parameters
from halfpint.models.sources import cached, catalogue

_HUB_NAME = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:@(\w[\w./-]*))?")
_WEIGHTS = ("*.safetensors", "*.gguf", "pytorch_model*.bin")
# What an entry of the catalogue may tell of a shape, by the names that configurations have for it.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("layers", "num_hidden_layers", "n_layers", "depth"),
    "width": ("width", "hidden_size", "hidden", "d_model"),
    "vocabulary": ("vocabulary", "vocab_size", "vocab"),
    "heads": ("heads", "num_attention_heads", "n_heads"),
    "kv_heads": ("kv_heads", "num_key_value_heads"),
    "head_width": ("head_width", "head_dim"),
    "inner": ("inner", "intermediate_size", "ffn", "d_ff"),
    "context": ("context", "max_position_embeddings", "context_length"),
}
_USUAL_RATIO = 12.0  # parameters of a layer in squares of its width, where a name tells parameters alone
_USUAL_ASPECT = 24  # of width to layers, between the fewest and the most
_FEWEST_LAYERS, _MOST_LAYERS = 4, 32


@dataclass(frozen=True)
class Known:
    """A model that a plan is made for.

    Attributes:
        name: as it was given.
        shape: of it.
        folder: where it is on this machine; None where it is not.
        download_bytes: that having it would take from the network; 0 where it is here.
        source: what its shape was read from, in words.
        facts: what the catalogue says of it besides.
    """

    name: str
    shape: Shape
    folder: Path | None
    download_bytes: int
    source: str
    facts: Mapping[str, Any]

    @property
    def is_here(self) -> bool:
        """Whether nothing has to be downloaded."""
        return self.folder is not None


def known_shape(name: str) -> Known:
    """The shape of the model `name`: a folder, a name in the catalogue, or a Hub name.

    Raises:
        HalfpintError: no such model; it is none that can be planned for; or it is on the Hub alone, which cannot be
            reached.
    """
    refuse_unreadable_name(name)
    if Path(name).is_dir():
        return _in_folder(name, Path(name), f"{name}/config.json", {})
    known = catalogue("")
    of_hub = {str(entry.get("hub", "")).lower(): one for one, entry in known.items() if entry.get("hub")}
    lowered = {one.lower(): one for one in known}
    own = lowered.get(name.lower()) or of_hub.get(name.lower(), "")
    if own:
        if cached(own).is_dir():
            return _in_folder(name, cached(own), "the cache", known[own])
        return Known(name, *_told(own, known[own]), known[own])
    if cached(name).is_dir():
        return _in_folder(name, cached(name), "the cache", {})
    found = _HUB_NAME.fullmatch(name)
    if found is None:
        raise HalfpintError(
            name, wanted="a folder, a name in the catalogue, or a Hub name", got="none of these",
            todo=nearest(name, known, "halfpint pull lists them; for a new model give --size, such as --size 30M."),
            said=f"There is no model {name!r}: no folder, no name in the catalogue, and no Hub name (owner/name).",
        )  # fmt: skip
    return _on_hub(name, found[1], found[2])


def _in_folder(name: str, folder: Path, source: str, facts: Mapping[str, Any]) -> Known:
    place = folder if (folder / "config.json").is_file() else folder / "best"
    if not (place / "config.json").is_file():
        raise HalfpintError(
            str(folder), wanted="a model with a config.json", got="a folder without",
            todo="Plans are made for Transformers and their like; what counts words takes next to nothing.",
        )  # fmt: skip
    return Known(
        name, shape_of_config(read_json(place / "config.json"), f"{place}/config.json"), place, 0, source, facts
    )


def _told(name: str, entry: Mapping[str, Any]) -> tuple[Shape, None, int, str]:
    """The shape that an entry of the catalogue tells, that nothing of it is here, its download and the source."""
    said = {**entry, **(entry.get("shape") or {})}
    parameters = int(said["parameters"])
    found: dict[str, int] = {}
    for wanted, names in _NAMES.items():
        value = next((said[one] for one in names if isinstance(said.get(one), int) and said[one] > 0), 0)
        if value:
            found[wanted] = value
    objective = MASKED if said.get("kind") == "encoder" else CAUSAL
    whole = {"layers", "width", "vocabulary"} <= found.keys()
    if not whole:
        found = {**dict(zip(("layers", "width", "vocabulary"), usual(parameters), strict=True)), **found}
    tied = said.get("tied", said.get("tie_word_embeddings"))
    shape = llama_like(
        str(said.get("architecture") or said.get("model_type") or said.get("arch") or name), parameters=parameters,
        objective=objective, is_tied=tied if isinstance(tied, bool) else None, **found,
    )  # fmt: skip
    size = next((said[one] for one in ("download_bytes", "size_bytes", "bytes") if isinstance(said.get(one), int)), 0)
    source = "the catalogue" if whole else "the catalogue, which has its parameters alone: its shape is guessed"
    return shape, None, size or download_bytes(shape, 4 if objective == MASKED else 2), source


def usual(parameters: int) -> tuple[int, int, int]:
    """Layers, width and vocabulary of a usual model of so many parameters, where no one tells."""
    vocabulary = default_vocabulary(parameters)

    def layers(width: int) -> int:
        return max(_FEWEST_LAYERS, min(_MOST_LAYERS, width // _USUAL_ASPECT))

    width = 64
    while layers(width + 64) * _USUAL_RATIO * (width + 64) ** 2 + vocabulary * (width + 64) <= parameters:
        width += 64
    return layers(width), width, vocabulary


def _on_hub(name: str, repository: str, revision: str | None) -> Known:
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
            todo="With no network: a name of the catalogue (halfpint pull lists them), the folder of a model, or "
            "--size with --arch.",
            said=f"The model {name!r} is not in the catalogue, and the Hub cannot be asked for it: {why[:200]}.",
        ) from error  # fmt: skip
    shape = shape_of_config(config, f"{name}: config.json")
    size = sum(size for file, size in files.items() if Path(file).suffix == ".safetensors" and "/" not in file)
    return Known(name, shape, None, size or download_bytes(shape), "its config.json on the Hub", {})


def shown(known: Known) -> str:
    """It in a few words, with where its shape is from."""
    return f"{known.name}: {known.shape.said()} (from {known.source})"


def too_large(known: Known, bytes_needed: int, free: int, what: str, todo: str) -> HalfpintError:
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
