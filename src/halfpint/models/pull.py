"""Stage: take a base encoder from the catalogue, the Hub or a folder, as a bundle."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import ClassVar

from halfpint.bundle import Bundle, Kind, read_json, without_kernels, write_json
from halfpint.errors import HalfpintError
from halfpint.models.architectures import refuse_foreign
from halfpint.models.sources import locate
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Pull(Stage):
    """A base encoder.

    Args:
        base: a name in the catalogue, a Hub name (owner/model or owner/model@revision), or a folder in Hugging Face
            layout.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.ENCODER
    uses_data: ClassVar[bool] = False

    base: str = "all-minilm-l6-v2"

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Copy config, weights and tokenizer into a bundle."""
        started = time.monotonic()
        folder = locate(self.base, work.log)
        config = read_json(folder / "config.json")
        if "model_type" not in config or not (folder / "model.safetensors").is_file():
            raise HalfpintError(
                str(folder), wanted="config.json with a model_type, and model.safetensors", got="a folder without",
                todo="Give a Hugging Face model with safetensors weights.",
            )  # fmt: skip
        refuse_foreign(config, str(folder / "config.json"))
        with self.new_bundle(work) as (target, card):
            write_json(target / "config.json", without_kernels(config))
            for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, target / name)
            card["stages"].append(self.entry(started))
        return Bundle(work.target)
