"""ARPA files, the text format of back-off models that KenLM, SRILM and others read and write."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, no_path
from halfpint.files import written
from halfpint.models._ngram_counts import Ints
from halfpint.models._ngram_tables import Log10, Tables
from halfpint.models._ngram_text import SPECIALS, UNKNOWN, Ids

_BLOCK = 1 << 16  # n-grams written or read at a time
_GZIP_LEVEL = 3
_ZERO = -99.0  # how the format writes the logarithm of nothing
_MISSING_UNKNOWN = -100.0  # what KenLM takes for <unk> where a file has none
# Names that the format (and <UNK>, that KenLM) keeps for itself; with a backslash before them they are ordinary words.
_RESERVED = re.compile(rb"\\*(<unk>|<UNK>|<s>|</s>)")
_BY_NAME = {name.encode(): number for number, name in enumerate(SPECIALS)} | {b"<UNK>": UNKNOWN}


def write_arpa(tables: Tables, path: Path, *, merge_unknown: bool) -> None:
    """Write `tables` to `path` (gzip where it ends in .gz), whole or not at all.

    An ordinary word that is spelled as one of the format's own (`<unk>` in WikiText) gets a backslash before it, which
    `read_arpa` takes away again. A probability or weight of 0 becomes 10^-99.

    Args:
        tables: the model.
        path: the file.
        merge_unknown: write the ordinary word `<unk>` as the format's <unk>, and leave the unknown word's own entry
            out: a program that takes `<unk>` in a text for the unknown word then scores such texts as this model does.
    """
    words = [_escaped(word).decode("utf-8") for word in tables.words]
    skipped = -1
    words[: len(SPECIALS)] = SPECIALS
    if merge_unknown and (literal := tables.numbers[b"<unk>"]) != UNKNOWN:
        words[literal], skipped = SPECIALS[UNKNOWN], UNKNOWN
    names = np.array(words, dtype=object)
    with written(path) as raw:
        # No name and no time in the header: the same model gives the same bytes.
        packed = gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, 0) if path.suffix == ".gz" else nullcontext(raw)
        with packed as file:
            counts = tables.ngrams
            counts[0] -= skipped >= 0
            head = "".join(f"ngram {order}={count}\n" for order, count in enumerate(counts, start=1))
            file.write(f"\\data\\\n{head}".encode())
            for order in range(1, tables.order + 1):
                file.write(f"\n\\{order}-grams:\n".encode())
                for text in _entries(tables, order, names, skipped if order == 1 else -1):
                    file.write(text.encode())
            file.write(b"\n\\end\\\n")


def _escaped(word: str) -> bytes:
    name = word.encode("utf-8", "replace")
    return b"\\" + name if _RESERVED.fullmatch(name) else name


def _entries(tables: Tables, order: int, names: npt.NDArray[np.object_], skipped: int) -> Iterator[str]:
    """The lines of one order, a block at a time, without the unigram `skipped`."""
    last = order == tables.order
    line = ("%.9g\t" + " ".join(["%s"] * order) + ("\n" if last else "\t%.9g\n")).__mod__
    for start in range(0, tables.ngrams[order - 1], _BLOCK):
        stop = min(start + _BLOCK, tables.ngrams[order - 1])
        columns: list[list[Any]] = [names[column].tolist() for column in tables.columns(order, start, stop)]
        columns.insert(0, _above_zero(tables.log10[order - 1][start:stop]))
        if not last:
            columns.append(_above_zero(tables.backoff[order - 1][start:stop]))
        if start <= skipped < stop:
            for column in columns:
                del column[skipped - start]
        yield "".join(map(line, zip(*columns, strict=True)))


def _above_zero(values: Log10) -> list[float]:
    found: list[float] = np.maximum(values, np.float32(_ZERO)).tolist()
    return found


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def read_arpa(path: Path) -> Tables:
    """The model in an ARPA file (gzip where its name ends in .gz).

    Raises:
        HalfpintError: no such file, or a damaged one; the message has the line.
    """
    try:
        with _opened(path) as file:
            return _Reader(path, file).read()
    except FileNotFoundError:
        raise no_path(str(path), "an ARPA file", "Check the path.") from None
    except (OSError, EOFError) as error:
        raise HalfpintError(
            str(path), wanted="a readable ARPA file", got=f"a damaged one ({error})", todo="Make or copy it again."
        ) from None


class _Reader:
    """Reads one file; `line` is the number of the last line read."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file, self.line = path, file, 0

    def fault(self, line: int, wanted: str, got: str) -> HalfpintError:
        return HalfpintError(f"{self.path}: line {line}", wanted=wanted, got=got, todo="Make or copy the file again.")

    def next(self) -> bytes:
        """The next line that is not empty, stripped; empty at the end of the file."""
        for line in self.file:
            self.line += 1
            if text := line.strip():
                return text
        self.line += 1
        return b""

    def read(self) -> Tables:
        counts = self._head()
        words, log10, backoff = self._unigrams(counts[0], last=len(counts) == 1)
        numbers = {name: number for number, name in enumerate(words[len(SPECIALS) :], len(SPECIALS))} | _BY_NAME
        tables = Tables([_plain(word) for word in words], (), (log10,), ())
        backoffs, keys, probabilities = [backoff], list[Ints](), [log10]
        for order, count in enumerate(counts[1:], start=2):
            last = order == len(counts)
            found = self._section(order, count, numbers, last=last)
            start = self.line - count
            contexts = found.ids[0]
            for length in range(2, order):
                contexts = tables.find(length, contexts, found.ids[length - 1])
                if (contexts < 0).any():
                    row = int(np.flatnonzero(contexts < 0)[0])
                    raise self.fault(
                        start + row + 1, f"an n-gram whose first words are listed as a {order - 1}-gram",
                        "one whose first words are not",
                    )  # fmt: skip
            order_keys = contexts.astype(np.int64) * len(words) + found.ids[-1]
            sorting = np.argsort(order_keys, kind="stable")
            order_keys = order_keys[sorting]
            twice = np.flatnonzero(order_keys[1:] == order_keys[:-1])
            if len(twice):
                raise self.fault(start + int(sorting[twice[0] + 1]) + 1, "each n-gram once", "one for the second time")
            keys.append(order_keys)
            probabilities.append(found.log10[sorting])
            backoffs.append(found.backoff[sorting])
            tables = Tables(tables.words, tuple(keys), tuple(probabilities), tuple(backoffs[:-1]))
        if (end := self.next()) != b"\\end\\":
            raise self.fault(self.line, "\\end\\", _shown(end))
        return tables

    def _head(self) -> list[int]:
        line = self.next()
        while line and line != b"\\data\\":
            if b"\0" in line:
                raise self.fault(self.line, "\\data\\", "a binary file")
            line = self.next()
        if not line:
            raise self.fault(self.line, "\\data\\", "the end of the file")
        counts: list[int] = []
        while match := re.fullmatch(rb"ngram\s+(\d{1,4})\s*=\s*(\d{1,15})", line := self.next()):
            if int(match[1]) != len(counts) + 1:
                raise self.fault(self.line, f"the number of {len(counts) + 1}-grams", _shown(line))
            counts.append(int(match[2]))
        if not counts:
            raise self.fault(self.line, "ngram 1=…", _shown(line))
        self._title(line, 1)
        return counts

    def _title(self, line: bytes, order: int) -> None:
        if line != f"\\{order}-grams:".encode():
            raise self.fault(self.line, f"\\{order}-grams:", _shown(line))

    def _unigrams(self, count: int, *, last: bool) -> tuple[list[bytes], Log10, Log10]:
        """Words by number (the special ones first), their log10 probabilities and back-offs."""
        start = self.line
        found = self._section(1, count, None, last=last)
        by_name: dict[bytes, int] = {}
        for row, name in enumerate(found.names):
            if name in by_name or (name == b"<UNK>" and b"<unk>" in by_name):
                raise self.fault(start + row + 1, "each word once", f"{_shown(name)} for the second time")
            by_name[b"<unk>" if name == b"<UNK>" else name] = row
        for special in SPECIALS[1:]:
            if special.encode() not in by_name:
                raise self.fault(self.line, f"a unigram {special}", "none")
        rows = [by_name.pop(name.encode(), -1) for name in SPECIALS]
        words = [*(name.encode() for name in SPECIALS), *by_name]
        order = np.array([*rows, *by_name.values()])
        log10 = np.append(found.log10, np.float32(_MISSING_UNKNOWN))[order]
        backoff = np.append(found.backoff, np.float32(0))[order]
        for row, name in zip(order.tolist(), words, strict=True):
            try:
                name.decode("utf-8")
            except UnicodeDecodeError:
                raise self.fault(start + row + 1, "a word in UTF-8", _shown(name)) from None
        return words, log10, backoff

    def _section(self, order: int, count: int, numbers: dict[bytes, int] | None, *, last: bool) -> _Section:
        """All lines of one order; `numbers` None for the unigrams, whose words are new."""
        if order > 1:
            self._title(self.next(), order)
        section = _Section(order, last)
        left = count
        while left:
            lines = list(islice(self.file, min(left, _BLOCK)))
            fault = section.add(lines, numbers) if lines else (0, "the end of the file")
            if fault:
                more = "" if last else " and maybe its back-off"
                row, got = fault
                raise self.fault(
                    self.line + row + 1,
                    f"log10 of a probability, the words of a {order}-gram{more} (of {count} lines such)", got,
                )  # fmt: skip
            self.line += len(lines)
            left -= len(lines)
        section.join()
        return section


class _Section:
    """The n-grams of one order, in the order of the file.

    `log10` and `backoff` are float32 (n-grams,), `ids` has an array int32 (n-grams,) for each place; for the unigrams
    `names` has the words instead.
    """

    def __init__(self, order: int, last: bool) -> None:
        self.order, self.last = order, last
        self.names: list[bytes] = []
        self._log10: list[npt.NDArray[np.float64]] = []
        self._backoff: list[npt.NDArray[np.float64]] = []
        self._ids: list[list[Ids]] = []

    def add(self, lines: Sequence[bytes], numbers: dict[bytes, int] | None) -> tuple[int, str] | None:
        """Take a block of lines, or give the first that cannot be taken: its place in the block and what it is."""
        columns = self._columns(lines)
        if not columns:
            return self._first_fault(lines, numbers)
        size = len(lines)
        try:
            log10 = np.fromiter(map(float, columns[0]), np.float64, size)
            with_backoff = len(columns) > self.order + 1
            backoff = np.fromiter(map(float, columns[-1]), np.float64, size) if with_backoff else np.zeros(size)
            words = columns[1 : self.order + 1]
            ids = [np.fromiter(map(numbers.__getitem__, column), np.int32, size) for column in words] if numbers else []
        except (ValueError, KeyError):
            return self._first_fault(lines, numbers)
        if not ((log10 <= 0).all() and np.isfinite(log10).all() and np.isfinite(backoff).all()):
            return self._first_fault(lines, numbers)
        if numbers is None:
            self.names += words[0]
        self._log10.append(log10)
        self._backoff.append(backoff)
        self._ids.append(ids)
        return None

    def _columns(self, lines: Sequence[bytes]) -> list[Sequence[bytes]]:
        """The fields of the lines, column by column; nothing where a line has too few or too many."""
        block = b"".join(lines)
        widths = _widths(block)
        least, most = self.order + 1, self.order + 2 - self.last
        if widths.min() < least or widths.max() > most:
            return []
        if widths.min() == widths.max():
            # All alike, as lmplz writes them: cut at once, three times as fast as line by line.
            fields, width = block.split(), int(widths[0])
            return [fields[place::width] for place in range(width)]
        rows = (line.split() for line in lines)
        return list(zip(*(row if len(row) == most else [*row, b"0"] for row in rows), strict=True))

    def _first_fault(self, lines: Sequence[bytes], numbers: dict[bytes, int] | None) -> tuple[int, str]:
        rows = [line.split() for line in lines]
        for place, row in enumerate(rows):
            if not row:
                return place, "an empty line"
            if len(row) not in (self.order + 1, self.order + 2 - self.last):
                return place, _shown(b" ".join(row))
            for field in (row[0], *row[self.order + 1 :]):
                try:
                    value = float(field)
                except ValueError:
                    return place, f"{_shown(field)} for a number"
                if not np.isfinite(value) or (field is row[0] and value > 0):
                    return place, f"the number {_shown(field)}"
            for name in row[1 : self.order + 1]:
                if numbers is not None and name not in numbers:
                    return place, f"{_shown(name)}, which is no unigram"
        raise AssertionError("a block without a fault")

    def join(self) -> None:
        """Make the arrays of all blocks one."""
        none = np.zeros(0)
        self.log10: Log10 = np.concatenate([none, *self._log10]).astype(np.float32)
        self.backoff: Log10 = np.concatenate([none, *self._backoff]).astype(np.float32)
        empty = np.zeros(0, dtype=np.int32)
        self.ids = [np.concatenate([empty, *(ids[place] for ids in self._ids if ids)]) for place in range(self.order)]


def _widths(block: bytes) -> Ints:
    """How many fields each line has, by where white space ends: int64 (lines,)."""
    letters = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", dtype=np.uint8)
    space = (letters == 32) | ((letters >= 9) & (letters <= 13))
    starts = ~space
    starts[1:] &= space[:-1]
    widths: Ints = np.diff(np.cumsum(starts)[letters == 10], prepend=0)
    return widths


def _plain(name: bytes) -> str:
    text = name.decode("utf-8")
    return text[1:] if name.startswith(b"\\") and _RESERVED.fullmatch(name) else text


def _shown(text: bytes) -> str:
    if not text:
        return "the end of the file"
    return repr(text[:60].decode("utf-8", "replace"))
