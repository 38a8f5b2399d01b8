"""Stage: narrower layers. Heads and feed-forward channels are taken out, as many in each layer, and what read them is
fitted anew."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.compress import _models
from halfpint.compress._calibration import Visit, blocks_of
from halfpint.compress._columns import by_activation, by_error
from halfpint.compress._layerwise import (
    Change,
    Halves,
    Moments,
    changed_blocks,
    is_turned,
    matrix_of,
    put_matrix,
    repaired,
    repaired_by_halves,
)
from halfpint.compress._parts import Heads, feed_forward_of, heads_of, outputs_of, width_name
from halfpint.compress.tensors import refuse_if_no_smaller
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.stage import Stage, Work

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

_IMPORTANCES = ("error", "activation")
_RIDGE = 1e-2  # of choosing, where none is given


@dataclass(frozen=True, kw_only=True)
class Width(Stage):
    """Take out the heads and the feed-forward channels that are missed the least.

    Each layer chooses its own, and all keep as many, so the result is a plain model of its architecture. (Llama's
    configuration in transformers refuses hidden sizes that are no multiple of the number of heads: such a model is
    written as Mistral's, which computes the same.)

    Args:
        ffn: share of the feed-forward channels that goes, rounded to a multiple of `multiple`.
        heads: share of the attention heads that goes, each key and value head with all queries that read it (where
            there is but one of these: query heads), rounded.
        size: both shares are made equal, and as large as so many parameters ask for, such as "100M".
        importance: error takes out what adds the least error after what is left has been fitted to make up for it;
            activation what adds the least to the layer's outputs.
        repair: fit the layer that read what went to give what it gave, by least squares on the calibration text.
        ridge: of the fit, as a share of the inputs' mean square; 0 takes what does best on half of the text when it is
            fitted on the other.
        multiple: of feed-forward channels. 32 lets each GGUF type hold the matrices, 64 suits fast kernels.
        samples: rows of text to calibrate on; 0 takes as many as hold 16,384 tokens.
        tokens: of a row, at most.
        seed: which rows are drawn.

    Sources: Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation" (Minitron),
    section 2; for error and repair Kurtić et al. 2023, "ZipLM", section 3.1.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.SAME

    ffn: float = 0.25
    heads: float = 0.0
    size: str = ""
    importance: str = "error"
    repair: bool = True
    ridge: float = 0.0
    multiple: int = 32
    samples: int = 0
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, share in (("ffn", self.ffn), ("heads", self.heads)):
            _models.check_share(f"{self.use}: {name}", share, may_be_zero=True)
        if not (self.ffn or self.heads or self.size):
            raise HalfpintError(f"{self.use}: ffn", wanted="something to cut", got="ffn, heads and size of nothing")
        if self.importance not in _IMPORTANCES:
            raise SettingError(
                f"{self.use}: importance", wanted=" or ".join(_IMPORTANCES), got=repr(self.importance),
                todo=nearest(self.importance, _IMPORTANCES),
            )  # fmt: skip
        for name, value, least in (("ridge", self.ridge, 0), ("multiple", self.multiple, 1)):
            if value < least:
                raise SettingError(f"{self.use}: {name}", wanted=f"{least} or more", got=str(value))
        _models.check_calibration(self)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle whose layers are as wide as asked for."""
        assert bundle is not None
        started = time.monotonic()
        _models.check_plain(bundle, self.use)
        _models.check_memory(bundle, self.use)
        model = _models.open_model(bundle, self.use)
        cut = self._plan(model)
        config = self._config(bundle, model, cut)
        rows, held = _models.rows_for(self, bundle, work)
        loss = _models.Loss(bundle, held)
        before = loss(model)
        with _no_gradients():
            changes = changed_blocks(model, rows, work, "narrower layers", cut.change, cut.apply)
            try:
                made = _models.rebuilt(model, config, cut.weights(model, changes))
            except RuntimeError as error:  # a part that this architecture has besides
                raise HalfpintError(
                    self.use, wanted="an architecture whose layers can be narrower",
                    got=f"{_models.inner_config(model).model_type!r} ({str(error).splitlines()[-1].strip()})",
                ) from error  # fmt: skip
        after = loss(made)
        work.log.say(f"{cut.told()}; loss on other text {before:.4f} before, {after:.4f} after", kind="pruned")
        with self.new_bundle(work, bundle) as (folder, card):
            _models.write_model(bundle, folder, made, config)
            sizes = [(at / "model.safetensors").stat().st_size for at in (bundle.path, folder)]
            refuse_if_no_smaller(self.use, *sizes)
            card["stages"].append(
                self.entry(
                    started, bytes_before=sizes[0], bytes_after=sizes[1], loss_before=before, loss_after=after,
                    shape=cut.settings(), blocks=[change.facts for change in changes],
                )
            )  # fmt: skip
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _plan(self, model: Any) -> _Cut:
        """How much of each layer stays.

        Raises:
            HalfpintError: nothing would go, or the architecture cannot have such layers.
        """
        config = _models.inner_config(model)
        block = blocks_of(model)[0]
        ffn, heads = self.ffn, self.heads
        if self.size:
            ffn = heads = self._share_for(model, block)
        attention = heads_of(block, config, f"{self.use}: heads") if heads else None
        width = name = None
        kept_units = kept_channels = 0
        if attention is not None:
            kept_units = max(1, round((1 - heads) * attention.units))
        if ffn:
            name = width_name(config)
            width = matrix_of(block.get_submodule(feed_forward_of(block, self.use).reader)).shape[1]
            kept_channels = max(self.multiple, round((1 - ffn) * width / self.multiple) * self.multiple)
        less_ffn, less_heads = bool(width and kept_channels < width), bool(attention and kept_units < attention.units)
        if not (less_ffn or less_heads):
            channels = f"ffn = {ffn:.3g} of {width} channels (multiples of {self.multiple})" if ffn else ""
            groups = f"heads = {heads:.3g} of {attention.units} groups" if attention else ""
            raise HalfpintError(
                f"{self.use}: {'ffn' if ffn else 'heads'}", wanted="a share that takes something out",
                got=", ".join(one for one in (channels, groups) if one),
                todo="Give larger shares" + (", or a smaller multiple." if ffn else "."),
            )  # fmt: skip
        return _Cut(
            self, attention if less_heads else None, kept_units, name if less_ffn else None, kept_channels, width or 0
        )

    def _config(self, bundle: Bundle, model: Any, cut: _Cut) -> dict[str, Any]:
        """The configuration of the narrower model.

        Raises:
            HalfpintError: the architecture cannot have so few heads at its hidden size.
        """
        found = _models.allowed_config(bundle, model, cut.settings()) if cut.heads else None
        if cut.heads and found is None:
            counts = [
                count for count in range(1, cut.heads.units)
                if _models.allowed_config(bundle, model, replace(cut, units=count).settings()) is not None
            ]  # fmt: skip
            inner, few = _models.inner_config(model), " or ".join(map(str, counts))
            raise HalfpintError(
                f"{self.use}: heads", got=f"{cut.units} of {cut.heads.units} groups",
                wanted=f"as many heads as a {inner.model_type} with a hidden size of {inner.hidden_size} can have",
                todo=f"Take a share that leaves {few} groups." if counts else "Cut channels in place of heads.",
            )  # fmt: skip
        return found or _models.changed_config(bundle, model, cut.settings())

    def _share_for(self, model: Any, block: Any) -> float:
        """The share of heads and channels that has to go for `size`."""
        place = f"{self.use}: size"
        attention = heads_of(block, _models.inner_config(model), place)
        part = feed_forward_of(block, place)
        sizes = {name: module.weight.numel() for name, module in block.named_modules() if hasattr(module, "weight")}
        cut = sum(sizes[name] for name in (*part.writers, part.reader, *attention.outputs_kept([0]), attention.reader))
        cut *= len(blocks_of(model))
        whole = sum(tensor.numel() for tensor in model.parameters())
        wanted = _models.parameters_for(place, self.size, whole - cut, whole - round(0.9 * cut))
        if wanted >= whole:
            raise HalfpintError(place, wanted=f"less than the model has, {whole:,}", got=self.size)
        return float((whole - wanted) / cut)


@dataclass
class _Cut:
    """What is cut from each block, and how.

    Attributes:
        heads: the attention, `units` of which stay; None leaves it as it is.
        width_name: what the configuration calls the feed-forward width, `channels` of which stay; None leaves it.
        width: channels that there are.
    """

    stage: Width
    heads: Heads | None
    units: int
    width_name: str | None
    channels: int
    width: int

    def settings(self) -> dict[str, int]:
        """Entries of the configuration that are others now."""
        found = self.heads.settings(self.units) if self.heads else {}
        return {**found, self.width_name: self.channels} if self.width_name else found

    def told(self) -> str:
        """What is cut, for a person."""
        parts = [f"{self.units} of {self.heads.units} groups of heads"] if self.heads else []
        parts += [f"{self.channels} of {self.width} channels"] if self.width_name else []
        return f"{' and '.join(parts)} stay in each layer"

    def change(self, visit: Visit) -> Change:
        """Choose what stays of a block, and fit what reads it; the block has the fitted layers, full of zeros, after.

        The tensors are "heads" and "channels" (int64, what stays) and the layers' weights and biases.
        """
        import torch

        tensors: dict[str, torch.Tensor] = {}
        facts: dict[str, Any] = {}
        before = None
        parts = [("heads", self.heads.reader, self.heads.unit_width, self.units)] if self.heads else []
        if self.width_name:
            parts.append(("channels", feed_forward_of(visit.block, self.stage.use).reader, 1, self.channels))
        for what, reader, group, keep in parts:
            halves = Halves()
            outputs = visit.run({reader: halves}, outputs=before is None)
            moments = halves.whole
            before = outputs if before is None else before
            layer: Any = visit.block.get_submodule(reader)
            kept, importance = self._chosen(layer, moments, group, keep)
            columns = (kept[:, None] * group + torch.arange(group).numpy()).ravel()
            weight, bias = matrix_of(layer)[:, torch.as_tensor(columns)], layer.bias
            if self.stage.repair:
                old = matrix_of(layer), None if bias is None else bias.detach()
                if self.stage.ridge:
                    weight, bias = repaired(*old, moments, columns, self.stage.ridge)
                else:
                    weight, bias, facts[f"{what}_ridge"] = repaired_by_halves(*old, halves, columns)
            tensors[what] = torch.as_tensor(kept)
            tensors[f"{reader}.weight"] = weight.clone()
            if bias is not None:
                tensors[f"{reader}.bias"] = bias.detach().clone()
            facts[f"{what}_lost"] = self._lost(importance, kept)
            if group > 1:
                facts[f"{what}_kept"], facts[f"{what}_importance"] = kept.tolist(), importance
            self._put(visit.block, what, reader, group, tensors)
        return Change(tensors, facts, before)

    def _chosen(
        self, layer: Any, moments: Moments, group: int, keep: int
    ) -> tuple[npt.NDArray[np.int64], list[float]]:  # fmt: skip
        products = moments.products if layer.bias is None else moments.centred()[0]
        if self.stage.importance == "error":
            return by_error(matrix_of(layer), products, group, keep, self.stage.ridge or _RIDGE)
        return by_activation(matrix_of(layer), moments.products, group, keep)

    @staticmethod
    def _lost(importance: list[float], kept: npt.NDArray[np.int64]) -> float:
        """The importance of what went, as a share of all of it."""
        whole = sum(importance) or 1.0
        return round(1 - sum(importance[int(number)] for number in kept) / whole, 6)

    def apply(self, block: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Put the fitted layers into a block, with zeros where they read what is not there any more."""
        if self.heads:
            self._put(block, "heads", self.heads.reader, self.heads.unit_width, tensors)
        if self.width_name:
            self._put(block, "channels", feed_forward_of(block, self.stage.use).reader, 1, tensors)

    @staticmethod
    def _put(block: Any, what: str, reader: str, group: int, tensors: dict[str, torch.Tensor]) -> None:
        import torch

        layer = block.get_submodule(reader)
        columns = (tensors[what][:, None] * group + torch.arange(group)).flatten()
        whole = torch.zeros_like(matrix_of(layer))
        whole[:, columns] = tensors[f"{reader}.weight"]
        put_matrix(layer, whole, tensors.get(f"{reader}.bias"))

    def weights(self, model: Any, changes: list[Change]) -> dict[str, torch.Tensor]:
        """The tensors of the narrower model, by name."""
        found: dict[str, torch.Tensor] = dict(model.state_dict())
        blocks = blocks_of(model)
        prefix = next(name for name, module in model.named_modules() if module is blocks)
        for number, (block, change) in enumerate(zip(blocks, changes, strict=True)):
            kept: dict[str, list[int]] = {}
            readers = []
            if self.heads:
                kept |= self.heads.outputs_kept(change.tensors["heads"].tolist())
                readers.append(self.heads.reader)
            if self.width_name:
                part = feed_forward_of(block, self.stage.use)
                channels = change.tensors["channels"].tolist()
                for name, runs in part.writers.items():
                    kept[name] = [run * self.width + place for run in range(runs) for place in channels]
                readers.append(part.reader)
            for name, places in kept.items():
                turned = is_turned(block.get_submodule(name))
                own = {key: found[f"{prefix}.{number}.{name}.{key}"] for key in ("weight", "bias")
                       if f"{prefix}.{number}.{name}.{key}" in found}  # fmt: skip
                own = outputs_of({f"{name}.{key}": tensor for key, tensor in own.items()}, name, places, turned=turned)
                found |= {f"{prefix}.{number}.{key}": tensor for key, tensor in own.items()}
            for name in readers:
                turned = is_turned(block.get_submodule(name))
                weight = change.tensors[f"{name}.weight"]
                found[f"{prefix}.{number}.{name}.weight"] = weight.T if turned else weight
                if f"{name}.bias" in change.tensors:
                    found[f"{prefix}.{number}.{name}.bias"] = change.tensors[f"{name}.bias"]
        return found


def _no_gradients() -> Any:
    import torch

    return torch.no_grad()
