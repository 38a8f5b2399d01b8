"""How fast tables are read: rows per second of halfpint's reader, beside csv, pandas and Polars where they are there.

python benchmarks/read_speed.py [--rows 300000] [--runs 7]

Short texts with a label, one in five quoted; each reader takes the file in turn, and the median of its runs counts.
halfpint, csv and `pandas, as lists` give Python strings; pandas and Polars alone keep text in arrays of their own.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import timed, write

from halfpint.data.names import listed
from halfpint.data.read import read_table
from halfpint.data.rows import Rows

_WORDS = listed("the a card phone lost where is my parcel late refund again please help app crash login")
_LABELS = ("billing", "tech", "delivery")


def make(path: Path, rows: int) -> None:
    """Write the table."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for number in range(rows):
            words = " ".join(draw.choices(_WORDS, k=draw.randint(4, 12)))
            out.writerow([words + (", ok" if number % 5 == 0 else ""), draw.choice(_LABELS)])


def in_parts(path: Path) -> int:
    """The number of rows, no part of which is kept."""
    with path.open("rb") as file:
        return sum(map(len, Rows(file, str(path), ".csv").parts()))


def by_csv(path: Path) -> list[list[str]]:
    """Columns by Python's csv module."""
    with path.open(encoding="utf-8", newline="") as file:
        return [list(column) for column in zip(*csv.reader(file), strict=True)]


def readers(path: Path) -> dict[str, Callable[[], Any]]:
    """What reads the file, by name."""
    found: dict[str, Callable[[], Any]] = {
        "halfpint": lambda: read_table(str(path)), "halfpint, in parts": lambda: in_parts(path),
        "csv": lambda: by_csv(path),
    }  # fmt: skip
    if importlib.util.find_spec("pandas"):
        import pandas

        found["pandas"] = lambda: pandas.read_csv(path)
        found["pandas, as lists"] = lambda: {n: c.tolist() for n, c in pandas.read_csv(path).items()}
    if importlib.util.find_spec("polars"):
        import polars

        found["polars"] = lambda: polars.read_csv(path)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "table.csv"
        make(source, asked.rows)
        size, by_name = source.stat().st_size, readers(source)
        seconds: dict[str, list[float]] = {name: [] for name in by_name}
        for _ in range(asked.runs):
            for name, read in by_name.items():
                seconds[name].append(timed(read))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {name: {"median_s": value, "rows_per_s": round(asked.rows / value)} for name, value in medians.items()}
    shares = {f"of {name}": round(medians[name] / medians["halfpint"], 3) for name in medians if name != "halfpint"}
    write("read_speed", {"rows": asked.rows, "bytes": size, "runs": asked.runs, "readers": result, "speed": shares})
