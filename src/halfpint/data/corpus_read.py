"""Sources of a corpus -> documents, one at a time: text, JSONL, Parquet, CSV, folders, the Hub, Python's library."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from halfpint.data.columnar import told
from halfpint.data.columns import find_text_column
from halfpint.data.documents import cut
from halfpint.data.encoding import decode, whole_characters
from halfpint.data.rows import DATA_ENDINGS, Rows, is_pipe, spooled
from halfpint.data.table import Table
from halfpint.errors import HalfpintError, damaged_gzip, nearest, need, no_path, no_rows, unreadable
from halfpint.files import refuse_unreadable_name

PYTHON_STDLIB = "python-stdlib"

_BLOCK = 1 << 25  # bytes of a text file read at once; a larger file must be UTF-8
_SNIFFED_ROWS = 200
_BATCH = 1000
_LONGEST_CELL = 1 << 31
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.-]+)?")
_ROWS = frozenset(DATA_ENDINGS) - {".json"}
_CODE_ENDINGS = """
.bash .c .cc .clj .cpp .cs .css .cu .cxx .dart .ex .exs .go .h .hh .hpp .hs .html .java .jl .js .json .jsx
.kt .lua .m .mjs .ml .php .pl .pm .proto .ps1 .pxd .py .pyi .pyx .r .rb .rs .scala .scss .sh .sql .svelte
.swift .toml .ts .tsx .vue .xml .yaml .yml .zig .zsh
"""
_CODE = frozenset(_CODE_ENDINGS.split())
_NOT_CORPUS = {"readme", "license", "licence", "copying", "notice", "manifest"}
_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", "node_modules"}


class Document(NamedTuple):
    """A text, where a person finds it, and whether it is a program's source (None: nobody said)."""

    text: str
    place: str
    code: bool | None


@dataclass(frozen=True)
class Source:
    """One source that is there.

    Attributes:
        name: as it was given.
        files: (path, name below the folder) of each file, in order; empty for a dataset.
        dataset: a dataset of the Hub, or one that `datasets` saved in a folder.
        kept: keeps what came through a pipe until the source is forgotten.
        strict: a file that cannot be read is an error (of a folder's files it is left out and counted).
    """

    name: str
    files: tuple[tuple[Path, str], ...] = ()
    dataset: Any = None
    strict: bool = False
    kept: Any = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the files, times three for those that are compressed: about what will be read."""
        return sum(path.stat().st_size * (3 if path.suffix in (".gz", ".parquet") else 1) for path, _ in self.files)


def is_code(path: Path) -> bool:
    """Whether a file is a program's source, by its ending."""
    return path.suffix.lower() in _CODE and path.suffix.lower() != ".json"


def find_source(name: str) -> Source:
    """The source with that name: a file, a folder, `python-stdlib`, or a dataset of the Hub (`owner/name[:config]`).

    Raises:
        HalfpintError: there is no such thing, or nothing in it.
    """
    if name == PYTHON_STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = tuple((path, below) for path, below in _files_below(root) if path.suffix == ".py")
        return Source(name, files)
    refuse_unreadable_name(name)
    path = Path(name).expanduser()
    try:
        if is_pipe(name):
            kept = spooled(name)
            if not os.fstat(kept.fileno()).st_size:
                raise no_rows(name, "is empty")
            return Source(name, ((Path(f"/dev/fd/{kept.fileno()}"), name),), strict=True, kept=kept)
        if path.is_dir():
            return _folder(path, name)
        if path.exists():
            if not path.stat().st_size:
                raise no_rows(name, "is empty")
            return Source(name, ((path, path.name),), strict=True)
    except OSError as error:
        raise unreadable(name, str(error.strerror or error)) from error
    beside = sorted(entry.name for entry in path.parent.glob("[!.]*")) if path.parent.is_dir() else []
    near = nearest(path.name, [*beside, PYTHON_STDLIB])
    if (
        _HUB_NAME.fullmatch(name)
        and not near.startswith("Did you mean")
        and path.suffix not in (".txt", ".gz", ".jsonl", ".ndjson")
    ):
        return Source(name, dataset=_from_hub(name))
    raise no_path(name, f"a file, a folder, {PYTHON_STDLIB} or a Hub dataset (owner/name)", near)


def _folder(path: Path, name: str) -> Source:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        datasets = need("datasets", f"reading the saved dataset {name}")
        with told(name, "a dataset saved by datasets"):
            return Source(name, dataset=_split_of(datasets.load_from_disk(str(path))))
    files = tuple(_files_below(path))
    # A README beside the texts tells of them and is none of them; alone it is all there is.
    texts = tuple(item for item in files if "/" in item[1] or item[1].split(".")[0].lower() not in _NOT_CORPUS)
    if not files:
        raise HalfpintError(
            name,
            wanted="a folder with text files",
            got="a folder without files",
            said=f"There are no files in the folder {name}.",
        )
    return Source(name, texts or files)


def _files_below(root: Path) -> Iterator[tuple[Path, str]]:
    """Files that are not hidden, in the order of their names below `root`; links to folders are not followed."""
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name[0] != "." and name not in _LEFT_OUT]
        for name in names:
            path = Path(folder) / name
            if name[0] != "." and path.is_file():
                found.append((path.relative_to(root).as_posix(), path))
    return ((path, below) for below, path in sorted(found))


def _from_hub(name: str) -> Any:
    datasets = need("datasets", f"reading the Hub dataset {name}")
    repository, _, config = name.partition(":")
    try:
        return _split_of(datasets.load_dataset(repository, config or None))
    except HalfpintError:
        raise
    except Exception as error:  # whatever it is (no network, no such name, a gate), the way out is the same
        first = str(error).splitlines()[0][:200] if str(error) else ""
        raise HalfpintError(
            name,
            wanted="a path, or a dataset that the Hub can give",
            got=f"no such path, and from the Hub {type(error).__name__}: {first}",
            todo="Check the name (owner/name:config where it has several); without a network give a path.",
            said=f"There is no file {name}, and the Hub does not give it either ({type(error).__name__}: {first}).",
        ) from error


def _split_of(loaded: Any) -> Any:
    """The split "train", or the only one."""
    if not isinstance(loaded, dict):
        return loaded
    names = [str(name) for name in loaded]
    if "train" not in names and len(names) != 1:
        raise HalfpintError("dataset", wanted="a split named train, or one split", got=", ".join(names))
    return loaded["train" if "train" in names else names[0]]


def fingerprint(source: Source, memo: dict[str, list[Any]]) -> str:
    """SHA-256 (hex) over the names and the content of what `source` holds.

    Args:
        memo: path -> [size, mtime in ns, hash] of files hashed before; a file that still has both is not read again.
            What is learned is added.
    """
    digest = hashlib.sha256()
    if source.dataset is not None:
        digest.update(str(getattr(source.dataset, "_fingerprint", source.name)).encode())
    for path, below in source.files:
        status = path.stat()
        known = memo.get(str(path.absolute()))
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            with path.open("rb") as file:
                known = [status.st_size, status.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]
            memo[str(path.absolute())] = known
        digest.update(f"{below}\0{known[2]}\n".encode())
    return digest.hexdigest()


def read_source(source: Source, text: str, left_out: Counter[str]) -> Iterator[tuple[Document, int]]:
    """Each document, with the bytes of files that are done since the one before (for a bar).

    Args:
        text: the column of tables; empty guesses it.
        left_out: what of a folder is no text is counted here, by reason.

    Raises:
        HalfpintError: a file given by itself is not readable or holds no text.
    """
    if source.dataset is not None:
        for document in _of_dataset(source.dataset, source.name, text, left_out):
            yield document, len(document.text)
        return
    for path, below in source.files:
        place = str(path) if source.strict else f"{source.name}: {below}"
        found = False
        try:
            if source.name == PYTHON_STDLIB and not _is_utf8(path):
                left_out["not UTF-8"] += 1
                continue
            for document in _of_file(path, place, text, left_out, source.strict):
                found = True
                yield document, len(document.text)
        except HalfpintError as error:
            # Of a folder, what is no text at all is left out; a file that breaks off in the middle is told.
            if source.strict or found:
                raise
            left_out[f"not readable as text (expected {error.wanted})"] += 1
        except OSError as error:
            got = str(error.strerror or error)
            raise unreadable(place, got, "Check who may read it.") from error


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _of_file(path: Path, place: str, text: str, left_out: Counter[str], strict: bool) -> Iterator[Document]:
    stem = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    ending = stem.suffix.lower()
    if not path.stat().st_size:
        left_out["empty file"] += 1
        return
    try:
        if ending in _ROWS or (ending == ".json" and (strict or _is_table(path))):
            with path.open("rb") as file:
                yield from _of_table(Rows(file, place, ending, max_cell_chars=_LONGEST_CELL), place, text, left_out)
        else:
            code = ending in _CODE or None
            number = 0
            for number, document in enumerate(cut(_blocks(path, place), code=bool(code)), start=1):
                yield Document(document, f"{place}, document {number}", code)
            if not number:
                left_out["empty file"] += 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged_gzip(place, error) from error


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


def _is_table(path: Path) -> bool:
    with _open(path) as file:
        return file.read(256).lstrip().startswith((b"[{", b"[\n", b"[ "))


def _blocks(path: Path, place: str) -> Iterator[str]:
    """The text of a file in blocks of whole lines."""
    with _open(path) as file:
        data = file.read(_BLOCK)
        if len(data) < _BLOCK:
            yield decode(data, place)[0]
            return
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
            decode(data[: _BLOCK // 2], place)
            raise HalfpintError(place, wanted="UTF-8 in a file this large", got="UTF-16", todo="Convert it to UTF-8.")
        data, done = data.removeprefix(codecs.BOM_UTF8), 0
        while data:
            end = data.rfind(b"\n") + 1 or len(data)
            more = file.read(_BLOCK)
            if end == len(data) and not data.endswith(b"\n") and more:
                data += more  # a line longer than a block
                continue
            end = end if more else len(data)
            try:
                yield data[:end].decode("utf-8")
            except UnicodeDecodeError as error:
                raise HalfpintError(
                    f"{place}, byte {done + error.start:,}", wanted="UTF-8 in a file this large", got=error.reason,
                    todo="Convert it to UTF-8, for example: iconv -f latin1 -t utf-8",
                ) from error  # fmt: skip
            done += end
            data = data[end:] + more


def _of_table(rows: Rows, place: str, text: str, left_out: Counter[str]) -> Iterator[Document]:
    """The texts of one column: as named, or guessed from the first rows."""
    texts = (text,) if text in rows.columns else rows.texts
    if rows.columns and not texts:
        raise HalfpintError(
            f"{place}, --text",
            wanted="a column of text",
            got=f"columns {', '.join(rows.columns)}, none of which is one",
            said=f"{place} has no column of text, only {', '.join(rows.columns)}.",
        )
    parts = rows.parts(texts)
    first = next(parts, None)
    if first is None:
        raise no_rows(place)
    some = slice(0, _SNIFFED_ROWS)
    table = Table({name: values[some] for name, values in first.columns.items()}, list(first.rows)[some], place, ())
    column = find_text_column(table, text=text or None)
    pairs = (
        pair for part in chain((first,), parts)
        for pair in zip(part.rows, part.columns.get(column) or [None] * len(part), strict=True)
    )  # fmt: skip
    yield from _texts(pairs, column, place, left_out, rows.unit)


def _of_dataset(dataset: Any, name: str, text: str, left_out: Counter[str]) -> Iterator[Document]:
    def rows() -> Iterator[tuple[int, dict[str, object]]]:
        number = 0
        for batch in dataset.with_format(None).iter(batch_size=_BATCH):
            for row in zip(*batch.values(), strict=True):
                number += 1
                yield number, dict(zip(batch, row, strict=True))

    yield from _of_rows(rows(), name, text, left_out, "row")


def _of_rows(
    rows: Iterator[tuple[int, dict[str, object]]], place: str, text: str, left_out: Counter[str], unit: str
) -> Iterator[Document]:
    first = list(islice(rows, _SNIFFED_ROWS))
    if not first:
        raise no_rows(place)
    names = list(dict.fromkeys(name for _, row in first for name in row))
    table = Table({name: [row.get(name) for _, row in first] for name in names}, [n for n, _ in first], place, ())
    column = find_text_column(table, text=text or None)
    pairs = ((number, row.get(column)) for number, row in chain(first, rows))
    yield from _texts(pairs, column, place, left_out, unit)


def _texts(
    pairs: Iterable[tuple[int, object]], column: str, place: str, left_out: Counter[str], unit: str
) -> Iterator[Document]:
    for number, value in pairs:
        if value is None or value == "":
            left_out["row without a text"] += 1
        elif isinstance(value, (str, int, float)):
            yield Document(whole_characters(str(value)), f"{place}, {unit} {number}", None)
        else:
            got = f"a {type(value).__name__}: {value!r:.60}"
            raise HalfpintError(f"{place}, {unit} {number}, column {column!r}", wanted="a text", got=got)
