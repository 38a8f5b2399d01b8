"""Batch inference on Banking77's test texts: an encoder in PyTorch against bundles that halfpint made, in one run.

PyTorch: the base encoder with a linear head in fp32, texts sorted by length, batches of 64, as people do it well.
Bundles: any number of folders (trained, ONNX fp32, int8), each through its own engine.

    python benchmarks/inference_speed.py BUNDLE [BUNDLE ...] [--test FILE]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from harness import DATA, alternated, timed, write

from halfpint.bundle import open_bundle
from halfpint.data.columns import find_columns
from halfpint.data.examples import labelled
from halfpint.data.read import read_table
from halfpint.engines import open_engine
from halfpint.models.sources import locate
from halfpint.progress import SILENT


def main() -> None:
    """Measure and write results/inference_speed.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--test", default=str(DATA / "banking77" / "test.csv"))
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    table = read_table(given.test)
    examples = labelled(table, find_columns(table))
    texts = [example.text for example in examples]
    engines = {path.name: open_engine(open_bundle(path)) for path in given.bundles}
    runs = {"PyTorch encoder, sorted, 64 a batch": pytorch(texts)}
    for name, engine in engines.items():
        runs[name] = lambda engine=engine: len(texts) / timed(lambda: engine.probabilities(texts))  # type: ignore[misc]
    for run in runs.values():
        run()  # warm
    figures = alternated(runs, given.repeats)
    reference = figures["PyTorch encoder, sorted, 64 a batch"]["median"]
    details = {}
    for path in given.bundles:
        bundle = open_bundle(path)
        predicted = engines[path.name].probabilities(texts).argmax(1)
        right = [bundle.labels[index] == example.label for index, example in zip(predicted, examples, strict=True)]
        details[path.name] = {
            "ratio": round(figures[path.name]["median"] / reference, 2),
            "accuracy": round(float(np.mean(right)), 4),
            "size_bytes": bundle.size_bytes,
            "stages": [stage["use"] for stage in bundle.card["stages"]],
        }
    write("inference_speed", {"unit": "texts/s", "texts": len(texts), "figures": figures, "bundles": details})


def pytorch(texts: list[str]):  # type: ignore[no-untyped-def]
    """A run of the base encoder in PyTorch over all texts; it gives texts a second."""
    from transformers import AutoModel, AutoTokenizer

    folder = locate("all-minilm-l6-v2", SILENT)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    head = torch.nn.Linear(model.config.hidden_size, 77)

    def run() -> float:
        def work() -> None:
            order = np.argsort([len(ids) for ids in tokenizer(texts)["input_ids"]])
            with torch.inference_mode():
                for start in range(0, len(texts), 64):
                    part = [texts[index] for index in order[start : start + 64]]
                    batch = tokenizer(part, padding=True, return_tensors="pt")
                    head(model(**batch).last_hidden_state[:, 0]).argmax(1)

        return len(texts) / timed(work)

    return run


if __name__ == "__main__":
    main()
