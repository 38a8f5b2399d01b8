"""Labels that are probably wrong, by what a simple model that has not seen the row thinks of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from halfpint.data.examples import Example
from halfpint.data.terms import Shape, chunked, count_rows, hashed
from halfpint.errors import HalfpintError, need

_FEWEST = 20
_COLUMN_BITS = 16  # of a word's hash: so many columns the matrix has
_WORDS = Shape(characters=(0, 0), words=1)
_FOLDS = 3
MOST_ROWS = 20_000
"""Rows that are looked at; of more a sample is drawn."""


def probable_wrong_labels(
    examples: Sequence[Example], *, max_rows: int = MOST_ROWS, seed: int = 0
) -> list[tuple[Example, str]]:
    """(example, the label it reads like), the most doubtful first.

    Out-of-fold probabilities of logistic regression over TF-IDF go to cleanlab. Above `max_rows` a sample that `seed`
    fixes is looked at. Labels with one example cannot be judged and are left out.

    Source: Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021.

    Raises:
        HalfpintError: scikit-learn or cleanlab is missing, there are too few examples, or the model is too weak.
    """
    what = "the search for wrong labels"
    linear = need("sklearn.linear_model", what)
    selection = need("sklearn.model_selection", what)
    cleanlab = need("cleanlab.filter", what)
    if len(examples) > max_rows:
        chosen = np.random.default_rng(seed).choice(len(examples), max_rows, replace=False)
        examples = [examples[index] for index in sorted(chosen.tolist())]
    counts = Counter(example.label for example in examples)
    examples = [example for example in examples if counts[example.label] > 1]
    names = sorted({example.label for example in examples})
    if len(names) < 2 or len(examples) < _FEWEST:
        raise HalfpintError(
            what, wanted=f"{_FEWEST} examples of two labels", got=f"{len(examples)} of {len(names)}",
            said=f"That needs {_FEWEST} examples of two labels that each have two or more.",
        )  # fmt: skip
    labels = np.array([names.index(example.label) for example in examples])
    matrix = _weighted_words([example.text for example in examples])
    # Trained by SGD, logistic regression finds as many planted errors as by L-BFGS, in a tenth of the time.
    model = linear.SGDClassifier(loss="log_loss", alpha=3e-5, random_state=seed)
    folds = selection.StratifiedKFold(min(_FOLDS, *Counter(labels.tolist()).values()), shuffle=True, random_state=seed)
    probabilities = selection.cross_val_predict(model, matrix, labels, cv=folds, method="predict_proba")
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    usual = max(Counter(labels.tolist()).values()) / len(labels)
    if accuracy <= usual + 0.02:
        raise HalfpintError(
            what,
            wanted="texts whose labels a simple model can guess",
            got=f"accuracy {accuracy:.2f} of that model, and {usual:.2f} by always saying the most frequent label",
        )
    doubtful = cleanlab.find_label_issues(
        labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1, verbose=False
    )
    return [(examples[index], names[int(probabilities[index].argmax())]) for index in doubtful.tolist()]


def _weighted_words(texts: Sequence[str]) -> Any:
    """TF-IDF of words (of one to three characters where words have no borders), a sparse matrix with unit rows."""
    sparse = need("scipy.sparse", "the search for wrong labels")
    columns = 1 << _COLUMN_BITS
    parts = []
    for start, stop in chunked(texts):
        found = hashed(texts[start:stop], _WORDS)
        numbers = (found.hashes >> np.uint64(64 - _COLUMN_BITS)).astype(np.int64)
        starts, words, counts = count_rows(found.owners(), numbers, stop - start, columns)
        shape = (stop - start, columns)
        parts.append(sparse.csr_matrix(((1 + np.log(counts)).astype(np.float32), words, starts), shape=shape))
    matrix = sparse.vstack(parts, format="csr")
    texts_with = np.bincount(matrix.indices, minlength=columns)
    matrix.data *= (np.log((1 + len(texts)) / (1 + texts_with)) + 1).astype(np.float32)[matrix.indices]
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
    return matrix
