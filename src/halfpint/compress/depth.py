"""Stage: fewer layers. Whole layers are taken out; the rest stays as it was, to be trained on (healed) after."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.compress import _models
from halfpint.compress._calibration import walk
from halfpint.compress.tensors import LAYER, encoder_config, read_weights, refuse_if_no_smaller, write_weights
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.models.architectures import need_transformers
from halfpint.stage import Stage, Work

if TYPE_CHECKING:
    import torch

_MEASURES = ("influence", "even")


@dataclass(frozen=True, kw_only=True)
class Depth(Stage):
    """Take out the layers that change the least what comes into them.

    Args:
        share: of the layers, that goes; it is rounded, and `keep` or `size` take its place where they are given.
        keep: how many layers stay; 0 goes by `share`.
        size: as many layers stay as fit into so many parameters, such as "100M".
        measure: influence takes out the layers with the least 1 - cos(what comes in, what goes out), the mean over the
            tokens of calibration text; even spreads those that stay evenly, the first and the last among them, and
            needs no text.
        keep_ends: the first and the last layer stay whatever their influence.
        samples: rows of text to calibrate on; 0 takes as many as hold 16,384 tokens.
        tokens: of a row, at most.
        seed: which rows are drawn.

    Sources: influence is that of Men et al. 2024, "ShortGPT", section 3.2; even is the alternate dropping of Sajjad et
    al. 2023, "On the effect of dropping layers of pre-trained transformer models", section 3.1.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.SAME

    share: float = 0.2
    keep: int = 0
    size: str = ""
    measure: str = "influence"
    keep_ends: bool = True
    samples: int = 0
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _models.check_share(f"{self.use}: share", self.share)
        _models.check_calibration(self)
        if self.keep < 0:
            raise SettingError(f"{self.use}: keep", wanted="1 or more, or 0", got=str(self.keep))
        if self.keep and self.size:
            raise HalfpintError(f"{self.use}: size", wanted="keep or size", got="both")
        if self.measure not in _MEASURES:
            raise SettingError(
                f"{self.use}: measure", wanted=" or ".join(_MEASURES), got=repr(self.measure),
                todo=nearest(self.measure, _MEASURES),
            )  # fmt: skip

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle with the layers that stay, numbered anew."""
        assert bundle is not None
        started = time.monotonic()
        _models.check_plain(bundle, self.use)
        layers = int(encoder_config(bundle.config).get("num_hidden_layers") or encoder_config(bundle.config)["n_layer"])
        weights = read_weights(bundle)
        keep = self._how_many(layers, weights)
        figures: dict[str, Any] = {}
        if self.measure == "even":
            chosen = kept_layers(layers, keep)
        else:
            _models.check_memory(bundle, self.use)
            rows, held = _models.rows_for(self, bundle, work)
            model = _models.open_model(bundle, self.use)
            loss = _models.Loss(bundle, held)
            figures["loss_before"] = loss(model)
            figures["influence"] = influences(model, rows, work)
            chosen = strongest(figures["influence"], keep, keep_ends=self.keep_ends)
            del model
        with self.new_bundle(work, bundle) as (folder, card):
            _models.copy_others(bundle, folder)
            write_weights(folder, without_layers(weights, chosen), shallower(_settled(bundle), layers, chosen))
            before, after = ((at / "model.safetensors").stat().st_size for at in (bundle.path, folder))
            refuse_if_no_smaller(self.use, before, after)
            if figures:
                figures["loss_after"] = loss(_models.open_folder(folder, bundle.kind))
                work.log.say(
                    f"{len(chosen)} of {layers} layers stay; loss on other text {figures['loss_before']:.4f} "
                    f"before, {figures['loss_after']:.4f} after", kind="pruned",
                )  # fmt: skip
            card["stages"].append(
                self.entry(started, kept=chosen, bytes_before=before, bytes_after=after, **figures)
            )  # fmt: skip
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _how_many(self, layers: int, weights: dict[str, torch.Tensor]) -> int:
        """How many layers stay."""
        keep = self.keep or layers - round(self.share * layers)
        if self.size:
            of_layer = sum(tensor.numel() for name, tensor in weights.items() if LAYER.fullmatch(name)) // layers
            fixed = sum(tensor.numel() for tensor in weights.values()) - layers * of_layer
            wanted = _models.parameters_for(f"{self.use}: size", self.size, fixed, fixed + of_layer)
            keep = (wanted - fixed) // of_layer
        if not 0 < keep < layers:
            name = "size" if self.size else "keep" if self.keep else "share"
            raise HalfpintError(
                f"{self.use}: {name}", wanted=f"a number from 1 to {layers - 1} (the model has {layers} layers)",
                got=str(keep) if self.keep else f"{getattr(self, name)}, which leaves {keep}",
            )  # fmt: skip
        return int(keep)


def influences(model: Any, rows: _models.Rows, work: Work) -> list[float]:
    """Of each layer 1 - cos(what comes in, what goes out), the mean over tokens: float from 0 to 2."""
    import torch

    found: list[float] = []
    path = walk(model, rows, folder=work.scratch)
    held: list[torch.Tensor] = []

    def compare() -> None:
        total, count = 0.0, 0
        for before, after, kept in zip(held, path.states, path.kept, strict=True):
            same = torch.cosine_similarity(before, after, dim=-1)
            same = same.flatten() if kept is None else same[kept]
            total, count = total + float((1 - same.double()).sum()), count + same.numel()
        found.append(total / max(count, 1))

    with work.log.bar("influence of each layer", len(path)) as bar:
        for visit in path:
            if visit.index:
                compare()
                bar.advance()
            held = [states.clone() for states in visit.inputs]
        compare()
    return found


def strongest(influence: Sequence[float], keep: int, *, keep_ends: bool) -> list[int]:
    """The numbers of the `keep` layers with the most influence, in order; of equal ones the first."""
    order = sorted(range(len(influence)), key=lambda number: (-influence[number], number))
    if keep_ends:  # they come first, so the last of them goes where there is place for one
        ends = [0, len(influence) - 1]
        order = [*ends, *(number for number in order if number not in ends)]
    return sorted(order[:keep])


def kept_layers(layers: int, keep: int) -> list[int]:
    """The numbers of the layers that stay: evenly spread, first and last among them (the first alone for one)."""
    if keep == 1:
        return [0]
    return [round(index * (layers - 1) / (keep - 1)) for index in range(keep)]


def without_layers(weights: dict[str, torch.Tensor], chosen: Sequence[int]) -> dict[str, torch.Tensor]:
    """The tensors of the layers in `chosen`, numbered anew, and those of no layer."""
    place = {old: new for new, old in enumerate(chosen)}
    found = {}
    for name, tensor in weights.items():
        match = LAYER.fullmatch(name)
        if match is None:
            found[name] = tensor
        elif int(match["number"]) in place:
            found[f"{match['before']}{place[int(match['number'])]}{match['after']}"] = tensor
    return found


def _settled(bundle: Bundle) -> dict[str, Any]:
    """The configuration, with the kind of each layer written down where only a rule (each sixth) tells it."""
    config = copy.deepcopy(bundle.config)
    inner = encoder_config(config)
    if "layer_types" not in inner:
        settings = {name: value for name, value in inner.items() if name != "model_type"}
        known = need_transformers("pruning").AutoConfig.for_model(inner["model_type"], **settings)
        if len(set(getattr(known, "layer_types", None) or ())) > 1:
            inner["layer_types"] = list(known.layer_types)
    return config


def shallower(config: dict[str, Any], layers: int, chosen: Sequence[int]) -> dict[str, Any]:
    """The configuration with the layers in `chosen` alone: their number, and what it lists layer by layer."""
    found = copy.deepcopy(config)
    inner = encoder_config(found)
    inner["n_layer" if "n_layer" in inner else "num_hidden_layers"] = len(chosen)
    for name, value in inner.items():
        if "layer" in name and isinstance(value, list) and len(value) == layers:
            inner[name] = [value[number] for number in chosen]
    if isinstance(inner.get("max_window_layers"), int):  # the first so many look far
        inner["max_window_layers"] = sum(number < inner["max_window_layers"] for number in chosen)
    return found
