"""Stage: fewer layers. Whole layers are taken out; the rest stays as it was, to be trained on (healed) after."""

from __future__ import annotations

import copy
import shutil
import time
from dataclasses import dataclass
from typing import ClassVar

from halfpint.bundle import Bundle, new_bundle
from halfpint.compress._tensors import LAYER, encoder_config, read_weights, write_weights
from halfpint.errors import HalfpintError
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Layers(Stage):
    """Keep some of the encoder's layers.

    Args:
        keep: how many layers stay; they are spread evenly, first and last among them.

    Source: Sajjad et al. 2023, "On the effect of dropping layers of pre-trained
    transformer models" (alternate dropping).
    """

    needs: ClassVar[tuple[str, ...]] = ("encoder", "classifier")
    gives: ClassVar[str] = "same"
    uses_data: ClassVar[bool] = False

    keep: int = 3

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle with the layers that stay, numbered anew."""
        assert bundle is not None
        started = time.monotonic()
        config = copy.deepcopy(bundle.config)
        inner = encoder_config(config)
        layers = int(inner["num_hidden_layers"])
        if not 0 < self.keep < layers:
            raise HalfpintError(
                f"{self.use}: keep", wanted=f"a number from 1 to {layers - 1} (the model has {layers} layers)",
                got=str(self.keep),
            )  # fmt: skip
        chosen = kept_layers(layers, self.keep)
        place = {old: new for new, old in enumerate(chosen)}
        weights = {}
        for name, tensor in read_weights(bundle).items():
            match = LAYER.fullmatch(name)
            if match is None:
                weights[name] = tensor
            elif int(match["number"]) in place:
                weights[f"{match['before']}{place[int(match['number'])]}{match['after']}"] = tensor
        inner["num_hidden_layers"] = self.keep
        with new_bundle(work.target, bundle) as (folder, card):
            for file in bundle.path.glob("tokenizer*.json"):
                shutil.copyfile(file, folder / file.name)
            write_weights(folder, weights, config)
            card["stages"].append(self.entry(started, kept=chosen))
        return Bundle(work.target)


def kept_layers(layers: int, keep: int) -> list[int]:
    """The numbers of the layers that stay: evenly spread, first and last among them (the first alone for one)."""
    if keep == 1:
        return [0]
    return [round(index * (layers - 1) / (keep - 1)) for index in range(keep)]
