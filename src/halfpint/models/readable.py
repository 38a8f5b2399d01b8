"""How much of a language a base encoder's tokenizer can read: what it cannot, no training teaches it."""

from __future__ import annotations

from collections.abc import Sequence

from halfpint.bundle import Bundle
from halfpint.data.terms import RUN_CHARACTER
from halfpint.tokenizers.load import open_tokenizer

MULTILINGUAL = "intfloat/multilingual-e5-small"
"""The name of an encoder of about a hundred languages that `models/pull` finds on the Hub."""
UNREADABLE = 0.2
"""The share of tokens from which a base is the wrong one: in English, French, German or Italian it is below 0.11."""
_SAMPLE = 1000


def unreadable_share(bundle: Bundle, texts: Sequence[str]) -> float:
    """The share of tokens that tell the encoder in `bundle` nothing of a text, 0 to 1, in at most 1,000 of `texts`.

    Those are unknown tokens, and letters that stand alone within words: an English vocabulary has those of Arabic, and
    none of its words. Characters of scripts without spaces are words themselves, and count where they are unknown.

    Raises:
        HalfpintError: its tokenizer.json is missing or damaged.
    """
    step = max(1, len(texts) // _SAMPLE)
    tokenizer = open_tokenizer(bundle.path)
    unknown = tokenizer.token_to_id(_unknown_token(tokenizer)) if _unknown_token(tokenizer) else None
    tokens = lost = 0
    some = list(texts[::step][:_SAMPLE])
    for text, encoding in zip(some, tokenizer.encode_batch(some, add_special_tokens=False), strict=True):
        before = -1
        for number, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            letter = text[start:stop]
            spelled = start <= before and len(letter) <= 1 and not letter.isascii() and not RUN_CHARACTER.match(letter)
            lost += number == unknown or spelled
            before = stop
        tokens += len(encoding.ids)
    return lost / tokens if tokens else 0.0


def _unknown_token(tokenizer: object) -> str:
    """The name of the unknown token; empty where there is none (a byte-level vocabulary has all bytes)."""
    model = getattr(tokenizer, "model", None)
    named = getattr(model, "unk_token", None)
    return named if isinstance(named, str) else "<unk>"


def unreadable_note(base: str, share: float) -> str:
    """What to say before time is spent on a base that cannot read the texts; empty where it can."""
    if share < UNREADABLE:
        return ""
    other = f"; try --base {MULTILINGUAL}, which reads about a hundred languages" if base != MULTILINGUAL else ""
    return f"the base {base} cannot read these texts: {share:.0%} of their tokens are unknown or single letters{other}"
