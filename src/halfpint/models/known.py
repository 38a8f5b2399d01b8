"""Small models that are known by name: facts with their sources, and what serving costs, from the shape alone."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from halfpint.bundle import Kind
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.machine import cores, memory_bytes

UNKNOWN = "unknown"
"""What stands in place of a fact for which no source was found; of a number 0, of a list nothing."""
ENCODER_DECODER = "encoder-decoder"
"""The kind of models that read a text with one part and write another with a second part."""
COMMERCIAL: Mapping[str, str] = {
    "Apache-2.0": "yes",
    "MIT": "yes",
    "MIT (modified)": "yes",
    "CC-BY-4.0": "yes",
    "Apple Sample Code License": "conditions",
    "Gemma Terms of Use": "conditions",
    "LFM Open License v1.0": "conditions",
    "Llama 3.2 Community License": "conditions",
    "Llama 4 Community License": "conditions",
    "CC-BY-NC-4.0": "no",
    "Qwen Research License": "no",
    UNKNOWN: UNKNOWN,
}
"""Licence -> whether it lets a model be used commercially: yes, with conditions, no, or unknown."""
BITS: Mapping[str, float] = {"16-bit": 16.0, "8-bit": 8.5, "4-bit": 4.5}
"""Type of the weights -> bits of one: blocks of 32 small weights share a scale of 16 bits, as in GGUF."""
_TABLE_BITS = {"4-bit": 6.5625}  # the table of tokens of a 4-bit file is usually of the type Q6_K
_CACHE_BYTES = 2  # of a key's or value's number in the cache
_FILES = {Kind.LANGUAGE: "known_language", Kind.ENCODER: "known_encoder", ENCODER_DECODER: "known_encoder_decoder"}
_READ_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A model, and what is known of it.

    Attributes:
        name: what it is called here.
        family: its family, such as Qwen3.
        kind: Kind.LANGUAGE, Kind.ENCODER or ENCODER_DECODER.
        hub: its name on the Hub.
        parameters: how many numbers it has; where `exact` is false those of its family, or rounded.
        exact: whether the number is exact.
        model_type: the architecture by its name in transformers.
        shape: of layers (attention_layers: those with attention, window_layers: those that see a window), width,
            heads, kv_heads, head_dim, vocabulary, tied, … those that are known.
        licence: SPDX name, or what it calls itself.
        context: the longest text in tokens.
        languages: their codes (ISO 639), where a source lists them.
        languages_in_all: how many languages, where a source counts them.
        tasks: what it is made for.
        scores: published figures: name, value and source.
        ollama: its name in the library of Ollama.
        nim: its name in NVIDIA NIM.
        azure: its name in the Azure AI catalogue.
        note: what it is, in a line.
        not_taken: why halfpint cannot take it from the Hub by itself; empty where it can.
        sources: fact -> where it is from, a key of `sources()`.
    """

    name: str
    family: str
    kind: str
    hub: str
    parameters: int
    exact: bool
    model_type: str
    shape: Mapping[str, Any] = field(default_factory=dict)
    licence: str
    context: int
    languages: tuple[str, ...]
    languages_in_all: int = 0
    tasks: tuple[str, ...]
    scores: tuple[Mapping[str, Any], ...] = ()
    ollama: str
    nim: str
    azure: str
    note: str
    not_taken: str = ""
    sources: Mapping[str, str]

    @property
    def commercial(self) -> str:
        """Whether the licence lets it be used commercially: yes, conditions, no or unknown."""
        return COMMERCIAL[self.licence]

    @property
    def refusal(self) -> str:
        """Why halfpint cannot take it from the Hub by itself; empty where it can."""
        if self.kind == ENCODER_DECODER:
            return "it is an encoder-decoder, which halfpint can neither train nor serve yet"
        return self.not_taken

    def as_dict(self) -> dict[str, Any]:
        """All facts, as JSON holds them; `sources` says in words where each is from."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        words = sources()
        return {
            **told,
            "shape": dict(self.shape),
            "languages": list(self.languages),
            "tasks": list(self.tasks),
            "commercial": self.commercial,
            "not_taken": self.refusal,
            "scores": [{**one, "source": words[str(one["source"])]} for one in self.scores],
            "sources": {fact: words[key] for fact, key in self.sources.items()},
        }


@cache
def sources() -> dict[str, str]:
    """Key -> the source that it stands for, in words."""
    return _read("known_sources")


@cache
def known_models() -> dict[str, Known]:
    """All models that are known, by name."""
    found = {}
    for kind, file in _FILES.items():
        for name, facts in _read(file).items():
            lists = {key: tuple(facts.get(key, ())) for key in ("languages", "tasks", "scores")}
            found[name] = Known(name=name, kind=str(kind), **{**facts, **lists})
    return found


def known_by(name: str) -> Known | None:
    """The model of this name, here or on the Hub; None where there is none."""
    models = known_models()
    hub = name.split("@", maxsplit=1)[0].lower()
    return models.get(name) or next((one for one in models.values() if one.hub.lower() == hub), None)


def is_language_name(name: str) -> bool:
    """Whether it is the name of a language model that is known."""
    model = known_models().get(name)
    return model is not None and model.kind == Kind.LANGUAGE


def find_known(name: str) -> Known:
    """The model of this name, here or on the Hub.

    Raises:
        HalfpintError: none is known by it; the nearest name is said.
    """
    found = known_by(name)
    if found is None:
        raise HalfpintError(
            name, wanted="a model that is known", got="another name",
            todo=nearest(name, known_models(), "`halfpint models` lists them."),
            said=f"No model {name!r} is known.",
        )  # fmt: skip
    return found


def check_type(kind: str, place: str = "--type") -> str:
    """The type of weights, as it is written in BITS.

    Raises:
        SettingError: there is no such type.
    """
    if kind not in BITS:
        raise SettingError(place, wanted=f"one of {', '.join(BITS)}", got=repr(kind), todo=nearest(kind, BITS))
    return kind


def weight_bytes(model: Known, kind: str) -> int:
    """Bytes of the weights in the type `kind` of BITS; the table of tokens of a 4-bit file keeps more bits."""
    table = int(model.shape.get("vocabulary", 0) * model.shape.get("width", 0))
    bits = BITS[kind] * (model.parameters - table) + _TABLE_BITS.get(kind, BITS[kind]) * table
    return round(bits / 8)


def cache_bytes(model: Known, context: int) -> int | None:
    """Bytes of the keys and values of `context` tokens, in 16 bits; None where the shape is not known well enough.

    Layers that see a window keep no more tokens than it has; an encoder keeps none.
    """
    if model.kind == Kind.ENCODER:
        return 0
    shape = model.shape
    layers = None if model.kind == ENCODER_DECODER else shape.get("attention_layers", shape.get("layers"))
    if layers == 0:
        return 0
    if layers is None or "kv_heads" not in shape or "head_dim" not in shape:
        return None
    kept = min(context, model.context) if model.context else context
    short = shape.get("window_layers", 0)
    tokens = (layers - short) * kept + short * min(kept, shape.get("window", kept))
    return int(2 * _CACHE_BYTES * tokens * shape["kv_heads"] * shape["head_dim"])


def served_bytes(model: Known, kind: str, context: int) -> int:
    """Bytes that serving needs for weights of the type `kind` and the cache of `context` tokens.

    Where the shape does not tell the cache it is left out; the program itself needs some memory more.
    """
    return weight_bytes(model, kind) + (cache_bytes(model, context) or 0)


def read_bytes(model: Known, kind: str) -> int:
    """Bytes that are read for each token written: all weights, but the table of tokens where it serves input alone."""
    table = model.shape.get("vocabulary", 0) * model.shape.get("width", 0)
    looked_up = 0 if model.shape.get("tied", True) else table
    return weight_bytes(model, kind) - round(looked_up * _TABLE_BITS.get(kind, BITS[kind]) / 8)


def tokens_per_s(read: int, bandwidth: float) -> float:
    """The most tokens a second that one text can be written at: memory is read once for each.

    Args:
        read: bytes read for a token, as `read_bytes` gives them.
        bandwidth: bytes a second, as `memory_bandwidth` measures them.
    """
    return bandwidth / read


def memory_bandwidth(seconds: float = 0.3) -> float:
    """Bytes a second that this machine reads from memory with all its cores: the best of some passes."""
    import numpy as np

    size = min(_READ_BYTES, max(memory_bytes() // 16, 2**24)) if memory_bytes() else _READ_BYTES
    parts = np.array_split(np.ones(size // 4, dtype=np.float32), cores())
    best, started = 0.0, time.perf_counter()
    with ThreadPoolExecutor(len(parts)) as pool:
        while best == 0.0 or time.perf_counter() - started < seconds:
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - began))
    return best


def refuse_untaken(model: Known, memory: int | None = None) -> None:
    """Refuse, before anything is downloaded, a model that halfpint cannot take or that this machine cannot hold.

    Args:
        model: what is asked for.
        memory: bytes of memory; None asks the machine, 0 knows no bound.

    Raises:
        HalfpintError: it cannot be taken, with the reason.
    """
    if model.refusal:
        raise HalfpintError(
            f"base model {model.name!r}", wanted="a model that halfpint can take from the Hub", got=model.refusal,
            todo=f"`halfpint models {model.name}` says what is known of it.",
            said=f"The model {model.name} cannot be taken: {model.refusal}.",
        )  # fmt: skip
    memory = memory_bytes() if memory is None else memory
    needed = weight_bytes(model, "16-bit")
    if memory and needed > memory:
        fitting = f"--max-ram {memory / 1e9:.3g}GB"
        raise HalfpintError(
            f"base model {model.name!r}", wanted=f"a model whose weights fit {memory / 1e9:.3g} GB of memory",
            got=f"{needed / 1e9:.3g} GB", todo=f"`halfpint models {fitting} --type 16-bit` lists those that fit.",
            said=f"The model {model.name} does not fit this machine: its {model.parameters:,} parameters take "
            f"{needed / 1e9:.3g} GB in 16 bits, and there are {memory / 1e9:.3g} GB of memory.",
        )  # fmt: skip


def _read(file: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / f"{file}.toml").read_text(encoding="utf-8"))
