"""How small a fine-tuned MiniLM becomes on SST-2, what it keeps, and how fast each size is beside PyTorch, in one run.

The teacher is a fine-tuned encoder (the folder that `fit` left in OUT/work, or a bundle). Students with some of its
layers learn from it; everything is exported, quantised and judged as a bundle in a fresh process. Kept is told by the
texts that `fit` chooses by and by SST-2's dev and the treebank's test texts together, against the teacher in fp32. The
latter chose the teacher's batch size and rate once, and dev was scored in earlier runs: neither is fresh.

    python benchmarks/small_encoders.py TEACHER [--layers 3 2] [--epochs 2] [--work DIR] [--write]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import DATA, alternated, timed, write
from inference_speed import pytorch
from students import SIDES, labelled

from halfpint.bundle import Bundle, open_bundle
from halfpint.compress.onnx_int4 import OnnxInt4
from halfpint.compress.onnx_int8 import OnnxInt8
from halfpint.compress.vocab import Vocab
from halfpint.counts import Counts, Metric
from halfpint.data.prepare import Data, prepare
from halfpint.distil.logits import Logits
from halfpint.distil.student import Student
from halfpint.engines import open_engine
from halfpint.evaluate.intervals import difference
from halfpint.export.onnx import Onnx
from halfpint.lookup import default_task
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.stage import Stage

FINISHES: dict[str, tuple[Stage, ...]] = {
    "fp32": (Onnx(),),
    "int8": (Onnx(), OnnxInt8()),
    "vocab, 4 bits": (Onnx(), Vocab(size=1), OnnxInt4(embedding_bits=4)),
    "vocab, 8 bits, embeddings in 4": (Onnx(), Vocab(size=1), OnnxInt8(embedding_bits=4)),
}


def main() -> None:
    """Make and judge; with --write keep results/small_encoders.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--layers", type=int, nargs="*", default=[3, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_or_print(judged(given, given.work or Path(name)), keep=given.write)


def write_or_print(result: dict[str, Any], *, keep: bool) -> None:
    """Keep the result, or only print it."""
    if keep:
        write("small_encoders", result)
    else:
        print(result)


def judged(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every size of every depth."""
    log = Log()
    prepared = prepare(
        Data(source=str(DATA / "sst2" / "train.tsv.gz"), test=str(SIDES["dev"])), log, probe_labels=False
    )
    pipeline = Pipeline(prepared, work, default_task(), "accuracy", log)
    teacher = open_bundle(given.teacher)
    path = str(teacher.path.resolve())
    students: dict[int, tuple[Stage, ...]] = {0: ()}
    for layers in given.layers:
        taught = Logits(teacher=path, epochs=given.epochs, learning_rate=1.5e-4, batch_size=128, train_embeddings=True)
        students[layers] = (Student(layers=str(layers)), taught)
    made: dict[str, Bundle] = {}
    right: dict[str, npt.NDArray[np.float64]] = {}
    rows: dict[str, Any] = {}
    for layers, taught in students.items():
        for label, finish in FINISHES.items():
            if layers and label == "int8":
                continue
            name = f"{layers or 'all'} layers, {label}"
            one = pipeline.make([*taught, *finish], start=teacher)
            found = pipeline.assess(Made(one.bundle, one.key, ())).figures
            made[name], right[name] = one.bundle, held(one.bundle)
            rows[name] = {
                "size_bytes": one.bundle.size_bytes, "validation": found["metrics"]["accuracy"],
                "latency_p50_ms": found["latency_p50_ms"], "energy_wh_per_1000": found["energy_wh_per_1000"],
                "held": float(right[name].mean()), "held_texts": len(right[name]),
            }  # fmt: skip
            print(name, rows[name], flush=True)
    whole = rows["all layers, fp32"]
    for name, row in rows.items():
        row |= {f"{key}_kept": row[key] / whole[key] for key in ("validation", "held")}
        row["held_lost"] = list(difference(hits(right[name]), hits(right["all layers, fp32"]), MEAN))
    return {"sizes": rows, "speed": speeds(made, [one.text for one in prepared.validation], given.repeats)}


MEAN = Metric(lambda sums: sums[..., 0] / sums[..., 1])


def hits(right: npt.NDArray[np.float64]) -> Counts:
    """One row per text: whether it was right, and one."""
    return Counts.of(np.stack([right, np.ones(len(right))], axis=1))


def held(bundle: Bundle) -> npt.NDArray[np.float64]:
    """Of each text of SST-2's dev and of the treebank's test file, whether it was right (1 or 0)."""
    engine, right = open_engine(bundle), []
    for path in SIDES.values():
        texts, labels = labelled(path)
        guesses = engine.probabilities(texts).argmax(1)
        right += [engine.labels[guess] == label for guess, label in zip(guesses, labels, strict=True)]
    return np.array(right, dtype=np.float64)


def speeds(made: dict[str, Bundle], texts: Sequence[str], repeats: int) -> dict[str, Any]:
    """Texts a second of each and of the base encoder in PyTorch, in turn; and the ratio."""
    name = "PyTorch, all layers, fp32"
    runs = {name: pytorch(list(texts))}
    for label, bundle in made.items():
        engine = open_engine(bundle)
        runs[label] = lambda engine=engine: len(texts) / timed(lambda: engine.probabilities(texts))  # type: ignore[misc]
    for run in runs.values():
        run()
    found = alternated(runs, repeats)
    return {key: {**one, "ratio": round(one["median"] / found[name]["median"], 2)} for key, one in found.items()}


if __name__ == "__main__":
    main()
