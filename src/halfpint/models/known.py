"""Small models that are known by name: facts with their sources; `known_shape` tells what serving them costs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from halfpint.bundle import Kind
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.machine import memory_bytes

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
BITS: Mapping[str, str] = {"16-bit": "bf16", "8-bit": "q8_0", "4-bit": "q4_0"}
"""Types of the weights as people name them -> those of a file that is served (`serving_cost.TYPES`)."""
_FILES = {Kind.LANGUAGE: "known_language", Kind.ENCODER: "known_encoder", ENCODER_DECODER: "known_encoder_decoder"}


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


def names_of(kind: str) -> list[str]:
    """The names of all known models of one kind that halfpint can take."""
    return [name for name, model in known_models().items() if model.kind == kind and not model.refusal]


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
    needed = 2 * model.parameters
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
