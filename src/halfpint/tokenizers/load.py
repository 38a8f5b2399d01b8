"""Open a bundle's tokenizer.json with `tokenizers`, set for what halfpint does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfpint.errors import HalfpintError


def open_tokenizer(folder: Path, *, max_tokens: int | None = None) -> Any:
    """The fast tokenizer in `folder`: no padding (batches pad themselves), truncated to `max_tokens`.

    Raises:
        HalfpintError: tokenizer.json is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise HalfpintError(str(folder), wanted="a tokenizer.json", got="none there", todo="Make the bundle again.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise HalfpintError(
            str(path), wanted="a tokenizer that `tokenizers` reads", got=str(error)[:200], todo="Make it again."
        ) from error
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer
