"""Documents -> sequences of one length to train on; no token sees another document, and each is used once an epoch.

Sources: "stream" is the usual concatenation, cut wherever a sequence is full. "fit" is best-fit packing: H. Ding et
al., "Fewer Truncations Improve Language Modeling", 2024, section 3: a document that fits is never cut, a longer one is
cut into whole sequences and a rest, and the pieces go, longest first, into the sequence that has the least room which
is enough. There it takes a search tree; here all pieces of one length are placed at once, which gives the same result.
"alone" gives each piece a row of its own, for models that cannot keep the documents of a row apart: rows of about one
size make a batch, which is as wide as its longest row, so that there is little padding.
The mask between documents is that of the Llama 3 report (A. Dubey et al., 2024, section 3.2).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from halfpint.data.token_store import TokenStore
from halfpint.errors import HalfpintError, SettingError, nearest

IGNORED = -100  # the label of a token that nothing is asked of, as PyTorch's cross_entropy has it
PADDING = -1  # the sequence id of padding
ALONE = "alone"
MODES = ("stream", "fit", ALONE)

_Ints = NDArray[np.int64]
_Flags = NDArray[np.bool_]


class Batch(NamedTuple):
    """Sequences for one step, each array int64 of shape (sequences, length).

    Attributes:
        input_ids: tokens; `pad` where a sequence is not full.
        labels: as `transformers` takes them: the token at its own place (models shift them), -100 for padding and for
            the first token of each piece, which nothing before it tells of.
        position_ids: from 0 in each piece of a document.
        sequence_ids: which piece of its sequence a token is of, from 0; -1 for padding.
    """

    input_ids: _Ints
    labels: _Ints
    position_ids: _Ints
    sequence_ids: _Ints


@dataclass(frozen=True)
class Plan:
    """What goes where in one epoch: sequence s holds the pieces `rows[s]` to `rows[s + 1]`, one after the other.

    Attributes:
        rows: int64, shape (sequences + 1,).
        start: where each piece begins in the store's tokens; int64, shape (pieces,).
        size: tokens of each piece, at least 1; int64, shape (pieces,).
        batches: the first sequence of each batch, and how many sequences there are; None where each batch has as many.
    """

    rows: _Ints
    start: _Ints
    size: _Ints
    batches: _Ints | None = None

    def __len__(self) -> int:
        return len(self.rows) - 1


class Packed:
    """The tokens of a store in sequences of `length`, in an order that (`seed`, epoch) alone gives.

    Args:
        store: the tokens.
        length: tokens of a sequence, 2 at least.
        batch_size: sequences of a step.
        mode: "stream" fills every sequence and cuts documents; "fit" keeps documents whole and leaves some padding;
            "alone" gives each piece of a document a row, and a step as many rows as come to `batch_size` sequences of
            `length`. A piece of one token, which nothing can be learned from, is left out there, and each epoch has
            all of the batches.
        seed: of the order.
        pad: the token that fills up a sequence.
        shuffle: without it documents come as they are stored, and each epoch has every sequence, the last batch being
            smaller; with it each epoch has full batches alone, and leaves out other sequences (fewer than a batch).

    Raises:
        HalfpintError: a length, batch size or mode out of range, or an empty store.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        length: int,
        batch_size: int,
        mode: str = "stream",
        seed: int = 0,
        pad: int = 0,
        shuffle: bool = True,
    ) -> None:
        if length < 2:
            raise SettingError("length", wanted="2 tokens a sequence or more", got=str(length))
        if batch_size < 1:
            raise SettingError("batch_size", wanted="1 or more", got=str(batch_size))
        if mode not in MODES:
            raise SettingError("packing", wanted="stream, fit or alone", got=repr(mode), todo=nearest(mode, MODES))
        if not len(store.tokens):
            raise HalfpintError(str(store.folder), wanted="tokens to pack", got="an empty store")
        self.store, self.length, self.batch_size, self.mode = store, length, batch_size, mode
        self.seed, self.pad, self.shuffle = seed, pad, shuffle
        self.plan = lru_cache(maxsize=2)(self._plan)
        first = self.plan(0)
        sequences = len(first)  # the same in every epoch, as are the batches of rows that stand alone
        whole = sequences // batch_size if shuffle else -(-sequences // batch_size)
        self.steps_per_epoch = max(1, whole) if first.batches is None else len(first.batches) - 1
        self.tokens_a_step = (
            batch_size * length if first.batches is None else -(-int(first.size.sum()) // self.steps_per_epoch)
        )
        """Tokens of a step, about; padding is among them where sequences are of one length."""

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.steps_per_epoch

    def _plan(self, epoch: int) -> Plan:
        starts, sizes = self.store.offsets[:-1], np.diff(self.store.offsets)
        order = np.arange(len(sizes))
        random = np.random.default_rng([self.seed & (1 << 63) - 1, epoch])
        if self.shuffle:
            order = random.permutation(len(sizes))
        starts, sizes = starts[order], sizes[order]
        if self.mode == ALONE:
            return _alone(starts, sizes, self.length, self.batch_size, random if self.shuffle else None)
        plan = (_stream if self.mode == "stream" else _fit)(starts, sizes, self.length)
        # Neighbours of a plan are alike (pieces of one document, or sequences filled in one way): mixed once more.
        return _reordered(plan, random.permutation(len(plan))) if self.shuffle else plan

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs.

        Raises:
            HalfpintError: a step below 0.
        """
        if step < 0:
            raise SettingError("step", wanted="0 or more", got=str(step))
        epoch, within = divmod(step, self.steps_per_epoch)
        plan = self.plan(epoch)
        if plan.batches is not None:
            first, last = (int(place) for place in plan.batches[within : within + 2])
            return assemble(self.store.tokens, plan, first, last, int(plan.size[first:last].max()), self.pad)
        first = within * self.batch_size
        return assemble(self.store.tokens, plan, first, min(first + self.batch_size, len(plan)), self.length, self.pad)

    def filled(self) -> float:
        """The share of all places in the sequences that holds a token."""
        plan = self.plan(0)
        if plan.batches is not None:
            rows = np.diff(plan.batches)
            return int(plan.size.sum()) / int((rows * np.maximum.reduceat(plan.size, plan.batches[:-1])).sum())
        return len(self.store.tokens) / (len(self.plan(0)) * self.length)


def assemble(tokens: NDArray[Any], plan: Plan, first: int, last: int, length: int, pad: int) -> Batch:
    """The sequences `first` to `last` of a plan."""
    pieces = slice(int(plan.rows[first]), int(plan.rows[last]))
    start, size = plan.start[pieces], plan.size[pieces]
    ends = np.cumsum(size)
    before = ends - size
    row = np.repeat(np.arange(last - first), np.diff(plan.rows[first : last + 1]))
    row_start = before[plan.rows[first:last] - plan.rows[first]]
    in_piece = np.arange(int(ends[-1])) - np.repeat(before, size)
    place = np.repeat(row * length + before - row_start[row], size) + in_piece
    shape = (last - first, length)
    read = tokens[np.repeat(start, size) + in_piece].astype(np.int64)
    input_ids, labels = np.full(shape, pad, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    positions, ids = np.zeros(shape, dtype=np.int64), np.full(shape, PADDING, dtype=np.int64)
    input_ids.ravel()[place] = read
    labels.ravel()[place] = np.where(in_piece > 0, read, IGNORED)
    positions.ravel()[place] = in_piece
    number = np.arange(len(size)) - (plan.rows[first:last] - plan.rows[first])[row]
    ids.ravel()[place] = np.repeat(number, size)
    return Batch(input_ids, labels, positions, ids)


def _stream(starts: _Ints, sizes: _Ints, length: int) -> Plan:
    """Documents one after the other, cut at every `length` tokens; the last sequence may not be full."""
    ends = np.cumsum(sizes)
    total = int(ends[-1])
    edges = np.unique(np.concatenate([ends - sizes, np.arange(0, total, length)]))
    edges = edges[edges < total]
    document = np.searchsorted(ends, edges, side="right")
    row = edges // length
    rows = np.searchsorted(row, np.arange(int(row[-1]) + 2))
    return Plan(rows, starts[document] + edges - (ends - sizes)[document], np.diff(edges, append=total))


def _fit(starts: _Ints, sizes: _Ints, length: int) -> Plan:
    """Best-fit decreasing over the pieces of at most `length` tokens."""
    start, size = _pieces(starts, sizes, length)
    whole = int(np.count_nonzero(size == length))
    row = np.empty(len(size), dtype=np.int64)
    row[:whole] = np.arange(whole)
    row[whole:], count = _best_fit(size[whole:], length, whole)
    by_row = np.argsort(row, kind="stable")
    rows = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))])
    return Plan(rows, start[by_row], size[by_row])


def _pieces(starts: _Ints, sizes: _Ints, length: int) -> tuple[_Ints, _Ints]:
    """Start and size of the pieces of at most `length` tokens that documents are cut into, longest first."""
    full, rest = sizes // length, sizes % length
    within = np.arange(int(full.sum())) - np.repeat(np.cumsum(full) - full, full)
    whole = np.repeat(starts, full) + within * length
    short = np.flatnonzero(rest)
    start = np.concatenate([whole, (starts + full * length)[short]])
    size = np.concatenate([np.full(len(whole), length, dtype=np.int64), rest[short]])
    order = np.argsort(-size, kind="stable")
    return start[order], size[order]


def _alone(
    starts: _Ints, sizes: _Ints, length: int, batch_size: int, random: np.random.Generator | None
) -> Plan:  # fmt: skip
    """A row for each piece, and batches of rows of about one size, which hold `batch_size` times `length` places.

    What goes into a batch follows from the sizes, so that each epoch has as many; which pieces of one size go together
    follows from the order of the documents. With `random` the batches come in another order.
    """
    start, size = _pieces(starts, sizes, length)
    if size[0] > 1:
        start, size = start[size > 1], size[size > 1]
    batches = [0]
    while batches[-1] < len(size):
        batches.append(min(len(size), batches[-1] + batch_size * length // int(size[batches[-1]])))
    plan, borders = Plan(np.arange(len(size) + 1), start, size), np.array(batches, dtype=np.int64)
    if random is not None:
        order = random.permutation(len(borders) - 1)
        rows = np.concatenate([np.arange(borders[one], borders[one + 1]) for one in order])
        plan, borders = _reordered(plan, rows), np.concatenate([[0], np.cumsum(np.diff(borders)[order])])
    return replace(plan, batches=borders)


def _best_fit(sizes: _Ints, length: int, count: int) -> tuple[_Ints, int]:
    """The sequence each piece goes to, and how many there are then; `sizes` fall, `count` are full before.

    Of pieces of one size, the first goes where the least room is that is enough. What is left there is less still, so
    the next goes there too as long as it fits: each sequence takes as many as it can before another is looked at.
    """
    row = np.empty(len(sizes), dtype=np.int64)
    room: dict[int, list[_Ints]] = {}  # room left -> sequences with that much
    rooms: list[int] = []  # its keys, rising

    def leave(left: int, sequences: _Ints) -> None:
        if left and len(sequences):
            if left not in room:
                room[left] = []
                insort(rooms, left)
            room[left].append(sequences)

    begin = 0
    while begin < len(sizes):
        size = int(sizes[begin])
        end = int(np.searchsorted(-sizes, -size, side="right"))
        at = bisect_left(rooms, size)
        while begin < end:
            if at == len(rooms):
                fits, left = length // size, length
                sequences = np.arange(count, count + -(-(end - begin) // fits))
                count += len(sequences)
            else:
                left = rooms.pop(at)
                fits = left // size
                sequences = np.concatenate(room.pop(left))
            taken = min(end - begin, fits * len(sequences))
            row[begin : begin + taken] = np.repeat(sequences, fits)[:taken]
            begin += taken
            filled, over = divmod(taken, fits)
            leave(left - fits * size, sequences[:filled])
            if over:
                leave(left - over * size, sequences[filled : filled + 1])
            leave(left, sequences[filled + bool(over) :])
            at = bisect_left(rooms, size)
    return row, count


def _reordered(plan: Plan, order: _Ints) -> Plan:
    """The plan with its sequences in another order."""
    counts = np.diff(plan.rows)[order]
    rows = np.concatenate([[0], np.cumsum(counts)])
    pieces = np.repeat(plan.rows[order] - rows[:-1], counts) + np.arange(int(rows[-1]))
    return Plan(rows, plan.start[pieces], plan.size[pieces])


def attention_mask(sequence_ids: _Ints, *, causal: bool = True) -> _Flags:
    """Which token (third axis) may look at which (last): bool, shape (sequences, 1, length, length).

    Tokens of one piece see each other (`causal`: themselves and those before); padding sees padding, so that no row is
    empty and no softmax divides by zero.
    """
    same: _Flags = sequence_ids[:, None, :, None] == sequence_ids[:, None, None, :]
    if causal:
        same &= np.tri(sequence_ids.shape[1], dtype=bool)
    return same


def cu_seqlens(sequence_ids: _Ints) -> tuple[NDArray[np.int32], int]:
    """Borders of the pieces in the flattened batch, from 0 to all of its tokens: int32, (pieces + 1,); and the longest.

    A run of padding is a piece of its own. This is what attention over variable lengths takes in place of a mask.
    """
    flat = sequence_ids.ravel()
    new = np.ones(len(flat), dtype=bool)
    new[1:] = flat[1:] != flat[:-1]
    new[:: sequence_ids.shape[1]] = True
    borders = np.append(np.flatnonzero(new), len(flat)).astype(np.int32)
    return borders, int(np.diff(borders).max())
