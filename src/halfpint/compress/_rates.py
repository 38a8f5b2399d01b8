"""How fine each row of each matrix is divided where the codes are packed afterwards (models/packed_gguf).

A packed file takes about the entropy of its codes, so what a weight costs is not how wide its type is but how fine its
steps are. With one step for a whole row instead of a scale by each block's peak, codes packed to R bits are 1.53 dB
from what any code of R bits could do at high rates (H. Gish & J. Pierce, "Asymptotically Efficient Quantizing", 1968),
and R need not be whole. Rows and matrices share bits by how much an error in them counts: the sum of s * step² is
least, for a given sum of entropies, where each step goes by 1 / sqrt(s) (T. Cover & J. Thomas, "Elements of Information
Theory", section 10.3.3, reverse water-filling).

Codes that depend on those before them (`_dependent`) have narrower steps at as many bits, and need more room in a type.

What counts is told by `_sensitivity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from halfpint.compress._blocks import pack
from halfpint.compress._codes import TYPES, BlockType, Coded, Scales, nearest_codes
from halfpint.compress._dependent import Paths, most_of, steps_for
from halfpint.compress._matrices import Matrix
from halfpint.errors import HalfpintError, need
from halfpint.models.packed_gguf import FACTORS, FACTORS_OF_TWO, coded_bytes, times

if TYPE_CHECKING:
    import torch

CONTAINERS = ("q4_0", "q5_0", "q8_0")
"""The types that take such codes: equal steps and no offset, from the narrowest."""
_WIDENED = 0.25  # of a matrix's blocks may need wider steps before a wider type is taken
_LEAST_STEP = 2.0**-14  # below it fp16 has fewer digits
_SAMPLED = 512  # rows of a matrix that its entropy is estimated from
_TOLD_TOGETHER, _FEWEST_TOLD = 64, 1 << 14  # rows, and weights at the least, of one spread
_SCALE_BITS = 0.05  # a weight, for scales
_FINEST, _COARSEST = -12.0, 6.0  # log2 of the step in standard deviations of a matrix, when the step is searched
_MOST_DEPENDENT = 5.0  # bits of codes that depend on others: more have little room in a type of eight
_ROUNDS = 20
_MOST_SHIFT = 0.5  # bits per weight that the rest of a model makes up for what was used


def steady(kind: BlockType, blocks: torch.Tensor, steps: torch.Tensor, *, dependent: bool = False) -> Scales:
    """Scales of blocks: their row's step, or that times a power of the fourth root of 2 where the type's table ends
    before a block does.

    Args:
        blocks: float32 of shape (blocks, the type's block); steps: float32 of shape (blocks, 1).
        dependent: the codes will be `_dependent.Paths`'.
    """
    torch = need("torch", "quantising")
    least, most = _ends(kind, dependent)
    high = blocks.amax(1, keepdim=True) / most
    low = blocks.amin(1, keepdim=True) / least
    wider = torch.maximum(high, low) / steps.clamp_min(1e-30)
    scale = steady_scale(
        steps, torch.exp2(((wider.clamp_min(1.0)).log2() * FACTORS_OF_TWO - 1e-4).ceil() / FACTORS_OF_TWO)
    )
    return Scales(scale, torch.zeros_like(scale))


def _ends(kind: BlockType, dependent: bool) -> tuple[float, float]:
    """Between what a weight in units of its step has to be."""
    return (-most_of(kind) - 0.5, most_of(kind) + 0.5) if dependent else (kind.table[0] - 0.5, kind.table[-1] + 0.5)


def steady_scale(steps: torch.Tensor, wider: torch.Tensor) -> torch.Tensor:
    """Steps times the nearest of the factors that pack well, exactly as models/packed_gguf works them out.

    Args:
        steps: of rows or blocks; wider: what each block's scale is times that, 1 or more; shapes that go together.
    """
    torch = need("torch", "quantising")
    which = (wider.log2() * FACTORS_OF_TWO).round().clamp_(0, len(FACTORS) - 1)
    found = times(steps.clamp(_LEAST_STEP, 65504).half().numpy(), which.numpy().astype(np.uint8))
    return torch.from_numpy(found.astype(np.float32))  # type: ignore[no-any-return]


def steadily(kind: BlockType, values: torch.Tensor, steps: torch.Tensor) -> Coded:
    """A matrix (outputs, inputs) rounded to the steps of its rows, (outputs, 1)."""
    blocks = values.reshape(-1, kind.block)
    scales = steady(kind, blocks, steps.repeat_interleave(values.shape[1] // kind.block, 0))
    return Coded(kind, nearest_codes(kind, values, scales), scales)


class Pace:
    """The steps of each matrix, and what those to come make up for what those before took.

    Args:
        matrices, sensitivity: as of `_sensitivity.sensitivity_of`.
        limit: bytes that the packed codes may take.
        kinds: the type of each matrix; where there is none one is chosen by its steps.
        place: for errors.
        dependent: codes may depend on those before them.

    Raises:
        HalfpintError: there is no such step.
    """

    def __init__(
        self, matrices: Sequence[Matrix], sensitivity: Mapping[str, torch.Tensor], limit: int,
        kinds: Mapping[str, BlockType], place: str, *, dependent: bool = False,
    ) -> None:  # fmt: skip
        torch = need("torch", "quantising")
        self._matrices = {matrix.name: matrix for matrix in matrices if matrix.columns % 32 == 0}
        weights = sum(matrix.size for matrix in self._matrices.values())
        self._limit = 8.0 * limit - _SCALE_BITS * weights
        whole = 16.0 * sum(matrix.size for matrix in matrices if matrix.name not in self._matrices)
        self._limit -= whole
        if self._limit < 0.1 * weights or not weights:
            raise HalfpintError(
                place, wanted=f"{int(0.11 * weights + whole) // 8:,} bytes of matrices or more", got=f"{limit:,}",
                todo="Give more bytes, or prune the model first.",
            )  # fmt: skip
        samples = {}
        for name, matrix in self._matrices.items():
            some = torch.arange(0, matrix.rows, max(1, matrix.rows // _SAMPLED))
            samples[name] = (matrix.read()[some], sensitivity[name][some].rsqrt()[:, None])

        def bits(unit: float) -> dict[str, float]:
            return {
                name: self._matrices[name].size * _entropy(values, unit * steps)
                for name, (values, steps) in samples.items()
            }

        widest = max(float(values.std()) / float(steps.mean()) for values, steps in samples.values()) or 1.0
        low, high = _FINEST, _COARSEST
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(bits(widest * 2.0**middle).values()) > self._limit else (low, middle)
        unit = widest * 2.0**high
        # No finer than a row's largest weight allows: what is far out of a type's range is cut off.
        self.steps = {
            name: torch.maximum(unit * sensitivity[name].rsqrt()[:, None], _finest(matrix.read()))
            for name, matrix in self._matrices.items()
        }
        self._planned = bits(unit)
        self._done = self._used = 0.0
        self.shift = 0.0
        self.kinds: dict[str, BlockType] = {}
        self._paths: set[str] = set()
        for name, (values, steps) in samples.items():
            few = self._planned[name] <= _MOST_DEPENDENT * self._matrices[name].size
            for on_path in (True, False) if dependent and few else (False,):
                wanted = unit * steps * (self._finer(name) if on_path else 1.0)
                self.kinds[name], fits = _container(values, wanted, kinds.get(name), on_path)
                if on_path and fits:
                    self._paths.add(name)
                    break

    def steps_of(self, name: str) -> torch.Tensor:
        """The steps of a matrix's rows as things stand: float32 of shape (outputs, 1)."""
        found: torch.Tensor = self.steps[name] * (
            2.0**self.shift * (self._finer(name) if self.is_dependent(name) else 1.0)
        )
        return found

    def is_dependent(self, name: str) -> bool:
        """Whether a matrix has codes that depend on those before them: where they have room."""
        return name in self._paths

    def scales_of(self, name: str) -> Callable[[torch.Tensor], Scales]:
        """Finds the scales of blocks of a matrix, one of each row, (outputs, the type's block)."""
        return partial(steady, self.kinds[name], steps=self.steps_of(name), dependent=self.is_dependent(name))

    def alone(self, name: str, values: torch.Tensor, share: float = 1.0) -> Coded:
        """The codes of a matrix (outputs, inputs), errors made up for nowhere; with steps of such a share."""
        kind, steps = self.kinds[name], self.steps_of(name) * share
        if not self.is_dependent(name):
            return steadily(kind, values, steps)
        blocks = steps.repeat_interleave(values.shape[1] // kind.block, 0)
        scales = steady(kind, values.reshape(-1, kind.block), blocks, dependent=True)
        return Paths(kind, values, scales).whole(values, scales)

    def _finer(self, name: str) -> float:
        """How wide steps are beside those of codes that stand alone and take as many bits."""
        return steps_for(self._planned[name] / self._matrices[name].size - self.shift)

    def used(self, coded: Mapping[str, Coded]) -> None:
        """Note what codes came to take; those to come make up for it."""
        for name, one in coded.items():
            planned = self._planned.pop(name)
            self._done += planned - self.shift * self._matrices[name].size
            self._used += 8.0 * coded_bytes(one.kind.name, pack(one)) - _SCALE_BITS * self._matrices[name].size
        rest = sum(self._matrices[name].size for name in self._planned)
        if not rest:
            return
        drift = self._used / max(self._done, 1.0)
        over = drift * sum(self._planned.values()) - (self._limit - self._used)
        self.shift = min(max(over / rest, -_MOST_SHIFT), _MOST_SHIFT)


def _container(
    values: torch.Tensor, steps: torch.Tensor, given: BlockType | None, dependent: bool
) -> tuple[BlockType, bool]:
    """The narrowest type that holds most blocks with the steps that were wanted, and whether there is one."""
    blocks = values.reshape(len(values), -1, 32)
    high, low = blocks.amax(2) / steps, blocks.amin(2) / steps
    for kind in [given] if given else [TYPES[name] for name in CONTAINERS]:
        least, most = _ends(kind, dependent)
        if float(((high > most) | (low < least)).float().mean()) <= _WIDENED:
            return kind, True
    return kind, False


def _finest(values: torch.Tensor) -> torch.Tensor:
    """The finest steps of rows, (rows, 1), in which the widest type holds all of them."""
    return values.abs().amax(1, keepdim=True) / TYPES[CONTAINERS[-1]].table[-1]


def _entropy(values: torch.Tensor, steps: torch.Tensor) -> float:
    """Bits per weight of codes of such steps, rows of one spread told together; no type has finer ones than a row's
    largest weight allows."""
    torch = need("torch", "quantising")
    steps = torch.maximum(steps, _finest(values))
    codes = (values / steps).round_().clamp_(-127, 127).to(torch.int16)
    order = (values.abs().mean(1) / steps[:, 0]).argsort()
    total = 0.0
    for some in torch.split(codes[order], max(_TOLD_TOGETHER, -(-_FEWEST_TOLD // codes.shape[1]))):
        shares = torch.bincount(some.flatten().int() + 127, minlength=255).double() / some.numel()
        total -= float((shares * shares.clamp_min(1e-30).log2()).sum()) * some.numel()
    return total / codes.numel()
