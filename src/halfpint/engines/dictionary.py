"""The engine of dictionaries: spans that were labelled in training, found again word by word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfpint.bundle import Bundle
from halfpint.data.words import words
from halfpint.models.dictionary import read_dictionary
from halfpint.outputs import Floats, Outputs


class DictionaryEngine:
    """The tags of the longest entry that begins at each word, from left to right; all other words are outside."""

    def __init__(self, bundle: Bundle) -> None:
        self.labels = bundle.labels
        self._dictionary = read_dictionary(bundle)

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """For each text the probabilities of its words' tags: an entry's own share, the rest is even."""
        found: list[Floats] = []
        for text in texts:
            spans = words(text)
            rows = np.zeros((len(spans), len(self.labels)), dtype=np.float32)
            share, outside = self._dictionary.outside, self._dictionary.outside_tag
            rows[:] = (1 - share) / max(len(self.labels) - 1, 1)
            rows[:, outside] = share if len(self.labels) > 1 else 1.0
            for first, tags, sure in self._dictionary.matches([text[start:end] for start, end in spans]):
                for place, tag in enumerate(tags, start=first):
                    rows[place] = (1 - sure) / max(len(self.labels) - 1, 1)
                    rows[place, tag] = sure
            found.append(rows)
        return found


def load(bundle: Bundle, threads: int | None = None) -> DictionaryEngine:
    """Load a dictionary."""
    return DictionaryEngine(bundle)
