"""Training a unigram language model of word pieces, the same from the same texts.

Source: T. Kudo, "Subword Regularization", 2018, section 3.2: many seed pieces, expectation maximisation over all ways
to cut each word, the pieces that the likelihood misses least are taken away, and again, until so many are left.
The trainer of `tokenizers` does this too, but its words lie in a hash table that has another order in every process,
and sums of floating-point numbers in another order choose other pieces: two runs on one text give two vocabularies.
Departures: the loss of a piece is its expected count times the fall from its log probability to that of all other ways
to write it (Kudo: the best other way, counts moved over); the last step goes to the exact size by the same loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LONGEST = 16  # characters of a piece
_LONGEST_WORD = 64  # a longer one is cut: it is a rule of dashes or a line of data
_MOST_WORDS = 300_000  # the most frequent, which keeps the lattice below a gigabyte
_SEEDS = 12  # times the wanted size
_SHRINK = 0.85  # of the pieces stay in a round
_ROUNDS = 2  # of expectation and maximisation between two cuts

_Ints = NDArray[np.int64]
_Uints = NDArray[np.uint64]
_Floats = NDArray[np.float64]


class _Words(NamedTuple):
    """Words in one array of code points; `start` has one more entry than there are words."""

    codes: _Uints
    start: _Ints
    times: _Floats


@dataclass
class _Pieces:
    """Pieces of words: hash and length tell which; `score` is the log probability."""

    text: list[str]
    hashes: _Uints
    length: _Ints
    score: _Floats

    def keep(self, kept: NDArray[np.bool_]) -> _Pieces:
        """Those with True."""
        text = [self.text[index] for index in np.flatnonzero(kept).tolist()]
        return _Pieces(text, self.hashes[kept], self.length[kept], self.score[kept])


def train_unigram(words: Mapping[str, int], size: int, alphabet: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces with their log probabilities, the likeliest first; fewer than `size` where the words have no more.

    Args:
        words: each word with how often it occurs.
        size: pieces wanted, those of `alphabet` included.
        alphabet: single characters that are always pieces; others cut words in two.
    """
    lattice_words = _words_of(words, frozenset(alphabet))
    pieces = _seeds(lattice_words, alphabet, _SEEDS * size)
    lattice = _Lattice(lattice_words, pieces)
    while True:
        for _ in range(_ROUNDS):
            expected = lattice.expected(pieces.score)
            kept = (expected >= 0.5) | (pieces.length == 1)
            if kept.sum() >= size and not kept.all():
                pieces, expected = pieces.keep(kept), expected[kept]
                lattice.keep(kept)
            pieces.score = _digamma(np.maximum(expected, 0.5)) - _digamma(np.array([expected.sum()]))[0]
        if len(pieces.text) <= size:
            break
        kept = _to_keep(pieces, expected, max(size, int(_SHRINK * len(pieces.text))))
        pieces = pieces.keep(kept)
        lattice.keep(kept)
    order = sorted(range(len(pieces.text)), key=lambda index: (-pieces.score[index], pieces.text[index]))
    return [(pieces.text[index], round(float(pieces.score[index]), 6)) for index in order]


def _words_of(words: Mapping[str, int], alphabet: frozenset[str]) -> _Words:
    frequent = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:_MOST_WORDS]
    parts: dict[str, int] = {}
    for word, count in frequent:
        known = word if alphabet.issuperset(word) else "".join(char if char in alphabet else "\0" for char in word)
        for part in known.split("\0"):
            for begin in range(0, len(part), _LONGEST_WORD):
                piece = part[begin : begin + _LONGEST_WORD]
                parts[piece] = parts.get(piece, 0) + count
    codes = np.frombuffer("".join(parts).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    start = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return _Words(codes, start, np.array(list(parts.values()), dtype=np.float64))


def _mix(values: _Uints) -> _Uints:
    """SplitMix64's finaliser (S. Vigna): every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _left(words: _Words) -> _Ints:
    """For each character how many there are to the end of its word, itself included."""
    sizes = np.diff(words.start)
    return np.repeat(words.start[1:], sizes) - np.arange(len(words.codes))


def _seeds(words: _Words, alphabet: Sequence[str], most: int) -> _Pieces:
    """The alphabet, and of the parts of words that occur twice those that cover most characters."""
    left = _left(words)
    weight = np.repeat(words.times, np.diff(words.start))
    at = np.arange(len(words.codes))
    hashes = np.zeros(len(at), dtype=np.uint64)
    found: list[tuple[_Ints, _Uints, _Floats, int]] = []
    for length in range(1, _LONGEST + 1):
        fits = left[at] >= length
        at, hashes = at[fits], hashes[fits]
        if not len(at):
            break
        hashes = _mix(hashes + words.codes[at + length - 1] + np.uint64(0x9E3779B97F4A7C15))
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        frequency = np.add.reduceat(weight[at[order]], first)
        found.append((at[order[first]], ordered[first], frequency, length))
        # What occurs once has no longer part that occurs twice.
        group = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]))
        again = np.sort(order[(frequency >= 2)[group]])
        at, hashes = at[again], hashes[again]
    place = np.concatenate([part[0] for part in found])
    length_of = np.concatenate([np.full(len(part[0]), part[3]) for part in found])
    frequency = np.concatenate([part[2] for part in found])
    hashes = np.concatenate([part[1] for part in found])
    single = length_of == 1
    worth = np.where(frequency >= 2, frequency * length_of, 0.0)
    order = np.argsort(-np.where(single, np.inf, worth), kind="stable")[: int(single.sum()) + most]
    order = np.sort(order[(worth[order] > 0) | single[order]])
    text = words.codes.astype("<u4").tobytes().decode("utf-32-le")
    names = [text[begin : begin + size] for begin, size in zip(place[order], length_of[order], strict=True)]
    chosen = frequency[order]
    pieces = _Pieces(names, hashes[order], length_of[order], np.log(chosen / chosen.sum()))
    unseen = sorted(set(alphabet) - {name for name in names if len(name) == 1})
    if unseen:
        codes = np.array([ord(char) for char in unseen], dtype=np.uint64)
        pieces.text += unseen
        pieces.hashes = np.append(pieces.hashes, _mix(codes + np.uint64(0x9E3779B97F4A7C15)))
        pieces.length = np.append(pieces.length, np.ones(len(unseen), dtype=np.int64))
        pieces.score = np.append(pieces.score, np.full(len(unseen), pieces.score.min()))
    return pieces


class _Lattice:
    """All ways to write words in pieces: one edge for each piece at each place, from the node before it to that after.

    Args:
        words: what is written.
        pieces: what with.
        skip_whole: leave out the edge that is a whole word (for what a piece is worth without itself).
    """

    def __init__(self, words: _Words, pieces: _Pieces, *, skip_whole: bool = False) -> None:
        self.words = words
        left, sizes = _left(words), np.diff(words.start)
        word = np.repeat(np.arange(len(sizes)), sizes)
        by_hash = np.argsort(pieces.hashes, kind="stable")
        ordered = pieces.hashes[by_hash]
        hashes = np.zeros(len(words.codes), dtype=np.uint64)
        at = np.arange(len(words.codes))
        edges: list[tuple[_Ints, _Ints, int]] = []
        for length in range(1, int(pieces.length.max()) + 1):
            fits = left[at] >= length
            at, hashes = at[fits], hashes[fits]
            if not len(at):
                break
            hashes = _mix(hashes + words.codes[at + length - 1] + np.uint64(0x9E3779B97F4A7C15))
            place = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
            hit = (ordered[place] == hashes) & (pieces.length[by_hash[place]] == length)
            if skip_whole:
                hit &= sizes[word[at]] != length
            edges.append((at[hit], by_hash[place[hit]], length))
        begin = np.concatenate([part[0] for part in edges])
        self.piece = np.concatenate([part[1] for part in edges])
        length_of = np.concatenate([np.full(len(part[0]), part[2], dtype=np.int64) for part in edges])
        self.word = word[begin]
        self.source = begin + self.word  # a word has one node more than it has characters
        self.target = self.source + length_of
        offset = begin - words.start[self.word]
        # Edges by the place in the word where they end, so that all words advance together; and the same backwards.
        self.forward = np.lexsort((self.target, offset + length_of))
        self.backward = np.lexsort((self.source, -offset))
        self.ends, self.begins = offset + length_of, offset
        self.pieces = len(pieces.text)

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Take away the edges of pieces that are gone."""
        alive = kept[self.piece]
        moved = np.cumsum(alive) - 1
        self.forward = moved[self.forward[alive[self.forward]]]
        self.backward = moved[self.backward[alive[self.backward]]]
        self.piece = (np.cumsum(kept) - 1)[self.piece[alive]]
        for name in ("word", "source", "target", "ends", "begins"):
            setattr(self, name, getattr(self, name)[alive])
        self.pieces = int(kept.sum())

    def sums(self, score: _Floats, *, backwards: bool = False) -> _Floats:
        """For each node the log of the summed probability of all ways to (or from) it; shape (nodes,)."""
        nodes = np.full(len(self.words.codes) + len(self.words.start) - 1, -np.inf)
        number = np.arange(len(self.words.start) - 1)
        nodes[(self.words.start[1:] if backwards else self.words.start[:-1]) + number] = 0.0
        order = self.backward if backwards else self.forward
        to, by = (self.source, self.target) if backwards else (self.target, self.source)
        to, by, gain = to[order], by[order], score[self.piece[order]]
        steps = (-self.begins if backwards else self.ends)[order]
        borders = np.flatnonzero(np.append(True, steps[1:] != steps[:-1]))
        for first, last in zip(borders, np.append(borders[1:], len(steps)), strict=True):
            value = nodes[by[first:last]] + gain[first:last]
            node = to[first:last]
            starts = np.flatnonzero(np.append(True, node[1:] != node[:-1]))
            most = np.maximum.reduceat(value, starts)
            runs = np.diff(np.append(starts, len(node)))
            summed = np.add.reduceat(np.exp(value - np.repeat(most, runs)), starts)
            nodes[node[starts]] = most + np.log(summed)
        return nodes

    def totals(self, sums: _Floats) -> _Floats:
        """The log probability of each word, from `sums` to its last node."""
        totals: _Floats = sums[self.words.start[1:] + np.arange(len(self.words.start) - 1)]
        return totals

    def expected(self, score: _Floats) -> _Floats:
        """How often each piece is used, over all ways by their probability; shape (pieces,)."""
        to, rest = self.sums(score), self.sums(score, backwards=True)
        whole = self.totals(to)
        share = np.exp(to[self.source] + score[self.piece] + rest[self.target] - whole[self.word])
        used = np.bincount(self.piece, weights=share * self.words.times[self.word], minlength=self.pieces)
        return used.astype(np.float64)


def _to_keep(pieces: _Pieces, expected: _Floats, size: int) -> NDArray[np.bool_]:
    """The single characters, and of the rest those that the likelihood would miss most: bool, `size` of them True."""
    long = np.flatnonzero(pieces.length > 1)
    names = [pieces.text[index] for index in long.tolist()]
    codes = np.frombuffer("".join(names).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    start = np.concatenate([[0], np.cumsum(pieces.length[long])])
    others = _Lattice(_Words(codes, start, np.ones(len(long))), pieces, skip_whole=True)
    loss = np.full(len(pieces.text), np.inf)
    loss[long] = expected[long] * (pieces.score[long] - others.totals(others.sums(pieces.score)))
    kept = np.zeros(len(loss), dtype=bool)
    kept[np.argsort(-loss, kind="stable")[: max(size, int((pieces.length == 1).sum()))]] = True
    return kept


def _digamma(values: _Floats) -> _Floats:
    """The derivative of log gamma, for values above 0 (Abramowitz and Stegun, 6.3.5 and 6.3.18)."""
    shifted: _Floats = values.astype(np.float64)
    result: _Floats = np.zeros(len(values))
    for _ in range(6):
        result -= 1 / shifted
        shifted = shifted + 1
    inverse = 1 / (shifted * shifted)
    result += np.log(shifted) - 0.5 / shifted - inverse * (1 / 12 - inverse * (1 / 120 - inverse / 252))
    return result
