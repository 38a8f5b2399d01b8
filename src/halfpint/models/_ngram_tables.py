"""The tables of a back-off model: sorted keys to search, probabilities and back-off weights, for any source of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from halfpint.models._ngram_counts import Ints, sort_with_places
from halfpint.models._ngram_text import BOS, EOS, SPECIALS, UNKNOWN, Ids

Log10 = npt.NDArray[np.float32]


class _Numbers(dict[bytes, int]):
    """Numbers of words; those of unknown words are not kept."""

    def __missing__(self, word: bytes) -> int:
        return UNKNOWN


@dataclass(frozen=True, eq=False)
class Tables:
    """A back-off model over numbered words; an n-gram's number is its place in its order's arrays.

    Args:
        words: the vocabulary; 0, 1 and 2 are <unk>, <s> and </s>, and words of the text spelled so have other numbers.
        keys: for each order from 2: int64 (n-grams,), ascending: the number of the n-gram without its last word, one
            order below, times the number of words, plus the last word.
        log10: for each order: float32 (n-grams,): log10 of the last word's probability after the others.
        backoff: for each order but the last: float32 (n-grams,): log10 of the back-off weight.
    """

    words: Sequence[str]
    keys: tuple[Ints, ...]
    log10: tuple[Log10, ...]
    backoff: tuple[Log10, ...]

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.log10)

    @property
    def ngrams(self) -> list[int]:
        """How many n-grams each order has."""
        return [len(values) for values in self.log10]

    @cached_property
    def numbers(self) -> _Numbers:
        """The number of each ordinary word, by its UTF-8; UNKNOWN for what the vocabulary has not."""
        first = len(SPECIALS)
        listed = enumerate(self.words[first:], first)
        return _Numbers((word.encode("utf-8", "replace"), number) for number, word in listed)

    def find(self, order: int, contexts: npt.NDArray[np.integer], words: npt.NDArray[np.integer]) -> Ids:
        """Numbers of n-grams of `order` (2 or more), each given as its context's number and its last word.

        Returns:
            int32 of the shape of `contexts`: -1 where there is no such n-gram.
        """
        keys = self.keys[order - 2]
        wanted = contexts.astype(np.int64) * len(self.words) + words
        found = np.full(wanted.shape, -1, dtype=np.int32)
        if len(keys):
            wanted, asked = sort_with_places(wanted)  # in order they are found ten times as fast
            places = np.searchsorted(keys, wanted)
            places[places == len(keys)] = 0
            found[asked] = np.where(keys[places] == wanted, places, -1)
        return found

    def score(self, ids: Ids) -> Log10:
        """log10 of the probability of each token after those before it in its line.

        Order by order, for all tokens at once: where the n-gram that ends at a token is known its probability stands,
        where only its context is, that context's back-off weight is added to what the lower orders gave.

        Args:
            ids: int32 (tokens,), whole lines as `encode` gives them.

        Returns:
            float32 (tokens,); the values at BOS mean nothing.
        """
        scores = self.log10[0][ids]
        # The number of the n-gram, of the order just done, that ends at each token; -1 where there is none.
        ending = ids
        inside = ids[1:] != BOS
        for order in range(2, self.order + 1):
            at = np.flatnonzero((ending[:-1] >= 0) & inside) + 1
            contexts = ending[at - 1]
            found = self.find(order, contexts, ids[at])
            values = scores[at] + self.backoff[order - 2][contexts]
            known = np.flatnonzero(found >= 0)
            values[known] = self.log10[order - 1][found[known]]
            scores[at] = values
            ending = np.full(len(ids), -1, dtype=np.int32)
            ending[at] = found
        return scores

    def known_before(self, ids: Ids) -> npt.NDArray[np.int64]:
        """How many of the tokens before each one, in its line, are the longest n-gram known there.

        Args:
            ids: int32 (tokens,), as for `score`.

        Returns:
            int64 (tokens,), 0 to the order less one; the values at BOS mean nothing.
        """
        length = np.zeros(len(ids), dtype=np.int64)
        ending, inside = ids, ids[1:] != BOS
        length[1:][inside & (ids[:-1] != UNKNOWN)] = self.order > 1
        for order in range(2, self.order):
            at = np.flatnonzero((ending[:-1] >= 0) & inside) + 1
            found = self.find(order, ending[at - 1], ids[at])
            ending = np.full(len(ids), -1, dtype=np.int32)
            ending[at] = found
            after = np.flatnonzero((ending[:-1] >= 0) & inside) + 1
            length[after] = order
        return length

    def after(self, history: Sequence[int]) -> npt.NDArray[np.float64]:
        """Probabilities of every word after `history`, the last numbers of a line so far (from BOS, where it is near).

        Returns:
            float64 (words,), summing to 1; 0 at BOS.
        """
        chances = self._alone.copy()
        size = len(self.words)
        for length in range(1, min(len(history), self.order - 1) + 1):
            context = self._one([*history[-length:]])
            if context < 0:
                continue
            chances *= 10.0 ** float(self.backoff[length - 1][context])
            keys = self.keys[length - 1]
            start, stop = np.searchsorted(keys, [context * size, (context + 1) * size])
            chances[keys[start:stop] - context * size] = 10.0 ** self.log10[length][start:stop].astype(np.float64)
        return chances

    @cached_property
    def _alone(self) -> npt.NDArray[np.float64]:
        """Probabilities of the words without any context."""
        chances: npt.NDArray[np.float64] = 10.0 ** self.log10[0].astype(np.float64)
        chances[BOS] = 0
        return chances

    def _one(self, history: Sequence[int]) -> int:
        """The number of one n-gram, -1 where there is none."""
        number = history[0]
        for order, word in enumerate(history[1:], start=2):
            keys, wanted = self.keys[order - 2], number * len(self.words) + word
            number = int(np.searchsorted(keys, wanted))
            if number == len(keys) or keys[number] != wanted:
                return -1
        return number

    def columns(self, order: int, start: int, stop: int) -> list[Ints]:
        """The words of the n-grams of `order` numbered `start` to `stop`: one array a place, first word first."""
        numbers = np.arange(start, stop)
        columns = []
        for keys in reversed(self.keys[: order - 1]):
            numbers, word = np.divmod(keys[numbers], len(self.words))
            columns.append(word)
        return [numbers, *reversed(columns)]

    def fault(self) -> str:
        """What is wrong with the arrays; empty where they hang together."""
        size = len(self.words)
        if size < len(SPECIALS) or tuple(self.words[: EOS + 1]) != SPECIALS or len(self.log10[0]) != size:
            return f"{len(self.log10[0])} probabilities for {size} words"
        for order, keys in enumerate(self.keys, start=2):
            below = len(self.log10[order - 2])
            if len(keys) != len(self.log10[order - 1]) or len(self.backoff[order - 2]) != below:
                return f"arrays of different lengths for order {order}"
            if len(keys) and (keys[0] < 0 or keys[-1] >= below * size or (keys[1:] <= keys[:-1]).any()):
                return f"n-grams of order {order} that are not in order"
        return ""
