"""What a conditional random field sees of each word of a text: the word, how it is written, and its neighbours.

Plain Python; training and use go through the same code.
Source: the kinds of attributes are those of Finkel et al. 2005 and of Ratinov & Roth 2009, section 3, without
dictionaries, clusters and parts of speech.
"""

from __future__ import annotations

from collections.abc import Iterator

from halfpint.data.encoding import whole_characters
from halfpint.data.words import words

_BEFORE, _AFTER = "<", ">"  # no word is written so
_MOST = 40
"""Characters of a word that count; longer ones are addresses and noise."""


def attributes(text: str) -> Iterator[list[str]]:
    """The attributes of each word of `text`, in its order and one word at a time; none holds a line break."""
    text = whole_characters(text)
    spans = words(text)
    whole = [text[start:end][:_MOST] for start, end in spans]
    memory: dict[str, tuple[str, str, list[str]]] = {}
    for word in whole:
        if word not in memory:
            memory[word] = _alone(word)
    parts = [memory[word] for word in whole]
    lows = [_BEFORE, _BEFORE, _BEFORE, *(low for low, _, _ in parts), _AFTER, _AFTER, _AFTER]
    forms = [_BEFORE, _BEFORE, *(form for _, form, _ in parts), _AFTER, _AFTER]
    ends = ["", *(low[-3:] for low, _, _ in parts), ""]
    glued = [start > 0 and not text[start - 1].isspace() for start, _ in spans] + [False]
    letters = "u" if text.isupper() else "l" if text.islower() else "m"
    for at, (low, form, own) in enumerate(parts):
        l3, l2, l1, r1, r2, r3 = lows[at], lows[at + 1], lows[at + 2], lows[at + 4], lows[at + 5], lows[at + 6]
        s2, s1, t1, t2 = forms[at], forms[at + 1], forms[at + 3], forms[at + 4]
        yield [
            *own,
            f"c{letters}{form}", f"g{glued[at]:d}{glued[at + 1]:d}",
            f"-1{l1}", f"-2{l2}", f"-3{l3}", f"+1{r1}", f"+2{r2}", f"+3{r3}",
            f"s-1{s1}", f"s-2{s2}", f"s+1{t1}", f"s+2{t2}",
            f"e-1{ends[at]}", f"e+1{ends[at + 2]}",
            f"-1,0{l1} {low}", f"0,+1{low} {r1}", f"-2,-1{l2} {l1}", f"+1,+2{r1} {r2}",
            f"s-1,0{s1} {form}", f"s0,+1{form} {t1}", f"s-1,+1{s1} {form} {t1}",
            f"-1s{l1} {form}", f"+1s{r1} {form}",
        ]  # fmt: skip


def _alone(word: str) -> tuple[str, str, list[str]]:
    """A word in lower case, its form, and the attributes that no neighbour counts for."""
    low, form = word.lower(), _form(word)
    own = ["1", f"w{word}", f"l{low}", f"s{form}"]
    for size in range(1, min(5, len(word))):
        own += [f"p{word[:size]}", f"e{low[-size:]}"]
    return low, form, own


def _form(word: str) -> str:
    """The kind of each character, at most two of a kind in a row: "Xxx" for a name, "dd" for a number."""
    found = ""
    for char in word:
        if char.isupper():
            kind = "X"
        elif char.islower():
            kind = "x"
        elif char.isdigit():
            kind = "d"
        else:
            kind = "o" if char.isalnum() else char
        if found[-2:] != kind * 2:
            found += kind
    return found
