"""Stage: TF-IDF features and a linear classifier, the strong cheap baseline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, write_json
from halfpint.data.terms import Shape
from halfpint.errors import SettingError, need
from halfpint.models.tfidf import Features
from halfpint.settings import LATER
from halfpint.stage import Stage, Work
from halfpint.train import encoders
from halfpint.train._candidates import candidates

RATIO, FREQUENCY = "log-count ratio", "inverse document frequency"
_STRENGTHS = (0.1, 0.3, 1.0, 3.0)
_WORSE = 0.02  # than the best: stronger still is not tried
_TOLERANCE = 1e-2  # of the solver: with a hundredth of it no score changed, and hard data took many times as long
_TRIED = 4  # times the features that are kept take part in the first fit
_FEW_TEXTS = 200  # below them a term counts that one text has
_LONG_WORDS = 100  # words of a text, on average, from which texts are long
_LOOKED_AT = 10_000  # texts
_MOST_TRIED = 50_000  # texts that strengths are tried on
MOST_FITTED = 200_000
"""Texts that weights are fitted on: of more, so many are drawn."""


@dataclass(frozen=True, kw_only=True)
class TfidfLinear(Stage):
    """Words, pairs of words and character n-grams into a linear support vector machine with calibrated softmax.

    Texts of 100 words or more on average have three-word n-grams in place of character n-grams. Scripts without spaces
    between words (Chinese, Japanese, Thai) have character n-grams from one character on. Of more than 200,000 texts all
    are counted, and 200,000 drawn for the fit.

    Args:
        features: most features kept; those whose weights matter most in a first fit stay.
        min_documents: a feature must occur in so many training texts.
        characters: longest character n-gram within a word (from 3); 0 for words alone.
        strength: the machine's C; 0 chooses it on the validation texts.
        weights: of terms, "log-count ratio" or "inverse document frequency"; empty chooses on the validation texts.
        factor: of scores before the softmax; 0 fits it to the validation texts.
        seed: of the solver.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.NOTHING,)
    gives: ClassVar[Kind] = Kind.LINEAR

    features: int = 30_000
    min_documents: int = 2
    characters: int = 5
    strength: float = 0.0
    weights: str = field(default="", metadata=LATER)
    factor: float = field(default=0.0, metadata=LATER)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("features", self.features >= 1, "1 or more"),
            ("min_documents", self.min_documents >= 1, "1 or more"),
            ("characters", self.characters == 0 or self.characters >= 3, "3 or more, or 0 for words alone"),
            ("strength", self.strength >= 0, "0 or more"),
            ("weights", self.weights in ("", RATIO, FREQUENCY), f"{RATIO}, {FREQUENCY}, or empty"),
            ("factor", self.factor >= 0, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def settled(self, entry: Mapping[str, Any], growth: float) -> TfidfLinear:
        """With the strength, the weights and the factor that it chose."""
        return replace(self, **{name: entry[name] for name in ("strength", "weights", "factor") if name in entry})

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Choose features, fit, calibrate."""
        started = time.monotonic()
        need("sklearn", "training a TF-IDF classifier")
        save_file = need("safetensors.numpy", "training a TF-IDF classifier").save_file
        task, judge, labels = work.labelled, encoders.Judge.of(work), len(work.labels)
        targets, held_targets = (task.targets(examples, work.labels) for examples in (work.train, work.validation))
        texts, held_texts = task.texts(work.train), task.texts(work.validation)
        with work.log.bar("Counting words", 1.0) as bar:
            chosen = candidates(
                texts, targets, labels, self._shape(texts), done=bar.advance, most=_TRIED * self.features,
                minimum=self.min_documents if len(texts) >= _FEW_TEXTS else 1,
            )  # fmt: skip
        fitted = len(texts)
        if fitted > MOST_FITTED:  # the others were counted; of weights so many texts say what more would say
            drawn = np.sort(np.random.default_rng(self.seed).permutation(fitted)[:MOST_FITTED])
            texts, targets, fitted = [texts[at] for at in drawn.tolist()], targets[drawn], MOST_FITTED
        vocabulary = Features(chosen.names, chosen.ratios, self._shape(texts))
        matrix, held = _matrix(vocabulary, texts), _matrix(vocabulary, held_texts)
        settled = self.strength and self.weights
        some = slice(None) if fitted <= _MOST_TRIED or settled else slice(0, fitted, fitted // _MOST_TRIED + 1)
        best: Any = None
        # Which is better the data say: short phrases want inverse document frequency.
        for weighting in {RATIO: (chosen.ratios,), FREQUENCY: (chosen.idf,)}.get(
            self.weights, (chosen.ratios, chosen.idf)
        ):
            part, held_part = (_weighted(one, weighting / chosen.ratios) for one in (matrix[some], held))
            top = -np.inf
            for strength in (self.strength,) if self.strength else _STRENGTHS:
                model = _fit(part, targets[some], strength, self.seed)
                score = judge(_scores(model, held_part, labels))
                top = max(top, score)
                if best is None or score > best[0]:
                    best = (score, strength, weighting, model)
                elif score < top - _WORSE:
                    break
        _, strength, weighting, model = best
        matrix, held = (_weighted(one, weighting / chosen.ratios) for one in (matrix, held))
        vocabulary = Features(chosen.names, weighting, vocabulary.shape)
        if some != slice(None):
            model = _fit(matrix, targets, strength, self.seed)
        if len(vocabulary.names) > self.features:
            weight, _ = _weights(model, labels)
            keep = np.sort(np.argsort(-np.linalg.norm(weight, axis=1), kind="stable")[: self.features])
            names = [vocabulary.names[index] for index in keep]
            vocabulary = Features(names, vocabulary.idf[keep], vocabulary.shape)
            matrix, held = (_weighted(one[:, keep], np.ones(len(keep), np.float32)) for one in (matrix, held))
            model = _fit(matrix, targets, strength, self.seed)
        weight, bias = _weights(model, labels)
        scale = self.factor or _temperature(_scores(model, held, labels), held_targets)
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
            about = {
                "strength": strength,
                "weights": RATIO if weighting is chosen.ratios else FREQUENCY,
                "factor": scale,
                "features": len(vocabulary.names),
                "texts_fitted": fitted,
            }
            card["stages"].append(self.entry(started, **about))
        return Bundle(work.target)

    def _shape(self, texts: Sequence[str]) -> Shape:
        """Character n-grams for short texts, n-grams of three words for long ones: they have enough words."""
        words = sum(len(text.split()) for text in texts[:_LOOKED_AT]) / max(1, len(texts[:_LOOKED_AT]))
        long = words >= _LONG_WORDS
        characters = (3, self.characters) if self.characters and not long else (0, 0)
        return Shape(characters, words=3 if long else 2)


def _matrix(vocabulary: Features, texts: Sequence[str]) -> Any:
    sparse = need("scipy.sparse", "training a TF-IDF classifier")
    rows = vocabulary.rows(texts)
    return sparse.csr_matrix((rows.weights, rows.numbers, rows.starts), shape=(len(texts), len(vocabulary.names)))


def _weighted(matrix: Any, factors: npt.NDArray[np.float32]) -> Any:
    """The columns times factors, rows of unit length again."""
    matrix = matrix.copy()
    matrix.data *= factors[matrix.indices]
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
    return matrix


def _fit(matrix: Any, targets: npt.NDArray[np.int64], strength: float, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=strength, random_state=seed, max_iter=2000, tol=_TOLERANCE).fit(matrix, targets)


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
