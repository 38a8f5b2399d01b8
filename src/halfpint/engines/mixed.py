"""The engine of a trained language model and counts of its tokens that foretell together (see `train.mix`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, read_json
from halfpint.engines import torch_lm
from halfpint.engines._constraint import Grammars
from halfpint.engines._scored import ScoredText
from halfpint.engines._writing import Writer
from halfpint.models.token_ngram import TokenNgram

COUNTED, WEIGHTS = "counted", "mix.json"

Floats = npt.NDArray[np.float64]


class MixedEngine(Writer):
    """Scores, foretells and writes by both models at once.

    Attributes:
        context, ends: the trained model's.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._trained = torch_lm.load(bundle, threads)
        self.context, self.ends = self._trained.context, self._trained.ends
        self._counts = TokenNgram.load(bundle.path / COUNTED, int(bundle.config["vocab_size"]))
        self._weights = np.array(read_json(bundle.path / COUNTED / WEIGHTS)["weights"], dtype=np.float64)

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Each text's log-probabilities, token by token."""
        found = []
        for text, alone in zip(texts, self._trained.score(texts), strict=True):
            trained, counted, lengths = ids_and_logs(self._counts, self.encode(text), alone.log_probabilities)
            weights = self._weights[lengths]
            logs = np.logaddexp(np.log1p(-weights) + trained, np.log(weights) + counted)
            found.append(ScoredText.of(text, logs))
        return found

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone."""
        return self._trained.encode(text, special)

    def start(self, text: str) -> list[int]:
        """The ids to go on from after `text`."""
        return self._trained.start(text)

    def after(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Log-probabilities of the token after `ids`."""
        logits = self._trained.after(ids).astype(np.float64)
        trained = np.exp(logits - logits.max())
        own = ids[1:] if ids[:1] == self._trained.start("")[:1] else ids  # the start of a document is not counted
        counted, length = self._counts.after(own)
        weight = self._weights[length]
        mixed: npt.NDArray[np.float32] = np.log(
            (1 - weight) * trained / trained.sum() + weight * counted[: len(trained)] + 1e-30
        ).astype(np.float32)
        return mixed

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        return self._trained.decode(ids)

    def token(self, number: int) -> bytes:
        """The bytes that a token stands for."""
        return self._trained.token(number)

    def grammars(self) -> Grammars:
        """What makes constraints over this vocabulary."""
        return self._trained.grammars()


def ids_and_logs(
    counts: TokenNgram, ids: Sequence[int], logs: npt.NDArray[np.floating]
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """What both models say of a text: nats of the trained one, nats of the counts, and the lengths that these knew.

    A trained model without a start of documents does not score the first token; neither is counted then.
    """
    counted, lengths = counts.score(ids) if len(ids) else (np.zeros(0), np.zeros(0, dtype=np.int64))
    skipped = len(ids) - len(logs)
    return logs.astype(np.float64), counted[skipped:], lengths[skipped:]


def load(bundle: Bundle, threads: int | None = None) -> MixedEngine:
    """Load both models."""
    return MixedEngine(bundle, threads)
