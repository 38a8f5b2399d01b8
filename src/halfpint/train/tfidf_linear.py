"""Stage: TF-IDF features and a linear classifier, the strong cheap baseline."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, write_json
from halfpint.errors import SettingError, need
from halfpint.models.tfidf import Features, terms
from halfpint.stage import Stage, Work
from halfpint.train import encoders

_STRENGTHS = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class TfidfLinear(Stage):
    """Words, pairs of words and character n-grams into a linear support vector machine with calibrated softmax.

    Args:
        features: most features kept; those whose weights matter most in a first fit stay.
        min_documents: a feature must occur in so many training texts.
        characters: longest character n-gram within a word (from 3); 0 for words alone.
        strength: the machine's C; 0 chooses it on the validation texts.
        seed: of the solver.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.LINEAR

    features: int = 30_000
    min_documents: int = 2
    characters: int = 5
    strength: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("features", self.features >= 1, "1 or more"),
            ("min_documents", self.min_documents >= 1, "1 or more"),
            ("characters", self.characters == 0 or self.characters >= 3, "3 or more, or 0 for words alone"),
            ("strength", self.strength >= 0, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Choose features, fit, calibrate."""
        started = time.monotonic()
        need("sklearn", "training a TF-IDF classifier")
        save_file = need("safetensors.numpy", "training a TF-IDF classifier").save_file
        task, judge = work.labelled, encoders.Judge.of(work)
        targets, held_targets = (task.targets(examples, work.labels) for examples in (work.train, work.validation))
        texts, held_texts = task.texts(work.train), task.texts(work.validation)
        vocabulary = self._vocabulary(texts)
        matrix, held = _matrix(vocabulary, texts), _matrix(vocabulary, held_texts)
        tried = {}
        best: Any = None
        for strength in (self.strength,) if self.strength else _STRENGTHS:
            model = _fit(matrix, targets, strength, self.seed)
            tried[strength] = judge(_scores(model, held, len(work.labels)))
            if best is None or tried[strength] > tried[best[0]]:
                best = (strength, model)
            elif tried[strength] < max(tried.values()) - 0.02:
                break
        strength, model = best
        if len(vocabulary.names) > self.features:
            weight, _ = _weights(model, len(work.labels))
            keep = np.sort(np.argsort(-np.linalg.norm(weight, axis=1), kind="stable")[: self.features])
            vocabulary = Features(
                [vocabulary.names[index] for index in keep], vocabulary.idf[keep], vocabulary.characters
            )
            matrix, held = _matrix(vocabulary, texts), _matrix(vocabulary, held_texts)
            model = _fit(matrix, targets, strength, self.seed)
        weight, bias = _weights(model, len(work.labels))
        scale = _temperature(_scores(model, held, len(work.labels)), held_targets)
        with self.new_bundle(work) as (folder, card):
            config = {
                "model_type": "tfidf_linear",
                "id2label": dict(enumerate(work.labels)),
                **vocabulary.write(folder),
            }
            write_json(folder / "config.json", config)
            tensors = {
                "weight": np.ascontiguousarray(weight * scale, dtype=np.float32),
                "bias": np.ascontiguousarray(bias * scale, dtype=np.float32),
                "idf": np.ascontiguousarray(vocabulary.idf, dtype=np.float32),
            }
            save_file(tensors, folder / "model.safetensors")
            card.update(task=task.name, engine="linear")
            card["stages"].append(self.entry(started, strength=strength, features=len(vocabulary.names)))
        return Bundle(work.target)

    def _vocabulary(self, texts: Sequence[str]) -> Features:
        """Features by document frequency; at most four times as many as will be kept, the most frequent ones."""
        span = (3, self.characters) if self.characters else (0, 0)
        seen: Counter[str] = Counter()
        for text in texts:
            seen.update(list(dict.fromkeys(terms(text, span))))  # a set has another order in every process
        minimum = self.min_documents if len(texts) >= 200 else 1
        names = [name for name, count in seen.most_common(4 * self.features) if count >= minimum]
        names = sorted(names) or sorted(seen) or ["w:"]
        idf = np.log((1 + len(texts)) / (1 + np.array([seen[name] for name in names]))) + 1
        # Exports keep it in half precision: rounded before the fit, it is the same number everywhere.
        return Features(names, idf.astype(np.float16).astype(np.float32), span)


def _matrix(vocabulary: Features, texts: Sequence[str]) -> Any:
    sparse = need("scipy.sparse", "training a TF-IDF classifier")
    rows = [vocabulary.row(text) for text in texts]
    starts = np.cumsum([0, *(len(numbers) for numbers, _ in rows)])
    indices = np.concatenate([numbers for numbers, _ in rows])
    values = np.concatenate([weights for _, weights in rows])
    return sparse.csr_matrix((values, indices, starts), shape=(len(texts), len(vocabulary.names)))


def _fit(matrix: Any, targets: npt.NDArray[np.int64], strength: float, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=strength, random_state=seed, max_iter=2000).fit(matrix, targets)


def _weights(model: Any, labels: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Weights (features, labels) and bias (labels,); labels that training does not have get a low bias."""
    coefficients, intercepts, present = model.coef_, model.intercept_, model.classes_
    if len(present) == 2:
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
    weight = np.zeros((coefficients.shape[1], labels))
    bias = np.full(labels, -10.0)
    weight[:, present], bias[present] = coefficients.T, intercepts
    return weight, bias


def _scores(model: Any, matrix: Any, labels: int) -> npt.NDArray[Any]:
    weight, bias = _weights(model, labels)
    scores: npt.NDArray[Any] = np.asarray(matrix @ weight) + bias
    return scores


def _temperature(scores: npt.NDArray[Any], targets: npt.NDArray[np.int64]) -> float:
    """The factor on the scores whose softmax fits the targets best (Guo et al. 2017, section 4.2)."""
    best, factor = np.inf, 1.0
    for candidate in np.geomspace(0.5, 20, 40):
        scaled = scores * candidate
        scaled -= scaled.max(1, keepdims=True)
        loss = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(targets)), targets]
        if loss.mean() < best:
            best, factor = float(loss.mean()), float(candidate)
    return factor
