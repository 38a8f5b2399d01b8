"""How the bundles of the tests are made: one row each, here or in a file of its own.

contract/rows/NAME.py is for all that comes with a task. It has `TASK` and `DATA` (the settings of its data, with paths
from the top of the repository), `ROWS` (name -> stage, settings, parent, kind) and `ENGINES` (engine -> bundles that it
runs, each with how far a text alone may differ from the same text in a batch); `NEEDS` (name -> a package without which
it is not made) and `ALIKE` (names of bundles that say the same of many texts) where there are any.
"""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Row(NamedTuple):
    """How a bundle of the tests is made: a stage, on the bundle with the name `parent` (None: on nothing)."""

    use: str
    settings: dict[str, Any]
    parent: str | None
    kind: str


# The smallest of each kind. Settings that name a folder are filled in when it is there.
ROWS = {
    "encoder": Row("models/pull", {"base": "TINY"}, None, "encoder"),
    "majority": Row("train/majority", {}, None, "ready"),
    "linear": Row("train/tfidf_linear", {"features": 300}, None, "linear"),
    "classifier": Row("train/frozen_linear", {"penalty": 1e-2}, "encoder", "classifier"),
    "finetuned": Row(
        "train/finetune", {"epochs": 2, "learning_rate": 3e-3, "start_share": 0.0}, "encoder", "classifier"
    ),
    "one-layer": Row("compress/layers", {"keep": 1}, "encoder", "encoder"),
    "few-tokens": Row("compress/vocab", {"size": 1}, "classifier", "classifier"),
    "onnx": Row("export/onnx", {}, "classifier", "onnx"),
    "onnx-few-tokens": Row("compress/vocab", {"size": 1}, "onnx", "onnx"),
    "onnx-linear": Row("export/onnx", {}, "linear", "onnx"),
    "int8": Row("compress/onnx_int8", {}, "onnx", "onnx"),
    "int8-static": Row("compress/onnx_static", {"samples": 40}, "onnx", "onnx"),
    "int4": Row("compress/onnx_int4", {"samples": 40}, "onnx", "onnx"),
    "blend": Row("train/blend", {"features": 500, "share": 0.3}, "int8", "ready"),
    "int8-linear": Row("compress/onnx_int8", {}, "onnx-linear", "onnx"),
    "ngram": Row("train/ngram", {"order": 3}, None, "ngram"),
    "language": Row(
        "train/pretrain",
        {
            "size": "125K",
            "vocabulary": 400,
            "context": 64,
            "tokens": 4096,
            "batch_tokens": 256,
            "evaluations": 2,
            "precision": "fp32",
        },
        None,
        "language",
    ),
    "masked": Row(
        "train/pretrain",
        {
            "arch": "bert",
            "size": "125K",
            "vocabulary": 400,
            "context": 64,
            "tokens": 2048,
            "batch_tokens": 256,
            "evaluations": 1,
            "precision": "fp32",
        },
        None,
        "language",
    ),
    "masked-encoder": Row("models/encoder", {}, "masked", "encoder"),
    "pulled": Row("models/pull_language", {"base": "TINY-LANGUAGE"}, None, "language"),
    "gguf": Row("export/gguf", {"type": "f16"}, "language", "gguf"),
    "quantized": Row(
        "compress/quantize", {"types": "q4_0", "method": "gptq", "samples": 4, "tokens": 32}, "language", "quantized"
    ),
    "codes": Row("export/gguf", {"type": "codes"}, "quantized", "gguf"),
    "packed": Row("compress/lossless", {}, "gguf", "packed"),
    "unpacked": Row("export/unpacked", {}, "packed", "gguf"),
    "compressed": Row("export/compressed_tensors", {}, "quantized", "compressed_tensors"),
    "chat": Row("train/chat", {"template": "chatml", "epochs": 1, "precision": "fp32"}, "language", "language"),
    "mixed": Row("train/mix", {"order": 3}, "language", "mixed"),
    "student": Row("distil/student", {"layers": "1"}, "finetuned", "classifier"),
    "answers": Row("distil/answers", {}, "finetuned", "answers"),
    "hidden": Row("distil/hidden", {"epochs": 1}, "student", "classifier"),
    "distilled": Row("distil/logits", {"epochs": 1}, "student", "classifier"),
    "static": Row("distil/static", {"epochs": 2, "width": 16, "pairs": 50}, "finetuned", "ready"),
    "small-language": Row("distil/student", {"layers": "1"}, "language", "language"),
    "token-answers": Row("distil/token_answers", {"draws": 8}, "language", "answers"),
    "taught": Row(
        "distil/token_logits", {"tokens": 1024, "batch_tokens": 256, "precision": "fp32"}, "small-language", "language"
    ),
    "inward": Row(
        "distil/token_hidden", {"tokens": 1024, "batch_tokens": 256, "precision": "fp32"}, "small-language", "language"
    ),
    "pseudo": Row("distil/pseudo_labels", {"epochs": 1}, "student", "classifier"),
    "written": Row(
        "distil/sequence",
        {"texts": 20, "new_tokens": 8, "tokens": 512, "batch_tokens": 256, "precision": "fp32"},
        "small-language",
        "language",
    ),
    "on-policy": Row(
        "distil/on_policy",
        {"new_tokens": 8, "tokens": 512, "batch_tokens": 256, "precision": "fp32"},
        "small-language",
        "language",
    ),
    "ranked": Row("distil/ranked_answers", {"draws": 8}, "language", "answers"),
    "universal": Row(
        "distil/universal", {"tokens": 512, "batch_tokens": 256, "precision": "fp32"}, "small-language", "language"
    ),
    "shallow": Row("compress/depth", {"keep": 1, "samples": 16, "tokens": 32}, "language", "language"),
    "narrow": Row("compress/width", {"multiple": 8, "samples": 16, "tokens": 32}, "language", "language"),
    "narrow-classifier": Row("compress/width", {"multiple": 8}, "classifier", "classifier"),
    "slim": Row("compress/hidden", {"multiple": 16, "samples": 16, "tokens": 32}, "language", "language"),
    "sparse": Row("compress/sparse", {"samples": 16, "tokens": 32}, "language", "sparse"),
    "thin": Row("compress/low_rank", {"multiple": 2, "samples": 16, "tokens": 32}, "classifier", "classifier"),
    "healed": Row("distil/heal", {}, "student", "classifier"),
    "adapted": Row("train/adapt", {"tokens": 1024, "batch_tokens": 256, "precision": "fp32"}, "language", "language"),
}


class Learns(NamedTuple):
    """What a stage learns from: the name of a task, and its split."""

    task: str
    split: Any


@cache
def files() -> tuple[dict[str, Any], ...]:
    """The variables of each such file."""
    return tuple(runpy.run_path(str(file)) for file in sorted((ROOT / "tests" / "contract" / "rows").glob("*.py")))


def every(name: str) -> dict[str, Any]:
    """What all of them have under a name of a dictionary."""
    return {key: value for one in files() for key, value in one.get(name, {}).items()}


def alike() -> set[str]:
    """Bundles that say the same of many texts."""
    return {name for one in files() for name in one.get("ALIKE", ())}


@cache
def learns_from(name: str) -> Learns | None:
    """What the row of a name learns from; None where it is in none of these files."""
    for one in files():
        if name in one["ROWS"]:
            return _read(one["TASK"], tuple(sorted(one["DATA"].items())))
    return None


@cache
def _read(name: str, settings: tuple[tuple[str, Any], ...]) -> Learns:
    from halfpint.lookup import open_task
    from halfpint.progress import SILENT

    task = open_task(name)
    given = {key: str(ROOT / value) if key in ("source", "test", "validation") else value for key, value in settings}
    return Learns(name, task.read(task.data(**given), ROOT, SILENT))


ROWS |= {name: Row(*row) for name, row in every("ROWS").items()}
NEEDS = every("NEEDS")
