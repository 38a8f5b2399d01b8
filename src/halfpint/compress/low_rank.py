"""Stage: matrices as products of two thin ones, which are fewer weights and less to compute."""

from __future__ import annotations

import copy
import json
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.compress import _models
from halfpint.compress._calibration import Visit, blocks_of, linears_of, walk
from halfpint.compress._layerwise import Change, Moments, changed_blocks, matrix_of
from halfpint.compress._ranks import Layer, allotted_ranks, even_ranks, factors, sensitivities, spectrum
from halfpint.compress.tensors import encoder_config, refuse_if_no_smaller
from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.files import write_text
from halfpint.models.sizes import CAUSAL, resolve
from halfpint.stage import Stage, Work

if TYPE_CHECKING:
    import torch

_ALLOCATIONS = ("sensitivity", "error", "even")
_MODEL_TYPE = "halfpint_factored"
# Of the base's settings, those that others read in config.json.
_SHOWN = (
    "vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings", "bos_token_id", "eos_token_id",
    "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LowRank(Stage):
    """Put two thin matrices into the place of one where that is fewer weights, chosen for what comes into the layer.

    Queries, keys and values are factored each for itself, so heads that share keys and values keep them. A model like
    this is opened by halfpint (and by transformers once `halfpint.models.factored` is imported) and exported to ONNX;
    GGUF has no place for the thin matrices.

    Args:
        share: of the weights of all layers together, that goes.
        allocation: sensitivity gives rank where an error in the layer's outputs costs the model's loss most; error
            where it is the largest share of the layer's outputs; even takes `share` from each layer.
        multiple: of ranks.
        samples: rows of text to calibrate on; 0 takes as many as hold 16,384 tokens.
        tokens: of a row, at most.
        seed: which rows are drawn.

    Source: Wang et al. 2024, "SVD-LLM", section 3.1 (truncation by the whitened singular values).
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.CLASSIFIER, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.SAME

    share: float = 0.2
    allocation: str = "sensitivity"
    multiple: int = 8
    samples: int = 0
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _models.check_share(f"{self.use}: share", self.share)
        _models.check_calibration(self)
        if self.multiple < 1:
            raise SettingError(f"{self.use}: multiple", wanted="1 or more", got=str(self.multiple))
        if self.allocation not in _ALLOCATIONS:
            raise SettingError(
                f"{self.use}: allocation", wanted=", ".join(_ALLOCATIONS), got=repr(self.allocation),
                todo=nearest(self.allocation, _ALLOCATIONS),
            )  # fmt: skip

    def fits(self, bundle: Bundle) -> None:
        """Refuse a model that is quantised, sparse or factored already, or a masked one."""
        _models.check_plain(bundle, self.use)
        self._check_parent(bundle)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle with factored layers."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "factoring")
        self.fits(bundle)
        _models.check_memory(bundle, self.use)
        model = _models.open_model(bundle, self.use)
        rows, held = _models.rows_for(self, bundle, work)
        loss = _models.Loss(bundle, held)
        before = loss(model)
        ranks = self._ranks(model, rows, loss, work)
        if not any(ranks):
            raise HalfpintError(
                f"{self.use}: share", wanted="ranks at which something is saved",
                got=f"none with a share of {self.share} and multiples of {self.multiple}",
                todo="Give a larger share, or a smaller multiple.",
            )  # fmt: skip

        def change(visit: Visit) -> Change:
            return _factored(visit, ranks[visit.index])

        with torch.no_grad():
            changes = changed_blocks(model, rows, work, "low rank", change, _apply)
        after = loss(model)
        work.log.say(
            f"{sum(map(len, ranks))} layers factored; loss on other text {before:.4f} before, {after:.4f} after",
            kind="pruned",
        )
        with self.new_bundle(work, bundle) as (folder, card):
            _write(bundle, folder, model, ranks)
            sizes = [(at / "model.safetensors").stat().st_size for at in (bundle.path, folder)]
            refuse_if_no_smaller(self.use, *sizes)
            card["stages"].append(
                self.entry(
                    started, bytes_before=sizes[0], bytes_after=sizes[1], loss_before=before, loss_after=after,
                    blocks=[change.facts for change in changes],
                )
            )  # fmt: skip
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _check_parent(self, bundle: Bundle) -> None:
        config = encoder_config(bundle.config)
        name = str(config.get("model_type"))
        factored = name == _MODEL_TYPE
        masked = bundle.kind == Kind.LANGUAGE and not factored and resolve(name)[1] != CAUSAL
        if factored or masked:
            raise HalfpintError(
                str(bundle.path), wanted="a classifier or a causal language model with whole matrices",
                got="one that is factored already" if factored else f"a masked one ({name})",
            )  # fmt: skip

    def _ranks(self, model: Any, rows: _models.Rows, loss: _models.Loss, work: Work) -> list[dict[str, int]]:
        """Of each block, the rank of each layer that is factored; kept in scratch for a run that goes on."""
        kept = work.scratch / "ranks.json"
        if kept.is_file():
            found: list[dict[str, int]] = json.loads(kept.read_text(encoding="utf-8"))
            return found
        layers: dict[str, Layer] = {}
        costs = sensitivities(model, loss.batches(model), self.seed) if self.allocation == "sensitivity" else []
        path = walk(model, rows, folder=work.scratch)
        with work.log.bar("what each layer can do without", len(path)) as bar, need("torch", "factoring").no_grad():
            for visit in path:
                bar.advance()
                linears = linears_of(visit.block)
                moments = {name: Moments() for name in linears}
                if self.allocation != "even":
                    visit.run(moments, outputs=False)
                for name, layer in linears.items():
                    matrix = matrix_of(layer)
                    lost = spectrum(matrix, moments[name].products) if self.allocation != "even" else _nothing()
                    if self.allocation == "error":
                        lost = lost / max(lost.sum(), 1e-30)
                    elif costs:
                        lost = lost * (costs[visit.index].get(name, 0.0) / 2 / moments[name].count)
                    layers[f"{visit.index}/{name}"] = Layer(matrix.shape[0], matrix.shape[1], lost)
        chosen = (even_ranks if self.allocation == "even" else allotted_ranks)(layers, self.share, self.multiple)
        ranks: list[dict[str, int]] = [{} for _ in range(len(path))]
        for key, rank in chosen.items():
            number, _, name = key.partition("/")
            ranks[int(number)][name] = rank
        write_text(kept, json.dumps(ranks))
        return ranks


def _nothing() -> Any:
    import numpy as np

    return np.zeros(0)


def _factored(visit: Visit, ranks: dict[str, int]) -> Change:
    """The thin matrices of a block's layers, and biases that make up for the mean of what is lost."""
    moments = {name: Moments() for name in ranks}
    before = visit.run(moments)
    tensors: dict[str, torch.Tensor] = {}
    lost = {}
    for name, rank in ranks.items():
        layer: Any
        layer, seen = visit.block.get_submodule(name), moments[name]
        matrix = matrix_of(layer)
        products, mean = (seen.products, None) if layer.bias is None else seen.centred()
        first, second = factors(matrix, products, rank)
        away = matrix.double() - second.double() @ first.double()
        tensors |= {f"{name}.first": first, f"{name}.second": second}
        if mean is not None:
            tensors[f"{name}.bias"] = (layer.bias.double() + away @ mean).float()
        whole = float(((matrix.double() @ products) * matrix).sum())
        lost[name] = round(float(((away @ products) * away).sum()) / max(whole, 1e-30), 6)
    return Change(tensors, {"ranks": ranks, "layers": lost}, before)


def _apply(block: Any, tensors: dict[str, torch.Tensor]) -> None:
    from halfpint.models.factored import factor

    names = [name.removesuffix(".first") for name in tensors if name.endswith(".first")]
    factor(block, {name: len(tensors[f"{name}.first"]) for name in names})
    for name in names:
        layer = block.get_submodule(name)
        layer.first.weight.detach().copy_(tensors[f"{name}.first"])
        layer.second.weight.detach().copy_(tensors[f"{name}.second"])
        if f"{name}.bias" in tensors:
            layer.second.bias.detach().copy_(tensors[f"{name}.bias"])


def _write(bundle: Bundle, folder: Any, model: Any, ranks: list[dict[str, int]]) -> None:
    """The model with its ranks in config.json, around the configuration of the model (of a classifier: its encoder)."""
    from halfpint.models.factored import FactoredCausalLM, FactoredConfig

    is_classifier = bundle.kind == Kind.CLASSIFIER
    inner = model.encoder if is_classifier else model
    blocks = blocks_of(inner)
    prefix = next(name for name, module in inner.named_modules() if module is blocks)
    named = {f"{prefix}.{at}.{name}": rank for at, one in enumerate(ranks) for name, rank in one.items()}
    config = copy.deepcopy(bundle.config)
    base = encoder_config(config)
    shown = {name: base[name] for name in _SHOWN if name in base}
    settings = {"model_type": _MODEL_TYPE, "base": copy.deepcopy(base), "ranks": named, **shown}
    weights = inner.state_dict()
    if is_classifier:
        config["encoder"] = settings
        others = {name: held for name, held in model.state_dict().items() if not name.startswith("encoder.")}
        made = _models.rebuilt(
            model, config, {**{f"encoder.model.{name}": held for name, held in weights.items()}, **others}
        )
    else:
        config = {**settings, "architectures": ["FactoredCausalLM"]}
        made = FactoredCausalLM(FactoredConfig(base=settings["base"], ranks=named))
        made.load_state_dict({f"model.{name}": held for name, held in weights.items()})
    _models.write_model(bundle, folder, made, config)
