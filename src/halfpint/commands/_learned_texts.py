"""Whether a model was trained on the same division of texts as it is judged by now."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from halfpint.bundle import CARD, REPORTS, read_json
from halfpint.errors import HalfpintError

_ABOVE = 3  # folders: a bundle in OUT/work has its report in OUT


def data_key(folder: Path) -> str:
    """The hash of the texts that `fit` or `run` trained a model on, from its card or the report above it; "" where
    nothing tells."""
    with suppress(HalfpintError):
        figures = read_json(folder / CARD).get("figures") if (folder / CARD).is_file() else None
        if isinstance(figures, dict) and figures.get("data"):
            return str(figures["data"])
        for above in (folder, *folder.absolute().parents[: _ABOVE - 1]):
            data = read_json(above / REPORTS[0]).get("data") if (above / REPORTS[0]).is_file() else None
            if isinstance(data, dict) and (found := data.get("fingerprint") or data.get("key")):  # of rows, of a corpus
                return str(found)
    return ""


def may_know(folders: list[Path], key: str) -> str:
    """Why models may have learned some of the texts that are kept for the end, where they may; `key`: of the split."""
    keys = [data_key(folder) for folder in folders]
    if not all(keys):
        return "nothing tells what it was trained on"
    return "" if set(keys) == {key} else "it was trained on another division of these texts, or on others"
