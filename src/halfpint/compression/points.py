"""One point between bytes and quality: what a compressed language model kept, and how large its file is."""

from __future__ import annotations

from typing import Any

from halfpint.bundle import Bundle
from halfpint.compression.request import Run
from halfpint.evaluate.kept import kept
from halfpint.evaluate.writing import writing
from halfpint.models.block_codes import CODES_FILE

KEPT_TOKENS = 16_384
"""Tokens of text that nothing was fitted on, to tell what was kept by."""
PROBED_TOKENS = 4096
"""Tokens that a point is judged by before it is worth more."""
PROBE_SAMPLES = 4
"""Rows of text that tell what counts, for a point that is only tried."""
BITS = (8.5, 6.0, 5.5, 5.0, 4.5, 4.25, 3.5, 2.7)
"""Bits a weight that are tried where llama.cpp's own file is wanted."""


def row_of(
    run: Run, name: str, bundle: Bundle, *, tokens: int = KEPT_TOKENS, to_choose: bool = False
) -> dict[str, Any]:  # fmt: skip
    """What a bundle kept on text that nothing was chosen by, and how fast it writes; `to_choose`: what it kept on the
    text to choose by."""
    found = kept(run.start, bundle, run.held if to_choose else run.judged, tokens=tokens, log=run.log)
    reference_bytes = (run.start.path / "model.safetensors").stat().st_size
    row = {"name": name, **found, "reference_bytes": reference_bytes, **({} if to_choose else writing(bundle))}
    entry = bundle.card["stages"][-1]
    return row | ({"loaded_bytes": entry["bytes_before"]} if "bytes_before" in entry else {})


def file_bytes(bundle: Bundle, *, packed: bool) -> int:
    """About the bytes of the file that a quantised bundle comes to; it is written for the way that is taken alone."""
    if packed:
        return int(bundle.card["stages"][-1]["packed_bytes"]) + int(bundle.card["stages"][-1]["other_bytes"])
    return sum((bundle.path / file).stat().st_size for file in (CODES_FILE, "tokenizer.json"))
