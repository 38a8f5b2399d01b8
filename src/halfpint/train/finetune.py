"""Stage: fine-tune an encoder with the head of a task."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind
from halfpint.engines.torch_classifier import logits, picked, tensors
from halfpint.errors import SettingError, need
from halfpint.outputs import NO_LABEL, Encoded
from halfpint.settings import LATER
from halfpint.stage import Stage, Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import _head, checkpoint, encoders
from halfpint.train.loop import Training, check_settings, device, train

_WEIGHTINGS = ("none", "balanced")
REFIT_TEXTS = 10_000
"""Texts whose features a head is refitted on: enough for one, and a minute at most."""


@dataclass(frozen=True, kw_only=True)
class Finetune(Training, Stage):
    """Train all layers on the labelled texts; a classifier goes on from its head, an encoder gets a new one.

    Args:
        dropout: in the encoder's hidden states and before the head.
        label_smoothing: share of the target spread over all labels (Szegedy et al. 2016, section 7).
        consistency: how much it costs that two passes with different dropout say different things of a text (their
            symmetric Kullback-Leibler divergence, nats); each step takes twice as long. 0 reads each text once.
            Source: Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", section 2.
        class_weights: none, or balanced: a label counts by the inverse of its share.
        train_embeddings: also train the token embeddings (half of a small encoder's weights, rarely worth it).
        max_tokens: where texts are cut; 0 takes it from the data or the classifier.
        train_texts: learn from so many texts, drawn with `seed`; 0 takes all.
        refit_head: after training, fit the head by logistic regression on the trained encoder's features, and keep it
            if it scores better on validation; of heads that pool the text into one vector.
        head_penalty: the weight of the squared weights of the refitted head, which is kept then however it scores; 0
            chooses it on validation.
        start_share: refit the head on an encoder that is this share of what training started from and the rest of what
            it came to. Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER)
    gives: ClassVar[Kind] = Kind.CLASSIFIER

    learning_rate: float = 5e-5
    head_learning_rate: float = 2e-3
    dropout: float = 0.1
    label_smoothing: float = 0.1
    consistency: float = 0.0
    class_weights: str = "none"
    train_embeddings: bool = False
    max_tokens: int = 0
    train_texts: int = 0
    refit_head: bool = True
    head_penalty: float = field(default=0.0, metadata=LATER)
    start_share: float = 0.4

    def __post_init__(self) -> None:
        check_settings(self, self.use)
        if self.class_weights not in _WEIGHTINGS:
            raise SettingError(f"{self.use}: class_weights", wanted="none or balanced", got=repr(self.class_weights))
        for name, fits, wanted in (
            ("dropout", 0 <= self.dropout < 1, "a share from 0, below 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "a share from 0, below 1"),
            ("consistency", self.consistency >= 0, "0 or more"),
            ("start_share", 0 <= self.start_share <= 1, "a share from 0 to 1"),
            ("head_penalty", self.head_penalty >= 0, "0 or more"),
            ("max_tokens", self.max_tokens >= 0, "0 or more"),
            ("train_texts", self.train_texts >= 0, "0 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def settled(self, entry: Mapping[str, Any], growth: float) -> Finetune:
        """As many passes as were best, and the head that was kept: as trained, or refitted with the penalty chosen."""
        stops = entry["best_step"] < entry["total_steps"]
        steps = round(entry["best_step"] * growth) if stops and not self.train_texts else entry["best_step"] * stops
        penalty = entry["finish"].get("penalty", 0.0)
        return replace(self, stop_after_steps=steps, refit_head=bool(penalty), head_penalty=penalty)

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train, keep the best evaluation on validation."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "fine-tuning")
        max_tokens = self.max_tokens or int(bundle.config.get("max_tokens", 0))
        task = work.labelled
        max_tokens = max_tokens or encoders.longest(open_tokenizer(bundle.path), task.texts(work.train[:20_000]))
        torch.manual_seed(self.seed)
        model = encoders.classifier_from(bundle, task, work.labels, max_tokens, self.dropout)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = self.dropout
        if not self.train_embeddings:
            model.encoder.get_input_embeddings().weight.requires_grad_(False)
        start = {name: tensor.clone() for name, tensor in checkpoint.trainable(model.encoder).items()}
        model.to(device())
        examples = encoders.drawn(work.train, self.train_texts, self.seed)
        encoded = encoders.encoded(bundle.path, task, task.texts(examples), max_tokens)
        held = encoders.encoded(bundle.path, task, task.texts(work.validation), max_tokens)
        targets = task.targets(examples, work.labels)
        judge = encoders.Judge.of(work, held.per_text)
        weights = self._weights(targets, len(work.labels))
        pad_id = int(model.config.encoder.get("pad_token_id") or 0)

        def batch_loss(batch: npt.NDArray[np.int64]) -> Any:
            passes = np.concatenate([batch, batch]) if self.consistency else batch
            inputs = tensors(encoded, passes, pad_id, device())
            wanted = torch.from_numpy(targets[encoded.units_of(passes)]).to(device())
            said = picked(model(**inputs).logits.float(), encoded, passes)
            loss = torch.nn.functional.cross_entropy(
                said, wanted, weight=weights, label_smoothing=self.label_smoothing
            )  # fmt: skip
            return loss + self.consistency * _disagreement(*said.chunk(2)) if self.consistency else loss

        outcome = train(
            model,
            encoded.lengths,
            batch_loss,
            lambda: judge(logits(model, held)),
            self,
            work,
            guess=float(np.log(len(work.labels))),
        )
        model.to("cpu").eval()
        finish = self._finish(model, start, outcome.best_score, encoded, targets, held, judge, work)
        with self.new_bundle(work, bundle) as (folder, card):
            encoders.write_classifier(folder, model, bundle.path)
            card.update(task=task.name, engine="torch_classifier")
            figures = {key: value for key, value in vars(outcome).items() if key != "seconds"}
            card["stages"].append(self.entry(started, **figures, finish=finish, max_tokens=max_tokens))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _finish(
        self,
        model: Any,
        start: dict[str, Any],
        score: float,
        encoded: Encoded,
        targets: npt.NDArray[np.int64],
        held: Encoded,
        judge: encoders.Judge,
        work: Work,
    ) -> dict[str, float]:
        """Try a refitted head, on a mix of the trained encoder and the starting one; leave the better in `model`.

        Gives what was tried with its validation score.
        """
        import torch

        tried = {"as trained": score}
        if not (self.refit_head and hasattr(model, "pooled")):
            return tried
        if len(encoded.rows) > REFIT_TEXTS:
            chosen = np.random.default_rng(self.seed).permutation(len(encoded.rows))[:REFIT_TEXTS]
            encoded, targets = Encoded([encoded.rows[index] for index in chosen]), targets[chosen]
        kept = {name: tensor.clone() for name, tensor in checkpoint.trainable(model).items()}
        share = self.start_share
        with torch.no_grad():
            for name, parameter in checkpoint.trainable(model.encoder).items():
                parameter.lerp_(start[name].to(parameter.device), share)
        inputs, features = _head.features(model, encoded), _head.features(model, held)
        value, penalty = _head.fit_head(model, inputs, targets, features, judge, self.head_penalty)
        tried[f"head refitted, {share:g} of the start" if share else "head refitted"] = value
        keeps = bool(self.head_penalty) or value > score
        if not keeps:
            with torch.no_grad():
                for name, parameter in checkpoint.trainable(model).items():
                    parameter.copy_(kept[name])
        work.log.say(
            "  " + ", ".join(f"{name} {value:.4f}" for name, value in tried.items()), kind="finish", **{"tried": tried}
        )
        return {**tried, "penalty": penalty} if keeps else tried

    def _weights(self, targets: npt.NDArray[np.int64], labels: int) -> Any:
        if self.class_weights == "none":
            return None
        import torch

        counts = np.maximum(np.bincount(targets[targets != NO_LABEL], minlength=labels), 1)
        return torch.from_numpy((len(targets) / (labels * counts)).astype(np.float32)).to(device())


def _disagreement(one: Any, other: Any) -> Any:
    """The mean symmetric Kullback-Leibler divergence (nats) between what two logits (texts, labels) say."""
    first, second = one.log_softmax(-1), other.log_softmax(-1)
    return ((first.exp() - second.exp()) * (first - second)).sum(-1).mean() / 2
