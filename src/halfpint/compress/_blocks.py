"""The bytes of llama.cpp's block types, from codes and scales and back.

Source: llama.cpp, ggml/src/ggml-common.h and ggml-quants.c (the layout of each block).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.compress._codes import BlockType, Coded

Bytes = npt.NDArray[np.uint8]
_E2M1_CODES = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7], dtype=np.uint8)  # of the ascending table
_POWER_BIAS = 128  # the stored number less this is the power of two that e2m1's doubled values are multiplied by


def pack(coded: Coded) -> Bytes:
    """The bytes of a matrix: uint8 of shape (rows, bytes of a row)."""
    kind = coded.kind
    codes: Bytes = coded.codes.numpy().reshape(-1, kind.block)
    blocks = _LAYOUTS[kind.name](kind, codes, coded)
    return np.ascontiguousarray(blocks).reshape(len(coded.codes), -1)


def _halves(codes: Bytes) -> Bytes:
    """Four bits each: the first half of a group of 32 in the low bits, the second in the high ones."""
    pairs = codes.reshape(len(codes), -1, 2, 16)
    found: Bytes = pairs[:, :, 0] & np.uint8(15) | pairs[:, :, 1] << np.uint8(4)
    return found.reshape(len(codes), -1)


def _half_bytes(values: Any) -> Bytes:
    """fp16 numbers as bytes: shape (blocks, 2)."""
    return np.ascontiguousarray(values.numpy().reshape(-1, 1).astype("<f2")).view(np.uint8)


def _plain(kind: BlockType, codes: Bytes, coded: Coded) -> Bytes:
    """q8_0, q5_0, q5_1, q4_0, q4_1, iq4_nl: fp16 scale, fp16 offset, fifth bits, the rest."""
    parts = [_half_bytes(coded.scales.scale)]
    if kind.has_offset:
        parts.append(_half_bytes(coded.scales.offset))
    if kind.name == "q8_0":
        return np.concatenate([*parts, (codes.astype(np.int16) - 127).astype(np.int8).view(np.uint8)], axis=1)
    if len(kind.table) == 32:
        parts.append(np.packbits(codes >> 4, axis=1, bitorder="little"))
    return np.concatenate([*parts, _halves(codes)], axis=1)


def _mxfp4(kind: BlockType, codes: Bytes, coded: Coded) -> Bytes:
    power = coded.scales.stored["power"].numpy().reshape(-1, 1)
    return np.concatenate([(power + _POWER_BIAS).astype(np.uint8), _halves(_E2M1_CODES[codes])], axis=1)


def _iq4_xs(kind: BlockType, codes: Bytes, coded: Coded) -> Bytes:
    scales = (coded.scales.stored["scales"].numpy().astype(np.int16) + 32).astype(np.uint16)  # (blocks, 8)
    high = ((scales >> 4) << np.arange(0, 16, 2, dtype=np.uint16)).sum(axis=1, dtype=np.uint16)
    low = (scales[:, 0::2] & 15 | (scales[:, 1::2] & 15) << 4).astype(np.uint8)
    high_bytes = high.astype("<u2").reshape(-1, 1).view(np.uint8)
    return np.concatenate([_half_bytes(coded.scales.stored["d"]), high_bytes, low, _halves(codes)], axis=1)


def _quarters(codes: Bytes) -> Bytes:
    """Two bits each: of 128 codes four runs of 32 share 32 bytes."""
    runs = codes.reshape(len(codes), 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8).reshape(1, 1, 4, 1)
    found: Bytes = np.bitwise_or.reduce((runs & 3) << shifts, axis=2)
    return found.reshape(len(codes), -1)


def _q3_k(kind: BlockType, codes: Bytes, coded: Coded) -> Bytes:
    scales = (coded.scales.stored["scales"].numpy().astype(np.int16) + 32).astype(np.uint8)  # (blocks, 16)
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    shifts = np.arange(0, 8, 2, dtype=np.uint8).reshape(1, 4, 1)
    high = np.bitwise_or.reduce((scales >> 4).reshape(-1, 4, 4) << shifts, axis=1)
    runs = codes.reshape(len(codes), 8, 32) >> 2  # the third bit: 1 for 0 and above
    mask = np.bitwise_or.reduce(runs << np.arange(8, dtype=np.uint8).reshape(1, 8, 1), axis=1)
    return np.concatenate([mask, _quarters(codes), low, high, _half_bytes(coded.scales.stored["d"])], axis=1)


def _q2_k(kind: BlockType, codes: Bytes, coded: Coded) -> Bytes:
    stored = coded.scales.stored
    scales = stored["scales"].numpy() | stored["mins"].numpy() << 4
    ends = [_half_bytes(stored["d"]), _half_bytes(stored["dmin"])]
    return np.concatenate([scales, _quarters(codes), *ends], axis=1)


_LAYOUTS = {
    **dict.fromkeys(("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"), _plain),
    "mxfp4": _mxfp4,
    "iq4_xs": _iq4_xs,
    "q3_k": _q3_k,
    "q2_k": _q2_k,
}
