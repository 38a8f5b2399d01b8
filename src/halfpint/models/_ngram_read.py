"""A text as a stream into numbers of words, chunk by chunk; to disk where it is too large to be counted in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import count as count_from

import numpy as np

from halfpint.errors import HalfpintError
from halfpint.models._ngram_columns import Column, Storage
from halfpint.models._ngram_text import SPECIALS, UNKNOWN, encode, plain_lines


def read(
    lines: Iterable[str], order: int, min_count: int, chunk: int, storage: Storage
) -> tuple[list[str], list[Column]]:
    """The vocabulary, in the order in which the words come, and the text in its numbers.

    In memory are the vocabulary, one chunk, and the chunks before it as long as all are counted in memory: once they
    are not, the storage is spilled.

    Args:
        lines: the text, read once; an item may hold several lines.
        order: the longest n-grams that will be counted.
        min_count: words that occur less often become the unknown word.
        chunk: most tokens of a chunk, but for the rest of a line.
        storage: where the chunks are kept.

    Raises:
        HalfpintError: a text without a word, a binary one, or one for which the device has no room.
    """
    numbers: defaultdict[bytes, int] = defaultdict(count_from(len(SPECIALS)).__next__)
    text: list[Column] = []
    tokens = 0
    for ids in encode(plain_lines(lines), numbers.__getitem__, min(chunk, storage.most_in_block)):
        if not storage.spilled and not storage.holds(tokens + len(ids), order):
            storage.spill()
            storage.need_disk(tokens + len(ids), order, 0)
            for place, held in enumerate(text):
                text[place] = storage.column(np.int32)
                text[place].append(held[:])
        if storage.spilled:
            storage.need_disk(tokens + len(ids), order, tokens * ids.itemsize)
        tokens += len(ids)
        text.append(storage.column(np.int32))
        text[-1].append(ids)
    if not numbers:
        raise HalfpintError("the text", wanted="at least one word", got="none", todo="Give a longer text.")
    words = [*SPECIALS, *(word.decode("utf-8") for word in numbers)]
    del numbers
    return _frequent(words, text, min_count, storage) if min_count > 1 else (words, text)


def _frequent(words: list[str], text: list[Column], min_count: int, storage: Storage) -> tuple[list[str], list[Column]]:
    """The words that occur often enough, and the text in their numbers; the others are UNKNOWN."""
    totals = np.zeros(len(words), dtype=np.int64)
    for chunk in text:
        totals += np.bincount(chunk[:], minlength=len(words))
    kept = totals >= min_count
    kept[: len(SPECIALS)] = True
    numbers = np.where(kept, np.cumsum(kept) - 1, UNKNOWN).astype(np.int32)
    for place, chunk in enumerate(text):
        text[place] = storage.column(np.int32)
        text[place].append(numbers[chunk[:]])
        chunk.drop()
    return [word for word, keep in zip(words, kept.tolist(), strict=True) if keep], text
