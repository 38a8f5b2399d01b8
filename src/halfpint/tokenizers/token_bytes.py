"""The bytes that each token of a tokenizer.json stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halfpint.tokenizers.load import open_tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # how SentencePiece writes a space


def token_bytes(folder: Path) -> list[bytes] | None:
    """What each id adds to a text, by id; an added token's is its name.

    None where tokens have no bytes of their own: their tokenizer gives spaces or capitals back by rule (WordPiece) or
    not at all.

    Raises:
        HalfpintError: tokenizer.json is missing or damaged.
    """
    tokenizer = open_tokenizer(folder)
    held = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kinds = {part["type"] for part in _parts(held.get("decoder"))}
    if "ByteLevel" in kinds:
        as_bytes = _byte_level
    elif kinds & {"ByteFallback", "Metaspace"}:
        as_bytes = _sentence_piece
    else:
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    found = [b""] * (max(vocabulary.values()) + 1)
    added = tokenizer.get_added_tokens_decoder()
    for token, number in vocabulary.items():
        found[number] = token.encode("utf-8") if number in added else as_bytes(token)
    return found


def _parts(decoder: Any) -> Iterator[dict[str, Any]]:
    if decoder:
        yield decoder
        for part in decoder.get("decoders", ()):
            yield from _parts(part)


def _letters() -> dict[str, int]:
    """The character that stands for each byte.

    Source: Radford et al. 2019 (GPT-2), `bytes_to_unicode`: printable bytes are themselves, the others come after 255.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_LETTERS = _letters()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_LETTERS[letter] for letter in token)
    except KeyError:  # no token of this kind: it is written as it is
        return token.encode("utf-8", "replace")


def _sentence_piece(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode("utf-8", "replace")
