"""Distilling codes, scales and offsets against the unquantised model: what a code should be, the whole model decides.

Each weight has a latent value in units of its table; the model computes with what the codes nearest to the latents
stand for, and the latents move by the gradient of the loss as if nothing were rounded (the straight-through estimator,
Y. Bengio et al., 2013). Scales and offsets that are fp16 numbers move as well, and so do norms and biases. The loss is
the divergence of the quantised model's next-token distributions from those of the unquantised one, on text alone
(Z. Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models", 2023, section 3;
M. Chen et al., "EfficientQAT", 2024, section 3.3, for scales).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from halfpint.compress._calibration import fast
from halfpint.compress._codes import BlockType, Coded, Scales, nearest_codes, values_of
from halfpint.compress._matrices import Matrix
from halfpint.errors import RefusedError, need
from halfpint.progress import Log

if TYPE_CHECKING:
    import torch

_BETAS = (0.9, 0.95)
_SCALE_RATE = 0.05  # of the rate: a scale moves a whole group
_NORM_RATE = 0.02
NORM_RATE_BESIDE_ROWS = 0.4
"""Of the rate, where nothing but the steps of rows is learned besides (`_row_scales`); found by trying."""
_WARMUP = 0.1
ROW_TOKENS = 2048  # of rows that go through the model together
TOKENS_AT_ONCE = 512  # that go through the output layer
_EPSILON = 1e-12


class Learned(Protocol):
    """A matrix of which something is learned: its codes and scales, or its rows' scales alone (`_row_scales`).

    Attributes:
        trains_weight: whether `step` wants the gradient of the module's weight.
    """

    matrix: Matrix
    codes: torch.Tensor
    scales: Scales
    trains_weight: bool

    def step(self, rate: float, count: int) -> int:
        """Move by the gradient, which is taken away; gives how many codes changed."""

    def settle(self) -> None:
        """Put what was learned into the matrix."""

    def put_back(self, codes: torch.Tensor, scales: Scales) -> None:
        """Take codes and scales as they were."""

    def coded(self) -> Coded:
        """The codes and scales as they are now."""


class Latent:
    """One matrix that is learned in its codes.

    Args:
        matrix: whose module computes with the values.
        coded: where it starts.
        before: what the codes were rounded from, (outputs, inputs).
    """

    trains_weight = True

    def __init__(self, matrix: Matrix, coded: Coded, before: torch.Tensor) -> None:
        torch = need("torch", "quantising")
        self.matrix, self.kind = matrix, coded.kind
        self.scales = coded.scales
        kind = coded.kind
        self._step = (kind.table[-1] - kind.table[0]) / (len(kind.table) - 1)
        self._ends = kind.table[0] - self._step / 2, kind.table[-1] + self._step / 2
        scale, offset = (values.reshape(-1, 1) for values in (self.scales.scale, self.scales.offset))
        grouped = before.float().reshape(-1, kind.group)
        self.values = ((grouped - offset) * torch.where(scale == 0, 0.0, 1.0 / scale)).clamp_(*self._ends)
        self.codes = coded.codes
        self._moments = [torch.zeros_like(self.values) for _ in range(2)]
        self.moves_scales = kind.scales == "half"
        self._units = scale.abs()
        self._masters = [scale.clone(), offset.clone()]
        self._scale_moments = [[torch.zeros_like(one) for _ in range(2)] for one in self._masters]

    def settle(self) -> None:
        """The matrix holds what was learned after each step."""

    def step(self, rate: float, count: int) -> int:
        """Move by the module's gradient, which is taken away; gives how many codes changed."""
        torch = need("torch", "quantising")
        weight = self.matrix.module.weight
        gradient = weight.grad.T if self.matrix.is_turned else weight.grad
        grouped = gradient.reshape(-1, self.kind.group)
        if self.moves_scales:
            table = torch.tensor(self.kind.table, dtype=torch.float32)
            looked_up = table[self.codes.reshape(-1, self.kind.group).int()]
            # A scale's derivative is in units of the table's values; a latent's in one step of it.
            self._move(0, (grouped * looked_up).sum(1, keepdim=True), rate * _SCALE_RATE, count)
            if self.kind.has_offset:
                self._move(1, grouped.sum(1, keepdim=True), rate * _SCALE_RATE * self.kind.table[-1], count)
        slope = grouped * self.scales.scale.reshape(-1, 1)
        self.values.add_(adam(self._moments, slope, count), alpha=-rate * self._step).clamp_(*self._ends)
        weight.grad = None
        if self.moves_scales:
            shape = self.scales.scale.shape
            scale, offset = self._masters
            self.scales = Scales(scale.half().float().reshape(shape), offset.half().float().reshape(shape))
        codes = _codes_of(self.kind, self.values).reshape(self.codes.shape)
        changed = int((codes != self.codes).sum())
        self.codes = codes
        self.matrix.write(values_of(self.kind, codes, self.scales))
        return changed

    def _move(self, which: int, gradient: Any, rate: float, count: int) -> None:
        change = adam(self._scale_moments[which], gradient, count)
        self._masters[which].sub_(change * self._units * rate)

    def put_back(self, codes: torch.Tensor, scales: Scales) -> None:
        """Take codes and scales as they were."""
        self.codes, self.scales = codes, scales
        self.matrix.write(values_of(self.kind, codes, scales))

    def coded(self) -> Coded:
        """The codes and scales as they are now."""
        return Coded(self.kind, self.codes, self.scales)


def _codes_of(kind: BlockType, values: Any) -> Any:
    """Codes nearest to latents, which are in units of the table."""
    torch = need("torch", "quantising")
    plain = BlockType(kind.name, kind.block, kind.size, kind.group, kind.table, kind.has_offset)
    one = torch.ones(len(values), 1)
    return nearest_codes(plain, values, Scales(one, torch.zeros_like(one)))


def adam(moments: Sequence[Any], gradient: Any, count: int) -> Any:
    """Adam's direction; the moments are changed. Source: Kingma & Ba 2015, algorithm 1."""
    first, second = moments
    first.lerp_(gradient, 1 - _BETAS[0])
    second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    high = math.sqrt(1 - _BETAS[1] ** count)
    return (first / (1 - _BETAS[0] ** count)).div_(second.sqrt().div_(high).add_(_EPSILON))


@dataclass
class Distiller:
    """Learns the codes of a model.

    Args:
        model: with the weights that the codes stand for.
        ids, kept: token ids, a batch each, (rows, tokens), and which places hold one.
        final: what came into the output layer of the unquantised model; a batch each, (rows, tokens, width).
        head: the unquantised output layer's weight, (vocabulary, width).
        step_tokens: tokens of a step.
        rate: peak rate of the latents, in steps between codes.
        learned: batches that are learned from: the tuning is judged by those behind them, and without any by the first.
        norm_share: share of the rate for norms and biases, in units of their mean size.
    """

    model: Any
    ids: Sequence[Any]
    kept: Sequence[Any]
    final: Sequence[Any]
    head: Any
    step_tokens: int
    rate: float
    seed: int
    log: Log
    learned: int = 0
    norm_share: float = _NORM_RATE

    def __post_init__(self) -> None:
        bias = self.model.get_output_embeddings().bias
        self._bias = None if bias is None else bias.detach().clone()

    def run(self, latents: Sequence[Learned], minutes: float, tokens: int) -> dict[str, Any]:
        """Learn for so many tokens, or with 0 for so many minutes; gives what was done.

        Raises:
            RefusedError: the loss is no number.
        """
        from halfpint.models.quick_passes import quick_passes

        started = time.monotonic()
        random, order = np.random.default_rng(self.seed), list[int]()
        rows, _ = self.rows(random)
        first = [(latent.codes, latent.scales) for latent in latents]
        norms = {one: one.detach().clone() for one in self.model.parameters() if one.ndim == 1}
        began = time.monotonic()
        before = self.divergence()
        judging = time.monotonic() - began
        per_row = self.row_tokens
        at_once = max(1, round(self.step_tokens / per_row))
        steps = max(1, round(tokens / (at_once * per_row))) if tokens else 0
        quantised = {id(latent.matrix.module.weight) for latent in latents if latent.trains_weight}
        rest = [one for one in self.model.parameters() if one.ndim == 1]
        for one in self.model.parameters():
            one.requires_grad_(id(one) in quantised or one.ndim == 1)
        moments = [[value.new_zeros(value.shape) for _ in range(2)] for value in rest]
        losses: list[float] = []
        changed, count = 0, 0
        with self.log.bar("distilling", 1.0) as bar, quick_passes(self.model):
            while not steps or count < steps:
                spent = time.monotonic() - started
                share = count / steps if steps else spent / max(60 * minutes, 1e-9)
                a_step = (spent - judging) / count if count else judging
                if not steps and spent + a_step + judging > 60 * minutes:
                    break
                if len(order) < at_once:
                    order += random.permutation(len(rows)).tolist()
                some, order = order[:at_once], order[at_once:]
                count += 1
                losses.append(self.mean([rows[number] for number in some]))
                if not math.isfinite(losses[-1]):
                    raise RefusedError("tuning", wanted="a loss that is a number", got=str(losses[-1]),
                                       todo="Take a lower tuning_rate.")  # fmt: skip
                rate = self.rate * _schedule(share)
                changed += sum(latent.step(rate, count) for latent in latents)
                with need("torch", "quantising").no_grad():
                    for value, held in zip(rest, moments, strict=True):
                        size = float(value.abs().mean()) or 1.0
                        value.sub_(adam(held, value.grad, count), alpha=rate * self.norm_share * size)
                        value.grad = None
                bar.done = share
                bar.advance(0.0, f"divergence {losses[-1]:.4f}")
        for latent in latents:
            latent.settle()
        after = self.divergence() if count else before
        if not after < before:
            for latent, (codes, scales) in zip(latents, first, strict=True):
                latent.put_back(codes, scales)
            with need("torch", "quantising").no_grad():
                for one, values in norms.items():
                    one.copy_(values)
        return {
            "steps": count, "tokens": round(count * at_once * per_row), "changed_codes": changed,
            "kl_before": before, "kl_after": after, "kept": after < before,
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip

    def rows(self, random: np.random.Generator | None = None) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Rows that are learned from, and those that it is judged by: which batch, and which row of it.

        Args:
            random: that their order is drawn by; a new one of the seed if there is none.
        """
        rows = [(batch, row) for batch, ids in enumerate(self.ids) for row in range(len(ids))]
        (random or np.random.default_rng(self.seed)).shuffle(rows)
        edge = self.learned or len(self.ids)
        learned = [one for one in rows if one[0] < edge]
        return learned, [one for one in rows if one[0] >= edge] or learned[:1]

    @property
    def row_tokens(self) -> float:
        """Tokens of a row, on the whole."""
        return float(np.mean([ids.shape[1] for ids in self.ids]))

    def divergence(self) -> float:
        """Mean divergence over the rows that it is judged by, in nats."""
        with need("torch", "quantising").no_grad():
            return self.mean(self.rows()[1], learns=False)

    def mean(self, rows: Sequence[tuple[int, int]], *, learns: bool = True) -> float:
        """Mean over rows of their mean divergence (nats); adds its gradient. Rows of one length go together."""
        by_length: dict[int, list[tuple[int, int]]] = {}
        for batch, row in rows:
            kept = self.kept[batch]
            length = self.ids[batch].shape[1] if kept is None else int(kept[row].sum())
            by_length.setdefault(length, []).append((batch, row))
        total = 0.0
        for length, alike in by_length.items():
            for low in range(0, len(alike), at_once := max(1, ROW_TOKENS // length)):
                total += self._backward(alike[low : low + at_once], length, len(rows), learns=learns)
        return total

    def _backward(self, rows: Sequence[tuple[int, int]], length: int, count: int, *, learns: bool) -> float:
        """The sum of some rows' mean divergences over `count`; adds its gradient."""
        torch = need("torch", "quantising")
        ids = torch.stack([self.ids[batch][row, :length] for batch, row in rows])
        final = torch.cat([self.final[batch][row, :length] for batch, row in rows])
        with fast():
            states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        leaf = states.detach().float().requires_grad_()
        output, total = self.model.get_output_embeddings(), 0.0
        for low in range(0, len(leaf), TOKENS_AT_ONCE):
            with torch.no_grad(), fast():
                wanted = torch.nn.functional.linear(final[low : low + TOKENS_AT_ONCE], self.head, self._bias).float()
                wanted -= wanted.logsumexp(1, keepdim=True)
            with fast():
                logits = output(leaf[low : low + TOKENS_AT_ONCE])
            found = logits.detach().float()
            found -= found.logsumexp(1, keepdim=True)
            chances = wanted.exp()
            total += float((chances * (wanted - found)).sum())
            if not learns:
                continue
            # d KL / d logits = softmax - wanted: written down, it takes a third of the memory that autograd would.
            logits.backward((found.exp_() - chances).mul_(1 / (length * count)).to(logits.dtype))
        if learns:
            states.backward(leaf.grad.to(states.dtype))
        return total / (length * count)


def _schedule(share: float) -> float:
    """Up in the first tenth, then down along a cosine."""
    if share < _WARMUP:
        return (share + 0.01) / (_WARMUP + 0.01)
    return 0.5 + 0.5 * math.cos(math.pi * (share - _WARMUP) / (1 - _WARMUP))


def latents_of(
    matrices: Sequence[Matrix], coded: Mapping[str, Coded], before: Mapping[str, torch.Tensor]
) -> list[Latent]:
    """A latent for each matrix that is quantised."""
    return [Latent(one, coded[one.name], before[one.name]) for one in matrices if one.name in coded]
