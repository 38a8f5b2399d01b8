"""The engine of static classifiers: a table of token vectors, their mean, and a small head, in numpy alone.

A text's vector is the mean of the rows of its tokens and of those pairs of neighbours that have a row of their own; the
table is kept in 8 bits with a scale a row. Nothing of an encoder is computed any more: its answers to single tokens and
pairs are what the table began as (distil/static).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines import Probabilities, softmax
from halfpint.errors import need
from halfpint.tokenizers.load import open_tokenizer

Ints = npt.NDArray[np.int64]
_TEXTS_A_BATCH = 1024
_PAIR = 1 << 32  # a pair's key is first * 2^32 + second


class Pieces:
    """Cuts texts into rows of the table: the ids of their tokens, then the rows of known pairs.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; nothing is put around texts.
        pairs: keys of the known pairs in rising order, int64; their rows follow those of the tokens.
        most: tokens of a text that count.
    """

    def __init__(self, tokenizer: Any, pairs: Ints, most: int) -> None:
        self._tokenizer, self.pairs, self._most = tokenizer, pairs, most
        self.tokens = tokenizer.get_vocab_size()

    def ids(self, texts: Sequence[str]) -> list[Ints]:
        """Token ids of each text, those beyond the most left out."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids[: self._most], dtype=np.int64) for encoding in found]

    def rows(self, texts: Sequence[str]) -> list[Ints]:
        """Rows of the table for each text; none for a text without tokens."""
        found = self.ids(texts)
        if not len(self.pairs):
            return found
        keys = [pair_keys(ids) for ids in found]
        ends = np.cumsum([len(part) for part in keys])
        flat = np.concatenate(keys) if keys else np.zeros(0, np.int64)
        place = np.minimum(np.searchsorted(self.pairs, flat), len(self.pairs) - 1)
        known = np.where(self.pairs[place] == flat, place + self.tokens, -1)
        both = zip(found, np.split(known, ends[:-1]), strict=True)
        return [np.concatenate([ids, part[part >= 0]]) for ids, part in both]


def pair_keys(ids: Ints) -> Ints:
    """A number for each pair of neighbours: int64 of shape (tokens - 1,)."""
    return ids[:-1] * _PAIR + ids[1:]


class StaticEngine:
    """Mean of rows, a hidden layer where there is one, and a linear layer."""

    def __init__(self, bundle: Bundle) -> None:
        self.labels = bundle.labels
        held = need("safetensors.numpy", "reading a static bundle").load_file(bundle.path / "model.safetensors")
        self._codes, self._scale = held.pop("codes"), held.pop("scale").astype(np.float32)
        pairs = held.pop("pairs", np.zeros(0, np.int64))
        self._head: dict[str, npt.NDArray[np.float32]] = {name: part.astype(np.float32) for name, part in held.items()}
        tokenizer = open_tokenizer(bundle.path)
        self._pieces = Pieces(tokenizer, pairs, int(bundle.config["max_tokens"]))

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of `texts`."""
        parts = [np.zeros((0, len(self.labels)), np.float32)]
        for start in range(0, len(texts), _TEXTS_A_BATCH):
            vectors = self._means(self._pieces.rows(texts[start : start + _TEXTS_A_BATCH]))
            if "hidden_weight" in self._head:
                vectors = np.maximum(vectors @ self._head["hidden_weight"].T + self._head["hidden_bias"], 0)
            parts.append(softmax(vectors @ self._head["weight"].T + self._head["bias"]))
        return np.concatenate(parts)

    def _means(self, rows: Sequence[Ints]) -> npt.NDArray[np.float32]:
        """The mean of the table's rows for each text, zeros where it has none: float32 (texts, width)."""
        out = np.zeros((len(rows), self._codes.shape[1]), dtype=np.float32)
        counts = np.array([len(part) for part in rows])
        full = np.flatnonzero(counts)
        if len(full):
            flat = np.concatenate([part for part in rows if len(part)])
            starts = np.cumsum([0, *counts[full][:-1]])
            vectors = self._codes[flat].astype(np.float32) * self._scale[flat, None]
            out[full] = np.add.reduceat(vectors, starts, axis=0) / counts[full, None]
        return out


def load(bundle: Bundle, threads: int | None = None) -> StaticEngine:
    """Load a static classifier."""
    return StaticEngine(bundle)
