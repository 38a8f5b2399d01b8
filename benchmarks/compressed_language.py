"""What compressed language models keep of the one that they were made from, beside llama.cpp's own q4_0, in one run.

WikiText-2's test text, the first 12,288 tokens, windows of 512 of which the second half is scored. Each bundle answers
in its own engine; the reference in PyTorch. The peer is the reference as llama.cpp's q4_0 (blocks rounded by their
peaks, embeddings in q8_0), written here, without an importance matrix; llama.cpp's iq4_nl and its quantiser with such a
matrix, which are its better settings, are what gguf_quantisers.py tries. Tokens a second: the wheel xllamacpp (AVX2).
The default tokens judged four versions of the method while it was made: --skip takes others.

    python benchmarks/compressed_language.py REFERENCE BUNDLE... [--tokens 12288] [--write]
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path

from harness import DATA, llama_cpp, write

from halfpint.bundle import open_bundle
from halfpint.commands.export import export
from halfpint.evaluate.kept import kept
from halfpint.export.gguf import Gguf
from halfpint.models.pull_language import base_bundle
from halfpint.progress import Log

TAKEN = (
    "file_bytes", "ln_ppl_ratio", "ln_ppl_ratio_error", "kl", "kl_interval", "same_top1", "perplexity",
    "reference_perplexity", "tokens_per_s",
)  # fmt: skip


def main() -> None:
    """Judge each bundle and the peer; with --write keep results/compressed_language.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reference")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=12_288)
    parser.add_argument("--skip", type=int, default=0, help="characters of the text that are left out at its front")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with gzip.open(DATA / "wikitext2" / "test.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()[given.skip :]
    log, found = Log(), {}
    with tempfile.TemporaryDirectory() as name:
        reference = base_bundle(given.reference, Path(name) / "base", log)
        peer = Path(name) / "q4_0"
        export(given.reference, [Gguf(type="q4_0")], peer, log)
        for path in (peer, *given.bundles):
            bundle = open_bundle(path)
            figures = kept(reference, bundle, [text], tokens=given.tokens, log=log)
            stages = [{"use": one["use"], **one["settings"]} for one in bundle.card["stages"]]
            label = "llama.cpp's q4_0" if path == peer else path.name
            found[label] = {"stages": stages} | {key: figures[key] for key in TAKEN}
            print(label, {key: figures[key] for key in TAKEN}, flush=True)
    result = {
        "reference": given.reference, "tokens": given.tokens, "skipped_characters": given.skip,
        "llama_cpp": llama_cpp(), "models": found,
    }  # fmt: skip
    if given.write:
        write("compressed_language", result)


if __name__ == "__main__":
    main()
