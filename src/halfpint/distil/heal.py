"""Stage: a short distillation from the model as it was, after a step that made it smaller."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.distil.logits import Logits
from halfpint.distil.teachers import WithTeacher
from halfpint.distil.token_logits import TokenLogits
from halfpint.errors import SettingError, need_installed
from halfpint.stage import Stage, Work

_RATE, TOKEN_RATE, _LORA_RATE = 5e-5, 2e-4, 2e-4
_BATCH, TOKEN_BATCH = 4096, 1024  # tokens; of a classifier, and of a language model


@dataclass(frozen=True, kw_only=True)
class Heal(WithTeacher, Stage):
    """Train a pruned, factored or shallower model for a while on the answers of the model that it was made from.

    For classifiers and language models; without `teacher` it is the bundle that the compress/ stages began from, which
    lies beside. Weights that were pruned to zero stay zero. Source: Muralidharan et al. 2024, "Compact Language Models
    via Pruning and Knowledge Distillation", section 3.3.

    Args:
        lora: train low-rank adapters (merged in the end) instead of all weights.
        lora_rank: of the adapters.
        epochs: passes over a classifier's texts, or over documents where `tokens` and `minutes` are 0.
        minutes: how long a language model is trained where `tokens` is 0.
        tokens: how many a language model is trained on; 0 goes by `minutes`.
        learning_rate: peak rate of AdamW; 0 takes 5e-5, for a language model and with LoRA 2e-4.
        label_share: share of the labels (or of the text itself) in the loss, beside the teacher.
        temperature: what the logits of both are divided by.
        cached: keep draws of a language model's answers (distil/token_answers) instead of asking it at every step.
        context: tokens of a language model's sequence; 0 takes the model's, at most 1,024.
        batch_tokens: padded tokens in a batch, at most; 0 takes 4,096, and 1,024 for a language model: whole
            distributions say much of each token, and in a few minutes four small steps go further than a large one.
        train_texts: of a classifier's texts so many; 0 takes all.
        seed: of order and dropout.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.CLASSIFIER, Kind.LANGUAGE)
    gives: ClassVar[Kind] = Kind.SAME

    lora: bool = False
    lora_rank: int = 16
    epochs: int = 1
    minutes: float = 10.0
    tokens: int = 0
    learning_rate: float = 0.0
    label_share: float = 0.1
    temperature: float = 1.0
    cached: bool = False
    context: int = 0
    batch_tokens: int = 0
    train_texts: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_tokens"):
            if getattr(self, name) < 0:
                raise SettingError(f"{self.use}: {name}", wanted="0 or more", got=str(getattr(self, name)))
        for make in (self._of_texts, self._of_tokens):  # refuse what they refuse
            make()

    def check(self) -> None:
        """Refuse a teacher that is not there, and LoRA without `peft`."""
        super().check()
        if self.lora:
            need_installed("peft", "LoRA")

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Distil from the larger model; keep the best evaluation on validation."""
        assert bundle is not None
        started = time.monotonic()
        make: Callable[[], Stage] = self._of_tokens if bundle.card.get("engine") == "torch_lm" else self._of_texts
        inner = replace(work, target=work.scratch / "healed", scratch=work.scratch / "healing")
        healed = make().run(bundle, inner)
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(healed, folder, nested=True)
            card.update(task=healed.card["task"], engine=healed.card["engine"])
            told = healed.card["stages"][-1]
            figures = {key: value for key, value in told.items() if key not in ("use", "settings", "seconds")}
            card["stages"].append(self.entry(started, by=told["use"], **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _shared(self, rate: float, batch_tokens: int) -> dict[str, Any]:
        return {
            "teacher": self.teacher, "epochs": self.epochs, "label_share": self.label_share, "seed": self.seed,
            "temperature": self.temperature, "lora": self.lora, "lora_rank": self.lora_rank,
            "batch_tokens": self.batch_tokens or batch_tokens,
            "learning_rate": self.learning_rate or (_LORA_RATE if self.lora else rate),
        }  # fmt: skip

    def _of_texts(self) -> Logits:
        """The stage that heals a classifier."""
        return Logits(**self._shared(_RATE, _BATCH), head_learning_rate=0.0, train_texts=self.train_texts)

    def _of_tokens(self) -> TokenLogits:
        """The stage that heals a language model."""
        settings = self._shared(TOKEN_RATE, TOKEN_BATCH)
        return TokenLogits(
            **settings, minutes=self.minutes, tokens=self.tokens, cached=self.cached, context=self.context
        )
