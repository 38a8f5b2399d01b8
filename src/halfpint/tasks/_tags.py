"""Tags: how spans become one label per word, and the likeliest legal tags from probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from halfpint.outputs import Floats, Ints, Outputs, joined

LETTERS = "BIES"
"""The letters of the scheme: BIES is BIOES; BI would be BIO."""
OUTSIDE = "O"
_SMALLEST = 1e-12
_WORDS_AT_ONCE = 20_000
Bools = npt.NDArray[np.bool_]


def tag_names(labels: Sequence[str]) -> tuple[str, ...]:
    """O, then the tags of each label."""
    return (OUTSIDE, *(f"{letter}-{label}" for label in labels for letter in LETTERS))


def labels_in(tags: Sequence[str]) -> tuple[str, ...]:
    """The labels of tags, in their order."""
    return tuple(dict.fromkeys(tag[2:] for tag in tags if tag != OUTSIDE))


class Tags:
    """Tags by their numbers.

    Attributes:
        names: of all tags.
        follows: whether a tag may follow another, bool of shape (tags, tags): [before, after].
        begins, ends: whether a text may begin or end with it, bool of shape (tags,).
        closes: whether the last tag of a span says that it is (BIOES).
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        letters = np.array([name[0] if name != OUTSIDE else "O" for name in names])
        kinds = [name[2:] if name != OUTSIDE else "" for name in names]
        self.labels = kinds
        self.numbers = {name: number for number, name in enumerate(names)}
        self.closes = closes = bool(np.isin(letters, ["E", "S"]).any())
        same = np.array([[one == other for other in kinds] for one in kinds]).reshape(len(kinds), len(kinds))
        opened, continues = np.isin(letters, ["B", "I"]), np.isin(letters, ["I", "E"])
        self.follows: Bools = np.where(
            continues[None, :], same & opened[:, None], ~opened[:, None] if closes else np.ones_like(same)
        )
        self.begins: Bools = ~continues
        self.ends: Bools = ~opened if closes else np.ones(len(names), dtype=bool)
        self.opens: Bools = np.isin(letters, ["B", "S"])
        self.continues: Bools = continues
        self.inside: Bools = letters != "O"

    def of_span(self, label: str, words: int) -> list[int]:
        """The tags of so many words that are one span.

        Raises:
            KeyError: there is no such label.
        """
        closes = f"E-{label}" in self.numbers
        if words == 1:
            return [self.numbers[f"S-{label}" if closes else f"B-{label}"]]
        last = self.numbers[f"E-{label}"] if closes else self.numbers[f"I-{label}"]
        return [self.numbers[f"B-{label}"], *[self.numbers[f"I-{label}"]] * (words - 2), last]

    def spans(self, path: Ints, per_text: Ints) -> tuple[Ints, Ints, Ints]:
        """First word, last word (through all texts) and label of each span in legal tags.

        Args:
            path: the tag of each word of all texts, int64 of shape (words,).
            per_text: words of each text, int64 of shape (texts,).

        Gives three arrays of shape (spans,); a label is the number of the tag that begins the span.
        """
        first = np.zeros(len(path) + 1, dtype=bool)
        first[np.cumsum(np.concatenate([[0], per_text])).astype(np.int64)] = True
        inside, goes_on = self.inside[path], np.zeros(len(path), dtype=bool)
        if len(path):
            goes_on[:-1] = self.continues[path[1:]] & ~first[1:-1]
        starts = np.flatnonzero(self.opens[path])
        return starts, np.flatnonzero(inside & ~goes_on), path[starts]


def best_tags(outputs: Outputs, tags: Tags) -> tuple[Ints, Ints]:
    """The likeliest legal tags of each text by the probabilities of its words, and the words of each text.

    Where the likeliest tag of each word gives a legal sequence, that is it; all others go through Viterbi's algorithm
    together, each step for all of them. Ties go to the tag named first.

    Gives int64 of shapes (words of all texts,) and (texts,).

    Source: Viterbi 1967, with transitions that are either allowed or not, as in Lafferty et al. 2001, section 3.
    """
    sizes = [1] * len(outputs) if isinstance(outputs, np.ndarray) else [len(one) for one in outputs]
    per_text = np.array(sizes, dtype=np.int64)
    values = joined(outputs, len(tags.names))
    path = values.argmax(axis=1).astype(np.int64) if len(values) else np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(per_text)]).astype(np.int64)
    wrong = np.zeros(len(path), dtype=bool)
    if len(path):
        full = per_text > 0
        wrong[1:] = ~tags.follows[path[:-1], path[1:]]
        wrong[starts[:-1][full]] = ~tags.begins[path[starts[:-1][full]]]
        last = starts[1:][full] - 1
        wrong[last] |= ~tags.ends[path[last]]
    text_of = np.repeat(np.arange(len(per_text)), per_text)
    illegal = np.unique(text_of[wrong])
    illegal = illegal[np.argsort(-per_text[illegal], kind="stable")]
    at = 0
    while at < len(illegal):
        some = illegal[at : at + max(1, _WORDS_AT_ONCE // int(per_text[illegal[at]]))]
        found = _viterbi([values[starts[one] : starts[one + 1]] for one in some], tags)
        for one, tagged in zip(some, found, strict=True):
            path[starts[one] : starts[one + 1]] = tagged
        at += len(some)
    return path, per_text


def _viterbi(texts: Sequence[Floats], tags: Tags) -> list[Ints]:
    """The best legal tags of texts, the longest first."""
    sizes = [len(text) for text in texts]
    n, longest = len(tags.names), sizes[0]
    scores = np.zeros((longest, len(texts), n))
    for number, text in enumerate(texts):
        scores[: sizes[number], number] = np.log(np.maximum(text, _SMALLEST))
    step = np.where(tags.follows, 0.0, -np.inf)
    active = [sum(size > place for size in sizes) for place in range(longest)]
    back = np.zeros((longest, len(texts), n), dtype=np.int64)
    best = scores[0] + np.where(tags.begins, 0.0, -np.inf)
    for place in range(1, longest):
        rows = active[place]
        through = best[:rows, :, None] + step
        back[place, :rows] = through.argmax(axis=1)
        best[:rows] = through.max(axis=1) + scores[place, :rows]
    best += np.where(tags.ends, 0.0, -np.inf)
    tag = best.argmax(axis=1)
    found = np.zeros((longest, len(texts)), dtype=np.int64)
    for place in range(longest - 1, -1, -1):
        rows = active[place]
        found[place, :rows] = tag[:rows]
        if place:
            tag[:rows] = back[place, np.arange(rows), tag[:rows]]
    return [found[:size, number] for number, size in enumerate(sizes)]
