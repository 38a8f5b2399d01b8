"""Any source of rows -> Table: CSV, TSV, JSONL, JSON, Parquet (each also gzipped), workbooks, datasets, the Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint import machine
from halfpint.data.columnar import named_columns, replaced, told
from halfpint.data.delimited import LONGEST_CELL
from halfpint.data.json_rows import MOST_COLUMNS
from halfpint.data.rows import DATA_ENDINGS, Rows, ending_of, is_pipe, opened, too_large
from halfpint.data.table import Form, Table
from halfpint.errors import HalfpintError, nearest, need, no_path, no_rows, unreadable
from halfpint.files import refuse_unreadable_name

__all__ = ["DATA_ENDINGS", "Form", "Table", "read_table"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?$")
_SIDES = ("train", "test", "validation", "valid", "val", "dev", "eval")
_CELL, _NONE = 64, 8  # bytes that a cell takes besides its characters, and one that is missing
_SHARE = 8  # of the memory: what is read is worked with


def read_table(
    source: str, *, split: str | None = None, max_cell_chars: int = LONGEST_CELL, form: Form | None = None,
    max_bytes: int | None = None,
) -> Table:  # fmt: skip
    """The table at `source`: a file, a pipe, a folder (saved by `datasets`, or of data files) or a Hub dataset.

    Args:
        source: a path, `-` for standard input, or `owner/name` on the Hub when there is no such path.
        split: which split of a folder or Hub dataset; without it the only one, or "train".
        max_cell_chars: a longer text cell is an error.
        form: what a person says of how the file is written.
        max_bytes: of the table in memory; None: an eighth of the machine's memory.

    Raises:
        HalfpintError: nothing there, not readable, not a table, no rows, too large; it names the rows at fault.
    """
    refuse_unreadable_name(source)
    most = machine.memory_bytes() // _SHARE if max_bytes is None else max_bytes
    reading = _Reading(form or Form(), max_cell_chars, most)
    path = Path(source).expanduser()
    try:
        is_folder, is_there = path.is_dir(), path.exists() or is_pipe(source)
        if is_folder:
            table = _read_folder(path, source, split, reading)
        elif is_there:
            if split is not None:
                raise HalfpintError(
                    source,
                    wanted="a folder or a Hub dataset, which have splits",
                    got=f"one file and the split {split!r}",
                    todo="Leave the split out, or give the file of that split.",
                    said=f"{source} is one file, and has no split {split!r}.",
                )
            table = reading.file(path, source)
        else:
            table = _read_elsewhere(path, source, split)
    except OSError as error:
        todo = "Check who may read it (ls -l)." if isinstance(error, PermissionError) else ""
        got = f"{error.strerror or error} ({type(error).__name__})"
        raise unreadable(source, got, todo) from error
    if not table.rows:
        raise no_rows(source)
    return table


class _Reading:
    """Files read whole, with what all of them share."""

    def __init__(self, form: Form, max_cell_chars: int, max_bytes: int) -> None:
        self._form, self._max_cell, self._max_bytes = form, max_cell_chars, max_bytes

    def file(self, path: Path, source: str) -> Table:
        """The table in one file."""
        place = "standard input" if source == "-" else source
        with opened(path) as file:
            rows = Rows(
                file, place, ending_of(path.name), self._form, max_cell_chars=self._max_cell, max_bytes=self._max_bytes
            )
            columns: dict[str, list[object]] = {name: [] for name in rows.columns}
            numbers: list[int] = []
            size = 0
            for part in rows.parts():
                size += part.size + len(part) * (_CELL * len(part.columns) + _NONE * len(columns))
                if self._max_bytes and size > self._max_bytes:
                    raise too_large(place, self._max_bytes)
                for name in part.columns:
                    if name not in columns:
                        columns[name] = [None] * len(numbers)
                if len(columns) > MOST_COLUMNS:
                    raise HalfpintError(
                        place,
                        wanted=f"at most {MOST_COLUMNS:,} columns",
                        got=f"{len(columns):,}",
                        said=f"{place} has {len(columns):,} columns; at most {MOST_COLUMNS:,} are read.",
                    )
                for name, column in columns.items():
                    column.extend(part.columns.get(name) or [None] * len(part))
                numbers += part.rows
            if not numbers:
                header = rows.layout.header and rows.columns
                raise no_rows(place, f"has only its header, {', '.join(rows.columns)}" if header else "has no rows")
            return Table(columns, numbers, source, rows.notes)

    def files(self, paths: Sequence[Path], source: str) -> Table:
        """The tables in several files with the same columns, one after the other; rows are numbered through."""
        tables = [self.file(path, str(path)) for path in paths]
        for path, table in zip(paths, tables, strict=True):
            if set(table.columns) != set(tables[0].columns):
                raise HalfpintError(
                    str(path), wanted=f"the columns of {paths[0].name} ({', '.join(tables[0].columns)})",
                    got=", ".join(table.columns), todo="Give the path of one file, or files with the same columns.",
                    said=f"{path} has other columns ({', '.join(table.columns)}) than {paths[0].name} "
                    f"({', '.join(tables[0].columns)}).",
                )  # fmt: skip
        columns = {name: [cell for table in tables for cell in table.columns[name]] for name in tables[0].columns}
        rows = list(range(1, sum(map(len, tables)) + 1))
        ends = f"{paths[0].name} … {paths[-1].name}" if len(paths) > 1 else paths[0].name
        return Table(columns, rows, source, (f"{len(paths)} files ({ends}), rows numbered through", *tables[0].notes))


def _read_folder(path: Path, source: str, split: str | None, reading: _Reading) -> Table:
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if "dataset_dict.json" in names or "state.json" in names:
        datasets = need("datasets", f"reading the saved dataset {source}")
        with told(source, "a dataset saved by datasets"):
            loaded = datasets.load_from_disk(str(path))
        return _from_dataset(loaded, source, split)
    files = [name for name in names if (path / name).is_file() and _stem(name) is not None]
    if not files and (path / "data").is_dir():  # as datasets of the Hub are laid out
        return _read_folder(path / "data", source, split, reading)
    groups: dict[str, list[str]] = {}
    for name in files:
        groups.setdefault(_SHARD.sub("", str(_stem(name))), []).append(name)
    wanted = split or ("train" if len(groups) > 1 and "train" in groups else None)
    if not files:
        raise HalfpintError(
            source,
            wanted=f"a folder with a data file ({', '.join(DATA_ENDINGS)}, each also .gz) or one saved by datasets",
            got="an empty folder" if not names else f"a folder with {', '.join(names[:8])}",
            said=f"There is no table in the folder {source}"
            + (f", only {', '.join(names[:8])}." if names else ": it is empty."),
        )
    if wanted is not None and wanted not in groups:
        raise HalfpintError(
            source,
            wanted=f"a data file named {wanted}",
            got=", ".join(files[:8]),
            todo=nearest(wanted, groups),
            said=f"There is no data file named {wanted} in {source}, only {', '.join(files[:8])}.",
        )
    chosen = groups[wanted] if wanted is not None else files
    if len(chosen) == 1:
        table = reading.file(path / chosen[0], str(path / chosen[0]))
        return Table(table.columns, table.rows, table.source, (f"file {chosen[0]} of the folder", *table.notes))
    sides = any(group.lower() in _SIDES for group in groups)
    if (wanted is None and sides and len(groups) > 1) or len({ending_of(name) for name in chosen}) > 1:
        raise HalfpintError(
            source,
            wanted="a folder with one data file, or with parts of one table",
            got=f"{len(files)}: {', '.join(files[:8])}",
            todo="Give the path of one of them.",
            said=f"The folder {source} holds {len(files)} data files that are not parts of one table: "
            f"{', '.join(files[:8])}.",
        )
    return reading.files([path / name for name in chosen], source)


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
    raise no_path(source, "a file, a folder or a Hub dataset (owner/name)", near)


def _read_hub(source: str, split: str | None) -> Table:
    datasets = need("datasets", f"reading the Hub dataset {source}")
    try:
        loaded = datasets.load_dataset(source)
    except Exception as error:  # whatever it is (no network, no such name, a gate), the way out is the same
        why = ": ".join([type(error).__name__, *[line[:200] for line in str(error).splitlines()[:1]]])
        raise HalfpintError(
            source,
            wanted="a path, or a dataset that the Hub can give",
            got=f"no such path, and from the Hub {why}",
            todo="Check the name; without a network: download the data on a machine with network and give a path.",
            said=f"There is no file {source}, and the Hub does not give it either ({why}).",
        ) from error
    return _from_dataset(loaded, source, split)


def _from_dataset(loaded: Any, source: str, split: str | None) -> Table:
    notes: tuple[str, ...] = ("dataset",)
    if isinstance(loaded, dict):
        names = [str(name) for name in loaded]
        chosen = split or (names[0] if len(names) == 1 else "train")
        if chosen not in names:
            raise HalfpintError(
                source,
                wanted=f"the split {chosen!r}",
                got=", ".join(names),
                todo=nearest(chosen, names),
                said=f"{source} has no split {chosen!r}, only {', '.join(names)}.",
            )
        loaded, notes = loaded[chosen], (f"split {chosen!r} of {', '.join(names)}",)
    elif split is not None and str(loaded.split) != split:
        raise HalfpintError(
            source,
            wanted=f"the split {split!r}",
            got=f"a dataset of the split {loaded.split}",
            said=f"{source} has no split {split!r}: it is the split {loaded.split} itself.",
        )
    class_names: dict[str, list[str]] = {}
    for name, feature in loaded.features.items():
        if getattr(feature, "names", None):
            class_names[name] = feature.names
    with told(source, "a dataset with columns that can be read"):
        columns = named_columns(loaded.with_format(None).to_dict(), class_names)
    rows = len(next(iter(columns.values()), []))
    return Table(columns, list(range(1, rows + 1)), source, (*notes, *replaced(class_names, list(columns))))
