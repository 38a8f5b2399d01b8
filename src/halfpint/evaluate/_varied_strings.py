"""Strings that tokenizers stumble over, the same in every run: prose and code, random Unicode, numbers, spaces."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable

import numpy as np

# First and last code points that strings draw from: scripts, marks, symbols, spaces, emoji with their joiners.
_BLOCKS = (
    (0x20, 0x7E), (0x00, 0x1F), (0x7F, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF),
    (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2070, 0x209F), (0x20A0, 0x20BF), (0x2100, 0x214F), (0x2150, 0x218F),
    (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xE000, 0xE0FF), (0xFB00, 0xFDFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x10300, 0x1034F), (0x1D400, 0x1D7FF),
    (0x1F1E6, 0x1F1FF), (0x1F300, 0x1FAFF), (0x20000, 0x200FF), (0xE0100, 0xE01EF),
)  # fmt: skip
_SPACES = (" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\u200b", "\x85", " \n", "\n ")
_WORDS = (
    "I'm", "they'LL", "don't", "it's", "We'Ve", "naïve", "Straße", "C++", "e-mail", "http://a.b/c?d=e&f", "x_1", "#tag",
    "@me", "ǅ", "K", "ſ", "ß", "…", "—", "''", "``", "<s>", "</s>", "[CLS]", "▁", "Ġ", "<0x0A>", "<|", "|>",
)  # fmt: skip


def prose() -> str:
    """English prose with some code, from this Python's own documentation strings."""
    return "\n\n".join(
        textwrap.dedent(inspect.getdoc(one) or "")
        for one in (inspect, json, textwrap, textwrap.TextWrapper, json.dumps)
    )


def varied_strings(number: int, seed: int = 0) -> list[str]:
    """So many strings of up to some hundred characters."""
    random = np.random.default_rng(seed)
    lines = [line for module in (json, textwrap, inspect) for line in inspect.getsource(module).splitlines()]
    lines += [line for line in prose().splitlines() if line]
    kinds: tuple[Callable[[np.random.Generator], str], ...] = (
        lambda random: "\n".join(lines[start : start + 3]) if (start := int(random.integers(len(lines)))) >= 0 else "",
        lambda random: lines[int(random.integers(len(lines)))],
        _unicode,
        _mixed,
        _numbers,
        _spaces,
    )
    return ["", " ", "\n", "\0", *(kinds[place % len(kinds)](random) for place in range(max(0, number - 4)))][:number]


def _unicode(random: np.random.Generator) -> str:
    """Runs of characters, each from one block."""
    found = ""
    for _ in range(int(random.integers(1, 6))):
        first, last = _BLOCKS[int(random.integers(len(_BLOCKS)))]
        found += "".join(map(chr, random.integers(first, last + 1, int(random.integers(1, 9))).tolist()))
    return found


def _mixed(random: np.random.Generator) -> str:
    """Words, marks, spaces and single characters from anywhere."""
    found = ""
    for _ in range(int(random.integers(1, 12))):
        draw = random.random()
        if draw < 0.4:
            found += _WORDS[int(random.integers(len(_WORDS)))]
        elif draw < 0.8:
            found += _SPACES[int(random.integers(len(_SPACES)))]
        else:
            first, last = _BLOCKS[int(random.integers(len(_BLOCKS)))]
            found += chr(int(random.integers(first, last + 1)))
    return found


def _numbers(random: np.random.Generator) -> str:
    forms = ("{}", "-{}.5", "{:,}", "1e{}", "0x{:x}", "${}.00 ", " {}%", "{}-{}", "v{}.0")
    found = ""
    for _ in range(int(random.integers(1, 5))):
        value = int(10 ** random.uniform(0, 12))
        form = forms[int(random.integers(len(forms)))]
        found += form.format(value, value // 7)
    return found


def _spaces(random: np.random.Generator) -> str:
    """Indented lines and runs of spaces around words."""
    found = ""
    for _ in range(int(random.integers(1, 8))):
        found += _SPACES[int(random.integers(len(_SPACES)))] * int(random.integers(1, 5))
        found += _WORDS[int(random.integers(len(_WORDS)))] if random.random() < 0.6 else ""
    return found
