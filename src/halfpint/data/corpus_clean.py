"""Which documents of a corpus are worth learning from: rules that need no model, each with its source.

Sources: G = J. Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", 2021, appendix
A.1.1 (quality and repetition); C4 = C. Raffel et al., "Exploring the Limits of Transfer Learning", 2020, section 2.2;
X = M. Chen et al., "Evaluating Large Language Models Trained on Code", 2021, section 3.1 (source code).
Thresholds depart from theirs where a small corpus of short texts would lose what it is about; the table says where.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from halfpint.data.documents import END_OF_TEXT

# reason -> what the rule is, as it is told
RULES = {
    "too short": "prose of fewer than 5 words (C4 asks that of a line, G 50 of a page), code of below 20 characters",
    "damaged": "more than 1 in 200 characters is U+FFFD or a control character: a binary file or a wrong encoding",
    "few letters": "less than half of the characters that are no space are letters (G: of the words 80% have one)",
    "odd words": "the mean length of a word is not within 2 and 12 characters (G: 3 to 10; German compounds need more)",
    "repeated lines": "repeats of lines hold more than 20% of the characters (G); of source code more than 50%",
    "repeated words": "of 100 words or more, one run of 2, 3 or 4 makes up over 20%, 18% or 16% of the characters (G)",
    "lists": "nine lines in ten begin with a bullet (G)",
    "cut lines": "three lines in ten end in an ellipsis (G)",
    "placeholder": "it says lorem ipsum (C4)",
    "long lines": "code with a line of over 1,000 characters, or of over 100 on average: generated or minified (X)",
    "other language": "surely in another language than the one asked for",
    "exact duplicate": "equal to an earlier document when case, punctuation and spaces are put aside",
    "near duplicate": "Jaccard index of character 5-grams with an earlier document of at least 0.85",
    "in validation": "an exact or near duplicate of a text of the validation source",
}

_CODE_SIGNS = str.maketrans("", "", "(){}[]=;<>")
_WIKITEXT = re.compile(r"<unk>|^ ?=.*= ?$", re.MULTILINE)  # its signs are no program's
# Of the characters that are no space; pages of C4 have at most 0.02, nine in ten modules of Python's library more.
_CODE_SHARE = 0.03
_MINIFIED_SHARE = 0.06  # where lines are as long as paragraphs
_CONTROLS = bytes(code for code in range(32) if chr(code) not in "\t\n\v\f\r\x1b")
_UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_BULLETS = ("-", "*", "•", "·", "‣", "–", "●", "▪")
_BLANK_LINES = re.compile(r"(?:[ \t\f]*\n)+")
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())


def tidy(text: str) -> str:
    """`text` with line feeds alone as line ends, without blank lines around it and without a final `<|endoftext|>`."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.rstrip().removesuffix(END_OF_TEXT).rstrip()
    blank = _BLANK_LINES.match(text)
    return text[blank.end() :] if blank else text


def looks_like_code(text: str) -> bool:
    """Whether brackets and signs that programs and markup are full of, and prose is not, are 3% of the characters.

    Where lines are longer than 100 characters on average it is 6%: only minified programs have such lines.
    """
    sample = text[:50_000]
    letters = "".join(_WIKITEXT.sub("", sample).split())
    signs = len(letters) - len(letters.translate(_CODE_SIGNS))
    share = _CODE_SHARE if len(sample) <= 100 * (sample.count("\n") + 1) else _MINIFIED_SHARE
    return signs > 5 and signs > share * len(letters)


def fault(text: str, *, code: bool) -> str:
    """Why `text` is not worth learning from, one of `RULES`; empty when it is."""
    data = text.encode("utf-8")
    if (len(data) - len(data.translate(None, _CONTROLS)) + text.count("\ufffd")) * 200 > len(text):
        return "damaged"
    return _fault_of_code(text) if code else _fault_of_prose(text)


def _fault_of_code(text: str) -> str:
    if len(text.strip()) < 20:
        return "too short"
    lines = text.splitlines()
    longest = max(map(len, lines))
    if longest > 1000 or (len(lines) > 4 and sum(map(len, lines)) > 100 * len(lines)):
        return "long lines"
    return "repeated lines" if _repeated(lines) > 0.5 else ""


def _fault_of_prose(text: str) -> str:
    words = text.split()
    characters = sum(map(len, words))
    unspaced = not text.isascii() and len(_UNSPACED.findall(text)) * 5 > characters
    # Scripts without spaces between words: their words cannot be counted, so characters stand for them.
    if characters < 10 if unspaced else len(words) < 5:
        return "too short"
    if not _letters(text, (characters + 1) // 2):
        return "few letters"
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if len(lines) > 3:
        if _repeated(lines) > 0.2:
            return "repeated lines"
        if sum(line.lstrip().startswith(_BULLETS) for line in lines) > 0.9 * len(lines):
            return "lists"
        if sum(line.rstrip().endswith(("…", "...")) for line in lines) > 0.3 * len(lines):
            return "cut lines"
    if "lorem ipsum" in text.lower():
        return "placeholder"
    if unspaced:
        return ""
    if not 2 <= characters / len(words) <= 12:
        return "odd words"
    if len(words) >= 100 and _most_frequent_run(words, characters):
        return "repeated words"
    return ""


def _letters(text: str, wanted: int) -> bool:
    """Whether at least `wanted` characters are letters, or marks on letters (Indic scripts are full of them)."""
    if text.isascii():
        return len(text.encode().translate(None, _NO_LETTERS)) >= wanted
    if sum(map(str.isalpha, text)) >= wanted:
        return True
    return sum(unicodedata.category(char)[0] in "LM" for char in text) >= wanted


def _repeated(lines: list[str]) -> float:
    """The share of the characters that stands in repeats of earlier lines."""
    counts = Counter(line.strip() for line in lines)
    characters = sum(len(line) * count for line, count in counts.items())
    repeats = sum(len(line) * (count - 1) for line, count in counts.items() if count > 1)
    return repeats / max(characters, 1)


def _most_frequent_run(words: list[str], characters: int) -> bool:
    """Whether the most frequent run of 2, 3 or 4 words takes more of the characters than it may."""
    # The words of such a run take as much or more, which is seldom so and quicker to see.
    heaviest = sorted((len(word) * count for word, count in Counter(words).items()), reverse=True)
    for length, most in ((2, 0.20), (3, 0.18), (4, 0.16)):
        if sum(heaviest[:length]) > most * characters:
            runs = Counter(zip(*(words[start:] for start in range(length)), strict=False))
            run, count = runs.most_common(1)[0]
            if count > 3 and count * sum(map(len, run)) > most * characters:
                return True
    return False
