"""A conversation as a model sees it, token by token, with those that the loss counts made visible."""

from __future__ import annotations

from collections.abc import Sequence

from halfpint.terminal import escaped

_COUNTED, _PLAIN = "\x1b[1;32m", "\x1b[0m"


def show_mask(pieces: Sequence[str], counted: Sequence[bool], *, colour: bool) -> str:
    """The text of the pieces, in order: what counts in bold green, or without colours between 【 and 】.

    Args:
        pieces: the text of each token; together they are the whole text.
        counted: whether the loss counts the token.
        colour: whether it goes to a terminal.

    A line tells how many tokens count. Control characters of the text are shown, not sent.
    """
    begin, end = (_COUNTED, _PLAIN) if colour else ("【", "】")
    shown: list[str] = []
    inside = False
    for piece, counts in zip(pieces, counted, strict=True):
        if bool(counts) != inside:
            shown.append(begin if counts else end)
            inside = bool(counts)
        text = escaped(piece)
        # A colour must not run over the end of a line, where pagers forget it.
        shown.append(text.replace("\n", f"{_PLAIN}\n{_COUNTED}") if colour and inside else text)
    if inside:
        shown.append(end)
    number, total = sum(map(bool, counted)), len(counted)
    how = "in green" if colour else "between 【 and 】"
    return "".join(shown).rstrip("\n") + f"\n({number:,} of {total:,} tokens count: those {how})"
