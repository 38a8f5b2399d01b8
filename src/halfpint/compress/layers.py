"""Stage: fewer layers. Whole layers are taken out; the rest stays as it was, to be trained on (healed) after."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.compress.depth import kept_layers, shallower, without_layers
from halfpint.compress.tensors import encoder_config, read_weights, write_weights
from halfpint.errors import SettingError
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Layers(Stage):
    """Keep some of the encoder's layers.

    Args:
        keep: how many layers stay; they are spread evenly, first and last among them.

    Source: Sajjad et al. 2023, "On the effect of dropping layers of pre-trained
    transformer models" (alternate dropping).
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER)
    gives: ClassVar[Kind] = Kind.SAME
    uses_data: ClassVar[bool] = False

    keep: int = 3

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write a bundle with the layers that stay, numbered anew."""
        assert bundle is not None
        started = time.monotonic()
        layers = int(encoder_config(bundle.config)["num_hidden_layers"])
        if not 0 < self.keep < layers:
            raise SettingError(
                f"{self.use}: keep", wanted=f"a number from 1 to {layers - 1} (the model has {layers} layers)",
                got=str(self.keep),
            )  # fmt: skip
        chosen = kept_layers(layers, self.keep)
        with self.new_bundle(work, bundle) as (folder, card):
            for file in bundle.path.glob("tokenizer*.json"):
                shutil.copyfile(file, folder / file.name)
            write_weights(
                folder, without_layers(read_weights(bundle), chosen), shallower(bundle.config, layers, chosen)
            )  # fmt: skip
            card["stages"].append(self.entry(started, kept=chosen))
        return Bundle(work.target)
