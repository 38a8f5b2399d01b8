"""Codes of llama.cpp's blocks as whole numbers times a scale, and those packed as compressed-tensors has them.

A weight is `(code - zero) * scale`, with a scale and a zero for 32 neighbours of a row. Blocks without an offset are
just that. With one they are `code * scale + offset`: the same only where the offset is a multiple of the scale.

Sources: llama.cpp, ggml/src/ggml-common.h and ggml-quants.c (the layout of the blocks); compressed-tensors 0.20,
compressors/pack_quantized (the layout of the packed numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.models.compressed_tensors import PACKED, SCALE, SHAPE, ZERO

GROUP = 32
"""Weights that share a scale."""
# The types that are whole numbers times a scale: bytes of a block, bits a number is packed in.
BLOCKS = {"q8_0": (34, 8), "q5_0": (22, 8), "q4_1": (20, 4), "q4_0": (18, 4)}
_MIDDLE = {4: 8, 8: 128}  # by the bits of a packed number: what stands for zero where there is no zero point
_MOST_ZERO = 15


@dataclass(frozen=True)
class Integers:
    """A matrix in whole numbers.

    Attributes:
        numbers: int16 of shape (outputs, inputs): weights as multiples of their scale.
        scales: float16 of shape (outputs, inputs / 32).
        zeros: the code, 0 to 15, that stands for zero in each group, uint8 of that shape; None where it is the middle.
        bits: that a number is packed in, 4 or 8.
    """

    numbers: npt.NDArray[np.int16]
    scales: npt.NDArray[np.float16]
    zeros: npt.NDArray[np.uint8] | None
    bits: int

    @property
    def scheme(self) -> tuple[int, bool]:
        """Its bits, and whether the middle stands for zero: what tells formats of layers apart."""
        return self.bits, self.zeros is None

    def widened(self) -> Integers:
        """The same weights with 8 bits a number and without zero points."""
        return replace(self, zeros=None, bits=8)

    def values(self) -> npt.NDArray[np.float32]:
        """The weights: float32 of shape (outputs, inputs)."""
        grouped = self.numbers.reshape(len(self.numbers), -1, GROUP) * self.scales.astype(np.float32)[:, :, None]
        found: npt.NDArray[np.float32] = grouped.reshape(self.numbers.shape)
        return found

    def packed(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The tensors to store for the weight `name`.

        Packed numbers are int32 of shape (outputs, inputs * bits / 32), the first in the lowest bits; zero points are
        packed along the outputs, int32 of shape (outputs * bits / 32, rounded up, inputs / 32).
        """
        middle: Any = _MIDDLE[self.bits]
        if self.zeros is not None:
            middle = np.repeat(self.zeros, GROUP, axis=1)
        found: dict[str, npt.NDArray[Any]] = {
            name + PACKED: _words((self.numbers + middle).astype(np.uint8), self.bits),
            name + SCALE: self.scales,
            name + SHAPE: np.array(self.numbers.shape, dtype=np.int64),
        }
        if self.zeros is not None:
            found[name + ZERO] = np.ascontiguousarray(_words(self.zeros.T, self.bits).T)
        return found


def integers_of(type_: str, blocks: npt.NDArray[np.uint8]) -> tuple[Integers, int]:
    """A matrix in blocks as whole numbers, and in how many groups the offset is no multiple of the scale.

    Such an offset goes to the nearest zero point, and the scale to the one under which the squared error is least; the
    codes stay.

    Args:
        type_: one of `BLOCKS`.
        blocks: uint8 of shape (outputs, bytes of a row).
    """
    size, bits = BLOCKS[type_]
    parts = blocks.reshape(-1, size)
    shape = (len(blocks), -1)
    scales = parts[:, :2].copy().view("<f2").reshape(-1)
    if type_ == "q8_0":
        numbers = parts[:, 2:].view(np.int8).astype(np.int16)
    elif type_ == "q5_0":
        fifth = np.unpackbits(parts[:, 2:6], axis=1, bitorder="little")
        numbers = (_nibbles(parts[:, 6:]) | fifth << 4).astype(np.int16) - 16
    elif type_ == "q4_0":
        numbers = _nibbles(parts[:, 2:]).astype(np.int16) - 8
    else:
        offsets = parts[:, 2:4].copy().view("<f2").reshape(-1)
        numbers, scales, zeros, moved = _with_zeros(_nibbles(parts[:, 4:]), scales, offsets)
        return Integers(numbers.reshape(shape), scales.reshape(shape), zeros.reshape(shape), bits), moved
    return Integers(numbers.reshape(shape), scales.reshape(shape), None, bits), 0


def _nibbles(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The 32 numbers of each block of 16 bytes: the first half is in the low bits, the second in the high ones."""
    return np.concatenate([codes & 15, codes >> 4], axis=1)


def _with_zeros(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16], offsets: npt.NDArray[np.float16]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float16], npt.NDArray[np.uint8], int]:
    """Codes, scales and offsets of blocks as numbers, scales and zero points, and how many of these are moved offsets.

    Codes are of shape (blocks, 32).
    """
    scale, offset = scales.astype(np.float64), offsets.astype(np.float64)
    values = codes * scale[:, None] + offset[:, None]
    is_flat = scale == 0  # all weights of the group are its offset
    codes, scale = np.where(is_flat[:, None], np.uint8(1), codes), np.where(is_flat, offset, scale)
    offset = np.where(is_flat, 0.0, offset)
    zeros = np.clip(np.rint(-offset / np.where(scale == 0, 1.0, scale)), 0, _MOST_ZERO)
    numbers = codes.astype(np.int16) - zeros.astype(np.int16)[:, None]
    moved = offset != -zeros * scale
    squares = np.maximum((numbers.astype(np.float64) ** 2).sum(1), 1)
    scale = np.where(moved, (numbers * values).sum(1) / squares, scale)
    return numbers.astype(np.int16), scale.astype(np.float16), zeros.astype(np.uint8), int(moved.sum())


def _words(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int32]:
    """Codes in words of 32 bits along each row, the first in the lowest bits; what is left of a last word is 0."""
    if bits == 4:
        codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 2)))
        codes = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    found: npt.NDArray[np.int32] = np.ascontiguousarray(codes).view("<i4")
    return found
