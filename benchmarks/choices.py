"""Whether what `fit` chooses, and says of it, holds on test files that chose nothing.

Each table is given to the command as a person would: a training file, a test file, minutes and a size. Then every
candidate that it measured answers the test texts, and three things are asked: how far the chosen model is from the one
that was best by validation within the limits; whether a sentence of the verdict is refuted there (its difference is on
the wrong side of its margin with its whole 95 % interval); and how long the command took.

    python benchmarks/choices.py [--tables sms_spam,sst5] [--minutes 8] [--max-size 25MB] [--base none] [--work DIR]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import harness

from halfpint.bundle import open_bundle
from halfpint.counts import Counts
from halfpint.data.prepare import Data, prepare
from halfpint.engines import open_engine
from halfpint.evaluate.intervals import difference
from halfpint.lookup import default_task
from halfpint.progress import SILENT

Rows = list[tuple[str, str]]
WITHIN = 0.01
PAYS = re.compile(r"A transformer pays here: \S+ over (\S+) ")
NO_NEED = re.compile(r"counting words is shown to be within \S+ of the best one trained here \((\S+),")
AS_GOOD = re.compile(r"shown to be within \S+ of the best that meets the limits \((\S+),")


def main() -> None:
    """Run the tables in turn, and keep the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--max-size", default="25MB")
    parser.add_argument("--base", default="")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--name", default="choices", help="of the file under results/")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = given.work or Path(name)
        found = {}
        for table in given.tables.split(","):
            folder = work / table
            folder.mkdir(parents=True, exist_ok=True)
            sides = TABLES[table]()
            for side, rows in zip(("train", "test"), sides, strict=True):
                write(folder / f"{side}.csv", rows)
            flags = ["--minutes", f"{given.minutes:g}", "--max-size", given.max_size]
            flags += ["--base", given.base] if given.base else []
            found[table] = one(folder, flags)
            print(
                table, json.dumps({key: value for key, value in found[table].items() if key != "on_test"}), flush=True
            )
    harness.write(given.name, {"within": WITHIN, "tables": found})


def one(folder: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Fit one table by the command, and judge what it says."""
    out = folder / "out"
    files = [str(folder / "train.csv"), "--test", str(folder / "test.csv"), "--text", "text", "--label", "label"]
    began = time.monotonic()
    command = [sys.executable, "-m", "halfpint", "fit", *files, "--out", str(out), "--force", "--quiet", *flags]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    split = prepare(Data(source=files[0], test=files[2], text="text", label="label"), SILENT, probe_labels=False)
    counted = {
        one["name"]: on_test(out / one["bundle"], split.test) for one in report["candidates"] if one.get("bundle")
    }
    return {
        "rows": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "flags": list(flags),
        "load_at_the_end": round(os.getloadavg()[0], 1),
        **judged(report, counted, seconds),
    }


def on_test(bundle: Path, examples: Sequence[Any]) -> Counts:
    """What a candidate answers on the test texts."""
    task, opened = default_task(), open_bundle(bundle)
    engine = open_engine(opened)
    texts = task.texts(examples)
    outputs = engine.probabilities(texts)
    return task.counts(examples, task.decode(texts, outputs, opened.labels), opened.labels)


def judged(report: dict[str, Any], counted: dict[str, Counts], seconds: float) -> dict[str, Any]:
    """The chosen candidate beside the best by validation, and the sentences of the verdict, on test."""
    primary = report["primary_metric"]
    metric = default_task().metrics[primary]

    def apart(first: str, second: str) -> list[float]:
        return [round(value, 4) for value in difference(counted[first], counted[second], metric)]

    measured = {one["name"]: one for one in report["candidates"] if one["name"] in counted}
    allowed = [name for name, one in measured.items() if one["feasible"]]
    best = max(allowed, key=lambda name: measured[name]["metrics"][primary])
    chosen, verdict = report["chosen"], report["verdict"]
    sentences = {}
    if found := PAYS.search(verdict):
        value, low, high = apart(chosen, found[1])
        sentences["a transformer pays"] = {"difference": [value, low, high], "refuted": high < 0}
    for name, pattern in (("no transformer is needed", NO_NEED), ("within the margin of the best", AS_GOOD)):
        if found := pattern.search(verdict):
            value, low, high = apart(chosen, found[1])
            sentences[name] = {"difference": [value, low, high], "refuted": high < -WITHIN}
    return {
        "metric": primary,
        "seconds": round(seconds),
        "chosen": chosen,
        "size_bytes": measured[chosen]["size_bytes"],
        "latency_p50_ms": round(measured[chosen]["latency_p50_ms"], 2),
        "chosen_on_test": round(metric(counted[chosen]), 4),
        "best_by_validation": best,
        "best_by_validation_on_test": round(metric(counted[best]), 4),
        "chosen_less_best": apart(chosen, best) if chosen != best else [0.0, 0.0, 0.0],
        "verdict": verdict,
        "sentences": sentences,
        "on_test": {name: round(metric(one), 4) for name, one in counted.items()},
        "trained": sorted(name for name, one in measured.items() if one.get("trained", True)),
    }


def write(path: Path, rows: Rows) -> None:
    """A table with the columns text and label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)


def lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a file, plain or .gz."""
    with gzip.open(path, "rt", encoding=encoding) if path.suffix == ".gz" else path.open(encoding=encoding) as file:
        return file.read().splitlines()


def trec() -> tuple[Rows, Rows]:
    """Questions and the six kinds of what they ask for."""
    train, test = (
        [(line.partition(" ")[2], line.partition(":")[0]) for line in lines(harness.DATA / "trec_qc" / name, "latin-1")]
        for name in ("train.txt", "test.txt")
    )
    return train, test


def sms() -> tuple[Rows, Rows]:
    """Messages, ham or spam; a fifth is kept for the test, by the hash of the text."""
    rows = [line.partition("\t")[::2] for line in lines(harness.DATA / "sms_spam" / "SMSSpamCollection.tsv")]
    kept = [(text, label) for label, text in rows]
    held = [sha256(text.encode()).digest()[0] % 5 == 0 for text, _ in kept]
    return [row for row, out in zip(kept, held, strict=True) if not out], [
        row for row, out in zip(kept, held, strict=True) if out
    ]


def sst5() -> tuple[Rows, Rows]:
    """Sentences of film reviews on a scale of five."""

    def read(name: str) -> Rows:
        return [(text, label) for label, _, text in (one.partition("\t") for one in lines(folder / name)[1:])]

    folder = harness.DATA / "sst5"
    return read("train.tsv.gz") + read("dev.tsv"), read("test.tsv.gz")


def offensive() -> tuple[Rows, Rows]:
    """Tweets, offensive or not."""
    folder = harness.DATA / "tweeteval_offensive"
    names = dict(line.split("\t") for line in lines(folder / "mapping.txt"))

    def read(texts: str, labels: str) -> Rows:
        return [(text, names[one]) for text, one in zip(lines(folder / texts), lines(folder / labels), strict=True)]

    train = read("train_text.txt.gz", "train_labels.txt")
    return train + read("val_text.txt", "val_labels.txt"), read("test_text.txt", "test_labels.txt")


TABLES: dict[str, Callable[[], tuple[Rows, Rows]]] = {
    "sms_spam": sms,
    "sst5": sst5,
    "tweeteval_offensive": offensive,
    "trec_qc": trec,
}


if __name__ == "__main__":
    main()
