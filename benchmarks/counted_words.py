"""Counting words against fastText on labelled texts, on one machine in one run: accuracy, training time, size, speed.

halfpint trains its counted words (`train/tfidf_linear`, exported in 8 bits) and fastText its supervised model, each in
a fresh process on all cores, from texts in memory to the finished file; then each answers the test texts, twice, and
the faster pass counts. fastText gets lower case with punctuation apart, as its authors prepare texts, bigrams
and five epochs, and with --autotune the settings that its own search finds on the same validation texts in so many
seconds. As other work on the machine slows both, seconds of processor time are kept as well.

    python -m venv PEER && PEER/bin/pip install fasttext-wheel "numpy<2"
    python benchmarks/counted_words.py --peer PEER/bin/python [--data imdb] [--autotune SECONDS] [--work DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPACED = re.compile(r"([.!?,'/()\":;])")
AUTOTUNED_BYTES = "2M"


def main() -> None:
    """Split the data, run each system in a process of its own, and keep the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="the Python that has fastText")
    parser.add_argument("--data", default="imdb", help="a folder of shared/data with train.jsonl.gz and test.jsonl.gz")
    parser.add_argument("--autotune", type=int, default=180, help="seconds of fastText's own search; 0 leaves it out")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        system, _, seconds = given.one.partition(":")
        run = counted if system == "halfpint" else fast_text
        print(json.dumps(run(given.work, int(seconds or 0))))
        return
    if not given.peer:
        parser.error("--peer is needed")
    with tempfile.TemporaryDirectory() as name:
        measure(given.peer, given.data, given.autotune, given.work or Path(name))


def measure(peer: str, data: str, autotune: int, work: Path) -> None:
    """All systems, in turn."""
    import harness

    from halfpint.data.prepare import Data, prepare
    from halfpint.progress import SILENT

    source, test = (str(harness.DATA / data / f"{side}.jsonl.gz") for side in ("train", "test"))
    split = prepare(Data(source=source, test=test, text="text", label="label"), SILENT, probe_labels=False)
    sides = {side: getattr(split, side) for side in ("train", "validation", "test")}
    for side, examples in sides.items():
        rows = [[example.text, example.label] for example in examples]
        (work / f"{side}.json").write_text(json.dumps(rows), encoding="utf-8")
    systems = {"halfpint, int8": (sys.executable, "halfpint"), "fastText": (peer, "fasttext")}
    if autotune:
        systems[f"fastText, autotuned for {autotune} s"] = (peer, f"fasttext:{autotune}")
        systems[f"fastText, autotuned for {autotune} s to {AUTOTUNED_BYTES}B"] = (peer, f"fasttext:-{autotune}")
    found = {}
    for name, (python, what) in systems.items():
        command = [python, __file__, "--one", what, "--work", str(work)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, {key: value for key, value in found[name].items() if key != "settings"}, flush=True)
    rows = {side: len(examples) for side, examples in sides.items()}
    load = round(os.getloadavg()[0], 1)
    harness.write("counted_words", {"data": data, "rows": rows, "load_at_the_end": load, "systems": found})


def rows_of(work: Path, side: str) -> tuple[list[str], list[str]]:
    """Texts and labels."""
    rows = json.loads((work / f"{side}.json").read_text(encoding="utf-8"))
    return [text for text, _ in rows], [label for _, label in rows]


def clock() -> tuple[float, float]:
    """Seconds of the clock, and of the processor, this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def since(begun: tuple[float, float], name: str) -> dict[str, float]:
    """Seconds of both since then."""
    now = clock()
    return {f"{name}_s": round(now[0] - begun[0], 2), f"{name}_processor_s": round(now[1] - begun[1], 2)}


def judged(answers: Sequence[str], labels: Sequence[str]) -> float:
    """The share of right answers."""
    return round(sum(one == other for one, other in zip(answers, labels, strict=True)) / len(labels), 4)


def counted(work: Path, _: int) -> dict[str, Any]:
    """halfpint's counted words."""
    from halfpint.compress.onnx_int8 import OnnxInt8
    from halfpint.data.examples import Example
    from halfpint.engines import open_engine
    from halfpint.export.onnx import Onnx
    from halfpint.lookup import default_task
    from halfpint.stage import Work
    from halfpint.task import Split
    from halfpint.train.tfidf_linear import TfidfLinear

    sides = {
        side: [Example(text, label, 0) for text, label in zip(*rows_of(work, side), strict=True)]
        for side in ("train", "validation")
    }
    task = default_task()
    names = task.labels(sides["train"])
    begun = clock()
    bundle = None
    for number, stage in enumerate((TfidfLinear(), Onnx(), OnnxInt8())):
        bundle = stage.run(bundle, Work(work / f"made{number}", work / "scratch", task, Split(**sides), names))
    trained = since(begun, "training")
    assert bundle is not None
    engine, (texts, labels) = open_engine(bundle), rows_of(work, "test")
    passes = []
    for _ in range(2):
        begun = clock()
        best = engine.probabilities(texts).argmax(axis=1).tolist()
        passes.append(since(begun, "answering"))
    settings = bundle.card["stages"][0]
    return {
        "accuracy": judged([engine.labels[one] for one in best], labels), **trained, **least(passes, len(texts)),
        "size_bytes": bundle.size_bytes, "settings": {key: settings[key] for key in ("strength", "features")},
    }  # fmt: skip


def least(passes: Sequence[dict[str, float]], texts: int) -> dict[str, float]:
    """The faster pass over the texts, and texts per second."""
    best = min(passes, key=lambda one: one["answering_s"])
    return {**best, "texts_per_s": round(texts / best["answering_s"])}


def plain(text: str) -> str:
    """The text as fastText's authors prepare texts: lower case, punctuation apart, one line."""
    return " ".join(SPACED.sub(r" \1 ", text.lower().replace("<br />", " ")).split())


def fast_text(work: Path, seconds: int) -> dict[str, Any]:
    """fastText as it comes; with seconds its own search on the validation texts (below 0 for a model of 2 MB)."""
    import fasttext

    begun = clock()
    for side in ("train", "validation"):
        lines = [f"__label__{label} {plain(text)}\n" for text, label in zip(*rows_of(work, side), strict=True)]
        (work / f"{side}.txt").write_text("".join(lines), encoding="utf-8")
    settings: dict[str, Any] = {"wordNgrams": 2, "epoch": 5, "lr": 0.5, "thread": os.cpu_count()}
    if seconds:
        settings = {"autotuneValidationFile": str(work / "validation.txt"), "autotuneDuration": abs(seconds)}
        settings |= {"thread": os.cpu_count()} | ({"autotuneModelSize": AUTOTUNED_BYTES} if seconds < 0 else {})
    model = fasttext.train_supervised(str(work / "train.txt"), verbose=0, **settings)
    file = work / "fasttext.bin"
    model.save_model(str(file))
    trained = since(begun, "training")
    texts, labels = rows_of(work, "test")
    passes = []
    for _ in range(2):
        begun = clock()
        best = [found[0] for found in model.predict([plain(text) for text in texts])[0]]
        passes.append(since(begun, "answering"))
    return {
        "accuracy": judged([one.removeprefix("__label__") for one in best], labels), **trained,
        **least(passes, len(texts)), "size_bytes": file.stat().st_size,
        "settings": {name: value for name, value in settings.items() if name != "autotuneValidationFile"},
    }  # fmt: skip


if __name__ == "__main__":
    main()
