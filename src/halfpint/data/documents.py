"""A text file -> documents: where one ends and the next begins. Nothing is lost: joined, they are the file's text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

WHOLE_CHARS = 65_536  # a plain text up to here is one document
PIECE_CHARS = 16_384  # a longer one without borders of its own is cut into documents of about this
MOST_CHARS = 4_194_304  # no document is longer, whatever marks it, unless a single line is

END_OF_TEXT = "<|endoftext|>"

# A blank line with the heading of an article after it, as in WikiText: " = Title = "; " = = Section = = " is none.
_TITLE = re.compile(r"(?:\A|(?<=\n)) ?\r?\n(?= = (?! ?=)[^\n]*[^=\s] = ?\r?\n ?\r?\n)")
_MARK = re.compile(re.escape(END_OF_TEXT) + r"\r?\n?")
_PAGE = re.compile(r"\f\r?\n?")
_BLANK = re.compile(r"\n[ \t\r]*\n+")


def count_words(text: str) -> int:
    """Words between ASCII white space, and ends of lines: what perplexity per word is taken over for WikiText, by KenLM
    and by the n-gram models here. A no-break space, as French has before "!", is part of its word."""
    words = text.encode("utf-8", "replace").split()
    return len(words) + text.count("\n") + (not text.endswith("\n"))


def cut(blocks: Iterable[str], *, code: bool = False) -> Iterator[str]:
    """The documents of one text file.

    Args:
        blocks: the text in order, in blocks that end where lines end (the last one aside).
        code: the file is the source of a program: it is one document.

    What divides them is the first of these that the first block has: the mark `<|endoftext|>`; headings of articles as
    in WikiText (` = Title = ` between blank lines; two at least); form feeds. A text with none of them is one document
    up to 65,536 characters; a longer one is cut into documents of about 16,384, after a blank line where there is one
    in the second half, else after a line. No line is ever cut.
    """
    blocks = iter(blocks)
    held = next(blocks, "")
    following = next(blocks, None)
    border = None if code else _border(held)
    most = PIECE_CHARS if border is None and not code else MOST_CHARS
    if border is None and following is None and len(held) <= (MOST_CHARS if code else WHOLE_CHARS):
        most = len(held) or 1
    while True:
        pieces = _between(held, border) if border else [held]
        last = pieces.pop()
        for piece in pieces:
            yield from _bounded(piece, most)
        parts = list(_bounded(last, most))
        if following is None:
            yield from (part for part in parts if part)
            return
        yield from parts[:-1]
        held, following = parts[-1] + following, next(blocks, None)


def _border(text: str) -> re.Pattern[str] | None:
    if END_OF_TEXT in text:
        return _MARK
    titles = _TITLE.finditer(text)
    if next(titles, None) and next(titles, None):
        return _TITLE
    return _PAGE if "\f" in text else None


def _between(text: str, border: re.Pattern[str]) -> list[str]:
    """`text` cut after each border; what is blank joins the document after it, at the end the one before."""
    pieces, start = [], 0
    for found in border.finditer(text):
        if text[start : found.start()].strip():
            pieces.append(text[start : found.end()])
            start = found.end()
    pieces.append(text[start:])
    if len(pieces) > 1 and not pieces[-1].strip():
        pieces[-2:] = [pieces[-2] + pieces[-1]]
    return pieces


def _bounded(text: str, most: int) -> Iterator[str]:
    """`text` in pieces of at most `most` characters, a last one of up to a quarter more; longer where a line is."""
    start = 0
    while len(text) - start > most + most // 4:
        end = 0
        for found in _BLANK.finditer(text, start + most // 2, start + most):
            end = found.end()
        end = end or text.rfind("\n", start, start + most) + 1
        end = end or text.find("\n", start + most) + 1 or len(text)
        yield text[start:end]
        start = end
    yield text[start:]
