"""Stage: an encoder as it is, and a linear head on its pooled states."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, new_bundle
from halfpint.engines.torch_classifier import run_batches
from halfpint.errors import need
from halfpint.stage import Stage, Work
from halfpint.tokenizers.load import open_tokenizer
from halfpint.train import _classifier

_PENALTIES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True, kw_only=True)
class FrozenLinear(Stage):
    """Multinomial logistic regression on standardised features of the frozen encoder.

    Args:
        penalty: the weight of the squared weights; 0 chooses it on the validation texts.
        max_tokens: where texts are cut; 0 takes it from the data.
    """

    needs: ClassVar[tuple[str, ...]] = ("encoder",)
    gives: ClassVar[str] = "classifier"

    penalty: float = 0.0
    max_tokens: int = 0

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Compute features once, fit the head for each penalty, keep the best on validation."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "training a head")
        max_tokens = self.max_tokens or _classifier.longest(open_tokenizer(bundle.path), work.train)
        model = _classifier.new_classifier(bundle, work.labels, max_tokens, 0.1)
        with work.log.bar("reading texts with the encoder", len(work.train) + len(work.validation)) as bar:
            features = self._features(model, bundle, work.train, max_tokens, bar)
            held = self._features(model, bundle, work.validation, max_tokens, bar)
        mean, spread = features.mean(0), features.std(0) + 1e-6
        targets = work.task.targets(work.train, work.labels)
        held_targets = work.task.targets(work.validation, work.labels)
        best: tuple[float, float, Any] | None = None
        for penalty in (self.penalty,) if self.penalty else _PENALTIES:
            weight, bias = _logistic(torch, (features - mean) / spread, targets, len(work.labels), penalty)
            value = _classifier.score((held - mean) / spread @ weight.T + bias, held_targets, work.primary)
            work.log.event("penalty", penalty=penalty, score=value)
            if best is None or value > best[0]:
                best = (value, penalty, (weight, bias))
        assert best is not None
        weight, bias = best[2]
        with torch.no_grad():  # the standardisation is linear, so it goes into the head
            model.classifier.weight.copy_(torch.from_numpy(weight / spread))
            model.classifier.bias.copy_(torch.from_numpy(bias - (weight / spread) @ mean))
        with new_bundle(work.target, bundle) as (folder, card):
            _classifier.write_classifier(folder, model, bundle.path)
            card.update(task=work.task.NAME, engine="torch_classifier")
            card["stages"].append(self.entry(started, validation=best[0], penalty=best[1], max_tokens=max_tokens))
        return Bundle(work.target)

    @staticmethod
    def _features(model: Any, bundle: Bundle, examples: Any, max_tokens: int, bar: Any) -> npt.NDArray[np.float32]:
        parts = []
        for start in range(0, len(examples), 1024):
            part = examples[start : start + 1024]
            ids = _classifier.token_ids(bundle.path, part, max_tokens)
            parts.append(run_batches(model, ids, model.pooled, model.classifier.in_features))
            bar.advance(len(part))
        return np.concatenate(parts)


def _logistic(
    torch: Any, features: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], labels: int, penalty: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights (labels, features) and bias of the penalised multinomial logistic regression, by L-BFGS."""
    inputs, wanted = torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(targets)
    weight = torch.zeros(labels, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(labels, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=150, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Any:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, wanted) + penalty * weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach().numpy(), bias.detach().numpy()
