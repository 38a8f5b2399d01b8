"""Tokenizers as GGUF files hold them: tokens, kinds of tokens, merges, and a name for how texts are divided.

llama.cpp divides texts by code of its own, which goes by a name (tokenizer.ggml.pre); a tokenizer.json holds the same
as regular expressions. Here the names stand beside what they mean, and what has no name is refused.

Source: ggml-org/ggml, docs/gguf.md, "Tokenizer"; the names are those of llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.errors import HalfpintError
from halfpint.tokenizers.kinds import SPLIT
from halfpint.tokenizers.load import open_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of tokens (tokenizer.ggml.token_type)."""

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BYTES = ("ByteLevel", False)  # whether it divides by GPT-2's expression too
_BYTES_OF_WORDS = ("ByteLevel", True)
_SPLITS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "qwen2": (("Split", SPLIT), _BYTES),
    "llama-bpe": (("Split", _LLAMA_3), _BYTES),
    "gpt-2": (_BYTES_OF_WORDS,),
    "smollm": (("Digits", True), _BYTES_OF_WORDS),
}
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


@dataclass(frozen=True)
class GgufTokenizer:
    """A byte-level BPE, or a BPE over characters with byte fallback (Gemma's), as GGUF has it.

    Attributes:
        pre: how texts are divided, by llama.cpp's name.
        tokens, types: each token's name and kind, by its id.
        merges: pairs with a space between, the first merged first.
        scores: of each token of a BPE over characters: what has the highest is merged first; else empty.
        start, end, end_of_turn, pad, unknown: ids; None where there is none.
        adds_start, adds_end: whether they are put around each text.
        chat_template: in Jinja; empty where there is none.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    start: int | None
    end: int | None
    end_of_turn: int | None
    pad: int | None
    unknown: int | None
    adds_start: bool
    adds_end: bool
    chat_template: str


def read_for_gguf(folder: Path, config: Mapping[str, Any], size: int) -> GgufTokenizer:
    """The tokenizer in `folder` as GGUF wants it.

    Args:
        folder: with tokenizer.json, tokenizer_config.json and the chat template.
        config: of the model: bos_token_id, eos_token_id, pad_token_id.
        size: rows of the model's embeddings; ids that the tokenizer does not have become unused tokens.

    Raises:
        HalfpintError: it is neither a byte-level BPE nor like Gemma's, or divides texts in a way that llama.cpp has no
            name for.
    """
    place = folder / "tokenizer.json"
    tokenizer = open_tokenizer(folder)
    held = json.loads(place.read_text(encoding="utf-8"))
    model = held["model"]
    by_characters = _is_by_characters(held)
    plain = model.get("type") == "BPE" and not model.get("byte_fallback")
    if not by_characters and (not plain or model.get("continuing_subword_prefix")):
        kind = str(model.get("type")) + (" with byte fallback" if model.get("byte_fallback") else "")
        raise HalfpintError(
            str(place), wanted="a byte-level BPE, or one like Gemma's", got=f"a tokenizer of the kind {kind}",
            todo="Train one with the kind bpe.",
        )  # fmt: skip
    if not by_characters and (held.get("normalizer") or {}).get("type") not in (None, "NFC"):
        raise HalfpintError(str(place), wanted="no normalizer, or NFC", got=str(held["normalizer"].get("type")))
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [UNUSED] * size
    added = {entry["id"]: entry for entry in held.get("added_tokens", [])}
    for token, number in tokenizer.get_vocab().items():
        if number >= size:
            raise HalfpintError(
                str(place), wanted=f"ids below {size}, the rows of the embeddings", got=f"{token!r} with {number}"
            )
        tokens[number] = token
        types[number] = NORMAL if number not in added else CONTROL if added[number]["special"] else USER_DEFINED
        if by_characters and _BYTE.fullmatch(token):
            types[number] = BYTE
    settings = _settings(folder)
    template = _template(folder, settings)
    ids = {name: _id(tokenizer, settings.get(f"{name}_token"), config, name) for name in ("bos", "eos", "pad", "unk")}
    around = tokenizer.encode("").ids
    start = ids["bos"] if ids["bos"] is not None else ids["eos"]
    adds_start = bool(around) and (ids["bos"] is None or around[0] == ids["bos"])
    adds_end = len(around) > int(adds_start) and around[-1] == ids["eos"]
    if adds_start:
        start = around[0]
    if by_characters and ids["unk"] is not None:
        types[ids["unk"]] = UNKNOWN
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    turn = next((tokenizer.token_to_id(name) for name in _TURN_ENDS if name in template), None)
    return GgufTokenizer(
        pre="default" if by_characters else _name_of_split(held.get("pre_tokenizer"), place), tokens=tokens,
        types=types, merges=merges, scores=_scores(tokens, model["merges"]) if by_characters else [],
        start=start, end=ids["eos"], end_of_turn=turn, pad=ids["pad"], unknown=ids["unk"],
        adds_start=adds_start, adds_end=adds_end, chat_template=template,
    )  # fmt: skip


def _is_by_characters(held: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json is as Gemma's: spaces written as U+2581, characters merged, others by their bytes."""
    model, normalizer = held["model"], held.get("normalizer") or {}
    return bool(
        model.get("type") == "BPE"
        and model.get("byte_fallback")
        and model.get("merges")
        and normalizer.get("type") == "Replace"
        and normalizer.get("content") == "\u2581"
        and (normalizer.get("pattern") or {}).get("String") == " "
        and not model.get("continuing_subword_prefix")
    )


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """What llama.cpp merges by: the earlier a token is first merged, the higher; a token that is never is last.

    It merges the pair whose whole has the highest score, wherever it is divided; so the first rank of a whole counts.
    """
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault("".join(pair.split(" ", 1) if isinstance(pair, str) else pair), number)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def tokenizer_from_fields(fields: Mapping[str, Any], place: str) -> tuple[Any, dict[str, Any], str]:
    """The tokenizer that a GGUF file's fields tell of: itself, its tokenizer_config.json, and the chat template.

    Args:
        fields: all fields of the file by name.
        place: the file's name, for messages.

    Raises:
        HalfpintError: it is no byte-level BPE, or divides texts in a way that is not known here.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    def field(name: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{name}", default)

    if field("model") != "gpt2":
        raise HalfpintError(place, wanted="a byte-level BPE (tokenizer.ggml.model gpt2)", got=repr(field("model")))
    tokens, types = field("tokens"), field("token_type")
    merges = [tuple(pair.split(" ", 1)) for pair in field("merges")]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = _split_from_name(field("pre"), place), decoders.ByteLevel()
    for kinds in ((CONTROL, UNKNOWN), (USER_DEFINED,)):
        chosen = [token for token, kind in zip(tokens, types, strict=True) if kind in kinds]
        added = [AddedToken(token, normalized=False, special=kinds[0] == CONTROL) for token in chosen]
        (tokenizer.add_special_tokens if kinds[0] == CONTROL else tokenizer.add_tokens)(added)
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {name: field(f"{other}_token_id") for name, other in names.items()}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {f"{name}_token": tokens[number] for name, number in ids.items() if number is not None}
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    around = [tokens[ids[name]] if field(f"add_{name}_token", False) else "" for name in ("bos", "eos")]
    if any(around):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{around[0]} $A {around[1]}".strip(), pair=f"{around[0]} $A {around[1]} $B:1 {around[1]}:1".strip(),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in set(around) - {""}],
        )  # fmt: skip
    return tokenizer, settings, str(fields.get("tokenizer.chat_template", ""))


def _split_from_name(pre: str, place: str) -> Any:
    """How texts are divided where GGUF says `pre`: a pre-tokenizer of `tokenizers`."""
    from tokenizers import Regex, pre_tokenizers

    if pre not in _SPLITS:
        raise HalfpintError(place, wanted=f"tokenizer.ggml.pre to be one of {', '.join(_SPLITS)}", got=repr(pre))
    made: list[Any] = []
    for kind, value in _SPLITS[pre]:
        if kind == "Split":
            made.append(pre_tokenizers.Split(Regex(value), "isolated"))
        elif kind == "Digits":
            made.append(pre_tokenizers.Digits(individual_digits=value))
        else:
            made.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=value))
    return pre_tokenizers.Sequence(made)


def _name_of_split(pre: Any, place: Path) -> str:
    parts = pre["pretokenizers"] if pre and pre["type"] == "Sequence" else [pre] if pre else []
    found = []
    for part in parts:
        if part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            found.append(("Split", part["pattern"].get("Regex")))
        elif part["type"] == "Digits":
            found.append(("Digits", part["individual_digits"]))
        elif part["type"] == "ByteLevel" and not part["add_prefix_space"]:
            found.append(("ByteLevel", part.get("use_regex", True)))
        else:
            found.append((part["type"], None))
    for name, wanted in _SPLITS.items():
        if tuple(found) == wanted:
            return name
    raise HalfpintError(
        str(place), wanted=f"texts to be divided as by {', '.join(_SPLITS)}",
        got=f"another way ({', '.join(kind for kind, _ in found) or 'none'})",
        todo="llama.cpp has no name for it that is known here.",
    )  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _template(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    held = settings.get("chat_template") or ""
    return held if isinstance(held, str) else ""


def _id(tokenizer: Any, held: Any, config: Mapping[str, Any], name: str) -> int | None:
    """The id of a special token: by its name in tokenizer_config.json, else by the model's own configuration."""
    token = held.get("content") if isinstance(held, dict) else held
    found = tokenizer.token_to_id(token) if token else config.get(f"{name}_token_id")
    if isinstance(found, list):
        found = found[0] if found else None
    return None if found is None else int(found)
