"""Any source of rows -> Table: CSV, TSV, JSONL, JSON, Parquet (each also gzipped), saved datasets, the Hub."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.data.delimited import read_delimited
from halfpint.data.encoding import decode
from halfpint.errors import HalfpintError, nearest, need

DATA_ENDINGS = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """Rows by column.

    Attributes:
        columns: name -> one value a row; a missing value is None (an empty CSV cell stays "").
        rows: where a person finds each row: the line a CSV or JSONL record starts on (the first line is 1),
            otherwise the number of the row, from 1.
        source: the path or Hub name it was read from.
        notes: what was found out: encoding, delimiter, header, split.
    """

    columns: dict[str, list[object]]
    rows: list[int]
    source: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


def read_table(source: str, *, split: str | None = None, max_cell_chars: int = 1_000_000) -> Table:
    """The table at `source`: a file, a folder (saved by `datasets`, or holding data files) or a Hub dataset.

    Args:
        source: a path, or `owner/name` on the Hub when there is no such path.
        split: which split of a folder or Hub dataset; without it the only one, or "train".
        max_cell_chars: a longer text cell is an error.

    Raises:
        HalfpintError: nothing there, not readable, not a table, no rows; it names the lines at fault.
    """
    path = Path(source).expanduser()
    try:
        is_folder, is_there = path.is_dir(), path.exists()
        if is_folder:
            table = _read_folder(path, source, split, max_cell_chars)
        elif is_there:
            if split is not None:
                raise HalfpintError(
                    source,
                    wanted="a folder or a Hub dataset, which have splits",
                    got=f"one file and the split {split!r}",
                    todo="Leave the split out, or give the file of that split.",
                )
            table = _read_file(path, source, max_cell_chars)
        else:
            table = _read_elsewhere(path, source, split)
    except OSError as error:
        todo = "Check who may read it (ls -l)." if isinstance(error, PermissionError) else ""
        got = f"{error.strerror or error} ({type(error).__name__})"
        raise HalfpintError(source, wanted="a readable file or folder", got=got, todo=todo) from error
    if not table.rows:
        raise HalfpintError(source, wanted="a table with rows", got="no rows")
    _refuse_long_cells(table, max_cell_chars)
    return table


def _read_file(path: Path, source: str, max_cell_chars: int) -> Table:
    data, ending = path.read_bytes(), path.suffix.lower()
    if not data:
        raise HalfpintError(source, wanted="a table with rows", got="an empty file")
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise HalfpintError(
                source, wanted="a whole gzip file", got=f"a damaged one ({error})", todo="Download or copy it again."
            ) from error
        ending = Path(path.stem).suffix.lower() if ending == ".gz" else ending
    if ending == ".parquet":
        return _read_parquet(data, source)
    text, note = decode(data, source)
    lines = text.split("\n")
    if ending in (".jsonl", ".ndjson") or _is_json_object(next((line for line in lines if line.strip()), "")):
        return _from_objects(_json_lines(lines, source), source, note, "JSONL")
    if ending == ".json" or (text.lstrip().startswith("[{") and text.rstrip().endswith("]")):
        return _from_objects(_json_array(text, source), source, note, "JSON")
    columns, rows, notes = read_delimited(text, place=source, ending=ending, max_cell_chars=max_cell_chars)
    return Table(columns, rows, source, (note, *notes))


def _is_json_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(lines: list[str], source: str) -> list[tuple[int, Any]]:
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise HalfpintError(
                f"{source}, line {number}",
                wanted="one JSON object a line",
                got=f"text that is not JSON ({error})",
                todo="Repair that line, or give the file the ending that fits it.",
            ) from error
    return found


def _json_array(text: str, source: str) -> list[tuple[int, Any]]:
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HalfpintError(source, wanted="a JSON array of objects", got=f"text that is not JSON ({error})") from error
    if not isinstance(loaded, list):
        keys = f" with the keys {', '.join(map(repr, list(loaded)[:8]))}" if isinstance(loaded, dict) else ""
        raise HalfpintError(
            source,
            wanted='a JSON array of objects: [{"text": …, "label": …}, …]',
            got=f"a JSON {type(loaded).__name__}{keys}",
            todo="Save the array alone, or one object a line as JSONL.",
        )
    return list(enumerate(loaded, start=1))


def _from_objects(objects: list[tuple[int, Any]], source: str, note: str, kind: str) -> Table:
    for number, found in objects:
        if not isinstance(found, dict):
            raise HalfpintError(
                f"{source}, row {number}", wanted="a JSON object", got=f"a JSON {type(found).__name__}: {found!r:.60}"
            )
    names = list(dict.fromkeys(str(name) for _, found in objects for name in found))
    columns = {name: [_cell(found.get(name)) for _, found in objects] for name in names}
    return Table(columns, [number for number, _ in objects], source, (note, kind))


def _cell(value: object) -> object:
    """The value, None for NaN; half a surrogate pair (JSON can hold one, UTF-8 cannot) becomes U+FFFD."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _read_parquet(data: bytes, source: str) -> Table:
    parquet = need("pyarrow.parquet", f"reading {source}")
    arrow = need("pyarrow", f"reading {source}")
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (arrow.ArrowException, OSError) as error:
        raise HalfpintError(source, wanted="a Parquet file", got=f"a file that is none ({error})") from error
    metadata = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(metadata).get("info", {}).get("features", {})
    names = {column: feature.get("names") for column, feature in features.items() if isinstance(feature, dict)}
    return _from_columns(table.to_pydict(), names, source, ("Parquet",))


def _from_columns(
    columns: dict[str, list[object]], class_names: dict[str, list[str] | None], source: str, notes: tuple[str, ...]
) -> Table:
    """A table in which class numbers have become their names, where the source tells them."""
    named = {name: values for name, values in class_names.items() if values and name in columns}
    read = {name: [_cell(value) for value in values] for name, values in columns.items()}
    for name, labels in named.items():
        read[name] = [_class_name(value, labels) for value in read[name]]
        notes = (*notes, f"numbers of column {name!r} replaced by the class names stored with them")
    rows = len(next(iter(read.values()), []))
    return Table(read, list(range(1, rows + 1)), source, notes)


def _class_name(value: object, names: list[str]) -> object:
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _read_folder(path: Path, source: str, split: str | None, max_cell_chars: int) -> Table:
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if "dataset_dict.json" in names or "state.json" in names:
        datasets = need("datasets", f"reading the saved dataset {source}")
        try:
            loaded = datasets.load_from_disk(str(path))
        except (ValueError, KeyError, TypeError) as error:
            raise HalfpintError(
                source, wanted="a dataset saved by datasets", got=f"a folder it cannot load ({error})"
            ) from error
        return _from_dataset(loaded, source, split)
    files = [name for name in names if (path / name).is_file() and _stem(name) is not None]
    named = {str(_stem(name)): name for name in files}
    wanted = split or ("train" if len(files) > 1 and "train" in named else None)
    if not files:
        raise HalfpintError(
            source,
            wanted=f"a folder with a data file ({', '.join(DATA_ENDINGS)}, each also .gz) or one saved by datasets",
            got="an empty folder" if not names else f"a folder with {', '.join(names[:8])}",
        )
    if wanted is None and len(files) > 1:
        raise HalfpintError(
            source,
            wanted="a folder with one data file",
            got=f"{len(files)}: {', '.join(files[:8])}",
            todo="Give the path of one of them.",
        )
    if wanted is not None and wanted not in named:
        raise HalfpintError(
            source, wanted=f"a data file named {wanted}", got=", ".join(files[:8]), todo=nearest(wanted, named)
        )
    name = files[0] if wanted is None else named[wanted]
    table = _read_file(path / name, str(path / name), max_cell_chars)
    return Table(table.columns, table.rows, table.source, (f"file {name} of the folder", *table.notes))


def _stem(name: str) -> str | None:
    """The name without its data ending; None when it has none."""
    plain = name.lower().removesuffix(".gz")
    return next((plain.removesuffix(ending) for ending in DATA_ENDINGS if plain.endswith(ending)), None)


def _read_elsewhere(path: Path, source: str, split: str | None) -> Table:
    parent = path.parent
    beside = sorted(entry.name for entry in parent.glob("[!.]*")) if parent.is_dir() else []
    near = nearest(path.name, beside)
    if _HUB_NAME.fullmatch(source) and _stem(path.name) is None and not near.startswith("Did you mean"):
        return _read_hub(source, split)
    if "://" in source:
        near = "Download it first and give the path."
    elif not parent.is_dir():
        near = f"The folder {parent} does not exist either."
    raise HalfpintError(source, wanted="a file, a folder or a Hub dataset (owner/name)", got="no such path", todo=near)


def _read_hub(source: str, split: str | None) -> Table:
    datasets = need("datasets", f"reading the Hub dataset {source}")
    try:
        loaded = datasets.load_dataset(source)
    except Exception as error:  # whatever it is (no network, no such name, a gate), the way out is the same
        raise HalfpintError(
            source,
            wanted="a path, or a dataset that the Hub can give",
            got=f"no such path, and from the Hub {type(error).__name__}: {str(error).splitlines()[0]:.200}"
            if str(error)
            else f"no such path, and from the Hub {type(error).__name__}",
            todo="Check the name; without a network: download the data on a machine with network and give a path.",
        ) from error
    return _from_dataset(loaded, source, split)


def _from_dataset(loaded: Any, source: str, split: str | None) -> Table:
    notes: tuple[str, ...] = ("dataset",)
    if isinstance(loaded, dict):
        names = [str(name) for name in loaded]
        chosen = split or (names[0] if len(names) == 1 else "train")
        if chosen not in names:
            raise HalfpintError(
                source, wanted=f"the split {chosen!r}", got=", ".join(names), todo=nearest(chosen, names)
            )
        loaded, notes = loaded[chosen], (f"split {chosen!r} of {', '.join(names)}",)
    elif split is not None and str(loaded.split) != split:
        raise HalfpintError(source, wanted=f"the split {split!r}", got=f"a dataset of the split {loaded.split}")
    names_by_column = {name: getattr(feature, "names", None) for name, feature in loaded.features.items()}
    return _from_columns(loaded.with_format(None).to_dict(), names_by_column, source, notes)


def _refuse_long_cells(table: Table, max_cell_chars: int) -> None:
    for name, values in table.columns.items():
        for row, value in zip(table.rows, values, strict=True):
            if isinstance(value, str) and len(value) > max_cell_chars:
                raise HalfpintError(
                    f"{table.source}, row {row}, column {name!r}",
                    wanted=f"cells of at most {max_cell_chars:,} characters",
                    got=f"one of {len(value):,}",
                    todo="Shorten or split that text.",
                )
