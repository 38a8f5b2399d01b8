"""Which directions of the residual stream stay: channels that are large, or principal components of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from halfpint.compress._calibration import Rows, walk
from halfpint.compress._layerwise import Moments
from halfpint.compress._narrowing import Directions
from halfpint.compress._stream import Stream, check_sums
from halfpint.stage import Work

if TYPE_CHECKING:
    import torch


_LEAST = 0.01  # of the mean: no channel is scaled by less than the root of it
_ALONE = 8.0  # times the mean of the squares: a channel that carries more is not turned before a tied head


class Shown(NamedTuple):
    """What the places that read the stream were shown, float64 of shape (width,) and (width, width).

    Attributes:
        sizes: the mean absolute value of each channel behind the norms, each place's as a share of its own sum.
        products: x xᵀ of the stream, each token's of length 1, the mean over tokens and places.
    """

    sizes: torch.Tensor
    products: torch.Tensor


class _Place:
    """What one place is shown: sums over tokens."""

    def __init__(self) -> None:
        self.moments = Moments()
        self.sizes: Any = 0.0

    def before(self, inputs: torch.Tensor) -> None:
        """Add what comes into the norm, float32 (tokens, width)."""
        self.moments(inputs / inputs.norm(dim=-1, keepdim=True).clamp_min(1e-30))

    def behind(self, inputs: torch.Tensor) -> None:
        """Add what comes out of it, float32 (tokens, width)."""
        self.sizes = self.sizes + inputs.abs().double().sum(0)


def shown(model: Any, stream: Stream, rows: Rows, work: Work, stage: str) -> Shown:
    """Run `rows` through the model, and see what comes into each norm and out of it.

    Raises:
        HalfpintError: the model is not as `stream` has it.
    """
    path = walk(model, rows, folder=work.scratch)
    check_sums(path, stream, model, stage)
    sizes: Any = 0.0
    products: Any = 0.0

    def add(place: _Place) -> None:
        nonlocal sizes, products
        sizes = sizes + place.sizes / place.sizes.sum().clamp_min(1e-30)
        products = products + place.moments.products / place.moments.count

    with work.log.bar("what each direction carries", len(path)) as bar:
        for visit in path:
            places = [(place, _Place()) for place in stream.places]
            norms: dict[str, Any] = {place.norm: seen.before for place, seen in places}
            visit.run(norms | {place.readers[0]: seen.behind for place, seen in places}, outputs=False)
            for _, seen in places:
                add(seen)
            bar.advance()
    last, final = _Place(), model.get_submodule(stream.final)
    for states, kept in zip(path.states, path.kept, strict=True):
        flat = states.flatten(0, 1) if kept is None else states[kept]
        last.before(flat)
        last.behind(final(flat).detach())
    add(last)
    return Shown(sizes, products / (2 * len(path) + 1))


def channels(found: Shown, keep: int) -> Directions:
    """The channels with the largest sizes, in their order.

    Source: Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation" (Minitron),
    section 2.2, with each place's sizes as shares of their sum, so that none counts for more by its norm's weight.
    """
    import torch

    chosen = found.sizes.argsort(descending=True, stable=True)[:keep].sort().values
    basis = torch.eye(len(found.sizes), dtype=torch.float64)[:, chosen]
    return Directions(basis, basis, are_turned=False)


def components(found: Shown, keep: int, gains: torch.Tensor | None = None) -> Directions:
    """The principal components of the stream.

    Where the head is the embedding E, and g the gains of the norm before it, a rotation Q does not leave it so: the
    head would be E diag(g) Q, which is no E Q diag(d). But with R = diag(|g| / mean) ^ 1/2, and Q that turns channels
    with g > 0 and with g < 0 each among themselves, E R Q is both: so the stream is Qᵀ R x. What norms divide by
    changes with R, nearly as much in each token if the few channels that carry the most are left as they are.

    Args:
        gains: g, float32 (width,); None where the head has weights of its own.

    Source: Ashkboos et al. 2024, "SliceGPT", section 3.2, with one rotation for all layers, and tokens of length 1.
    """
    import torch

    width = len(found.sizes)
    known = torch.ones(width, dtype=torch.float64) if gains is None else gains.double()
    level = float(known.abs().mean()) or 1.0
    roots = (known.abs() / level).clamp_min(_LEAST).sqrt()
    alone = found.products.diagonal() > _ALONE * found.products.diagonal().mean()
    if gains is None:
        alone = torch.zeros_like(alone)
    roots[alone] = 1.0
    products = roots[:, None] * found.products * roots
    values, vectors = [], []
    single = [one[None] for one in alone.nonzero()[:, 0]]
    for inside in [((known >= 0) & ~alone).nonzero()[:, 0], ((known < 0) & ~alone).nonzero()[:, 0], *single]:
        own, turned = torch.linalg.eigh(products[inside][:, inside])
        whole = torch.zeros(width, len(inside), dtype=torch.float64)
        whole[inside] = turned
        values.append(own)
        vectors.append(whole)
    chosen = torch.cat(values).argsort(descending=True, stable=True)[:keep]
    basis = torch.cat(vectors, 1)[:, chosen]
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()  # else signs are chance
    last = None if gains is None else (basis.square().T @ torch.where(alone, known, level * known.sign())).float()
    return Directions(roots[:, None] * basis, basis / roots[:, None], are_turned=True, last=last)
