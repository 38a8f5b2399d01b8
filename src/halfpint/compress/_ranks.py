"""A matrix as the product of two thin ones, the best for what comes into it; and which matrix gets how much rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.compress._calibration import blocks_of, linears_of

if TYPE_CHECKING:
    import torch

_HALVINGS = 60


def _principal(matrix: torch.Tensor, products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The principal directions of W x, the largest first, and the sums of their squares over the tokens.

    float64 (out, k) and (k,), k the less of in and out. With S = L Lᵀ of the inputs' products these are the left
    singular vectors and the squared singular values of W L.
    """
    import torch

    weight = matrix.double()
    if weight.shape[0] <= weight.shape[1]:
        values, vectors = torch.linalg.eigh(weight @ products @ weight.T)
        return vectors.flip(1), values.flip(0).clamp_min(0)
    sizes, axes = torch.linalg.eigh(products)  # any root of the products will do
    whitened = weight @ (axes * sizes.clamp_min(0).sqrt())
    values, vectors = torch.linalg.eigh(whitened.T @ whitened)
    directions, _ = torch.linalg.qr(whitened @ vectors.flip(1))
    return directions, values.flip(0).clamp_min(0)


def spectrum(matrix: torch.Tensor, products: torch.Tensor) -> npt.NDArray[np.float64]:
    """The squared singular values of the whitened matrix, falling: what is lost in squared error without each.

    Args:
        matrix: float32 (out, in); products: x xᵀ summed over tokens, float64 (in, in).

    Source: Wang et al. 2024, "SVD-LLM", section 3.1.
    """
    found: npt.NDArray[np.float64] = _principal(matrix, products)[1].numpy()
    return found


def factors(matrix: torch.Tensor, products: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two thin matrices whose product is nearest to the matrix on what comes into it: the outputs' principal
    directions, and the matrix seen along them.

    Arguments as of `spectrum`. Returns: float32 (rank, in) and (out, rank), both of a like size.

    Source: Wang et al. 2024, "SVD-LLM", section 3.1: W' = U_r S_r V_rᵀ L⁻¹, which is U_r U_rᵀ W: nothing is inverted.
    """
    directions = _principal(matrix, products)[0][:, :rank]
    first = directions.T @ matrix.double()
    sizes = first.norm(dim=1).sqrt().clamp_min(1e-12)
    return (first / sizes[:, None]).float(), (directions * sizes).float()


@dataclass(frozen=True)
class Layer:
    """A layer that may be factored.

    Attributes:
        outputs, inputs: of its matrix.
        lost: what is lost without each singular value, falling, in units that compare with other layers'.
    """

    outputs: int
    inputs: int
    lost: npt.NDArray[np.float64]

    @property
    def weights(self) -> int:
        """Of the whole matrix."""
        return self.outputs * self.inputs

    def ranks(self, multiple: int) -> npt.NDArray[np.int64]:
        """Ranks at which the two thin matrices have fewer weights than the whole one."""
        most = -(-self.weights // (self.outputs + self.inputs)) - 1
        return np.arange(multiple, most + 1, multiple)


def even_ranks(layers: Mapping[str, Layer], share: float, multiple: int) -> dict[str, int]:
    """Of each layer the rank at which `share` of its weights goes; layers that have no such rank are left out."""
    found = {}
    for name, layer in layers.items():
        rank = int((1 - share) * layer.weights / (layer.outputs + layer.inputs) / multiple) * multiple
        if rank:
            found[name] = rank
    return found


def allotted_ranks(layers: Mapping[str, Layer], share: float, multiple: int) -> dict[str, int]:
    """The ranks with the least loss in all at which `share` of all weights goes; layers left out stay whole.

    At one price a weight each layer takes what loses least, price paid; the price is found by halving, so the weights
    that stay may be a few fewer than asked for. (A Lagrange multiplier: H. Everett, "Generalized Lagrange Multiplier
    Method", 1963.)
    """
    budget = (1 - share) * sum(layer.weights for layer in layers.values())
    options = {name: _options(layer, multiple) for name, layer in layers.items()}
    low, high = 0.0, 1.0
    while _weights(options, _choices(options, high)) > budget and high < 1e300:
        high *= 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _weights(options, _choices(options, middle)) > budget:
            low = middle
        else:
            high = middle
    chosen = _choices(options, high)
    ranks = {name: int(options[name][0][place]) for name, place in chosen.items()}
    return {name: rank for name, rank in ranks.items() if rank}


def _options(
    layer: Layer, multiple: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Ranks (0: whole), what each loses, and its weights."""
    ranks = layer.ranks(multiple)
    behind = np.append(np.cumsum(layer.lost[::-1])[::-1], 0.0)
    lost = np.array([0.0, *behind[ranks]])
    weights = np.array([layer.weights, *(ranks * (layer.outputs + layer.inputs))], dtype=np.float64)
    return np.array([0, *ranks]), lost, weights


def _choices(options: Mapping[str, Any], price: float) -> dict[str, int]:
    return {name: int(np.argmin(lost + price * weights)) for name, (_, lost, weights) in options.items()}


def _weights(options: Mapping[str, Any], chosen: Mapping[str, int]) -> float:
    return float(sum(options[name][2][place] for name, place in chosen.items()))


def sensitivities(model: Any, batches: Any, seed: int) -> list[dict[str, float]]:
    """Of each block, by layer: the mean square of the loss's gradient at an output of it, per token.

    A small error e in a layer's outputs costs about half of this times |e|². The loss is the cross-entropy of an answer
    that is drawn from the model's own (a label, or each next token), so this is the diagonal of Fisher's information,
    averaged. Source: Martens 2020, "New Insights and Perspectives on the Natural Gradient Method", section 5.

    Args:
        batches: (input_ids, attention_mask) of each.
        seed: of the answers drawn.
    """
    import torch

    blocks = blocks_of(model)
    found: list[dict[str, float]] = [{} for _ in blocks]
    generator = torch.Generator().manual_seed(seed)
    handles = []

    def watch(number: int, name: str) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            def add(gradient: torch.Tensor) -> None:
                square = float(gradient.double().square().sum()) / gradient.shape[-1]
                found[number][name] = found[number].get(name, 0.0) + square

            output.register_hook(add)

        return hook

    for number, block in enumerate(blocks):
        for name, layer in linears_of(block).items():
            handles.append(layer.register_forward_hook(watch(number, name)))
    tokens = 0
    try:
        with torch.enable_grad():
            for ids, mask in batches:
                logits = model(input_ids=ids, attention_mask=mask).logits.float()
                counted = mask.flatten().bool() if logits.ndim == 3 else slice(None)
                logits = logits.flatten(0, -2)[counted]
                answers = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
                torch.nn.functional.cross_entropy(logits, answers, reduction="sum").backward()  # type: ignore[no-untyped-call]
                model.zero_grad(set_to_none=True)
                tokens += int(mask.sum())
    finally:
        for handle in handles:
            handle.remove()
    return [{name: value / tokens for name, value in one.items()} for one in found]
