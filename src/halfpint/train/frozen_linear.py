"""Stage: an encoder as it is, and a linear head on its pooled states."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.errors import need
from halfpint.stage import Stage, Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import _head, encoders


@dataclass(frozen=True, kw_only=True)
class FrozenLinear(Stage):
    """Multinomial logistic regression on standardised features of the frozen encoder.

    Args:
        penalty: the weight of the squared weights; 0 chooses it on the validation texts.
        max_tokens: where texts are cut; 0 takes it from the data.
        train_texts: fit on so many texts, drawn with `seed`; 0 takes all (a linear head gains little from more).
        seed: of that draw.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER,)
    gives: ClassVar[Kind] = Kind.CLASSIFIER

    penalty: float = 0.0
    max_tokens: int = 0
    train_texts: int = 20_000
    seed: int = 0

    def settled(self, entry: Mapping[str, Any], growth: float) -> FrozenLinear:
        """With the penalty that it chose."""
        return replace(self, penalty=float(entry["penalty"]))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Compute features once, fit the head for each penalty, keep the best on validation."""
        assert bundle is not None
        started = time.monotonic()
        need("torch", "training a head")
        task = work.labelled
        texts, held_texts = task.texts(work.train), task.texts(work.validation)
        max_tokens = self.max_tokens or encoders.longest(open_tokenizer(bundle.path), texts)
        model = encoders.new_classifier(bundle, task, work.labels, max_tokens, 0.1)
        examples = encoders.drawn(work.train, self.train_texts, self.seed)
        encoded = encoders.encoded(bundle.path, task, task.texts(examples), max_tokens)
        held = encoders.encoded(bundle.path, task, held_texts, max_tokens)
        with work.log.bar("reading texts with the encoder", len(encoded.rows) + len(held.rows)) as bar:
            inputs, held_inputs = _head.features(model, encoded, bar), _head.features(model, held, bar)
        targets = task.targets(examples, work.labels)
        judge = encoders.Judge.of(work, held.per_text)
        score, penalty = _head.fit_head(model, inputs, targets, held_inputs, judge, self.penalty)
        with self.new_bundle(work, bundle) as (folder, card):
            encoders.write_classifier(folder, model, bundle.path)
            card.update(task=task.name, engine="torch_classifier")
            card["stages"].append(self.entry(started, validation=score, penalty=penalty, max_tokens=max_tokens))
        return Bundle(work.target)
