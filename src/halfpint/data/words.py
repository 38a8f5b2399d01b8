"""One deterministic split of a text into words: what gets a label where parts of a text have one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ASCII = re.compile(r"\w+|[^\w\s\x00-\x1f\x7f]")
# Over the kinds of characters: a run of letters and digits, one of the characters that stand alone, one symbol; each
# with the marks behind it.
_KINDS = re.compile(r"w[wm]*|[cp]m*|m+")
_ALONE = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\ua980-\ua9df\uaa60-\uaadf"  # Thai to Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u302f\u3031-\u303c\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # Han and kana
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff]"  # Hangul writes particles onto names, without a space
)
_JOINERS = "\u200c\u200d\u00ad"


class _Kinds(dict[int, str]):
    """A table for `str.translate` that decides about a character when it first meets it."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if category[0] == "M" or char in _JOINERS:
            found = "m"
        elif char.isspace() or category in ("Cc", "Cf", "Zs", "Zl", "Zp"):
            found = "s"
        elif char == "_" or char.isalnum():
            found = "c" if _ALONE.match(char) else "w"
        else:
            found = "p"
        self[code] = found
        return found


_TABLE = _Kinds()


def words(text: str) -> list[tuple[int, int]]:
    r"""Start and end of each word of `text`, in characters, in order.

    A word is a run of letters, digits and underscores, or one other character that is no space: `\w+|[^\w\s]`. Marks
    (accents, vowel signs, joiners) belong to what they stand behind. In scripts that do not part words by spaces (Han,
    kana, Hangul, Thai, Lao, Khmer, Burmese, Tibetan) every character is a word.
    """
    if text.isascii():
        return [match.span() for match in _ASCII.finditer(text)]
    return [match.span() for match in _KINDS.finditer(text.translate(_TABLE))]


def words_in(texts: Sequence[str]) -> list[int]:
    """How many words each text has."""
    return [len(words(text)) for text in texts]


SHAPES = 32
"""Shapes are below this; 0 is no word."""
_CASES = 10


def _case(word: str) -> int:
    """How a word is written, from 0 to 9."""
    if len(word) == 1 and not word.isalnum():
        return 0 if word in ".,;:!?" else 1
    if word.isdigit():
        return 3 if len(word) == 4 else 2  # four digits are often a year
    if word.islower():
        return 4 if word.isalpha() else 8
    if word.isupper():
        return (5 if len(word) > 1 else 6) if word.isalpha() else 9
    if not word.isalpha():
        return 9 if any(char.isalpha() for char in word) else 2
    return 7 if word[1:].islower() else 9


def shapes(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The shape of each word: how it is written and what is before it, from 1 to 30.

    Ten ways of writing (punctuation, other symbols, digits, a year, lower case, capitals, one capital, a capital first,
    lower case with digits, mixed) times what stands before it: nothing or a line's end, a space, another word.

    Args:
        spans: of its words, as `words` gives them.
    """
    found = []
    for start, end in spans:
        before = text[start - 1] if start else "\n"
        gap = 0 if before == "\n" else 1 if before.isspace() else 2
        found.append(1 + gap * _CASES + _case(text[start:end]))
    return found
