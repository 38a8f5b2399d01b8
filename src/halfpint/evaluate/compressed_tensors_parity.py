"""The gate of exports to compressed-tensors: that package reads the values that were meant, the model says the same.

Run as `python -m halfpint.evaluate.compressed_tensors_parity TRAINED EXPORTED TYPE`, in a process of its own: it prints
the figures as one line of JSON, or why the export is refused.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, RefusedError, need
from halfpint.evaluate._distributions import WINDOW, check_bounds, compare_distributions, logits_of
from halfpint.evaluate._varied_strings import prose
from halfpint.machine import end_with_parent
from halfpint.models.compressed_tensors import PACKED
from halfpint.models.sizes import CAUSAL
from halfpint.tokenizers.load import open_tokenizer

EXACT, MOVED = "exact", "moved"
"""The types: each weight in codes is the same to the bit, or offsets went to the nearest zero point."""
BOUNDS = {EXACT: (1e-3, 0.99), MOVED: (0.3, 0.70)}
"""By type: the largest mean KL divergence (nats) from the bundle in PyTorch, the smallest share of the same likeliest
token. Exact ones differ by the embeddings alone, which are rounded to fp16; the others may lose what 4 bits do."""


def check_compressed(trained: Path, exported: Path, type_: str) -> dict[str, Any]:
    """Compare the model in folder `exported`, as compressed-tensors reads it, with the quantised one in `trained`.

    Returns:
        exact: matrices in codes whose values are the same to the bit; error: root mean square of the difference of all
        matrices in codes, over that of their values; then the figures of `compare_distributions`.

    Raises:
        RefusedError: one of them is not as it should be; with figures.
    """
    ours, theirs = load_model(trained, CAUSAL), load_model(exported, CAUSAL)
    figures = check_weights(ours, theirs, exported, type_)
    config = ours.config
    first = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
    before = [first[0] if isinstance(first, list) else first] if first is not None else []
    window = min(WINDOW, int(getattr(config, "max_position_embeddings", None) or WINDOW))
    ids = open_tokenizer(trained).encode(prose(), add_special_tokens=False).ids
    figures |= compare_distributions(logits_of(ours), logits_of(theirs), ids, window, before)
    most, least = BOUNDS[type_]
    told = check_bounds(figures, BOUNDS[type_], may_leave=type_ == MOVED)
    if told:
        raise _refused(
            f"a mean KL divergence up to {most}, the same top token for {least:.0%} and a perplexity within the "
            "interval of the quantised one's", told,
        )  # fmt: skip
    return figures


def check_weights(ours: Any, theirs: Any, exported: Path, type_: str) -> dict[str, Any]:
    """Compare the weights of two models: those in codes as `type_` has it, others as the file has them.

    Raises:
        RefusedError: one of them is another.
    """
    found = dict(theirs.named_parameters())
    squares, whole, exact = 0.0, 0.0, 0
    with need("safetensors", "an export").safe_open(exported / "model.safetensors", framework="pt") as held:
        names = set(held.keys())
        for name, weight in ours.named_parameters():
            wanted, got = weight.detach(), found[name].detach().float()
            if name + PACKED in names:
                off = float((wanted - got).double().square().sum())
                squares, whole = squares + off, whole + float(wanted.double().square().sum())
                exact += off == 0
                if off and type_ == EXACT:
                    raise _refused(f"the values of {name}", f"others, {math.sqrt(off / wanted.numel()):.2g} away")
            elif name in names and not wanted.to(held.get_tensor(name).dtype).float().equal(got):
                raise _refused(f"the values of {name}, rounded to its type", "others")
    return {"exact": exact, "error": math.sqrt(squares / whole) if whole else 0.0}


def _refused(wanted: str, got: str) -> RefusedError:
    return RefusedError(
        "export compressed_tensors", wanted=wanted, got=got, todo="The export is refused; the bundle is kept."
    )


def main(arguments: Sequence[str]) -> int:
    """Check, print, and give the exit status."""
    trained, exported, type_ = arguments
    try:
        found = check_compressed(Path(trained), Path(exported), type_)
    except HalfpintError as error:
        names = ("place", "wanted", "got", "todo")
        print(json.dumps({"refused": {name: getattr(error, name) for name in names}}))
        return error.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
