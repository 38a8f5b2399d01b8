"""Stage: weights that are zero, and a file that leaves them out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.compress import _models
from halfpint.compress._calibration import Visit, blocks_of, linears_of
from halfpint.compress._layerwise import Change, Moments, changed_blocks, matrix_of, put_matrix
from halfpint.compress._zeros import by_magnitude, by_sparsegpt, by_wanda
from halfpint.compress.tensors import refuse_if_no_smaller
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.models.sparse_weights import SPARSE_FILE, write_sparse
from halfpint.models.weights import weight_types
from halfpint.stage import Stage, Work

if TYPE_CHECKING:
    import torch

_METHODS = ("sparsegpt", "wanda", "magnitude")
_PATTERNS = {"": None, "2:4": (2, 4), "4:8": (4, 8)}
_BITS = {"F32": 32, "F16": 16, "BF16": 16, "F64": 64}


@dataclass(frozen=True, kw_only=True)
class Sparse(Stage):
    """Make weights of the layers zero and store the others alone: a bit says of each weight whether it is there.

    PyTorch computes with the zeros as with any number, so it is bytes that are saved, no time. The embeddings and the
    output layer stay as they are.

    Args:
        share: of the weights of each layer, that becomes zero.
        method: sparsegpt chooses 128 columns at a time and lets the others make up for them; wanda goes by a weight's
            size times the norm of what it reads; magnitude by its size alone.
        pattern: 2:4 or 4:8 leaves so many of so many neighbours, whatever `share` is; empty chooses freely.
        damping: of sparsegpt, as a share of the mean square of an input.
        samples: rows of text to calibrate on; 0 takes as many as hold 16,384 tokens.
        tokens: of a row, at most.
        seed: which rows are drawn.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.CLASSIFIER, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.SPARSE

    share: float = 0.5
    method: str = "sparsegpt"
    pattern: str = ""
    damping: float = 0.01
    samples: int = 0
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _models.check_share(f"{self.use}: share", self.share)
        _models.check_calibration(self)
        for name, value, known in (("method", self.method, _METHODS), ("pattern", self.pattern, tuple(_PATTERNS))):
            if value not in known:
                raise SettingError(
                    f"{self.use}: {name}", wanted=" or ".join(map(repr, known)), got=repr(value),
                    todo=nearest(value, known),
                )  # fmt: skip
        if self.damping <= 0:
            raise SettingError(f"{self.use}: damping", wanted="a number above 0", got=str(self.damping))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle with model.sparse.safetensors in the place of model.safetensors."""
        assert bundle is not None
        started = time.monotonic()
        _models.check_plain(bundle, self.use)
        self._check_share(bundle)
        _models.check_memory(bundle, self.use)
        model = _models.open_model(bundle, self.use)
        self._check_pattern(model)
        rows, held = _models.rows_for(self, bundle, work)
        loss = _models.Loss(bundle, held)
        before = loss(model)
        with need("torch", "pruning").no_grad():
            changes = changed_blocks(model, rows, work, "sparse layers", self._change, _apply)
        after = loss(model)
        names = _names(model, changes)
        with self.new_bundle(work, bundle) as (folder, card):
            _models.write_model(bundle, folder, model, bundle.config)
            tensors = _models.weights_in(folder)
            zeros = sum(int((tensors[name] == 0).sum()) for name in names)
            weights = sum(tensors[name].numel() for name in names)
            write_sparse(folder / SPARSE_FILE, tensors, names)
            (folder / "model.safetensors").unlink()
            sizes = [(bundle.path / "model.safetensors").stat().st_size, (folder / SPARSE_FILE).stat().st_size]
            refuse_if_no_smaller(self.use, *sizes)
            card["stages"].append(
                self.entry(
                    started, bytes_before=sizes[0], bytes_after=sizes[1], loss_before=before, loss_after=after,
                    zero_share=round(zeros / weights, 6), blocks=[change.facts for change in changes],
                )
            )  # fmt: skip
        work.log.say(
            f"{zeros / weights:.1%} of the layers' weights are zero; {sizes[0]:,} bytes before, {sizes[1]:,} after; "
            f"loss on other text {before:.4f} before, {after:.4f} after", kind="pruned",
        )  # fmt: skip
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _check_share(self, bundle: Bundle) -> None:
        """Refuse a share whose zeros are fewer bits than it takes to tell where they are."""
        held = weight_types(bundle)
        bits = _BITS[max(held, key=lambda name: held[name])]
        share = 0.5 if self.pattern else self.share
        if share * bits <= 1:
            raise SettingError(
                f"{self.use}: share", wanted=f"more than {1 / bits:.4g}, for weights of {bits} bits", got=str(share),
                todo="Which weights are zero takes a bit each: with so few of them the file would grow.",
            )  # fmt: skip

    def _check_pattern(self, model: Any) -> None:
        if not self.pattern:
            return
        of = int(self.pattern.split(":")[1])
        for name, layer in linears_of(blocks_of(model)[0]).items():
            if matrix_of(layer).shape[1] % of:
                raise HalfpintError(
                    f"{self.use}: pattern", wanted=f"layers with a multiple of {of} inputs",
                    got=f"{matrix_of(layer).shape[1]} in {name}", todo="Leave the pattern out.",
                )  # fmt: skip

    def _change(self, visit: Visit) -> Change:
        layers = linears_of(visit.block)
        moments = {name: Moments() for name in layers}
        collect: dict[str, Callable[[torch.Tensor], None]] = {} if self.method == "magnitude" else {**moments}
        before = visit.run(collect)
        tensors, errors = {}, {}
        for name, layer in layers.items():
            matrix = matrix_of(layer)
            tensors[name] = self._with_zeros(matrix, moments[name].products).clone()
            if collect:
                away = (tensors[name] - matrix).double()
                products = moments[name].products
                whole = float(((matrix.double() @ products) * matrix).sum())
                errors[name] = round(float(((away @ products) * away).sum()) / max(whole, 1e-30), 6)
        return Change(tensors, {"layers": errors} if errors else {}, before)

    def _with_zeros(self, matrix: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        pattern = _PATTERNS[self.pattern]
        if self.method == "magnitude":
            return by_magnitude(matrix, self.share, pattern)
        if self.method == "wanda":
            return by_wanda(matrix, products, self.share, pattern)
        return by_sparsegpt(matrix, products, self.share, pattern, self.damping)


def _apply(block: Any, tensors: dict[str, torch.Tensor]) -> None:
    for name, matrix in tensors.items():
        put_matrix(block.get_submodule(name), matrix)


def _names(model: Any, changes: list[Change]) -> list[str]:
    """The names in the file of the matrices that were changed."""
    blocks = blocks_of(model)
    prefix = next(name for name, module in model.named_modules() if module is blocks)
    return [f"{prefix}.{number}.{name}.weight" for number, change in enumerate(changes) for name in change.tensors]
