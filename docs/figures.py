"""The tables of README.md that show results of benchmarks, from benchmarks/results: a figure there was printed here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
SIZES = (
    ("six layers, fp32", "all layers, fp32"),
    ("six layers, 8 bits", "all layers, int8"),
    ("six layers, used tokens, 4 bits", "all layers, vocab, 4 bits"),
    ("three layers, used tokens, 8 bits, embeddings in 4", "3 layers, vocab, 8 bits, embeddings in 4"),
    ("three layers, used tokens, 4 bits", "3 layers, vocab, 4 bits"),
    ("two layers, used tokens, 8 bits, embeddings in 4", "2 layers, vocab, 8 bits, embeddings in 4"),
    ("two layers, used tokens, 4 bits", "2 layers, vocab, 4 bits"),
)
MODELS = (
    ("q4_0, without an importance matrix (llama.cpp's format, rounded by its rule)", "llama.cpp's q4_0"),
    ("`halfpint compress … --quantize 4` (llama.cpp reads it)", "q4"),
    ("`halfpint compress … --target 73MB`", "t73"),
    ("`halfpint compress … --target 60MB`", "t60"),
    ("`halfpint compress … --quantize 1.975 --packed --minutes 45`", "p34"),
)


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def encoders() -> list[str]:
    """What sizes of an encoder keep of it, and how fast they are."""
    found = _read("small_encoders")
    lines = ["| | size | accuracy | kept | speed |", "|---|---|---|---|---|"]
    for words, name in SIZES:
        row, ratio = found["sizes"][name], found["speed"][name]["ratio"]
        size, kept = f"{row['size_bytes'] / 1e6:.1f} MB", f"{row['held_kept']:.1%}".replace("%", " %")
        lines.append(f"| {words} | {size} | {row['held']:.3f} | {kept} | {ratio:.1f}x |")
    return lines


def language() -> list[str]:
    """What compressed language models keep."""
    found = _read("compressed_language")["models"]
    lines = ["| | bytes | ln(PPL/PPL0) | mean KL | same first choice |", "|---|---|---|---|---|"]
    for words, name in MODELS:
        row = found[name]
        ratio = f"{row['ln_ppl_ratio']:.3f} ± {row['ln_ppl_ratio_error']:.3f}"
        top = f"{row['same_top1']:.1%}".replace("%", " %")
        lines.append(f"| {words} | {row['file_bytes'] / 1e6:.1f} MB | {ratio} | {row['kl']:.3f} | {top} |")
    return lines


def teacher() -> list[str]:
    """What a teacher was worth, on both sides that it was tried on."""
    found = _read("students")
    told = []
    for side in ("treebank test", "dev"):
        (low, high), texts = found[side]["interval"], found[side]["texts"]
        said = f"{found[side]['difference']:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
        shown = "" if low > 0 or high < 0 else ", which shows nothing"
        told.append(f"{side}, {texts:,} texts: {said}{shown}")
    count = len(found["dev"]["students"])
    runs = "one run" if count == 1 else f"{count} runs"
    return [f"Accuracy with the teacher less without, {runs} of each:", "", *(f"- {one}" for one in told)]


TABLES: dict[str, Callable[[], list[str]]] = {"encoders": encoders, "language": language, "teacher": teacher}


def filled(page: str) -> str:
    """The page with each table between its marks made anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- results: {name} -->", f"<!-- end: {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"README.md: expected one place for the results {name!r}")
        before, _, rest = page.partition(begin)
        page = "\n".join([f"{before}{begin}", "", *make(), "", f"{end}{rest.partition(end)[2]}"])
    return page
