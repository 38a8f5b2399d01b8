"""Columns of numbers, in memory or on disk: what is larger than memory is written and read in blocks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError
from halfpint.machine import available_disk_bytes, memory_bytes

_BYTES_A_TOKEN = 60  # and order, at the peak of counting in memory: more than any text takes (LOG.md)
_BYTES_A_PLACE = 200  # of a block, at the peak of counting on disk
_DISK_BYTES = 28  # for a token and order, at the peak of counting on disk, where no sequence comes twice
_BYTES_A_SEQUENCE = 16  # of the finished model: key, probability and back-off weight
_UNTOLD = 4 << 30  # bytes of memory where the system does not tell
_ALL = 1 << 62
_PREFIX = ".halfpint-ngrams-"


class Column:
    """Numbers one after the other, written at the end and read by slices.

    Args:
        dtype: of all of them.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: slice) -> npt.NDArray[Any]:
        raise NotImplementedError

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write `values` after those that are there; they are kept as they are, not copied, where that can be."""
        raise NotImplementedError

    def drop(self) -> None:
        """Give back the memory or the room that it takes."""
        raise NotImplementedError

    def blocks(self, size: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """All numbers, `size` at a time, each block with the place where it starts."""
        for start in range(0, len(self), size):
            yield start, self[start : start + size]


class Held(Column):
    """A column in memory."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        super().__init__(dtype)
        self._pieces: list[npt.NDArray[Any]] = []

    def __getitem__(self, places: slice) -> npt.NDArray[Any]:
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate([np.empty(0, self.dtype), *self._pieces])]
        return self._pieces[0][places]

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write `values` after those that are there."""
        self._pieces.append(values.astype(self.dtype, copy=False))
        self._length += len(values)

    def drop(self) -> None:
        """Let go of the arrays."""
        self._pieces, self._length = [], 0


class Spilled(Column):
    """A column in a file of bare numbers, which is opened for each reading and writing: there may be many columns.

    It is read by `fromfile`, not through a memory map: what was read and let go of does not count as memory in use.
    """

    def __init__(self, dtype: npt.DTypeLike, path: Path) -> None:
        super().__init__(dtype)
        self.path = path

    def __getitem__(self, places: slice) -> npt.NDArray[Any]:
        start, stop, _ = places.indices(len(self))
        wanted = max(stop - start, 0)
        if not wanted:
            return np.empty(0, self.dtype)
        found = np.fromfile(self.path, self.dtype, wanted, offset=start * self.dtype.itemsize)
        if len(found) != wanted:
            raise HalfpintError(
                str(self.path), wanted=f"{len(self):,} numbers", got="a file that was cut",
                todo="Another program changed it: start again.",
            )  # fmt: skip
        return found

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write `values` at the file's end."""
        rest = np.ascontiguousarray(values, dtype=self.dtype).view(np.uint8).data
        with self.path.open("ab", buffering=0) as file:
            while rest:  # a system may write less than it is given
                rest = rest[file.write(rest) :]
        self._length += len(values)

    def drop(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        self._length = 0


class Storage:
    """Where the columns of one text are kept: in memory, and after `spill` in files, which go when it is left.

    Args:
        scratch: the folder in which that of the files is made, once there is need, for one count at a time; None takes
            the system's own for temporary files.
        budget: bytes of memory to count in; None takes half of the machine's.
    """

    def __init__(self, scratch: Path | None = None, budget: int | None = None) -> None:
        self.budget = budget or (memory_bytes() or _UNTOLD) // 2
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def __enter__(self) -> Storage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def spilled(self) -> bool:
        """Whether columns go to files."""
        return self._folder is not None

    @property
    def folder(self) -> Path:
        """The folder of the files, or the one that it would be made in."""
        return Path(self._folder.name) if self._folder else self._scratch or Path(tempfile.gettempdir())

    @property
    def most_in_block(self) -> int:
        """Numbers that a block may have on disk, for half of the budget."""
        return max(self.budget // (2 * _BYTES_A_PLACE), 1)

    @property
    def block(self) -> int:
        """Numbers that are worked on at once: in memory all of them."""
        return self.most_in_block if self.spilled else _ALL

    def column(self, dtype: npt.DTypeLike) -> Column:
        """A new column, empty."""
        if not self.spilled:
            return Held(dtype)
        self._files += 1
        return Spilled(dtype, self.folder / f"{self._files}.bin")

    def holds(self, tokens: int, order: int) -> bool:
        """Whether a text of so many tokens is counted in memory, by sequences up to `order`."""
        return tokens * _BYTES_A_TOKEN * order <= self.budget

    def spill(self) -> None:
        """From now on columns go to files; what a killed run left in the scratch folder goes."""
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
            for left in self._scratch.glob(f"{_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._scratch)

    def need_disk(self, tokens: int, order: int, written: int) -> None:
        """Refuse a text for whose counting the device has no room.

        Args:
            tokens: of the text; order: the longest sequences counted.
            written: bytes that were written for it already.

        Raises:
            HalfpintError: with how much it may take at most.
        """
        needed, free = tokens * _DISK_BYTES * order, available_disk_bytes(self.folder) + written
        if needed > free:
            raise HalfpintError(
                str(self.folder), got=f"{free / 2**30:.1f} GiB free",
                wanted=f"room to count {tokens:,} tokens by sequences of {order}: {needed / 2**30:.1f} GiB",
                todo="Make room, or give less text or a smaller order.",
            )  # fmt: skip

    def need_memory(self, sequences: int) -> None:
        """Refuse a model that will not fit into the memory beside the blocks that it is made by.

        Args:
            sequences: that the model keeps, of all orders counted so far.

        Raises:
            HalfpintError: with how much is wanted.
        """
        if not self.spilled:
            return  # the text's peak is within the budget, and that has the model in it
        needed, room = sequences * _BYTES_A_SEQUENCE + self.budget // 2, memory_bytes()
        if room and needed > room:
            raise HalfpintError(
                "the model", wanted=f"memory for {sequences:,} sequences: {needed / 2**30:.1f} GiB",
                got=f"{room / 2**30:.1f} GiB",
                todo="Prune sequences that are rare, or give a smaller order or a machine with more memory.",
            )  # fmt: skip
