"""Weights in llama.cpp's block types: the nearest values that a type can hold, with scales of our own choosing.

All types here have one form: a weight is `scale * table[code] + offset`, where `group` neighbours of a row share scale
and offset and `block` neighbours share what is stored together. They differ in the table and in what scales and
offsets can be stored: an fp16 number a group, a power of two, or 4 or 6 bits a group times an fp16 number a block.
How they are laid out in bytes is in `_blocks`.

Scales are searched so that the weighted squared error is least: from several starts by the range, then by turns the
nearest codes and the least-squares scale of those codes.
Sources: llama.cpp, ggml/src/ggml-common.h (the tables); OCP Microscaling Formats (MX) v1.0 (MXFP4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from halfpint.errors import HalfpintError, nearest, need

if TYPE_CHECKING:
    import torch

_NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)
_AT_ONCE = 1 << 15  # weights that are searched at once: they stay in the cache, and threads do not wait for each other
_HALVES = 256  # the largest value in a table, in halves: what is nearest changes at a multiple of a half
_STARTS, _QUICK_STARTS = 9, 3
_ROUNDS = 3
_SMALLEST_POWER = -125  # of two: what is below would be stored as a subnormal number


@dataclass(frozen=True)
class BlockType:
    """One of llama.cpp's types of weights.

    Attributes:
        name: llama.cpp's, in small letters.
        block: weights stored together; a row has a multiple of it.
        size: bytes of a block.
        group: weights that share a scale.
        table: the values of the codes, ascending.
        has_offset: whether an offset is added.
        scales: how scales are stored: "half" (fp16, one a group), "power" (a power of two, one a group), "signed" (6
            bits with a sign a group, times an fp16 number a block), "positive" (4 bits a group for the scale and as
            many for how far the offset is below zero, each times an fp16 number a block).
    """

    name: str
    block: int
    size: int
    group: int
    table: tuple[int, ...]
    has_offset: bool = False
    scales: str = "half"

    @property
    def bits(self) -> float:
        """Bits per weight, scales and all."""
        return 8 * self.size / self.block

    @property
    def is_uniform(self) -> bool:
        """Whether neighbouring values of the table are equally far apart."""
        return self.table[-1] - self.table[0] == len(self.table) - 1


def _steps(low: int, high: int) -> tuple[int, ...]:
    return tuple(range(low, high + 1))


TYPES = {
    kind.name: kind
    for kind in (
        BlockType("q8_0", 32, 34, 32, _steps(-127, 127)),
        BlockType("q5_1", 32, 24, 32, _steps(0, 31), has_offset=True),
        BlockType("q5_0", 32, 22, 32, _steps(-16, 15)),
        BlockType("q4_1", 32, 20, 32, _steps(0, 15), has_offset=True),
        BlockType("iq4_nl", 32, 18, 32, _NON_LINEAR),
        BlockType("q4_0", 32, 18, 32, _steps(-8, 7)),
        BlockType("iq4_xs", 256, 136, 32, _NON_LINEAR, scales="signed"),
        BlockType("mxfp4", 32, 17, 32, _E2M1, scales="power"),
        BlockType("q3_k", 256, 110, 16, _steps(-4, 3), scales="signed"),
        BlockType("q2_k", 256, 84, 16, _steps(0, 3), has_offset=True, scales="positive"),
    )
}
"""By name, from the most bits to the fewest."""


def block_type(name: str, place: str) -> BlockType:
    """The type with that name.

    Raises:
        HalfpintError: there is none.
    """
    if name not in TYPES:
        raise HalfpintError(
            place, wanted="a type of weights", got=repr(name), todo=nearest(name, TYPES),
            said=f"There is no type of weights {name!r} ({place}).",
        )  # fmt: skip
    return TYPES[name]


@dataclass
class Scales:
    """Scales and offsets of blocks, as they are stored.

    Attributes:
        scale, offset: float32 of shape (blocks, groups of a block): exactly what is read back.
        stored: the parts that are stored, by name.
    """

    scale: torch.Tensor
    offset: torch.Tensor
    stored: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Coded:
    """A matrix in codes.

    Attributes:
        kind: its type.
        codes: places in the type's table; uint8 of shape (rows, columns).
        scales: of all blocks, row after row.
    """

    kind: BlockType
    codes: torch.Tensor
    scales: Scales

    def values(self) -> torch.Tensor:
        """What is read back: float32 of shape (rows, columns)."""
        return values_of(self.kind, self.codes, self.scales)


def values_of(kind: BlockType, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
    """`scale * table[code] + offset`: float32 of the shape of `codes`."""
    grouped = _looked_up(kind, codes).reshape(-1, kind.group)
    found: torch.Tensor = grouped * scales.scale.reshape(-1, 1)
    if kind.has_offset:
        found += scales.offset.reshape(-1, 1)
    return found.reshape(codes.shape)


def round_to(
    kind: BlockType, values: torch.Tensor, importance: torch.Tensor | None = None, *, quick: bool = False
) -> Coded:
    """The nearest that `kind` comes to a matrix: scales by search, then each weight to its nearest value.

    Args:
        values: float32 of shape (rows, columns), columns a multiple of the block.
        importance: what a squared error in each column counts; float32 of shape (columns,).
        quick: as of `fit`.
    """
    torch = need("torch", "quantising")
    blocks = values.reshape(-1, kind.block)
    weight = None if importance is None else importance.reshape(-1, kind.block).repeat(len(values), 1)
    step = max(1, _AT_ONCE // kind.block)
    found = [
        fit(kind, blocks[low : low + step], None if weight is None else weight[low : low + step], quick=quick)
        for low in range(0, len(blocks), step)
    ]
    scales = Scales(
        torch.cat([one.scale for one in found]),
        torch.cat([one.offset for one in found]),
        {name: torch.cat([one.stored[name] for one in found]) for name in found[0].stored},
    )
    return Coded(kind, nearest_codes(kind, values, scales), scales)


def nearest_codes(kind: BlockType, values: torch.Tensor, scales: Scales) -> torch.Tensor:
    """The code whose value is nearest to each weight: uint8 of the shape of `values`."""
    grouped = values.reshape(-1, kind.group)
    codes: torch.Tensor = _nearest(kind, _unscaled(grouped, scales.scale.reshape(-1, 1), scales.offset.reshape(-1, 1)))
    return codes.reshape(values.shape)


def fit(
    kind: BlockType, blocks: torch.Tensor, importance: torch.Tensor | None = None, *, quick: bool = False
) -> Scales:
    """The scales under which the nearest values have the least weighted squared error, of those looked at.

    Args:
        blocks: float32 of shape (blocks, the type's block).
        importance: what a squared error counts, of the same shape; None counts all alike.
        quick: look at few scales, in a third of the time.
    """
    torch = need("torch", "quantising")
    grouped = blocks.reshape(-1, kind.group)
    weight = torch.ones_like(grouped) if importance is None else importance.reshape(-1, kind.group)
    if kind.scales == "power":
        return _powers(kind, grouped, weight, len(blocks))
    efforts = (_QUICK_STARTS, 1) if quick else (_STARTS, _ROUNDS)
    scale, offset = (_ranges if kind.has_offset else _peaks)(kind, grouped, weight, *efforts)
    if kind.scales == "half":
        scale, offset = _half(scale), _half(offset)
        return Scales(scale.reshape(len(blocks), -1), offset.reshape(len(blocks), -1))
    shape = (len(blocks), kind.block // kind.group)
    counts = _curvature(kind, grouped, weight, scale, offset).reshape(shape)
    return _in_blocks(kind, scale.reshape(shape), offset.reshape(shape), counts)


def _curvature(kind: BlockType, x: Any, w: Any, scale: Any, offset: Any) -> Any:
    """How much an error of a group's scale counts."""
    values = _looked_up(kind, _nearest(kind, _unscaled(x, scale, offset)))
    return (w * values * values).sum(1)


def _in_blocks(kind: BlockType, scale: Any, offset: Any, counts: Any) -> Scales:
    """Scales and offsets of shape (blocks, groups) in the few bits that a block has for them."""
    torch = need("torch", "quantising")
    if kind.scales == "signed":
        whole, parts = _parted(scale, counts, -32, 31)
        return Scales(whole * parts, torch.zeros_like(scale), {"d": whole, "scales": parts.to(torch.int8)})
    whole, parts = _parted(scale, counts, 0, 15)
    below, steps = _parted(-offset, torch.ones_like(counts), 0, 15)
    stored = {"d": whole, "scales": parts.to(torch.uint8), "dmin": below, "mins": steps.to(torch.uint8)}
    return Scales(whole * parts, -(below * steps), stored)


def _parted(values: Any, counts: Any, low: int, high: int) -> tuple[Any, Any]:
    """An fp16 number a block and whole numbers a group whose products are nearest to `values`."""
    torch = need("torch", "quantising")
    place = values.abs().argmax(1, keepdim=True)
    peak = values.gather(1, place)
    best, least = torch.zeros_like(peak), torch.full_like(peak, torch.inf)
    for end in (low, high) if low else (high,):
        for step in range(_STARTS):
            whole = _half(peak / (end * (0.92 + 0.02 * step)))
            parts = _unscaled(values, whole, 0.0).round().clamp(low, high)
            error = (counts * (values - whole * parts).square()).sum(1, keepdim=True)
            better = error < least
            best, least = torch.where(better, whole, best), torch.where(better, error, least)
    return best, _unscaled(values, best, 0.0).round().clamp(low, high)


def _peaks(kind: BlockType, x: Any, w: Any, starts: int, rounds: int) -> tuple[Any, Any]:
    """The best scale of each group, offsets zero: both of shape (groups, 1)."""
    torch = need("torch", "quantising")
    peak = x.gather(1, x.abs().argmax(1, keepdim=True))
    best, least = torch.zeros_like(peak), torch.full_like(peak, torch.inf)
    ends = (kind.table[0], kind.table[-1]) if kind.table[0] != -kind.table[-1] else (kind.table[-1],)
    narrow = 0.02 if len(kind.table) > 32 else 0.3 if len(kind.table) < 10 else 0.2
    for end in ends:
        for step in range(starts):
            scale = peak / (end * (1 - narrow / 3 + 4 / 3 * narrow * step / (starts - 1)))
            best, least = _better(kind, x, w, scale, 0.0, best, least)
    for _ in range(rounds):
        values = _looked_up(kind, _nearest(kind, _unscaled(x, best, 0.0)))
        scale = (w * x * values).sum(1, keepdim=True) / (w * values * values).sum(1, keepdim=True).clamp_min(1e-30)
        best, least = _better(kind, x, w, scale, 0.0, best, least)
    return best, torch.zeros_like(best)


def _better(kind: BlockType, x: Any, w: Any, scale: Any, offset: Any, best: Any, least: Any) -> tuple[Any, Any]:
    torch = need("torch", "quantising")
    values = _looked_up(kind, _nearest(kind, _unscaled(x, scale, offset)))
    error = (w * (x - scale * values - offset).square()).sum(1, keepdim=True)
    better = error < least
    return torch.where(better, scale, best), torch.where(better, error, least)


def _ranges(kind: BlockType, x: Any, w: Any, starts: int, rounds: int) -> tuple[Any, Any]:
    """The best scale and offset of each group: both of shape (groups, 1)."""
    torch = need("torch", "quantising")
    below_zero = kind.scales == "positive"
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    low = low.clamp_max(0) if below_zero else low
    best, least = torch.zeros_like(low), torch.full_like(low, torch.inf)
    shift = low
    narrow = 0.5 if len(kind.table) < 10 else 0.2

    def consider(scale: Any, offset: Any) -> None:
        nonlocal best, shift, least
        values = _looked_up(kind, _nearest(kind, _unscaled(x, scale, offset)))
        error = (w * (x - scale * values - offset).square()).sum(1, keepdim=True)
        better = error < least
        best, shift = torch.where(better, scale, best), torch.where(better, offset, shift)
        least = torch.where(better, error, least)

    for step in range(starts):
        share = 1 - narrow * step / (starts - 1)
        start = low if below_zero else (high + low) / 2 - share * (high - low) / 2
        consider(
            share * (high - start) / kind.table[-1] if below_zero else share * (high - low) / kind.table[-1], start
        )
    total, sum_x = w.sum(1, keepdim=True), (w * x).sum(1, keepdim=True)
    for _ in range(rounds):
        values = _looked_up(kind, _nearest(kind, _unscaled(x, best, shift)))
        sum_v, sum_vv = (w * values).sum(1, keepdim=True), (w * values * values).sum(1, keepdim=True)
        sum_xv = (w * x * values).sum(1, keepdim=True)
        spread = (total * sum_vv - sum_v * sum_v).clamp_min(1e-30)
        scale = ((total * sum_xv - sum_x * sum_v) / spread).clamp_min(0)
        offset = (sum_x - scale * sum_v) / total.clamp_min(1e-30)
        if below_zero:
            scale = torch.where(offset > 0, sum_xv / sum_vv.clamp_min(1e-30), scale).clamp_min(0)
            offset = offset.clamp_max(0)
        consider(scale, offset)
    return best, shift


def _powers(kind: BlockType, x: Any, w: Any, blocks: int) -> Scales:
    """The best power of two of each group: all that come into question are tried."""
    torch = need("torch", "quantising")
    peak = x.abs().amax(1, keepdim=True)
    first = torch.log2((peak / kind.table[-1]).clamp_min(2.0**_SMALLEST_POWER)).floor()
    best, least = torch.zeros_like(peak), torch.full_like(peak, torch.inf)
    for step in (0, 1, -1):
        power = (first + step).clamp(_SMALLEST_POWER, 126)
        values = _looked_up(kind, _nearest(kind, x * torch.exp2(-power)))
        error = (w * (x - torch.exp2(power) * values).square()).sum(1, keepdim=True)
        better = error < least
        best, least = torch.where(better, power, best), torch.where(better, error, least)
    scale = torch.exp2(best).reshape(blocks, -1)
    return Scales(scale, torch.zeros_like(scale), {"power": best.reshape(blocks, -1).to(torch.int16)})


def _unscaled(x: Any, scale: Any, offset: Any) -> Any:
    """(x - offset) / scale, 0 where the scale is 0."""
    torch = need("torch", "quantising")
    return (x - offset) * torch.where(scale == 0, 0.0, 1.0 / scale)


def _nearest(kind: BlockType, x: Any) -> Any:
    """Places in the table nearest to unscaled values: uint8."""
    torch = need("torch", "quantising")
    if kind.is_uniform:
        return (x - kind.table[0]).round_().clamp_(0, len(kind.table) - 1).to(torch.uint8)
    # What is nearest changes at multiples of a half: a table of these is looked up four times as fast as searched.
    places = (x * 2).ceil_().clamp_(-_HALVES, _HALVES).long().clamp_(-_HALVES, _HALVES).add_(_HALVES)
    return torch.take(_by_halves(kind.table), places)


def _looked_up(kind: BlockType, codes: Any) -> Any:
    """The table's values of codes: float32."""
    torch = need("torch", "quantising")
    if kind.is_uniform:
        return codes.to(torch.float32).add_(kind.table[0])
    return torch.take(torch.tensor(kind.table, dtype=torch.float32), codes.long())


@cache
def _by_halves(table: tuple[int, ...]) -> Any:
    """The places in a table that are nearest to -128, -127.5 and so on to 128: uint8."""
    torch = need("torch", "quantising")
    values = torch.tensor(table, dtype=torch.float32)
    halves = torch.arange(-_HALVES, _HALVES + 1) / 2
    return torch.bucketize(halves, (values[1:] + values[:-1]) / 2).to(torch.uint8)


def _half(values: Any) -> Any:
    """Rounded to what fp16 holds."""
    return values.clamp(-65504, 65504).half().float()
