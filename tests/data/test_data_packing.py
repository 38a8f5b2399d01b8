"""Packing: each token once an epoch, no look at another document, the right labels, an order that comes again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.bundle import write_json
from halfpint.data.packing import IGNORED, PADDING, Batch, Packed, attention_mask, cu_seqlens
from halfpint.data.token_store import TokenStore
from halfpint.errors import HalfpintError

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)
MODES = st.sampled_from(["stream", "fit"])


def store_of(folder: Path, sizes: list[int]) -> TokenStore:
    """A store in which every token is another number: where it stands."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(sizes)
    np.arange(total, dtype="<u4").tofile(folder / "tokens.bin")
    np.save(folder / "documents.npy", np.cumsum([0, *sizes]))
    meta = {"key": "k", "dtype": "<u4", "documents": len(sizes), "tokens": total, "vocab_size": total}
    write_json(folder / "meta.json", {**meta, "text_bytes": total, "words": total})
    return TokenStore(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packing")


def epoch_of(packed: Packed, epoch: int = 0) -> list[Batch]:
    return [packed.batch(epoch * len(packed) + step) for step in range(len(packed))]


def check(batch: Batch, document_of: np.ndarray[Any, Any]) -> None:
    """One batch, token by token, in the plainest way."""
    mask, ahead = attention_mask(batch.sequence_ids), attention_mask(batch.sequence_ids, causal=False)
    length = batch.input_ids.shape[1]
    assert mask.shape == ahead.shape == (len(batch.input_ids), 1, length, length)
    for row in range(len(batch.input_ids)):
        inputs, labels, positions, ids = (array[row] for array in batch)
        for at in range(length):
            if ids[at] == PADDING:
                assert (inputs[at], labels[at]) == (7, IGNORED)
                assert (ids[at:] == PADDING).all()  # padding is at the end
                continue
            starts = at == 0 or ids[at] != ids[at - 1]
            assert labels[at] == (IGNORED if starts else inputs[at])
            assert positions[at] == (0 if starts else positions[at - 1] + 1)
            if not starts:  # the store counts upwards, so what follows in a piece follows in the text
                assert inputs[at] == inputs[at - 1] + 1
                assert document_of[inputs[at]] == document_of[inputs[at - 1]]
            seen = np.flatnonzero(mask[row, 0, at])
            assert seen.tolist() == list(range(at - positions[at], at + 1))
            both = np.flatnonzero(ahead[row, 0, at])
            assert set(document_of[inputs[both]]) == {document_of[inputs[at]]}
            assert set(both) == set(np.flatnonzero(ids == ids[at]))
    assert mask.any(axis=-1).all() and ahead.any(axis=-1).all()


@settings(max_examples=60)
@given(sizes=SIZES, length=st.integers(2, 24), batch_size=st.integers(1, 5), mode=MODES, shuffle=st.booleans())
def test_every_token_once_and_nothing_across_documents(
    folder: Path, sizes: list[int], length: int, batch_size: int, mode: str, shuffle: bool
) -> None:
    store = store_of(folder, sizes)
    document_of = np.repeat(np.arange(len(sizes)), sizes)
    packed = Packed(store, length=length, batch_size=batch_size, mode=mode, pad=7, shuffle=shuffle)
    used = []
    for batch in epoch_of(packed):
        check(batch, document_of)
        used.append(batch.input_ids[batch.sequence_ids != PADDING])
    tokens = np.concatenate(used)
    assert len(np.unique(tokens)) == len(tokens)
    sequences = len(packed.plan(0))
    if not shuffle or sequences < batch_size or sequences % batch_size == 0:
        assert sorted(tokens.tolist()) == list(range(sum(sizes)))
    else:
        assert len(tokens) >= sum(sizes) - (batch_size - 1) * length
    if not shuffle:
        assert mode == "fit" or tokens.tolist() == list(range(sum(sizes)))
        assert sum(len(batch.input_ids) for batch in epoch_of(packed)) == sequences


def plain_best_fit(sizes: list[int], length: int) -> int:
    """How many sequences best-fit decreasing takes, one piece after the other."""
    pieces = [length for size in sizes for _ in range(size // length)]
    pieces += [size % length for size in sizes if size % length]
    rooms: list[int] = []
    for piece in sorted(pieces, reverse=True):
        fitting = [room for room in rooms if room >= piece]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - piece)
        else:
            rooms.append(length - piece)
    return len(rooms)


@settings(max_examples=60)
@given(sizes=SIZES, length=st.integers(2, 24))
def test_fit_is_best_fit_decreasing_and_cuts_no_document_that_fits(folder: Path, sizes: list[int], length: int) -> None:
    store = store_of(folder, sizes)
    packed = Packed(store, length=length, batch_size=1, mode="fit")
    plan = packed.plan(0)
    assert len(plan) == plain_best_fit(sizes, length) == len(packed.plan(1))
    assert packed.filled() == pytest.approx(sum(sizes) / (len(plan) * length))
    pieces = dict(zip(plan.start.tolist(), plan.size.tolist(), strict=True))
    for begin, end in pairwise(store.offsets.tolist()):
        if 0 < end - begin <= length:
            assert pieces[begin] == end - begin
    row = np.repeat(np.arange(len(plan)), np.diff(plan.rows))
    assert np.bincount(row, weights=plan.size).max() <= length


@pytest.mark.parametrize("mode", ["stream", "fit"])
def test_the_order_is_that_of_seed_and_epoch_and_steps_can_be_asked_for_in_any_order(tmp_path: Path, mode: str) -> None:
    store = store_of(tmp_path, [5, 31, 2, 17, 9, 40, 1, 12, 8, 23] * 5)

    def packed(seed: int = 3) -> Packed:
        return Packed(store, length=16, batch_size=4, mode=mode, seed=seed)

    first, again = packed(), packed()
    steps = 2 * len(first)
    forward = [first.batch(step).input_ids for step in range(steps)]
    backward = [again.batch(step).input_ids for step in reversed(range(steps))][::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(forward[0], forward[len(first)])  # another epoch
    assert not np.array_equal(forward[0], packed(seed=4).batch(0).input_ids)
    assert all(len(ids) == 4 for ids in forward)


@settings(max_examples=60)
@given(sizes=SIZES, length=st.integers(2, 24), batch_size=st.integers(1, 5), shuffle=st.booleans())
def test_alone_gives_each_piece_a_row_and_each_batch_the_width_of_its_longest(
    folder: Path, sizes: list[int], length: int, batch_size: int, shuffle: bool
) -> None:
    store = store_of(folder, sizes)
    document_of = np.repeat(np.arange(len(sizes)), sizes)
    packed = Packed(store, length=length, batch_size=batch_size, mode="alone", pad=7, shuffle=shuffle)
    for epoch in range(2):
        used = []
        for batch in epoch_of(packed, epoch):
            check(batch, document_of)
            own = batch.sequence_ids != PADDING
            assert set(np.unique(batch.sequence_ids)) <= {0, PADDING}  # one piece a row
            assert own[:, 0].all() and own.any(axis=0).all()  # no empty row, no column of padding alone
            assert batch.input_ids.size <= batch_size * length
            used += batch.input_ids[own].tolist()
        lost = set(range(sum(sizes))) - set(used)
        assert len(set(used)) == len(used)
        ends = np.cumsum(sizes)  # what is lost is the last token of a document, cut off as a piece of its own
        assert all(token + 1 in ends and (token - (ends - sizes)[document_of[token]]) % length == 0 for token in lost)
    assert not lost or packed.plan(0).size.min() > 1
    assert 0 < packed.filled() <= 1
    assert packed.tokens_a_step * (len(packed) - 1) <= len(used) <= packed.tokens_a_step * len(packed)


def test_alone_wastes_little_and_mixes_the_batches_anew_in_each_epoch(tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).integers(2, 200, size=400).tolist()
    packed = Packed(store_of(tmp_path, sizes), length=64, batch_size=8, mode="alone", seed=3)
    assert packed.filled() > 0.95
    first = [tuple(batch.input_ids[:, 0]) for batch in epoch_of(packed)]
    second = [tuple(batch.input_ids[:, 0]) for batch in epoch_of(packed, 1)]
    again = Packed(packed.store, length=64, batch_size=8, mode="alone", seed=3)
    assert [tuple(again.batch(step).input_ids[:, 0]) for step in range(len(again))] == first
    assert first != second and set(first) != set(second)


def test_cu_seqlens_cut_the_flat_batch_where_the_mask_does(tmp_path: Path) -> None:
    store = store_of(tmp_path, [5, 31, 2, 17, 9, 40, 1, 12])
    batch = Packed(store, length=16, batch_size=3, mode="fit", shuffle=False).batch(1)
    borders, longest = cu_seqlens(batch.sequence_ids)
    assert borders.dtype == np.int32
    assert (borders[0], borders[-1]) == (0, batch.input_ids.size)
    assert longest == np.diff(borders).max()
    flat = batch.sequence_ids.ravel()
    owner = np.repeat(np.arange(len(borders) - 1), np.diff(borders))
    same = owner[:, None] == owner[None, :]
    rows = np.arange(batch.input_ids.size) // 16
    true = (rows[:, None] == rows[None, :]) & (flat[:, None] == flat[None, :])
    np.testing.assert_array_equal(same, true)


def test_what_cannot_be_packed_is_told(tmp_path: Path) -> None:
    store = store_of(tmp_path / "a", [5])
    for change in ({"length": 1}, {"batch_size": 0}, {"mode": "strem"}):
        with pytest.raises(HalfpintError):
            Packed(store, **{"length": 4, "batch_size": 1, **change})  # type: ignore[arg-type]
    with pytest.raises(HalfpintError, match="Did you mean 'stream'"):
        Packed(store, length=4, batch_size=1, mode="strem")
    with pytest.raises(HalfpintError, match="empty store"):
        Packed(store_of(tmp_path / "b", [0]), length=4, batch_size=1)
    with pytest.raises(HalfpintError, match="0 or more"):
        Packed(store, length=4, batch_size=1).batch(-1)
