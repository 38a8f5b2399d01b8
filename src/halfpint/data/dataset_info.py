"""Tables that a `dataset_info.json` describes, as LLaMA-Factory has them: which file, and what its columns are called.

Source: the fields are those of LLaMA-Factory's data/README.md; `columns` and `tags` name what a file has for what the
forms of `chat_forms` call by their own names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfpint.data.read import Table, read_table
from halfpint.errors import HalfpintError

_NAME = "dataset_info.json"
_FILE, _ELSEWHERE = "file_name", ("hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name")
_COLUMNS = {
    "prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system",
    "tools": "tools", "images": "images", "videos": "videos", "audios": "audios", "messages": "conversations",
    "kto_tag": "kto_tag", "chosen": "chosen", "rejected": "rejected",
}  # fmt: skip
_FIELDS = {"role_tag": "from", "content_tag": "value"}
_ROLES = {
    "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "observation",
    "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip


def read_described(source: str) -> Table | None:
    """The table at `source` with the names of `chat_forms`; None where no `dataset_info.json` describes it.

    Args:
        source: a folder with a `dataset_info.json`, or a file beside one that names it.

    Raises:
        HalfpintError: the folder describes several data sets, or one whose file is not there.
    """
    path = Path(source).expanduser()
    folder = path if path.is_dir() else path.parent
    known = _described(folder / _NAME)
    if path.is_dir() and known:
        files = list(dict.fromkeys(str(entry[_FILE]) for entry in known))
        if len(files) > 1:
            raise HalfpintError(
                source, wanted="one of its data sets", got=f"{len(files)} of them: {', '.join(files[:8])}",
                todo=f"Give the path of one: {folder / files[0]}",
            )  # fmt: skip
        path = folder / files[0]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise HalfpintError(f"{folder / _NAME}: {_FILE}", wanted="a file in its folder", got=files[0])
    entry = next((one for one in known if folder / str(one[_FILE]) == path), None)
    if entry is None:
        return None
    return _renamed(read_table(str(path)), entry, source)


def _described(path: Path) -> list[Mapping[str, Any]]:
    """The entries with files of their own; none of a file that is another kind of description."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    entries = list(held.values()) if isinstance(held, dict) else []
    if not all(isinstance(one, dict) and {_FILE, *_ELSEWHERE} & set(one) for one in entries):
        return []
    return [one for one in entries if isinstance(one.get(_FILE), str)]


def _renamed(table: Table, entry: Mapping[str, Any], source: str) -> Table:
    columns, tags = (_object(entry.get(name)) for name in ("columns", "tags"))
    names = {str(theirs): _COLUMNS[ours] for ours, theirs in columns.items() if ours in _COLUMNS and theirs}
    missing = [name for name in names if name not in table.columns and names[name] not in ("kto_tag", "system")]
    if missing:
        raise HalfpintError(
            f"{source}: columns", wanted=f"what {_NAME} says: {', '.join(names)}", got=", ".join(table.columns)
        )
    taken = set(names.values())
    made: dict[str, list[object]] = {}
    for name, values in table.columns.items():
        other = f"{name} (named by no column of {_NAME})" if name in taken else name
        made[names.get(name, other)] = values
    if "conversations" in made and tags:
        fields = {str(tags[tag]): name for tag, name in _FIELDS.items() if tag in tags}
        roles = {str(tags[tag]): name for tag, name in _ROLES.items() if tag in tags}
        made["conversations"] = [_turns(turns, fields, roles) for turns in made["conversations"]]
    return Table(made, table.rows, table.source, (*table.notes, f"columns as {_NAME} names them"))


def _turns(turns: object, fields: Mapping[str, str], roles: Mapping[str, str]) -> object:
    """Messages with the names of fields and roles that ShareGPT has; what is none stays, and is refused later."""
    if not isinstance(turns, list):
        return turns
    made: list[object] = []
    for turn in turns:
        named = {fields.get(name, name): value for name, value in turn.items()} if isinstance(turn, dict) else turn
        if isinstance(named, dict) and isinstance(named.get("from"), str):
            named["from"] = roles.get(named["from"], named["from"])
        made.append(named)
    return made


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
