"""Stage: an encoder as it is, and a linear head on its pooled states."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from halfpint.bundle import Bundle, new_bundle
from halfpint.errors import need
from halfpint.stage import Stage, Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import _classifier, _head


@dataclass(frozen=True, kw_only=True)
class FrozenLinear(Stage):
    """Multinomial logistic regression on standardised features of the frozen encoder.

    Args:
        penalty: the weight of the squared weights; 0 chooses it on the validation texts.
        max_tokens: where texts are cut; 0 takes it from the data.
        train_texts: fit on so many texts, drawn with `seed`; 0 takes all (a linear head gains little from more).
        seed: of that draw.
    """

    needs: ClassVar[tuple[str, ...]] = ("encoder",)
    gives: ClassVar[str] = "classifier"

    penalty: float = 0.0
    max_tokens: int = 0
    train_texts: int = 20_000
    seed: int = 0

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Compute features once, fit the head for each penalty, keep the best on validation."""
        assert bundle is not None
        started = time.monotonic()
        need("torch", "training a head")
        max_tokens = self.max_tokens or _classifier.longest(open_tokenizer(bundle.path), work.train)
        model = _classifier.new_classifier(bundle, work.labels, max_tokens, 0.1)
        examples = _classifier.drawn(work.train, self.train_texts, self.seed)
        ids = _classifier.token_ids(bundle.path, examples, max_tokens)
        held_ids = _classifier.token_ids(bundle.path, work.validation, max_tokens)
        with work.log.bar("reading texts with the encoder", len(ids) + len(held_ids)) as bar:
            inputs, held = _head.features(model, ids, bar), _head.features(model, held_ids, bar)
        score, penalty = _head.fit_head(
            model,
            inputs,
            work.task.targets(examples, work.labels),
            held,
            work.task.targets(work.validation, work.labels),
            work.primary,
            self.penalty,
        )
        with new_bundle(work.target, bundle) as (folder, card):
            _classifier.write_classifier(folder, model, bundle.path)
            card.update(task=work.task.NAME, engine="torch_classifier")
            card["stages"].append(self.entry(started, validation=score, penalty=penalty, max_tokens=max_tokens))
        return Bundle(work.target)
