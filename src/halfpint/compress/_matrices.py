"""Which weights of a language model are quantised, and into which of llama.cpp's types each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfpint.compress._calibration import blocks_of, linears_of
from halfpint.compress._codes import TYPES, BlockType, block_type
from halfpint.errors import HalfpintError, nearest, need

if TYPE_CHECKING:
    import torch

EMBEDDINGS, OUTPUT = "embeddings", "output"
HALF_BITS = 16.0
"""Bits per weight of what stays in fp16."""


@dataclass(frozen=True)
class Matrix:
    """A weight that can be quantised.

    Attributes:
        name: of the parameter in the model.
        role: the last name of its layer (such as q_proj), "embeddings" or "output".
        module: that holds it, as `weight`.
        block: which block it is in; None outside of them.
        rows, columns: outputs and inputs.
        is_turned: whether the module holds it as (inputs, outputs).
    """

    name: str
    role: str
    module: Any
    block: int | None
    rows: int
    columns: int
    is_turned: bool

    @property
    def size(self) -> int:
        """How many weights it has."""
        return self.rows * self.columns

    def read(self) -> torch.Tensor:
        """Its values: float32 of shape (outputs, inputs)."""
        weight: torch.Tensor = self.module.weight.detach().float()
        return weight.T.contiguous() if self.is_turned else weight.clone()

    def write(self, values: torch.Tensor) -> None:
        """Put values of shape (outputs, inputs) in its place."""
        with need("torch", "quantising").no_grad():
            self.module.weight.copy_(values.T if self.is_turned else values)


def matrices_of(model: Any) -> list[Matrix]:
    """The embeddings, the linear layers of each block in order, and the output layer if it has weights of its own."""
    names = {id(module): name for name, module in model.named_modules()}
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    rows, columns = embeddings.weight.shape
    found = [Matrix(f"{names[id(embeddings)]}.weight", EMBEDDINGS, embeddings, None, rows, columns, is_turned=False)]
    linear = need("torch", "quantising").nn.Linear
    for number, block in enumerate(blocks_of(model)):
        for name, module in linears_of(block).items():
            is_turned = not isinstance(module, linear)
            rows, columns = module.weight.shape[::-1] if is_turned else module.weight.shape
            full = f"{names[id(module)]}.weight"
            role = name.rsplit(".", 1)[-1]
            found.append(Matrix(full, role, module, number, rows, columns, is_turned=is_turned))
    if output is not None and output.weight is not embeddings.weight:
        rows, columns = output.weight.shape
        found.append(Matrix(f"{names[id(output)]}.weight", OUTPUT, output, None, rows, columns, is_turned=False))
    return found


def fitting(columns: int) -> list[BlockType]:
    """The types whose blocks divide rows of so many weights, from the most bits to the fewest; of equal bits the better
    one first."""
    return [kind for kind in TYPES.values() if columns % kind.block == 0]


def by_bits(matrices: Sequence[Matrix], bits: float, place: str) -> dict[str, BlockType]:
    """For each matrix the type of most bits per weight, but no more than `bits`; where there is none the one of fewest.

    Matrices that no block divides are left out: they stay in fp16.

    Raises:
        HalfpintError: no type has so few bits.
    """
    least = min(kind.bits for kind in TYPES.values())
    if bits < least:
        raise HalfpintError(
            place, wanted=f"{least:g} bits per weight or more", got=f"{bits:g}",
            todo="Fewer are there where codes are packed afterwards: --packed.",
        )  # fmt: skip
    found = {}
    for matrix in matrices:
        kinds = fitting(matrix.columns)
        if kinds:
            found[matrix.name] = next((kind for kind in kinds if kind.bits <= bits), kinds[-1])
    return found


def by_name(matrices: Sequence[Matrix], types: str, place: str) -> dict[str, BlockType]:
    """The types that a setting names: one for all, then `role=type` for some, with commas.

    Raises:
        HalfpintError: an unknown type or role, nothing for all, or a named role whose rows its blocks do not divide.
    """
    whole: BlockType | None = None
    named: dict[str, BlockType] = {}
    roles = {matrix.role for matrix in matrices}
    for part in filter(None, (part.strip() for part in types.split(","))):
        role, equals, name = part.rpartition("=")
        if not equals:
            whole = block_type(name, place)
        elif role not in roles:
            raise HalfpintError(place, wanted="a kind of weights", got=repr(role), todo=nearest(role, roles))
        else:
            named[role] = block_type(name, place)
    if whole is None:
        raise HalfpintError(place, wanted="a type for all weights first, such as q4_0", got=repr(types))
    found = {}
    for matrix in matrices:
        kind = named.get(matrix.role, whole)
        if matrix.columns % kind.block == 0:
            found[matrix.name] = kind
            continue
        if matrix.role in named:
            raise HalfpintError(
                place, wanted=f"a type for {matrix.role} whose blocks divide rows of {matrix.columns}",
                got=f"{kind.name}, of {kind.block}",
                todo=f"These do: {', '.join(one.name for one in fitting(matrix.columns))}.",
            )  # fmt: skip
        smaller = [one for one in fitting(matrix.columns) if one.bits <= kind.bits] or fitting(matrix.columns)[-1:]
        found |= {matrix.name: smaller[0]} if smaller else {}
    return found


def weight_bytes(matrices: Sequence[Matrix], kinds: dict[str, BlockType]) -> int:
    """Bytes of the matrices in a GGUF file."""
    bits = (one.size * (kinds[one.name].bits if one.name in kinds else HALF_BITS) for one in matrices)
    return int(sum(bits)) // 8


def shown(matrices: Sequence[Matrix], kinds: dict[str, BlockType]) -> str:
    """How many weights have which type, for people."""
    counts: Counter[str] = Counter()
    for matrix in matrices:
        counts[kinds[matrix.name].name if matrix.name in kinds else "f16"] += matrix.size
    total = sum(counts.values())
    parts = ", ".join(f"{name} {count / total:.0%}" for name, count in counts.most_common())
    return f"{8 * weight_bytes(matrices, kinds) / total:.2f} bits per weight ({parts})"
