"""What a tagger of words reads: rows of a table of word vectors, how each word is written, its characters. NumPy alone.

The table is kept in 8 bits with one scale per row; training and use go through the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.data.words import shapes, words
from halfpint.errors import HalfpintError, need
from halfpint.outputs import Floats, Ints

WORDS_FILE, WEIGHTS_FILE = "words.txt", "model.safetensors"
PADDING, UNKNOWN, FIRST = 0, 1, 2
"""Rows of a table: no word, a word that is not in it, its first word."""
CHARACTERS = 129
"""Numbers of characters are below this; 0 is none, those outside ASCII share 32."""
LONGEST = 16
"""Characters of a word that are read: all, or of a longer word the first ten and the last six."""
LINES = 4
"""How a line is written: 0 is padding, 1 mixed, 2 without capitals, 3 without small letters (as headlines are)."""
_HEAD, _TAIL, _MOST = 10, 6, 127
_SMALLEST = 1e-4  # of the scales: a float16 holds it


@dataclass(frozen=True)
class Table:
    """Word vectors in 8 bits.

    Attributes:
        words: in lower case, in the order of the rows from `FIRST`.
        codes: int8 of shape (rows, width).
        scales: what a row's codes are multiplied by, float16 of shape (rows,).
    """

    words: Sequence[str]
    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]

    @classmethod
    def of(cls, known: Sequence[str], values: Floats) -> Table:
        """Round vectors, float32 of shape (rows, width), those of `PADDING` and `UNKNOWN` among them."""
        peak = np.abs(values).max(axis=1, initial=0.0)
        scales = np.maximum(peak / _MOST, _SMALLEST).astype(np.float16)
        codes = np.round(values / scales.astype(np.float32)[:, None]).clip(-_MOST, _MOST).astype(np.int8)
        return cls(known, codes, scales)

    @property
    def width(self) -> int:
        """Values of a vector."""
        return int(self.codes.shape[1])

    def vectors(self, rows: Ints) -> Floats:
        """The vectors of rows: float32 with one more axis."""
        found: Floats = self.codes[rows].astype(np.float32) * self.scales[rows].astype(np.float32)[..., None]
        return found

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word."""
        return {word: number for number, word in enumerate(self.words, start=FIRST)}

    def write(self, folder: Path, transitions: Floats) -> None:
        """Write the words, a line each, and the table beside the scores of tags that follow each other."""
        save_file = need("safetensors.numpy", "writing word vectors").save_file
        (folder / WORDS_FILE).write_text("".join(f"{word}\n" for word in self.words), encoding="utf-8", newline="\n")
        tensors = {"codes": self.codes, "scales": self.scales, "transitions": transitions.astype(np.float32)}
        save_file(tensors, folder / WEIGHTS_FILE)


def read_table(folder: Path) -> tuple[Table, Floats]:
    """The table in a folder, and the scores of [tag, next tag], float32 of shape (tags, tags).

    Raises:
        HalfpintError: words and vectors do not belong together.
    """
    tensors = need("safetensors.numpy", "reading word vectors").load_file(folder / WEIGHTS_FILE)
    known = (folder / WORDS_FILE).read_text(encoding="utf-8").split("\n")[:-1]
    if len(tensors["codes"]) != len(known) + FIRST:
        raise HalfpintError(
            str(folder), wanted=f"a vector for each of {len(known)} words", got=f"{len(tensors['codes']) - FIRST}",
            todo="Make the bundle again.",
        )  # fmt: skip
    return Table(known, tensors["codes"], tensors["scales"]), tensors["transitions"]


@dataclass(frozen=True)
class WordInputs:
    """Texts as a tagger of words reads them: all words in a row, and one without anything at the end, for padding.

    Attributes:
        sizes: words of each text, int64 of shape (texts,).
        rows: of the table, int64 of shape (words + 1,).
        shapes, lines: how each word is written (`data.words.shapes`), and its line, int64 of shape (words + 1,).
        spelled: the row of `characters` that spells it, int64 of shape (words + 1,).
        characters: of the different words, uint8 of shape (different words + 1, 16).
    """

    sizes: Ints
    rows: Ints
    shapes: Ints
    lines: Ints
    spelled: Ints
    characters: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Sequence[str], known: Mapping[str, int]) -> WordInputs:
        """Read texts; `known` tells the row of a word in lower case."""
        memory: dict[str, int] = {}
        rows_of: list[int] = [PADDING]
        letters: list[list[int]] = [[0] * LONGEST]
        sizes, spelled, forms, lines = [], [], [], []
        for text in texts:
            spans = words(text)
            sizes.append(len(spans))
            forms += shapes(text, spans)
            lines += _lines(text, spans)
            for start, end in spans:
                word = text[start:end]
                number = memory.get(word)
                if number is None:
                    number = memory[word] = len(letters)
                    letters.append(spell(word))
                    rows_of.append(known.get(word.lower(), UNKNOWN))
                spelled.append(number)
        places = np.array([*spelled, 0], dtype=np.int64)
        return cls(
            np.array(sizes, dtype=np.int64), np.array(rows_of, dtype=np.int64)[places],
            np.array([*forms, 0], dtype=np.int64), np.array([*lines, 0], dtype=np.int64), places,
            np.array(letters, dtype=np.uint8),
        )  # fmt: skip

    @cached_property
    def starts(self) -> Ints:
        """The first word of each text, int64 of shape (texts,)."""
        return np.cumsum(self.sizes) - self.sizes

    def batch(self, texts: Sequence[int] | Ints) -> dict[str, npt.NDArray[Any]]:
        """Some texts, padded to the longest.

        Gives `rows`, `shapes`, `lines` and `spelled`, int64 of shape (texts, words); `characters`, int64 of shape
        (different words, 16), which `spelled` counts in; `sizes`, int32 of shape (texts,).
        """
        chosen = np.asarray(texts, dtype=np.int64)
        sizes = self.sizes[chosen]
        across = np.arange(max(1, int(sizes.max(initial=0))))
        places = np.where(across < sizes[:, None], self.starts[chosen][:, None] + across, len(self.rows) - 1)
        different, spelled = np.unique(self.spelled[places], return_inverse=True)
        return {
            "rows": self.rows[places], "shapes": self.shapes[places], "lines": self.lines[places],
            "spelled": spelled.reshape(places.shape).astype(np.int64),
            "characters": self.characters[different].astype(np.int64), "sizes": sizes.astype(np.int32),
        }  # fmt: skip


def spell(word: str) -> list[int]:
    """The numbers of a word's characters, 16 of them."""
    kept = word if len(word) <= LONGEST else word[:_HEAD] + word[-_TAIL:]
    found = [ord(char) - 31 if 32 <= ord(char) < 127 else 97 + ord(char) % 32 for char in kept]
    return found + [0] * (LONGEST - len(found))


def _lines(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """How the line of each word is written."""
    if "\n" not in text:
        return [_line(text)] * len(spans)
    found, end, kind = [], -1, 1
    for start, _ in spans:
        if start > end:
            begin = text.rfind("\n", 0, start) + 1
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
            kind = _line(text[begin:end])
        found.append(kind)
    return found


def _line(line: str) -> int:
    return 2 if line.islower() else 3 if line.isupper() else 1
