"""N-gram models of WikiText-2: order 5, modified Kneser-Ney, here and with KenLM's lmplz where it is at hand.

python benchmarks/ngram.py [--lmplz FOLDER/lmplz] [--repeats 3] [--write]

Both read the same plain text, write and read their own files, and score the test split in a process of their own, so
that starting, reading and loading are in the seconds. lmplz refuses texts with <unk> in them, which WikiText-2 has for
rare words: it is given the text with "<unk>" spelled "<rare>", an ordinary word as "<unk>" is here. KenLM scores with
the program `query` beside lmplz. HALFPINT_LMPLZ may name lmplz instead of the option.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import DATA, alternated, timed, write

ORDER = 5
HERE = {
    "train": "model = NgramModel.fit(open(text, encoding='utf-8'), int(order)); model.save(folder)",
    "score": "print(repr(NgramModel.load(folder).score(open(text, encoding='utf-8')).perplexity))",
    "arpa": "NgramModel.load(folder).to_arpa(Path(text))",
    "read": "NgramModel.from_arpa(Path(text))",
}


def python(step: str, text: Path, folder: Path) -> str:
    """One step here, in a fresh process; what it printed."""
    code = (
        "import sys; from pathlib import Path; from halfpint.models.ngram import NgramModel; "
        f"text, folder, order = sys.argv[1], Path(sys.argv[2]), sys.argv[3]; {HERE[step]}"
    )
    return run([sys.executable, "-c", code, str(text), str(folder), str(ORDER)])


def run(command: list[str], text: Path | None = None) -> str:
    """What a program printed, both ways; `text` is its standard input."""
    with open(text or os.devnull, "rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout + done.stderr


def main() -> None:
    """Train and score, in turn; print, and with --write keep, results/ngram.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lmplz", default=os.environ.get("HALFPINT_LMPLZ"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = compare(Path(scratch), Path(chosen.lmplz) if chosen.lmplz else None, chosen.repeats)
    if chosen.write:
        write("ngram", result)
    else:
        print(json.dumps(result, indent=1))


def compare(folder: Path, lmplz: Path | None, repeats: int) -> dict[str, Any]:
    """Seconds of each step, perplexities, sizes of what is kept."""
    for split in ("train", "test"):
        with gzip.open(DATA / "wikitext2" / f"{split}.txt.gz") as file:
            text = file.read()
        (folder / split).write_bytes(text)
        (folder / f"{split}.rare").write_bytes(text.replace(b"<unk>", b"<rare>"))
    model, arpa, theirs = folder / "model", folder / "halfpint.arpa", folder / "kenlm.arpa"
    found: dict[str, Any] = {}
    steps = {
        "halfpint train": lambda: timed(lambda: python("train", folder / "train", model)),
        "halfpint score": lambda: timed(lambda: found.update(halfpint=python("score", folder / "test", model))),
    }
    if lmplz:
        estimate = [str(lmplz), "-o", str(ORDER), "-S", "1G", "-T", str(folder), "--arpa", str(theirs)]
        score = [str(lmplz.with_name("query")), "-v", "summary"]
        steps["lmplz train"] = lambda: timed(lambda: run(estimate, folder / "train.rare"))
        steps["KenLM score"] = lambda: timed(
            lambda: found.update(kenlm=run([*score, str(theirs)], folder / "test.rare"))
        )
    steps["halfpint write ARPA"] = lambda: timed(lambda: python("arpa", arpa, model))
    steps["halfpint read ARPA"] = lambda: timed(lambda: python("read", arpa, model))
    seconds = alternated(steps, repeats)
    perplexity = {"halfpint": float(found["halfpint"])}
    sizes = {
        "halfpint bundle": sum(file.stat().st_size for file in model.iterdir()),
        "halfpint ARPA": arpa.stat().st_size,
    }
    if lmplz:
        perplexity["KenLM"] = summary(found["kenlm"])
        # The text has "<unk>" where the file, its backslash apart, has the ordinary word.
        escaped = folder / "test.escaped"
        escaped.write_bytes((folder / "test").read_bytes().replace(b"<unk>", b"\\<unk>"))
        perplexity["KenLM on halfpint's ARPA"] = summary(run([*score, str(arpa)], escaped))
        perplexity["halfpint on lmplz's ARPA"] = float(
            run([
                sys.executable, "-c",
                "import sys; from halfpint.models.ngram import NgramModel; "
                "print(NgramModel.from_arpa(sys.argv[1]).score(open(sys.argv[2], encoding='utf-8')).perplexity)",
                str(theirs), str(folder / "test.rare"),
            ])
        )  # fmt: skip
        sizes["lmplz ARPA"] = theirs.stat().st_size
    return {
        "data": "wikitext2", "order": ORDER, "seconds": seconds, "test_perplexity": perplexity, "size_bytes": sizes,
    }  # fmt: skip


def summary(printed: str) -> float:
    """The perplexity that KenLM's query prints, unknown words included."""
    found = re.search(r"Perplexity including OOVs:\s*([\d.e+]+)", printed)
    if not found:
        raise SystemExit(f"no perplexity in what query printed:\n{printed}")
    return float(found[1])


if __name__ == "__main__":
    main()
