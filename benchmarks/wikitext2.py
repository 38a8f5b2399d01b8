"""WikiText-2 from scratch within 45 minutes: test perplexity a word of a trained model, its counts and its cache.

Words are the tokens, `<unk>` is one of them and the end of a line another, as in KenLM's 220 of five-grams. The test
text is read once, by `halfpint evaluate`; everything else is chosen on the validation text.

    python benchmarks/wikitext2.py [--out FOLDER] [--minutes 38]     # a FOLDER that is there already is judged alone
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from harness import DATA, write

from halfpint.bundle import open_bundle

TEXTS = DATA / "wikitext2"
TAKEN = ("perplexity_per_word", "perplexity_per_word_interval", "bits_per_byte", "tokens", "tokens_per_s", "size_bytes")


def main() -> None:
    """Train if need be, judge, write results/wikitext2.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("wikitext2-model"))
    parser.add_argument("--minutes", type=float, default=38.0)
    given = parser.parse_args()
    settings = [
        "--arch", "llama", "--tokenizer", "word", "--vocab", "33000", "--size", "12M", "--as-it-is", "--counts",
        "--minutes", f"{given.minutes:g}",
    ]  # fmt: skip
    if not given.out.exists():
        texts = [str(TEXTS / "train.txt.gz"), "--validation", str(TEXTS / "valid.txt.gz")]
        halfpint("pretrain", *texts, *settings, "--out", str(given.out))
    stages = open_bundle(given.out).card["stages"]
    said = halfpint("evaluate", str(given.out), str(TEXTS / "test.txt.gz"), "--json")
    figures = json.loads(said)
    write(
        "wikitext2",
        {
            "settings": " ".join(settings[:-2]),
            "seconds": sum(stage["seconds"] for stage in stages),
            "stages": [{key: one for key, one in stage.items() if key != "curve"} for stage in stages],
            "test": {name: figures[name] for name in TAKEN},
        },
    )


def halfpint(*words: str) -> str:
    """What a command prints."""
    done = subprocess.run([sys.executable, "-m", "halfpint", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
