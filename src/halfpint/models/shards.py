"""Weights in several files, as the Hub keeps those of larger models, put into one: every part of halfpint reads one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from halfpint.bundle import read_json, safetensors_header
from halfpint.models.weights import WEIGHTS_FILE, header_of

INDEX = "model.safetensors.index.json"
"""Says which file has which tensor."""
SHARDS = "model-*-of-*.safetensors"
"""How such files are called."""
_COPIED = 1 << 20
_ALIGNED = 8  # the length of a header is a multiple of it


def merge_shards(folder: Path) -> None:
    """Put the weights of a folder into one model.safetensors, byte by byte, and remove the files that they were in.

    A folder that has one file already is left as it is.

    Raises:
        OSError: a file that the index names is not there, or a tensor is in none of them.
    """
    if (folder / WEIGHTS_FILE).is_file() or not (folder / INDEX).is_file():
        return
    placed: dict[str, str] = read_json(folder / INDEX)["weight_map"]
    names = sorted(set(placed.values()))
    missing = [name for name in names if "/" in name or "\\" in name or not (folder / name).is_file()]
    if missing:
        raise OSError(f"{INDEX} names files that are not there: {', '.join(missing)}")
    header: dict[str, Any] = {"__metadata__": safetensors_header(folder / names[0]).get("__metadata__", {})}
    base = 0
    for name in names:
        entries = header_of(folder / name)
        for tensor, entry in entries.items():
            start, stop = entry["data_offsets"]
            header[tensor] = {**entry, "data_offsets": [base + start, base + stop]}
        base += max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    lost = sorted(set(placed) - set(header))
    if lost:
        raise OSError(f"no file has the tensor {lost[0]} that {INDEX} names")
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % _ALIGNED)
    with (folder / WEIGHTS_FILE).open("wb") as whole:
        whole.write(len(written).to_bytes(8, "little") + written)
        for name in names:
            with (folder / name).open("rb") as part:
                part.seek(8 + int.from_bytes(part.read(8), "little"))
                shutil.copyfileobj(part, whole, _COPIED)
            (folder / name).unlink()
    (folder / INDEX).unlink()
