"""Which matrix gets how many bits, so that a file stays within its bytes and the model says what it said.

What an error in a weight costs is told by the Fisher information: the divergence that a small change d of the weights
makes is d' F d / 2, of which the diagonal is taken (Y. LeCun et al., "Optimal Brain Damage", 1990, section 2; for whole
language models S. Kim et al., "SqueezeLLM", 2023, section 4.1). The squared gradients are those of tokens drawn from
the model itself. Each matrix then starts at its smallest type, and bytes go where they save most.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.compress._calibration import Rows, fast
from halfpint.compress._codes import BlockType, round_to
from halfpint.compress._matrices import HALF_BITS, Matrix, fitting
from halfpint.errors import HalfpintError, need
from halfpint.progress import Log

if TYPE_CHECKING:
    import torch

_SAMPLED = 256  # outputs of a matrix that its costs are estimated from
_FIXED = 24_000  # bytes: keys, counts and what else a file holds besides
_PER_TENSOR = 128
_PER_STRING = 8
_PACKED_TOKEN = 0.1  # bytes: the kinds of tokens, packed


def costs_of(model: Any, matrices: Sequence[Matrix], rows: Rows, seed: int, log: Log) -> dict[str, dict[str, float]]:
    """By matrix and type, the divergence (nats a token) that rounding it to that type is expected to make.

    Estimated from the gradients of some rows of text, and from some of each matrix's outputs.
    """
    torch = need("torch", "quantising")
    generator = torch.Generator().manual_seed(seed)
    sampled = {
        matrix.name: torch.randperm(matrix.rows, generator=generator)[:_SAMPLED].sort().values for matrix in matrices
    }
    fisher = {matrix.name: torch.zeros(len(sampled[matrix.name]), matrix.columns) for matrix in matrices}

    def take(matrix: Matrix, gradient: Any) -> None:
        fisher[matrix.name] += gradient[sampled[matrix.name]].square()

    tokens = squared_gradients(model, matrices, rows, seed, log, take)
    found = {}
    with log.bar("trying types", len(matrices)) as bar:
        for matrix in matrices:
            values = matrix.read()[sampled[matrix.name]]
            share = matrix.rows / len(values)
            found[matrix.name] = {
                kind.name: _cost(kind, values, fisher[matrix.name]) * share / (2 * tokens)
                for kind in fitting(matrix.columns)
            }
            bar.advance()
    return found


def squared_gradients(
    model: Any,
    matrices: Sequence[Matrix],
    rows: Rows,
    seed: int,
    log: Log,
    take: Callable[[Matrix, torch.Tensor], None],
) -> int:
    """Show `take` for each row of tokens and each matrix the gradient (outputs, inputs) of what the model itself drew,
    summed over the tokens, whose expected square is the Fisher information; gives the number of tokens."""
    torch = need("torch", "quantising")
    generator = torch.Generator().manual_seed(seed)
    for one in model.parameters():
        one.requires_grad_(False)
    for matrix in matrices:
        matrix.module.weight.requires_grad_(True)
    tokens = 0
    with log.bar("sensitivity", len(rows)) as bar:
        for row in rows:
            with fast():
                logits = model(input_ids=torch.from_numpy(row)[None], use_cache=False).logits[0].float()
            with torch.no_grad():
                drawn = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
            torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
            tokens += len(row)
            for matrix in matrices:
                take(matrix, matrix.module.weight.grad.T if matrix.is_turned else matrix.module.weight.grad)
                matrix.module.weight.grad = None
            bar.advance()
    for one in model.parameters():
        one.requires_grad_(True)
    return tokens


def _cost(kind: BlockType, values: torch.Tensor, fisher: torch.Tensor) -> float:
    error = round_to(kind, values).values() - values
    return float((fisher * error.square()).sum())


def allocate(
    matrices: Sequence[Matrix], costs: Mapping[str, Mapping[str, float]], limit: int, place: str
) -> dict[str, BlockType]:
    """Types under which all matrices take at most `limit` bytes, and the expected divergence is small.

    Bytes are given out by what each saves, along the lower hull of every matrix's costs: the best for the bytes that it
    comes to use.

    Raises:
        HalfpintError: the smallest types take more.
    """
    chosen: dict[str, BlockType] = {}
    steps: list[tuple[float, int, str, BlockType]] = []
    total = 0
    for matrix in matrices:
        kinds = sorted(fitting(matrix.columns), key=lambda kind: (kind.bits, costs[matrix.name][kind.name]))
        if not kinds:
            total += int(matrix.size * HALF_BITS) // 8
            continue
        hull = _hull([(_size(matrix, kind), costs[matrix.name][kind.name], kind) for kind in kinds])
        chosen[matrix.name] = hull[0][2]
        total += hull[0][0]
        for (size, cost, _), (more, less, kind) in pairwise(hull):
            steps.append(((cost - less) / (more - size), more - size, matrix.name, kind))
    if total > limit:
        raise HalfpintError(
            place, wanted=f"{total:,} bytes of matrices or more, the smallest types that fit their rows",
            got=f"{limit:,}", todo="Give more bytes, or prune the model first.",
        )  # fmt: skip
    steps.sort(key=lambda step: -step[0])
    stopped: set[str] = set()
    for _, more, name, kind in steps:
        if name in stopped or total + more > limit:
            stopped.add(name)  # what comes after it goes on from there
            continue
        chosen[name] = kind
        total += more
    return chosen


def _size(matrix: Matrix, kind: BlockType) -> int:
    return matrix.size // kind.block * kind.size


def _hull(points: Sequence[tuple[int, float, BlockType]]) -> list[tuple[int, float, BlockType]]:
    """The points with rising size whose cost falls, each step saving less a byte than the one before."""
    found: list[tuple[int, float, BlockType]] = []
    for size, cost, kind in points:
        if found and (size == found[-1][0] or cost >= found[-1][1]):
            continue
        while len(found) > 1:
            (first, high, _), (middle, low, _) = found[-2:]
            if (high - low) * (size - middle) > (low - cost) * (middle - first):
                break
            found.pop()
        found.append((size, cost, kind))
    return found


def other_bytes(folder: Path, model: Any, matrices: Sequence[Matrix], *, packed: bool = False) -> int:
    """About the bytes of a GGUF file besides the matrices, a little more than less: vectors and the tokenizer.

    Args:
        packed: those of the file as models/packed_gguf packs it.
    """
    held = sum(matrix.size for matrix in matrices)
    vectors = 4 * (sum(one.numel() for one in model.parameters()) - held)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = (one if isinstance(one, str) else one[0] for one in tokenizer["model"]["vocab"])
    tokens = [*vocabulary, *(one["content"] for one in tokenizer.get("added_tokens", []))]
    merges = tokenizer["model"].get("merges", [])
    texts = [*tokens, *(one if isinstance(one, str) else " ".join(one) for one in merges)]
    template = folder / "chat_template.jinja"
    named = sum(1 for _ in model.parameters()) * _PER_TENSOR
    rendered = template.stat().st_size if template.is_file() else 0
    if packed:
        shorter = zlib.compress(
            b"".join(len(text).to_bytes(_PER_STRING, "little") + text.encode() for text in texts), 9
        )
        return int(vectors + len(shorter) + _PACKED_TOKEN * len(tokens) + named + rendered // 2)
    length = sum(len(text.encode("utf-8")) + _PER_STRING for text in texts)
    return int(vectors + length + 4 * len(tokens) + named + _FIXED + rendered)
