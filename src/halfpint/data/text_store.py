"""Texts in one file: UTF-8 bytes one after the other and where each begins, read through a memory map."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from halfpint.errors import DamagedError

_BUFFER = 1 << 20  # bytes


class TextStore(Sequence[str]):
    """The texts in `folder`/`name`.bin (UTF-8) and `name`.npy (int64 offsets, one more than there are texts).

    Length, indexing (a slice gives a list) and iteration read what they need and no more; each iteration starts anew.

    Args:
        folder: the folder of both files.
        name: such as "train".
        key: a hash of the texts, for what is made from them; empty where nobody needs one.

    Raises:
        DamagedError: the files are not there or do not fit each other.
    """

    def __init__(self, folder: Path, name: str, key: str = "") -> None:
        self.folder, self.name, self.key = folder, name, key
        try:
            self.offsets: NDArray[np.int64] = np.load(folder / f"{name}.npy", allow_pickle=False)
            size = self.path.stat().st_size
        except (OSError, ValueError) as error:
            raise DamagedError(
                str(folder), wanted=f"the texts {name}.bin and {name}.npy", got=str(error), todo="Make them again."
            ) from error
        if not len(self.offsets) or int(self.offsets[-1]) != size:
            raise DamagedError(
                str(self.path), wanted=f"{int(self.offsets[-1]) if len(self.offsets) else 0} bytes", got=str(size),
                todo="Make the texts again: the file is damaged.",
            )  # fmt: skip

    @property
    def path(self) -> Path:
        """The file with the texts."""
        return self.folder / f"{self.name}.bin"

    @property
    def size_bytes(self) -> int:
        """Bytes of all texts in UTF-8."""
        return int(self.offsets[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_map"}

    @cached_property
    def _map(self) -> mmap.mmap | bytes:
        if not self.offsets[-1]:
            return b""  # an empty file cannot be mapped
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """One text, or a list of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self._text(place)

    def _text(self, place: int) -> str:
        return self._map[int(self.offsets[place]) : int(self.offsets[place + 1])].decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), 4096):
            borders = self.offsets[first : first + 4097].tolist()
            for start, stop in pairwise(borders):
                yield self._map[start:stop].decode("utf-8")


class TextPart(TextStore):
    """Some of the texts of a store, read from its files.

    Args:
        store: where they are.
        places: their numbers in it, int64, in the order in which they are wanted.
    """

    def __init__(self, store: TextStore, places: NDArray[np.int64]) -> None:
        super().__init__(store.folder, store.name, sha256(store.key.encode() + places.tobytes()).hexdigest())
        self._places = places

    @property
    def size_bytes(self) -> int:
        """Bytes of these texts in UTF-8."""
        return int((self.offsets[self._places + 1] - self.offsets[self._places]).sum())

    def __len__(self) -> int:
        return len(self._places)

    def _text(self, place: int) -> str:
        return super()._text(int(self._places[place]))

    def __iter__(self) -> Iterator[str]:
        return map(self._text, range(len(self)))


class TextWriter:
    """Writes a `TextStore` text by text; it is whole once `close` was called.

    Args:
        folder, name: as for `TextStore`; files that are there are written over.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.offsets = array("q", [0])
        self._file = (folder / f"{name}.bin").open("wb", buffering=_BUFFER)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def add(self, text: bytes) -> None:
        """Append one text, given in UTF-8."""
        self._file.write(text)
        self.offsets.append(self.offsets[-1] + len(text))

    def close(self) -> None:
        """Write what is left, and the offsets."""
        self._file.close()
        np.save(self.folder / f"{self.name}.npy", np.frombuffer(self.offsets, dtype=np.int64))

    def store(self, key: str = "") -> TextStore:
        """Close, and give the texts to read."""
        self.close()
        return TextStore(self.folder, self.name, key)
