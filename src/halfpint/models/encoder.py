"""Stage: the encoder of a masked language model, to be fine-tuned for other tasks."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.errors import HalfpintError
from halfpint.models.architectures import need_transformers
from halfpint.models.sizes import MASKED, resolve
from halfpint.models.weights import open_whole
from halfpint.stage import Stage, Work


@dataclass(frozen=True, kw_only=True)
class Encoder(Stage):
    """Take the encoder out of a masked language model, such as `train/pretrain` makes of bert or modernbert.

    Its output layer over the vocabulary goes; what is left is what `train/finetune` goes on from. Source: Devlin et al.
    2019, "BERT", section 3.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE,)
    gives: ClassVar[Kind] = Kind.ENCODER
    uses_data: ClassVar[bool] = False

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Write the encoder alone."""
        assert bundle is not None
        started = time.monotonic()
        model_type, objective = resolve(str(bundle.config.get("model_type")))
        if objective != MASKED:
            raise HalfpintError(
                self.use, wanted="a masked language model", got=f"a {model_type}, a causal one",
                todo='Pre-train an encoder: arch = "bert" (or modernbert) in train/pretrain.',
            )  # fmt: skip
        transformers = need_transformers("an encoder")
        transformers.utils.logging.disable_progress_bar()
        model = open_whole(transformers.AutoModelForMaskedLM, bundle.path)
        with self.new_bundle(work, bundle) as (folder, card):
            model.base_model.save_pretrained(folder)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                if (bundle.path / name).is_file():
                    shutil.copyfile(bundle.path / name, folder / name)
            card.update(task=None, engine=None)  # it answers nothing yet
            card["stages"].append(self.entry(started))
        return Bundle(work.target)
