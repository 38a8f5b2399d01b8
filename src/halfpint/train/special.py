"""The special tokens of a trained tokenizer, as a model's configuration and masking need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError
from halfpint.train._masking import Masking

# What a role's token may be called, the likeliest first.
_NAMES = {
    "pad": ("[PAD]", "<|pad|>", "<pad>"),
    "bos": ("<|begin_of_text|>", "<s>", "<bos>", "<|endoftext|>"),
    "eos": ("<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}


@dataclass(frozen=True)
class Special:
    """Ids of the special tokens (None where there is none), and which tokens are ordinary (bool, by id)."""

    ids: dict[str, int | None]
    ordinary: npt.NDArray[np.bool_]

    @property
    def pad(self) -> int:
        """What fills up a row: never seen, so any token will do where there is none for it."""
        return self.ids["pad"] or 0

    def config(self, settings: dict[str, Any]) -> dict[str, int | None]:
        """The entries of a model's configuration; [CLS] and [SEP] only where `settings` name them."""
        found: dict[str, int | None] = {"pad_token_id": self.ids["pad"]}
        for role in ("bos", "eos", "cls", "sep"):
            name = f"{role}_token_id"
            if self.ids[role] is not None and (role in ("bos", "eos") or name in settings):
                found[name] = self.ids[role]
            elif name in settings:
                found[name] = self.ids[{"bos": "cls", "eos": "sep"}.get(role, role)]
        return found

    def masking(self, share: float) -> Masking:
        """How tokens are masked.

        Raises:
            HalfpintError: the tokenizer has no mask token.
        """
        mask = self.ids["mask"]
        if mask is None:
            raise HalfpintError(
                "tokenizer", wanted="a mask token, such as [MASK]", got="none", todo="Take the tokenizer wordpiece."
            )
        return Masking(share, mask, self.ordinary)


def special_tokens(tokenizer: Any) -> Special:
    """Those of a `tokenizers.Tokenizer`."""
    ids = {
        role: next((found for name in names if (found := tokenizer.token_to_id(name)) is not None), None)
        for role, names in _NAMES.items()
    }
    ordinary = np.ones(tokenizer.get_vocab_size(), dtype=bool)
    for number, token in tokenizer.get_added_tokens_decoder().items():
        if token.special:
            ordinary[number] = False
    return Special(ids, ordinary)


def begin_documents(tokenizer: Any) -> None:
    """Let a tokenizer that puts nothing around a text begin each with its start token, where it has one.

    A packed document sees nothing before it, so its first word has to be predicted from a token that stands for that.
    """
    from tokenizers import processors

    start = next((name for name in _NAMES["bos"] if tokenizer.token_to_id(name) is not None), None)
    if start is not None and not tokenizer.encode("").ids:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A {start}:1 $B:1",
            special_tokens=[(start, tokenizer.token_to_id(start))],
        )  # fmt: skip
