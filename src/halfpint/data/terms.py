"""The terms of texts (words, n-grams of words, character n-grams within words) as hashes, for many texts at once.

`terms` is the plain reference, in strings; `hashed` gives the same terms as numbers, from a few passes of numpy over a
buffer of all characters. A term's hash is a polynomial of its characters (Karp & Rabin 1987, "Efficient randomized
pattern-matching algorithms"), so that the hash of any part of the buffer is a difference of two prefix sums.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Owners = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint32]

_SPACE, _WORD, _MARK, _RUN = 0, 1, 2, 3  # kinds of characters; those of a run stand side by side without spaces
_UNKNOWN = 255
_ASCII_WORD = re.compile(r"\w+|[^\w\s]")
_RUN_SHORTEST, _RUN_LONGEST = 1, 3  # character n-grams of runs that are there besides those of all words
# Scripts that are written without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
_RUNS = (
    (0x0E01, 0x0E3A), (0x0E40, 0x0E4E), (0x0E81, 0x0ECD), (0x1000, 0x103F), (0x1780, 0x17D3), (0x3005, 0x3007),
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F),
    (0x20000, 0x3134F),
)  # fmt: skip
RUN_CHARACTER = re.compile("[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in _RUNS) + "]")
"""One character of a script without spaces: about a third of a word."""
_JOINERS = "\u200c\u200d"  # stand within words of Persian and of Indian scripts
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, as are the factors: each has an inverse modulo 2^64
_WORDS_FACTOR, _CHARACTERS_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_CHUNK_CHARS = 1 << 17
_MOST_POWERS = 1 << 22  # that are kept; only a single text of millions of characters needs more
_SPARSE = 6  # places of a table for each hash in it


@dataclass(frozen=True)
class Shape:
    """Which terms there are.

    Args:
        characters: shortest and longest character n-gram within a word; (0, 0) for words alone.
        words: longest n-gram of words.
        scripts: whether marks that belong to letters (vowels of Hindi, points of Arabic) are part of words, and scripts
            without spaces have n-grams from one character on. Bundles that were made before have it off.
    """

    characters: tuple[int, int] = (3, 5)
    words: int = 2
    scripts: bool = True


def terms(text: str, shape: Shape) -> list[str]:
    """The terms of `text` with repetition: "w:…" for words and their n-grams, "c:…" for character n-grams."""
    words = _words(text.lower(), shape)
    found = []
    for width in range(1, shape.words + 1):
        found += ["w:" + " ".join(words[at : at + width]) for at in range(len(words) - width + 1)]
    low, high = shape.characters
    for word in words:
        padded = f" {word} "
        for width in range(low, high + 1) if high else ():
            found += ["c:" + padded[at : at + width] for at in range(max(1, len(padded) - width + 1))]
        if shape.scripts and not word.isascii() and _kind(word[0], shape.scripts) == _RUN:
            widths = _run_widths(shape)
            found += ["c:" + word[at : at + width] for width in widths for at in range(len(word) - width + 1)]
    return found


def _run_widths(shape: Shape) -> range:
    """The lengths of the n-grams that runs have besides."""
    low, high = shape.characters
    return range(_RUN_SHORTEST, low if high else _RUN_LONGEST + 1)


def _words(text: str, shape: Shape) -> list[str]:
    if text.isascii() or not shape.scripts:
        return _ASCII_WORD.findall(text)
    found: list[str] = []
    for kind, group in groupby(text, key=lambda char: _kind(char, True)):
        if kind == _MARK:
            found += group
        elif kind != _SPACE:
            found.append("".join(group))
    return found


def _kind(char: str, scripts: bool) -> int:
    if scripts and RUN_CHARACTER.match(char):
        return _RUN
    if char.isalnum() or char == "_":
        return _WORD
    if scripts and (char in _JOINERS or unicodedata.category(char)[0] == "M"):
        return _WORD
    return _SPACE if char.isspace() else _MARK


class _Kinds:
    """The kind of every character, found when it is first met: uint8 by code point."""

    def __init__(self, scripts: bool) -> None:
        self._scripts = scripts
        self._table = np.full(0x110000, _UNKNOWN, dtype=np.uint8)

    def of(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        kinds: npt.NDArray[np.uint8] = self._table[codes]
        new = kinds == _UNKNOWN
        if new.any():
            for code in np.unique(codes[new]).tolist():
                self._table[code] = _kind(chr(code), self._scripts)
            kinds = self._table[codes]
        return kinds


class _Powers:
    """Powers of the base and of its inverse, as many as were asked for at most."""

    def __init__(self) -> None:
        self._both = (np.ones(1, dtype=np.uint64),) * 2  # one attribute: threads see both or none

    def upto(self, count: int) -> tuple[Hashes, Hashes]:
        up, down = self._both
        if count > len(up):
            size = 1 << (count - 1).bit_length()
            inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
            up, down = (
                np.multiply.accumulate(np.append(np.uint64(1), np.full(size - 1, base, dtype=np.uint64)))
                for base in (_BASE, inverse)
            )
            if size <= _MOST_POWERS:
                self._both = up, down
        return up[:count], down[:count]


_KINDS = {scripts: _Kinds(scripts) for scripts in (False, True)}
_POWERS = _Powers()


class Hashed:
    """The terms of some texts, with repetition.

    Attributes:
        hashes: uint64 (terms,).
        starts, lengths: where a term stands in `characters`: int64 and int32 (terms,).
        words: how many of the terms are words and their n-grams; they come first.
        characters: code points of all words with one space between them.
    """

    def __init__(self, characters: Codes, owner_at: Owners, words: int, starts: Places, lengths: Owners) -> None:
        self.characters, self.words, self.starts, self.lengths = characters, words, starts, lengths
        self._owner_at = owner_at
        sums, down = _sums(characters)
        self.hashes: Hashes = (sums[starts + lengths] - sums[starts]) * down[starts]
        self.hashes[:words] *= _WORDS_FACTOR
        self.hashes[words:] *= _CHARACTERS_FACTOR

    def owners(self, terms: Places | None = None) -> Owners:
        """The number of the text of each of these terms, of all of them without, int32."""
        return self._owner_at[self.starts if terms is None else self.starts[terms]]

    def name(self, term: int) -> str:
        """The term as `terms` writes it."""
        start = self.starts[term]
        part = self.characters[start : start + self.lengths[term]]
        return ("w:" if term < self.words else "c:") + part.tobytes().decode("utf-32-le", "surrogatepass")


def chunked(texts: Sequence[str], chars: int = _CHUNK_CHARS) -> Iterator[tuple[int, int]]:
    """Where parts of `texts` of about so many characters begin and end."""
    start, size = 0, 0
    for number, text in enumerate(texts):
        size += len(text) + 1
        if size >= chars:
            yield start, number + 1
            start, size = number + 1, 0
    if start < len(texts):
        yield start, len(texts)


def hash_of(name: str) -> int:
    """The hash of one term, in plain arithmetic: the reference of `hashed`."""
    value, base = 0, int(_BASE)
    for at, char in enumerate(name[2:]):
        value += (ord(char) + 1) * pow(base, at, 1 << 64)
    return value * int(_WORDS_FACTOR if name.startswith("w:") else _CHARACTERS_FACTOR) % (1 << 64)


def hashes_of(names: Sequence[str]) -> Hashes:
    """The hash of each of the terms, uint64 (names,)."""
    lengths = np.fromiter((len(name) - 2 for name in names), dtype=np.int64, count=len(names))
    codes = _codes("".join([name[2:] for name in names]))
    ends = np.cumsum(lengths)
    sums, down = _sums(codes)
    words = np.fromiter((name.startswith("w:") for name in names), dtype=bool, count=len(names))
    found: Hashes = (sums[ends] - sums[ends - lengths]) * down[ends - lengths]
    return found * np.where(words, _WORDS_FACTOR, _CHARACTERS_FACTOR)


def _codes(text: str) -> Codes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _sums(codes: Codes) -> tuple[Hashes, Hashes]:
    """Prefix sums of the polynomial over `codes`, one more than these, and the inverse powers."""
    up, down = _POWERS.upto(len(codes) + 1)
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * up[:-1], out=sums[1:])
    return sums, down


def hashed(texts: Sequence[str], shape: Shape) -> Hashed:
    """The terms of `texts` as `terms` gives them but in another order; meant for some 100,000 characters at once."""
    lowered = [text.lower() for text in texts]
    joined = "\n".join(lowered)
    plain = joined.isascii()
    given = np.frombuffer(joined.encode(), dtype=np.uint8) if plain else _codes(joined)
    kinds = _KINDS[shape.scripts].of(given)
    border = np.empty(len(kinds) + 1, dtype=bool)
    border[0] = border[-1] = True
    np.not_equal(kinds[1:], kinds[:-1], out=border[1:-1])
    mark = kinds == _MARK
    border[:-1] |= mark
    border[1:] |= mark
    solid = kinds != _SPACE
    first = border[:-1] & solid
    begins = np.flatnonzero(first)
    words = len(begins)
    sizes = np.flatnonzero(border[1:] & solid) + 1 - begins
    offsets = np.cumsum([0, *(len(text) + 1 for text in lowered)])
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(np.searchsorted(begins, offsets)))
    # All words with one space around each: every term is a stretch of this.
    starts = np.cumsum(sizes + 1) - sizes
    ends = starts + sizes
    buffer = np.full((int(ends[-1]) if words else 0) + 1, 32, dtype=np.uint32)
    inside = np.flatnonzero(solid)
    kept = given[inside]
    kept_kinds = kinds[inside]
    inside = np.arange(len(inside)) + np.repeat(np.arange(1, words + 1), sizes)
    buffer[inside] = kept
    found: list[tuple[Places, Owners]] = []  # starts, lengths
    for width in range(1, min(shape.words, words) + 1):
        last = words - width + 1
        whole = np.flatnonzero(owner[:last] == owner[width - 1 :])
        found.append((starts[whole], (ends[whole + width - 1] - starts[whole]).astype(np.int32)))
    of_words = sum(len(some) for some, _ in found)
    low, high = shape.characters
    if high and words:
        letter = np.zeros(len(buffer), dtype=bool)
        letter[inside] = True
        one = np.ones(len(buffer), dtype=bool)  # whether what is between the ends of a window is of one word
        for width in range(2, high + 1):
            one = one[: len(buffer) - width + 1]
            if width > 2:
                one = one & letter[width - 2 : width - 2 + len(one)]
            if width >= low:
                short = np.flatnonzero(sizes + 2 < width)
                found += [_windows(one, width), (starts[short] - 1, (sizes[short] + 2).astype(np.int32))]
    if shape.scripts and words and not plain:
        run = np.zeros(len(buffer), dtype=bool)
        run[inside] = kept_kinds == _RUN
        one = np.ones(len(buffer), dtype=bool)
        for width in range(1, _run_widths(shape).stop):
            one = one[: len(buffer) - width + 1] & run[width - 1 :]
            found.append(_windows(one, width))
    owner_at = np.append(np.repeat(owner, sizes + 1), np.int32(0))
    none = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))
    begin, length = (np.concatenate([none[column], *(part[column] for part in found)]) for column in range(2))
    return Hashed(buffer, owner_at, of_words, begin, length)


def count_rows(
    owners: npt.NDArray[Any], numbers: npt.NDArray[Any], texts: int, columns: int
) -> tuple[Places, Owners, Places]:
    """How often each number is in each text: where each text's begin (texts + 1,), numbers below `columns`, counts."""
    # Text and number in one: sorted, equal ones stand side by side.
    keys = np.sort(owners.astype(np.int64) * columns + numbers)
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
    of_text, found = np.divmod(keys[first], max(1, columns))
    starts = np.searchsorted(of_text, np.arange(texts + 1)).astype(np.int64)
    return starts, found.astype(np.int32), np.diff(np.append(first, len(keys)))


def _windows(where: npt.NDArray[np.bool_], width: int) -> tuple[Places, Owners]:
    at = np.flatnonzero(where)
    return at, np.full(len(at), width, dtype=np.int32)


class Index:
    """Numbers of hashes: a table with open addressing, sparse enough that most lookups end at the first place."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        bits = max(6, int(_SPARSE * len(hashes)).bit_length())
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._table = np.full(1 << bits, -1, dtype=np.int32)
        left = np.arange(len(hashes), dtype=np.int32)
        place = self._place(hashes)
        while len(left):
            free = self._table[place] < 0
            self._table[place[free]] = left[free]
            waits = self._table[place] != left
            left, place = left[waits], (place[waits] + 1) & self._mask

    def _place(self, hashes: Hashes) -> Places:
        return ((hashes * _BASE) >> self._shift).astype(np.int64)

    def find(self, hashes: Hashes) -> tuple[Places, Owners]:
        """Which of `hashes` have a number, and these numbers."""
        place = self._place(hashes)
        found = self._table[place]
        at = np.flatnonzero(found >= 0)
        found = found[at]
        wrong = np.flatnonzero(self._hashes[found] != hashes[at])
        while len(wrong):
            place[at[wrong]] = (place[at[wrong]] + 1) & self._mask
            found[wrong] = self._table[place[at[wrong]]]
            wrong = wrong[found[wrong] >= 0]
            wrong = wrong[self._hashes[found[wrong]] != hashes[at[wrong]]]
        known = found >= 0
        return at[known], found[known]
