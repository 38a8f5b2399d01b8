"""What running a language model takes: bytes of its weights by type, of its keys and values, and time per token.

Running means llama.cpp, with a GGUF file as `export/gguf` writes it. Reading a prompt (prefill) is bound by products,
writing (decode) by how fast weights come from memory, and small layers by what each takes besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from halfpint.models.shape import Shape
from halfpint.models.sizes import MASKED

# type -> bytes of a value of a matrix, and of the embeddings: blocks of 32 values share a scale, and an offset in q4_1.
_BYTES: Mapping[str, tuple[float, float]] = {
    "fp32": (4.0, 4.0),
    "bf16": (2.0, 2.0),
    "q8_0": (34 / 32, 34 / 32),
    "q4_1": (20 / 32, 34 / 32),
    "q4_0": (18 / 32, 34 / 32),
}
TYPES = tuple(_BYTES)
"""Types of weights that a model is served in."""
_TOKEN_BYTES = 24  # of the file: a token's text, its type, its score or its part of the merges
_CACHE_VALUE = 2  # bytes: keys and values are kept in f16
_BATCH = 512  # of `engines/_llama_library`: tokens at once
_LOGITS = 8  # tokens whose logits are there at once: those that texts are written on from
_ACTIVATIONS = 8  # values as wide as the layers that a token of a batch takes while it is read
PROCESS_BYTES = 95_000_000
"""What a process that runs a GGUF file takes besides, Python and NumPy included."""


@dataclass(frozen=True)
class LlamaSpeed:
    """How fast llama.cpp is here with weights of one type.

    Attributes:
        prefill_ops: operations per second of products, while a prompt is read.
        prefill_value_s: seconds that each value of the states between layers takes besides, a token of a prompt.
        decode_bytes_per_s: of weights, while it writes.
        layer_s: seconds that each layer takes besides, a token written.
    """

    prefill_ops: float
    prefill_value_s: float
    decode_bytes_per_s: float
    layer_s: float


def weight_bytes(shape: Shape, kind: str) -> int:
    """Bytes of the file with weights of a type of `TYPES`; norms stay in fp32, 4-bit files keep embeddings in q8_0."""
    matrix, table = _BYTES[kind]
    tables = shape.embeddings * (1 if shape.is_tied else 2)
    rest = matrix if shape.is_rough else 4  # of a rough shape that is mostly what its matrices miss
    return int(shape.body * matrix + tables * table + rest * shape.others + _TOKEN_BYTES * shape.vocabulary)


def download_bytes(shape: Shape, value: int = 2) -> int:
    """Bytes of a checkpoint as the Hub has it, mostly in bf16: `value` bytes per parameter."""
    return shape.parameters * value


def cache_bytes(shape: Shape, context: int) -> int:
    """Bytes of the keys and values of so many tokens, in f16: 2 a layer, for each head that has its own; layers that
    see a window keep no more tokens than it has, and an encoder keeps none."""
    if shape.objective == MASKED:
        return 0
    layers = shape.layers if shape.keeping is None else shape.keeping
    tokens = (layers - shape.windowed) * context + shape.windowed * min(context, shape.window or context)
    return 2 * tokens * shape.kv_heads * shape.head_width * _CACHE_VALUE


def read_bytes(shape: Shape, kind: str) -> int:
    """Bytes of weights that are read for each token written: the table of the input is looked up, not read."""
    matrix, table = _BYTES[kind]
    return int(shape.body * matrix + shape.head * table)


def serving_bytes(shape: Shape, kind: str, context: int) -> int:
    """Bytes that serving takes at its peak: the file, keys and values, states of a batch, and the process."""
    logits = 4 * _LOGITS * shape.vocabulary
    states = 4 * _BATCH * (_ACTIVATIONS * shape.width + 2 * shape.inner)
    return weight_bytes(shape, kind) + cache_bytes(shape, context) + logits + states + PROCESS_BYTES


def decode_seconds(shape: Shape, kind: str, speed: LlamaSpeed, context: int) -> float:
    """Seconds per token written where so many tokens stand before it, on average half of `context`."""
    read = read_bytes(shape, kind) + cache_bytes(shape, context) / 2
    return read / speed.decode_bytes_per_s + shape.layers * speed.layer_s


def prefill_seconds(shape: Shape, speed: LlamaSpeed, tokens: int) -> float:
    """Seconds per token of a prompt of so many tokens: the output layer is computed for the last one alone."""
    attention = 2.0 * shape.layers * shape.heads * shape.head_width * tokens
    products = (2.0 * shape.body + attention + 2.0 * shape.head / max(tokens, 1)) / speed.prefill_ops
    return products + shape.layers * shape.width * speed.prefill_value_s


def as_json(speeds: Mapping[str, LlamaSpeed]) -> dict[str, Any]:
    """Speeds by type, as JSON can hold them."""
    return {name: vars(speed) for name, speed in speeds.items()}
