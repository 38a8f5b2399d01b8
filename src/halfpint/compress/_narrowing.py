"""A narrower residual stream: each layer's first weights, and a fit of what it reads and writes to what the whole model
says at the same place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from halfpint.compress._calibration import Visit, Walk
from halfpint.compress._layerwise import Change, Halves, Moments, lower_factor, repaired, repaired_by_halves
from halfpint.compress._stream import Place, Stream, gains_of

if TYPE_CHECKING:
    import torch

OUTSIDE = "/"
"""Begins the names of tensors that belong to no block, in the last block's `Change`."""
_TIED_RIDGE = 1e-3


@dataclass(frozen=True)
class Directions:
    """What stays of the stream: `basis`ᵀ x, from which x is as nearly as can be `back` times it.

    Attributes:
        basis: float64 (width, kept); of channels a single 1 in each column.
        back: float64 (width, kept); the basis again where its columns are orthonormal.
        are_turned: whether they are no channels, so that gains of norms are folded into what reads them.
        last: float32 (kept,), gains before a head that nothing can be folded into, as it is the embedding; None where
            there is no such head, or what stays are channels.
    """

    basis: torch.Tensor
    back: torch.Tensor
    are_turned: bool
    last: torch.Tensor | None = None

    def gains(self, old: torch.Tensor) -> torch.Tensor:
        """The gains of a norm over what stays, float32 (kept,), from those over all; 1 where they are folded."""
        import torch

        return torch.ones(self.basis.shape[1]) if self.are_turned else (self.basis.T @ old.double()).float()

    def lift(self, old: torch.Tensor) -> torch.Tensor:
        """What a layer behind a norm was shown, from what it is shown now: float64 (width, kept)."""
        return old.double()[:, None] * self.back if self.are_turned else self.basis


def first_weights(model: Any, stream: Stream, directions: Directions, scale: float) -> dict[str, torch.Tensor]:
    """The tensors of the narrower model by name, before anything is fitted.

    Args:
        scale: of the token embeddings; not 1 where the model multiplies them by a number that follows from its width.
    """
    found: dict[str, torch.Tensor] = dict(model.state_dict())
    basis = directions.basis

    def put(name: str, new: torch.Tensor) -> None:
        found[name] = new.float()

    def read(name: str, gains: torch.Tensor) -> None:
        put(f"{name}.weight", found[f"{name}.weight"].double() @ directions.lift(gains))

    def norm(name: str, new: torch.Tensor | None = None, by: float = 1.0) -> torch.Tensor:
        old, offset = gains_of(model.get_submodule(name))
        put(f"{name}.weight", by * (directions.gains(old) if new is None else new) - offset)
        if f"{name}.bias" in found:
            put(f"{name}.bias", basis.T @ found[f"{name}.bias"].double())
        return old

    for number in range(len(model.get_submodule(stream.prefix))):
        block = f"{stream.prefix}.{number}"
        for place in stream.places:
            gains = norm(f"{block}.{place.norm}")
            for name in place.readers:
                read(f"{block}.{name}", gains)
            put(f"{block}.{place.writer}.weight", basis.T @ found[f"{block}.{place.writer}.weight"].double())
            if f"{block}.{place.writer}.bias" in found:
                put(f"{block}.{place.writer}.bias", basis.T @ found[f"{block}.{place.writer}.bias"].double())
            if place.after:
                norm(f"{block}.{place.after}")
    gains = norm(stream.final, directions.last, 1 / scale if stream.is_tied else 1.0)
    if stream.head and not stream.is_tied:
        read(stream.head, gains)
    put(f"{stream.embedding}.weight", scale * (found[f"{stream.embedding}.weight"].double() @ basis))
    if stream.is_tied:
        found[f"{stream.head}.weight"] = found[f"{stream.embedding}.weight"]
    return found


class _Gathered(list[Any]):
    """The inputs of a module, a batch each: float32 (tokens, features)."""

    def __call__(self, inputs: torch.Tensor) -> None:
        self.append(inputs.clone())


@dataclass
class Fit:
    """Makes the blocks of the narrower model say what those of the whole one say; `change` and `apply` are for
    `changed_blocks`.

    Args:
        path: a walk through the whole model on the same rows, in the same batches.
        made: the narrower model, with its first weights.
        repair: fit readers and writers by least squares; without it norms alone are scaled.
    """

    model: Any
    path: Walk
    made: Any
    stream: Stream
    directions: Directions
    repair: bool
    _visits: Iterator[Visit] = field(init=False)

    def __post_init__(self) -> None:
        self._visits = iter(self.path)

    def change(self, visit: Visit) -> Change:
        """What to make of a block of the narrower model; it has it after."""
        import torch

        whole = next(one for one in self._visits if one.index == visit.index)
        basis = self.directions.basis.float()
        norms = {place.norm: _Gathered() for place in self.stream.places}
        read = {place.readers[0]: _Gathered() for place in self.stream.places}
        outputs = whole.run({**norms, **read})
        wanted = [states @ basis for states in outputs]
        behind = [list(norms[self.stream.places[1].norm]), _flat(outputs, whole.kept)]
        tensors: dict[str, torch.Tensor] = {}
        facts: dict[str, Any] = {}
        for number, place in enumerate(self.stream.places):
            now = {place.norm: _Gathered()}
            visit.run(now, outputs=False)
            norm = whole.block.get_submodule(place.norm)
            halves = Halves()
            factor = self._norm(visit.block, place.norm, norms[place.norm], now[place.norm], tensors)
            facts[f"{place.norm}_scale"] = round(factor, 4)
            if self.repair:
                lift = self.directions.lift(gains_of(norm)[0]).float()
                scaled = visit.block.get_submodule(place.norm)
                for inputs, old in zip(now[place.norm], read[place.readers[0]], strict=True):
                    new = scaled(inputs)
                    halves(torch.cat([new, old - new @ lift.T], 1))
                layers = {name: whole.block.get_submodule(name) for name in place.readers}
                facts[f"{place.readers[0]}_ridge"] = _readers(layers, halves, lift, tensors)
                self.apply(visit.block, tensors)
            facts |= self._write(visit, whole, place, behind[number], tensors)
            self.apply(visit.block, tensors)
        if visit.index == len(self.path) - 1:
            self._head(visit, outputs, tensors)
        return Change(tensors, facts, wanted)

    def _norm(
        self, block: Any, name: str, old: Iterable[torch.Tensor], new: Iterable[torch.Tensor], tensors: dict[str, Any]
    ) -> float:
        """Scale a norm so that what stays is as large behind it as it was; gives the factor."""
        import torch

        norm = block.get_submodule(name)
        centred = hasattr(norm, "bias")
        sizes = [[_size(part, centred=centred) for part in parts] for parts in (old, new)]
        before, after = (torch.cat(parts).double() for parts in sizes)
        some = (before > 0) & (after > 0)  # a padding token may be nothing at all
        factor = float((after[some] / before[some]).mean()) if bool(some.any()) else 1.0
        gains, offset = gains_of(norm)
        tensors[f"{name}.weight"] = gains * factor - offset
        self.apply(block, {f"{name}.weight": tensors[f"{name}.weight"]})
        return factor

    def _write(
        self, visit: Visit, whole: Visit, place: Place, wanted: list[torch.Tensor], tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Fit a writer to bring the stream to where the whole model has it."""
        import torch

        basis = self.directions.basis.float()
        if place.after:
            old, new = _Gathered(), _Gathered()
            whole.run({place.after: old}, outputs=False)
            visit.run({place.after: new}, outputs=False)
            factor = self._norm(visit.block, place.after, old, new, tensors)
            return {f"{place.after}_scale": round(factor, 4)}
        if not self.repair:
            return {}
        before, read = _Gathered(), _Gathered()
        visit.run({place.norm: before, place.writer: read}, outputs=False)
        layer: Any = whole.block.get_submodule(place.writer)
        matrix = basis.T @ layer.weight.detach()
        shift = 0.0 if layer.bias is None else basis.T @ layer.bias.detach()  # it stays: rows are scaled below
        halves = Halves()
        for goal, now, inputs in zip(wanted, before, read, strict=True):
            away = goal @ basis - now - inputs @ matrix.T - shift
            scale = 1 / _size(goal, centred=False)[:, None].clamp_min(1e-30)  # else a few large tokens are all
            halves(torch.cat([inputs, away], 1) * scale)
        kept = torch.arange(matrix.shape[1]).numpy()
        both = torch.cat([matrix, torch.eye(len(matrix))], 1)
        tensors[f"{place.writer}.weight"], _, ridge = repaired_by_halves(both, None, halves, kept)
        return {f"{place.writer}_ridge": ridge}

    def _head(self, visit: Visit, outputs: list[torch.Tensor], tensors: dict[str, Any]) -> None:
        """The norm behind the last block, and what reads it."""
        import torch

        stream, made = self.stream, self.made
        old, new = _flat(outputs, visit.kept), _flat(visit.run(), visit.kept)
        outside: dict[str, Any] = {}
        self._norm(made, stream.final, old, new, outside)
        before, after = (one.get_submodule(stream.final) for one in (self.model, made))
        gains, offset = gains_of(before)
        if self.repair and stream.head and stream.is_tied:
            moments = Moments()
            for first, second in zip(old, new, strict=True):
                moments(torch.cat([after(second), before(first)], 1))
            whole, narrow = (one.get_submodule(stream.head).weight.detach() for one in (self.model, made))
            factors = _tied_gains(whole, narrow, moments)
            own, offset = gains_of(after)
            outside[f"{stream.final}.weight"] = own * factors - offset
        elif self.repair and stream.head:
            halves, lift = Halves(), self.directions.lift(gains).float()
            for first, second in zip(old, new, strict=True):
                seen = after(second)
                halves(torch.cat([seen, before(first) - seen @ lift.T], 1))
            _readers({stream.head: self.model.get_submodule(stream.head)}, halves, lift, outside)
        tensors |= {f"{OUTSIDE}{name}": tensor for name, tensor in outside.items()}

    @staticmethod
    def apply(block: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Put tensors into a block by their names in it; those of no block are left."""
        for name, tensor in tensors.items():
            if not name.startswith(OUTSIDE):
                block.get_parameter(name).detach().copy_(tensor)


def _flat(states: Iterable[torch.Tensor], kept: Iterable[Any]) -> list[torch.Tensor]:
    return [one.flatten(0, 1) if mask is None else one[mask] for one, mask in zip(states, kept, strict=True)]


def _size(inputs: torch.Tensor, *, centred: bool) -> torch.Tensor:
    """The root mean square of each token's channels, or their standard deviation: float32 (tokens,)."""
    found: torch.Tensor = inputs.std(-1, correction=0) if centred else inputs.square().mean(-1).sqrt()
    return found


def _readers(layers: dict[str, Any], halves: Halves, lift: torch.Tensor, tensors: dict[str, Any]) -> float:
    """Fit layers that read the same to give what they gave; gives the ridge.

    Args:
        halves: of what they read now, and behind it what they read less what `lift` makes of that: (tokens, kept +
            width).
        lift: float32 (width, kept).

    All of them read A x where A (width, kept) is the fit of what was read: so it is found once.
    """
    import torch

    width, keep = lift.shape
    both, kept = torch.cat([lift, torch.eye(width)], 1), torch.arange(keep).numpy()
    squares = torch.zeros(width, width, dtype=torch.float64)
    for layer in layers.values():
        weight = layer.weight.detach()
        squares += (weight.T @ weight).double() / max(float(weight.square().sum()), 1e-30)
    root = lower_factor(squares, 1e-9).T.float()
    shift = torch.zeros(width) if all(layer.bias is not None for layer in layers.values()) else None
    _, _, ridge = repaired_by_halves(root @ both, shift, halves, kept)
    found, moved = repaired(both, shift, halves.whole, kept, ridge)
    for name, layer in layers.items():
        tensors[f"{name}.weight"] = layer.weight.detach() @ found
        if layer.bias is not None:
            tensors[f"{name}.bias"] = layer.bias.detach() + (0 if moved is None else layer.weight.detach() @ moved)
    return ridge


def _tied_gains(whole: torch.Tensor, own: torch.Tensor, moments: Moments) -> torch.Tensor:
    """Factors of the last norm's gains by which logits are the nearest to those of the whole model: float32 (kept,).

    Args:
        whole: embeddings that were, (tokens, width); own: those that are, (tokens, kept).
        moments: of what the head reads now, and behind it of what it read: (kept + width).
    """
    import torch

    keep = own.shape[1]
    now, cross = moments.products[:keep, :keep], moments.products[keep:, :keep]
    left = (own.T @ own).double() * now
    right = ((own.T @ whole).double() @ cross).diagonal()
    level = _TIED_RIDGE * left.diagonal().mean()
    found: torch.Tensor = torch.linalg.solve(left + level * torch.eye(keep, dtype=torch.float64), right + level)
    return found.float()
