"""What a teacher is worth on SST-2: students of two layers with it and without, over three seeds, on the same texts.

The student begins with layers of its teacher and learns its states, then its answers, on the labelled texts and on
unlabelled ones: sentences of reviews (IMDB's training texts, without their labels), which the teacher alone tells of.
The same student without a teacher begins with the same layers of what the teacher was before it was trained, and has
the labels, for as many passes. Judged on SST-2's dev texts and on the treebank's labelled test file, which training
does not see; the latter chose the batch size and rate of the teacher once.

    python benchmarks/students.py TEACHER [--seeds 3] [--layers 2] [--sentences 60000] [--work DIR] [--write]
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import DATA, write

from halfpint.bundle import open_bundle
from halfpint.commands.distil import Distil
from halfpint.distil.teachers import teacher_bundle
from halfpint.engines import open_engine
from halfpint.progress import Log

SST2, IMDB = DATA / "sst2", DATA / "imdb" / "train.jsonl.gz"
SIDES = {"dev": SST2 / "dev.tsv", "treebank test": SST2 / "test_labelled.tsv"}
_WORDS = re.compile(r"[\w']+|[^\w\s]")
_ENDS = re.compile(r"(?<=[.!?])\s+")
_SHORTEST, _LONGEST = 4, 40  # words of a sentence


def main() -> None:
    """Train and compare; with --write keep results/students.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", default="2")
    parser.add_argument("--sentences", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--methods", default="hidden,logits")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    log, runs = Log(), []
    with tempfile.TemporaryDirectory() as name:
        work = given.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        unlabelled = sentences(work / "sentences.tsv", given.sentences) if given.sentences else ""
        sides = {side: labelled(path) for side, path in SIDES.items()}
        teacher = right(teacher_bundle(given.teacher).path, sides)
        for seed in range(given.seeds):
            out = work / f"seed-{seed}"
            asked = Distil(
                teacher=given.teacher, data=str(SST2 / "train.tsv.gz"), test=str(SST2 / "dev.tsv"),
                student=f"layers={given.layers}", method=given.methods, out=out, seed=seed,
                epochs=given.epochs, unlabelled=unlabelled, work=work / "work", force=True,
            )  # fmt: skip
            report = asked.run(log).report
            cards = [json.loads(one.read_text()) | {"at": one.parent} for one in (work / "work").glob("*/card.json")]
            last = [(card, card["stages"][-1]["settings"]) for card in cards]
            control = next(
                card["at"] for card, one in last if one.get("label_share") == 1 and one.get("seed") == seed
            )  # fmt: skip
            pair = right(out, sides), right(control, sides)
            runs.append(pair)
            print(
                seed, {side: (float(pair[0][side].mean()), float(pair[1][side].mean())) for side in sides}, flush=True
            )
            print(report["verdict"], report["control_begins"], flush=True)
    result = {"layers": given.layers, "sentences": given.sentences, "epochs": given.epochs, "methods": given.methods}
    for side in sides:
        rows = np.array([[one[side] for one in pair] for pair in runs], dtype=np.float64)  # (seeds, 2, texts)
        result[side] = {
            "texts": rows.shape[2], "teacher": float(teacher[side].mean()),
            "students": rows[:, 0].mean(1).tolist(), "controls": rows[:, 1].mean(1).tolist(),
            **difference(rows[:, 0] - rows[:, 1]),
        }  # fmt: skip
    print(json.dumps(result, indent=1))
    if given.write:
        write("students", result)


def sentences(path: Path, most: int) -> str:
    """A table of sentences from reviews, written as SST-2's are: words and marks apart, in small letters."""
    found: dict[str, None] = {}
    with gzip.open(IMDB, "rt", encoding="utf-8") as file:
        for line in file:
            for sentence in _ENDS.split(re.sub(r"<br />", " ", json.loads(line)["text"])):
                words = _WORDS.findall(sentence.lower())
                if _SHORTEST <= len(words) <= _LONGEST:
                    found.setdefault(" ".join(words))
            if len(found) >= most:
                break
    path.write_text("sentence\n" + "".join(f"{one}\n" for one in list(found)[:most]), encoding="utf-8")
    return str(path)


def labelled(path: Path) -> tuple[list[str], list[str]]:
    """Texts and their labels."""
    lines = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = lines[1:] if lines[0] == ["sentence", "label"] else lines
    return [text.strip() for text, _ in lines], [label for _, label in lines]


def right(folder: Path, sides: dict[str, tuple[list[str], list[str]]]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which texts a bundle tells rightly, by side."""
    engine = open_engine(open_bundle(folder))
    found = {}
    for side, (texts, labels) in sides.items():
        guesses = engine.probabilities(texts).argmax(1)
        found[side] = np.array([engine.labels[guess] == label for guess, label in zip(guesses, labels, strict=True)])
    return found


def difference(apart: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The mean difference of (seeds, texts), and its 95 % interval over texts and seeds drawn anew."""
    random = np.random.default_rng(0)
    seeds, texts = apart.shape
    drawn = sorted(
        float(apart[random.integers(seeds, size=seeds)].mean(0)[random.integers(texts, size=texts)].mean())
        for _ in range(2000)
    )
    return {"difference": float(apart.mean()), "interval": [drawn[50], drawn[1949]]}


if __name__ == "__main__":
    main()
