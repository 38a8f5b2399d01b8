"""Documents -> rows that go on from step to step, for models that remember the segment before.

All tokens stand one after the other, documents in an order that the seed and the epoch give; each row of a batch reads
a stretch of its own, segment by segment. Source: Dai et al. 2019, "Transformer-XL", section 3.2; here documents are
numbered, so that none sees another where the model keeps them apart.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from halfpint.data.packing import IGNORED
from halfpint.data.token_store import TokenStore
from halfpint.errors import HalfpintError, SettingError

_Ints = NDArray[np.int64]


class Segment(NamedTuple):
    """Segments for one step, each array int64, (rows, length) but for the last two, which are (rows,).

    Attributes:
        input_ids: tokens.
        labels: the token after each, in whatever segment it stands; -100 where another document begins.
        sequence_ids: the document of each token, by its place in the epoch.
        row: which row each is; segment: its number, counted from 0 over all epochs.
    """

    input_ids: _Ints
    labels: _Ints
    sequence_ids: _Ints
    row: _Ints
    segment: _Ints


class Streams:
    """The tokens of a store in rows that go on.

    Args:
        store: the tokens.
        length: tokens of a segment, 2 at least.
        batch_size: rows; fewer where there are not so many segments.
        seed: of the documents' order; shuffle: without it they come as they are stored.

    Raises:
        HalfpintError: a length or batch size out of range, or an empty store.
    """

    def __init__(
        self, store: TokenStore, *, length: int, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:  # fmt: skip
        if length < 2:
            raise SettingError("length", wanted="2 tokens per segment or more", got=str(length))
        if batch_size < 1:
            raise SettingError("batch_size", wanted="1 or more", got=str(batch_size))
        total = len(store.tokens)
        if not total:
            raise HalfpintError(str(store.folder), wanted="tokens", got="an empty store")
        self.store, self.length, self.seed, self.shuffle = store, length, seed, shuffle
        self.rows = max(1, min(batch_size, total // length))
        self.stretch = total // self.rows
        self.steps_per_epoch = max(1, self.stretch // length)
        self.tokens_a_step = self.rows * length
        self._order = lru_cache(maxsize=2)(self._ordered)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.steps_per_epoch

    def _ordered(self, epoch: int) -> tuple[_Ints, _Ints]:
        """Where each document begins in the store, and where in the epoch it ends."""
        starts, sizes = self.store.offsets[:-1], np.diff(self.store.offsets)
        if self.shuffle:
            order = np.random.default_rng([self.seed & (1 << 63) - 1, epoch, 7]).permutation(len(sizes))
            starts, sizes = starts[order], sizes[order]
        return starts, np.cumsum(sizes)

    def batch(self, step: int) -> Segment:
        """The segments of a step, counted from 0 over all epochs.

        Raises:
            HalfpintError: a step below 0.
        """
        if step < 0:
            raise SettingError("step", wanted="0 or more", got=str(step))
        epoch, within = divmod(step, self.steps_per_epoch)
        starts, ends = self._order(epoch)
        rows = np.arange(self.rows)
        places = rows[:, None] * self.stretch + within * self.length + np.arange(self.length + 1)
        places = np.minimum(places, ends[-1] - 1)
        document = np.searchsorted(ends, places, side="right")
        before = np.concatenate([[0], ends[:-1]])
        tokens: NDArray[Any] = self.store.tokens[starts[document] + places - before[document]].astype(np.int64)
        follows = (document[:, 1:] == document[:, :-1]) & (places[:, 1:] > places[:, :-1])
        numbers = np.full(self.rows, step, dtype=np.int64)
        return Segment(
            tokens[:, :-1], np.where(follows, tokens[:, 1:], IGNORED), document[:, :-1].astype(np.int64), rows, numbers
        )
