"""Words of texts in the rows of an encoder: long texts in rows that overlap, each word answered for by one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from halfpint.data.words import shapes, words
from halfpint.outputs import Encoded, Ints

_STRIDE = 2 / 3
"""Of a row's tokens: from one row to the next at most; the rest overlaps."""


def word_rows(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Encoded:
    """Texts as an encoder reads them that labels words.

    A word is answered for at its first token, in the row in which that is nearest to the middle. Each token also has
    the shape of its word, 0 for special tokens. A text without a word has no row.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        max_tokens: of a row, the special tokens included.

    Gives rows with the fields `input_ids` and `shapes`.
    """
    tokenizer.no_truncation()
    before, after = _special(tokenizer)
    room = max(1, max_tokens - len(before) - len(after))
    rows: list[dict[str, list[int]]] = []
    units: list[Ints] = []
    places: list[Ints] = []
    per_text = []
    done = 0
    for text, one in zip(texts, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
        spans = words(text)
        per_text.append(len(spans))
        if not spans:
            continue
        ids = one.ids
        firsts, of_word = _first_tokens(spans, one.offsets)
        shape = np.array(shapes(text, spans), dtype=np.int64)[of_word] if len(ids) else np.zeros(0, dtype=np.int64)
        starts = _starts(len(ids), room)
        # A word goes to the row whose middle is nearest. First tokens rise, so each row has words that stand together.
        middles = starts + (min(room, len(ids)) - 1) / 2
        borders = np.searchsorted(firsts, (middles[1:] + middles[:-1]) / 2, side="right").tolist()
        for start, begin, stop in zip(starts.tolist(), [0, *borders], [*borders, len(spans)], strict=True):
            end = min(start + room, len(ids))
            mine = np.arange(begin, stop)
            rows.append(
                {
                    "input_ids": [*before, *ids[start:end], *after],
                    "shapes": [*[0] * len(before), *shape[start:end].tolist(), *[0] * len(after)],
                }
            )
            units.append(done + mine)
            # A text without a token has its words answered for by the first special one.
            places.append(firsts[mine] - start + len(before) if ids else np.zeros_like(mine))
        done += len(spans)
    return Encoded(rows, units, places, np.array(per_text, dtype=np.int64))


def _special(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    one = tokenizer.encode("a")
    plain = [place for place, special in enumerate(one.special_tokens_mask) if not special]
    if not plain:
        return list(one.ids), []
    return list(one.ids[: plain[0]]), list(one.ids[plain[-1] + 1 :])


def _first_tokens(spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> tuple[Ints, Ints]:
    """The first token of each word, and the word of each token: int64 of shapes (words,) and (tokens,).

    Args:
        spans, offsets: start and end of words and of tokens, in characters. A token may reach over several words, and
            a word may have no token of its own: then it shares the next one, or the last.
    """
    starts = np.array([start for start, _ in spans], dtype=np.int64)
    if not offsets:
        return np.zeros(len(spans), dtype=np.int64), np.zeros(0, dtype=np.int64)
    ends = np.array([end for _, end in offsets], dtype=np.int64)
    firsts = np.minimum(np.searchsorted(np.maximum.accumulate(ends), starts, side="right"), len(offsets) - 1)
    of_word = np.searchsorted(starts, np.maximum(ends - 1, 0), side="right") - 1
    return firsts.astype(np.int64), np.maximum(of_word, 0).astype(np.int64)


def _starts(tokens: int, room: int) -> Ints:
    """The first token of each row of a text, evenly spread: int64 of shape (rows,)."""
    if tokens <= room:
        return np.zeros(1, dtype=np.int64)
    stride = max(1, int(room * _STRIDE))
    count = -(-(tokens - room) // stride) + 1
    return np.round(np.linspace(0, tokens - room, count)).astype(np.int64)
