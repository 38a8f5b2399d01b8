"""Text as numbers of words: each line is a sentence between <s> and </s>, its words split at white space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError

Ids = npt.NDArray[np.int32]

UNKNOWN, BOS, EOS = 0, 1, 2
SPECIALS = ("<unk>", "<s>", "</s>")
"""Names of the first three numbers. A word of the text that is spelled like one of them is an ordinary word: it gets a
number of its own and never means what the special one means."""


def split_lines(texts: Iterable[str]) -> Iterator[bytes]:
    """The lines of `texts` in UTF-8, without their newlines.

    A text may hold many lines. A newline at its end ends its last line and starts no new one: "a" and "a\\n" are both
    one line. An empty text is one empty line.
    """
    for text in _several(texts):
        # Lone surrogates have no UTF-8: they become "?" rather than an error deep inside a corpus.
        lines = text.encode("utf-8", "replace").split(b"\n")
        if len(lines) > 1 and not lines[-1]:
            lines.pop()
        yield from lines


def plain_lines(texts: Iterable[str]) -> Iterator[bytes]:
    """As `split_lines`, and sure that it is text.

    Raises:
        HalfpintError: something that is no text, or a line with a NUL in it (a binary file).
    """
    for number, line in enumerate(split_lines(map(_text, _several(texts))), start=1):
        if b"\0" in line:
            raise HalfpintError(
                f"line {number} of the text",
                wanted="text",
                got="a binary file (a NUL byte)",
                todo="Give plain text, one sentence or paragraph a line.",
            )
        yield line


def _several(texts: Iterable[str]) -> Iterable[str]:
    """One text as a list of it: read letter by letter it would be a text of one-letter lines."""
    return [texts] if isinstance(texts, str) else texts


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise HalfpintError("the text", wanted="lines as str", got=type(text).__name__, todo="Decode it first.")
    return text


def encode(lines: Iterable[bytes], number: Callable[[bytes], int], chunk: int) -> Iterator[Ids]:
    """`lines` as numbers, `chunk` tokens or a little more at a time; a sentence is never cut.

    Words are split at ASCII white space, as KenLM does: a no-break space is part of its word.

    Args:
        lines: lines of text in UTF-8.
        number: the number of a word.
        chunk: tokens after which an array is handed out.

    Returns:
        Arrays int32 of shape (tokens,): for each line BOS, its words, EOS.
    """
    held: list[int] = []
    for line in lines:
        held.append(BOS)
        held.extend(map(number, line.split()))
        held.append(EOS)
        if len(held) >= chunk:
            yield np.array(held, dtype=np.int32)
            held.clear()
    if held:
        yield np.array(held, dtype=np.int32)
