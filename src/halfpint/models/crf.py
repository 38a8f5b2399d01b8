"""A conditional random field over the words of a text, in arrays: numpy alone.

A word's score for a tag is the sum of the weights of its attributes; a weight for each pair of tags that follow each
other comes on top. Probabilities of the tags are the marginals, by the forward-backward algorithm.
Source: Lafferty, McCallum & Pereira 2001, "Conditional Random Fields"; Rabiner 1989, section V.A, for the scaling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, need
from halfpint.models.word_attributes import attributes
from halfpint.outputs import Floats, Ints

ATTRIBUTES_FILE, WEIGHTS_FILE = "attributes.txt", "model.safetensors"
_CELLS_AT_ONCE = 2_000_000
_WORDS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Crf:
    """Attributes and weights.

    Attributes:
        names: of the attributes.
        starts: where the weights of each attribute begin, int64 of shape (attributes + 1,).
        tags: the tag that each weight is for, int64 of shape (weights,).
        weights: float32 of shape (weights,).
        transitions: of [tag, next tag], float32 of shape (tags, tags).
    """

    names: Sequence[str]
    starts: Ints
    tags: Ints
    weights: Floats
    transitions: Floats

    def write(self, folder: Path) -> None:
        """Write attributes and weights, these in half precision."""
        save_file = need("safetensors.numpy", "writing a conditional random field").save_file
        (folder / ATTRIBUTES_FILE).write_text("\n".join(self.names) + "\n", encoding="utf-8")
        tensors = {
            "counts": np.diff(self.starts).astype(np.uint16),
            "tags": self.tags.astype(np.uint16 if len(self.transitions) > 256 else np.uint8),
            "weights": self.weights.astype(np.float16),
            "transitions": self.transitions.astype(np.float32),
        }
        save_file(tensors, folder / WEIGHTS_FILE)

    def marginals(self, texts: Sequence[str]) -> list[Floats]:
        """For each text the probabilities of the tags of its words: float32 of shape (words, tags)."""
        index = self._index.get
        found: list[int] = []
        counts: list[int] = []
        blocks = [np.zeros((0, len(self.transitions)))]
        ends = []
        done = 0
        for text in texts:
            for word in attributes(text):
                known = [place for name in word if (place := index(name)) is not None]
                found += known
                counts.append(len(known))
                if len(counts) == _WORDS_AT_ONCE:
                    blocks.append(self._scores(found, counts))
                    found, counts, done = [], [], done + _WORDS_AT_ONCE
            ends.append(done + len(counts))
        scores = np.concatenate([*blocks, self._scores(found, counts)])
        return marginals(np.split(scores, ends[:-1]) if ends else [], self.transitions)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def _scores(self, attributes_found: Sequence[int], counts: Sequence[int]) -> npt.NDArray[Any]:
        """Scores (words, tags) from the attributes of some words, word after word, and how many each word has."""
        tags, found = len(self.transitions), np.array(attributes_found, dtype=np.int64)
        word_of = np.repeat(np.arange(len(counts)), np.array(counts, dtype=np.int64))
        begin, size = self.starts[found], self.starts[found + 1] - self.starts[found]
        # The weights of each attribute that was found, one after the other.
        at = np.repeat(begin - np.concatenate([[0], np.cumsum(size)[:-1]]), size) + np.arange(int(size.sum()))
        cells = np.repeat(word_of, size) * tags + self.tags[at]
        scores: npt.NDArray[Any] = np.bincount(cells, weights=self.weights[at], minlength=len(counts) * tags)
        return scores.reshape(len(counts), tags)


def read_crf(folder: Path) -> Crf:
    """What `Crf.write` left in a folder.

    Raises:
        HalfpintError: weights that do not fit the attributes.
    """
    tensors = need("safetensors.numpy", "reading a conditional random field").load_file(folder / WEIGHTS_FILE)
    names = (folder / ATTRIBUTES_FILE).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    starts = np.concatenate([[0], np.cumsum(tensors["counts"], dtype=np.int64)]).astype(np.int64)
    tags, weights, moves = tensors["tags"], tensors["weights"], tensors["transitions"]
    fits = len(names) + 1 == len(starts) and starts[-1] == len(tags) == len(weights)
    if not fits or moves.shape != (len(moves), len(moves)) or (len(tags) and tags.max() >= len(moves)):
        raise HalfpintError(
            str(folder / WEIGHTS_FILE), wanted=f"weights for the {len(names):,} attributes", got="others",
            todo="Make or copy the bundle again.",
        )  # fmt: skip
    return Crf(names, starts, tags.astype(np.int64), weights.astype(np.float32), moves)


def from_pairs(
    names: Sequence[str], pairs: Iterable[tuple[int, int, float]], transitions: Floats, smallest: float = 0.0
) -> Crf:
    """A field from (attribute, tag, weight); attributes without a weight above `smallest` are left out."""
    kept = sorted((number, tag, weight) for number, tag, weight in pairs if abs(weight) > smallest)
    used = sorted({number for number, _, _ in kept})
    place = {number: at for at, number in enumerate(used)}
    counts = np.bincount([place[number] for number, _, _ in kept], minlength=len(used))
    return Crf(
        [names[number] for number in used],
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([tag for _, tag, _ in kept], dtype=np.int64),
        # Rounded as it will be stored, so that what was made and what is read say the same.
        np.array([weight for _, _, weight in kept], dtype=np.float16).astype(np.float32),
        transitions.astype(np.float32),
    )


def marginals(scores: Sequence[npt.NDArray[Any]], transitions: npt.NDArray[Any]) -> list[Floats]:
    """The probability of each tag of each word, from scores (words, tags) of each text.

    Texts go through together, the longest first; each step is one matrix product for all that are long enough.
    """
    found: list[Floats] = [np.zeros((0, len(transitions)), dtype=np.float32)] * len(scores)
    order = sorted((number for number in range(len(scores)) if len(scores[number])), key=lambda one: -len(scores[one]))
    at = 0
    while at < len(order):
        most = max(1, _CELLS_AT_ONCE // (len(scores[order[at]]) * len(transitions)))
        some = order[at : at + most]
        for number, values in zip(some, _forward_backward([scores[one] for one in some], transitions), strict=True):
            found[number] = values
        at += len(some)
    return found


def _forward_backward(scores: Sequence[npt.NDArray[Any]], transitions: npt.NDArray[Any]) -> list[Floats]:
    """Marginals of texts of falling length."""
    sizes = [len(one) for one in scores]
    longest, tags = sizes[0], len(transitions)
    emitted = np.zeros((longest, len(scores), tags))
    for number, one in enumerate(scores):
        emitted[: sizes[number], number] = np.exp(one - one.max(axis=1, keepdims=True))
    moves = np.exp(transitions.astype(np.float64) - float(transitions.max()))
    active = [sum(size > place for size in sizes) for place in range(longest)]
    forward = emitted  # in place: a step needs what was emitted there only once more, below
    ahead = np.ones((len(scores), tags))
    kept = emitted.copy()
    forward[0] /= forward[0].sum(axis=1, keepdims=True)
    for place in range(1, longest):
        rows = active[place]
        forward[place, :rows] *= forward[place - 1, :rows] @ moves
        forward[place, :rows] /= forward[place, :rows].sum(axis=1, keepdims=True)
    for place in range(longest - 1, -1, -1):
        rows = active[place]
        if place + 1 < longest:
            later = active[place + 1]
            ahead[:later] = (ahead[:later] * kept[place + 1, :later]) @ moves.T
            ahead[:later] /= ahead[:later].sum(axis=1, keepdims=True)
        forward[place, :rows] *= ahead[:rows]
        forward[place, :rows] /= forward[place, :rows].sum(axis=1, keepdims=True)
    return [forward[:size, number].astype(np.float32) for number, size in enumerate(sizes)]
