"""Texts larger than the memory that is given: counted on disk, in blocks, the model is the same bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from halfpint.errors import HalfpintError
from halfpint.models import _ngram_columns, _ngram_counts, _ngram_estimate, _ngram_files, ngram
from halfpint.models._ngram_columns import Column, Held, Spilled, Storage
from halfpint.models.ngram import NgramModel

# Few words, so that contexts have many followers and blocks end in the midst of them; lines of one word have no longer
# sequences, so that contexts without followers lie between.
LINE = st.lists(st.sampled_from([*"aaaabbbccdefgh", "<unk>", "é"]), max_size=8).map(" ".join)
CORPUS = st.lists(LINE, min_size=1, max_size=20).filter(any)
PRUNE = st.lists(st.integers(0, 2), max_size=3).map(sorted)
A_NUMBER = 2 * _ngram_columns._BYTES_A_PLACE  # of the budget, for a number of a block


def arrays(model: NgramModel) -> list[npt.NDArray[np.generic]]:
    """All numbers of a model."""
    return [*model.tables.keys, *model.tables.log10, *model.tables.backoff]


def on_disk(numbers: int, scratch: Path, lines: list[str], *given_: object) -> NgramModel:
    """The model of `lines`, counted on disk in blocks of so many numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "_BUDGET", numbers * A_NUMBER)
        patch.setattr(_ngram_columns, "_BYTES_A_TOKEN", 1 << 30)
        return NgramModel.fit(lines, *given_, scratch=scratch)  # type: ignore[arg-type]


def assert_same(one: NgramModel, other: NgramModel) -> None:
    assert list(one.tables.words) == list(other.tables.words)
    assert one.config() == other.config()
    for first, second in zip(arrays(one), arrays(other), strict=True):
        assert first.dtype == second.dtype and first.tobytes() == second.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    lines=CORPUS, order=st.integers(1, 5), smoothing=st.sampled_from(["kneser-ney", "none"]), prune=PRUNE,
    min_count=st.integers(0, 3), numbers=st.sampled_from([1, 2, 3, 5, 8, 40, 1000]),
)  # fmt: skip
def test_on_disk_the_model_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], order: int, smoothing: str, prune: list[int],
    min_count: int, numbers: int,
) -> None:  # fmt: skip
    scratch = tmp_path_factory.mktemp("scratch")
    chosen = (order, smoothing, prune[:order], min_count)
    assert_same(on_disk(numbers, scratch, lines, *chosen), NgramModel.fit(lines, *chosen))
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("prune", [[], [0, 0, 1], [1, 1, 2]])
def test_on_disk_with_discounts_of_its_own(tmp_path: Path, prune: list[int]) -> None:
    """Real discounts, many chunks and blocks: sums of fractions come in the same order."""
    chance = np.random.default_rng(0)
    lines = [" ".join(map(str, chance.zipf(1.3, size=chance.integers(0, 30)).clip(max=900))) for _ in range(600)]
    whole = NgramModel.fit(lines, 4, prune=prune)
    assert not whole.fallback
    assert_same(on_disk(700, tmp_path, lines, 4, "kneser-ney", prune), whole)


def test_a_text_goes_to_disk_once_it_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins in memory; what was read by then follows."""
    lines = ["a b c d", "b c a", "d d a b"] * 20
    tokens, order = sum(len(line.split()) + 2 for line in lines), 3
    whole = NgramModel.fit(lines, order)
    monkeypatch.setattr(ngram, "_CHUNK", 30)
    seen: list[bool] = []

    def read() -> Iterator[str]:
        for line in lines:
            seen.append(any(tmp_path.rglob("*.bin")))
            yield line

    peak = tokens * _ngram_columns._BYTES_A_TOKEN * order
    for budget, spilled in ((peak, False), (peak // 2, True)):
        monkeypatch.setattr(ngram, "_BUDGET", budget)
        monkeypatch.setattr(_ngram_columns, "_BYTES_A_PLACE", 1)
        seen.clear()
        assert_same(NgramModel.fit(read(), order, scratch=tmp_path / "made" / "here"), whole)
        assert not seen[0] and seen[-1] is spilled
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "made", tmp_path / "made" / "here"]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    (tmp_path / ".halfpint-ngrams-killed").mkdir()
    (tmp_path / ".halfpint-ngrams-killed" / "1.bin").write_bytes(b"left")
    with pytest.raises(HalfpintError, match="line 9 of the text: expected text, got a binary file"):
        on_disk(1, tmp_path, [*["a b"] * 8, "\0"])
    assert not list(tmp_path.iterdir())


def test_room_and_memory_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a b c d"] * 50
    with monkeypatch.context() as patch:
        patch.setattr(_ngram_columns, "available_disk_bytes", lambda folder: 20_000)
        with pytest.raises(HalfpintError, match=r"expected room to count 1\d\d tokens by sequences of 5: .* GiB free"):
            on_disk(1, tmp_path, lines)
        NgramModel.fit(lines)  # in memory it takes no room
        on_disk(1, tmp_path, lines[:5])
    monkeypatch.setattr(_ngram_columns, "memory_bytes", lambda: 800)
    with pytest.raises(HalfpintError, match=r"the model: expected memory for .* Prune sequences that are rare"):
        on_disk(1, tmp_path, ["a b c d e f g h"])
    on_disk(1, tmp_path, ["a b"], 2)
    assert not list(tmp_path.iterdir())


def test_a_text_takes_no_more_room_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that all differ: no sequence comes twice, so that everything is as large as it can be."""
    lines = [" ".join(str(start + place) for place in range(400)) for start in range(0, 4000, 400)]
    most = 0
    append = Spilled.append

    def watched(column: Spilled, values: npt.NDArray[np.generic]) -> None:
        nonlocal most
        append(column, values)
        most = max(most, sum(path.stat().st_size for path in tmp_path.rglob("*.bin")))

    monkeypatch.setattr(Spilled, "append", watched)
    for order in (1, 2, 3, 5, 8):
        most = 0
        on_disk(2000, tmp_path, lines, order)
        assert 0 < most <= 4020 * order * _ngram_columns._DISK_BYTES


def test_too_many_sequences_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ngram_counts, "MOST_NUMBERS", 3)
    with pytest.raises(HalfpintError, match="the text: expected at most 3 different sequences of 2, got more"):
        NgramModel.fit(["a b c d"])


@pytest.mark.parametrize("kind", [Held, Spilled])
def test_columns(tmp_path: Path, kind: type[Column]) -> None:
    column = Held(np.int32) if kind is Held else Spilled(np.int32, tmp_path / "1.bin")
    assert len(column) == 0 and column[:].dtype == np.int32 and not list(column.blocks(3))
    for values in ([1, 2, 3], [], [4], [5, 6, 7]):
        column.append(np.array(values, dtype=np.int64))
    assert len(column) == 7 and column[2:5].tolist() == [3, 4, 5] and column[6:99].tolist() == [7]
    assert [(start, block.tolist()) for start, block in column.blocks(3)] == [(0, [1, 2, 3]), (3, [4, 5, 6]), (6, [7])]
    assert column[:].dtype == np.int32
    column.drop()
    assert len(column) == 0 and not list(tmp_path.iterdir())


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    column = Spilled(np.int64, tmp_path / "1.bin")
    column.append(np.arange(5))
    column.path.write_bytes(column.path.read_bytes()[:-1])
    assert column[:4].tolist() == [0, 1, 2, 3]
    with pytest.raises(HalfpintError, match=r"1\.bin: expected 5 numbers, got a file that was cut"):
        column[:]


@given(size=st.integers(1, 20), data=st.data())
def test_numbers_taken_in_blocks(size: int, data: st.DataObject) -> None:
    column = Held(np.float64)
    column.append(np.arange(10, 25) / 7)
    places = np.array(data.draw(st.lists(st.integers(0, 14))), dtype=np.int32)
    np.testing.assert_array_equal(_ngram_estimate._taken(column, places, size), column[:][places])


def test_the_file_is_what_safetensors_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import load_file

    for lines, order in ((["a b c d", "a c", "b b b"] * 2, 4), (["a b"], 1), ([str(word) for word in range(400)], 3)):
        model = NgramModel.fit(lines, order)
        monkeypatch.setattr(_ngram_files, "_BLOCK", 3)
        _ngram_files.write_tables(model.tables, tmp_path / "ours")
        tensors = load_file(tmp_path / "ours")
        save_file(tensors, tmp_path / "theirs")
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
        again = _ngram_files.read_tables(list(model.tables.words), tensors, order)
        for one, other in zip(again.keys, model.tables.keys, strict=True):
            np.testing.assert_array_equal(one, other)


def test_storage_without_a_folder_takes_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Storage(None, 1000) as storage:
        assert isinstance(storage.column(np.int32), Held) and storage.folder == tmp_path
        storage.spill()
        assert storage.folder.parent == tmp_path and isinstance(storage.column(np.int32), Spilled)
    assert not list(tmp_path.iterdir())
