"""Our codes in llama.cpp's block types against llama.cpp's own quantiser: the same file, types and bytes, in one run.

The reference is written as f16 GGUF. llama.cpp's quantiser (ggml_quantize_chunk, from the library in xllamacpp) makes
each matrix of it into the type that it has in our file, without and with an importance matrix; so the files differ in
codes and scales alone. Each runs in llama.cpp, the reference in PyTorch; judged on a text that nothing was fitted on.

    python benchmarks/gguf_quantisers.py REFERENCE... [--data CALIBRATION] [--text FILE]
        [--types q4_0,embeddings=q8_0 q8_0] [--methods gptq tuned] [--minutes 3] [--tokens 12288]
        [--work DIR] [--write [NAME]]
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import DATA, llama_cpp, write

from halfpint.bundle import Bundle
from halfpint.compress._imatrix import IMATRIX_FILE
from halfpint.compress.quantize import Quantize
from halfpint.data.corpus import CorpusData, prepare_corpus
from halfpint.engines._llama_library import library
from halfpint.errors import need
from halfpint.evaluate.kept import kept
from halfpint.export.gguf import CODES, Gguf
from halfpint.lookup import text_task
from halfpint.models.packed_gguf import GGUF_FILE
from halfpint.models.pull_language import base_bundle
from halfpint.pipeline import Pipeline
from halfpint.progress import Log

TAKEN = ("file_bytes", "ln_ppl_ratio", "ln_ppl_ratio_error", "kl", "kl_interval", "same_top1", "tokens_per_s")
PLAIN = ("F32", "F16", "BF16")


def main() -> None:
    """Judge ours and llama.cpp's; with --write keep results/gguf_quantisers.json, or NAME.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("references", nargs="+")
    parser.add_argument("--data", default=str(DATA / "calibration_c4_wiki"))
    parser.add_argument("--text", type=Path, default=DATA / "wikitext2" / "test.txt.gz")
    parser.add_argument("--types", nargs="+", default=["q4_0,embeddings=q8_0", "iq4_nl,embeddings=q8_0", "q8_0"])
    parser.add_argument("--methods", nargs="+", default=["tuned"])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--tokens", type=int, default=12_288)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--write", nargs="?", const="gguf_quantisers", default="", metavar="NAME")
    given = parser.parse_args()
    with gzip.open(given.text, "rt", encoding="utf-8") as file:
        text = file.read()
    found = {}
    with TemporaryDirectory() as name:
        for number, reference in enumerate(given.references):
            work = (given.work or Path(name)) / f"{number}-{Path(reference).name}"
            found[Path(reference).name] = compared(reference, text, work, given)
    result = {
        "text": f"{given.text.parent.name}/{given.text.name}", "tokens": given.tokens, "llama_cpp": llama_cpp(),
        "models": found,
    }  # fmt: skip
    if given.write:
        write(given.write, result)


def compared(reference: str, text: str, work: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of one model by type and quantiser."""
    log = Log()
    base = base_bundle(reference, work / "base", log)
    corpus = prepare_corpus(CorpusData(sources=(given.data,), validation_share=0.2, clean=False), work / "corpus", log)
    pipeline = Pipeline(corpus, work / "work", text_task(), text_task().primary(()), log)
    half = pipeline.make([Gguf(type="f16")], start=base).bundle

    def judged(bundle: Bundle) -> dict[str, Any]:
        figures = kept(base, bundle, [text], tokens=given.tokens, log=log)
        return {key: figures[key] for key in TAKEN}

    found: dict[str, Any] = {"parameters_bytes": (base.path / "model.safetensors").stat().st_size}
    for types in given.types:
        rows: dict[str, Any] = {}
        for method in given.methods:
            stage = Quantize(types=types, method=method, minutes=given.minutes)
            coded = pipeline.make([stage], start=base).bundle
            ours = pipeline.make([stage, Gguf(type=CODES)], start=base).bundle
            rows[f"halfpint, {method}"] = judged(ours)
        importance = squares(coded.path / IMATRIX_FILE)
        for label, weights in (("llama.cpp", {}), ("llama.cpp, imatrix", importance)):
            rows[label] = judged(requantised(half, ours, weights, work / label.replace(", ", "-")))
        for label, row in rows.items():
            print(reference, types, label, {key: row[key] for key in TAKEN}, flush=True)
        found[types] = rows
    return found


def squares(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """By llama.cpp's name of a matrix, the mean square of what comes into each column."""
    held = {
        tensor.name: np.array(tensor.data, np.float32).ravel() for tensor in need("gguf", "").GGUFReader(path).tensors
    }
    return {
        name.removesuffix(".in_sum2"): values / held[name.replace(".in_sum2", ".counts")][0]
        for name, values in held.items() if name.endswith(".in_sum2")
    }  # fmt: skip


def requantised(half: Bundle, ours: Bundle, importance: dict[str, Any], folder: Path) -> Bundle:
    """Our bundle with each matrix as llama.cpp's quantiser makes it of the f16 file."""
    gguf = need("gguf", "reading GGUF")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ours.path, folder)
    values = {tensor.name: tensor for tensor in gguf.GGUFReader(half.path / GGUF_FILE).tensors}
    quantise = library().ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    with (folder / GGUF_FILE).open("r+b") as file:
        for tensor in gguf.GGUFReader(ours.path / GGUF_FILE).tensors:
            if tensor.tensor_type.name in PLAIN:
                continue
            columns = int(tensor.shape[0])
            source = np.ascontiguousarray(np.array(values[tensor.name].data, np.float32).reshape(-1, columns))
            out = np.zeros(int(tensor.n_bytes), np.uint8)
            weights = importance.get(tensor.name)
            place = weights.ctypes.data_as(ctypes.c_void_p) if weights is not None else None
            written = quantise(
                int(tensor.tensor_type), source.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
                0, len(source), columns, place,
            )  # fmt: skip
            assert written == len(out), (tensor.name, written, len(out))
            file.seek(int(tensor.data_offset))
            file.write(out.tobytes())
    return Bundle(folder)


if __name__ == "__main__":
    main()
