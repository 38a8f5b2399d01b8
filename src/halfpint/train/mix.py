"""Stage: let a trained language model and counts of the same tokens foretell the next token together."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, new_bundle, write_json
from halfpint.data.conversations import Conversations
from halfpint.engines.mixed import COUNTED, WEIGHTS, ids_and_logs
from halfpint.engines.torch_lm import load as load_engine
from halfpint.errors import HalfpintError
from halfpint.models.sizes import CAUSAL
from halfpint.models.token_ngram import TokenNgram
from halfpint.stage import Stage, Work

_ROUNDS = 200
_AT_ONCE = 64  # documents
_LEAST_TOKENS = 2_000  # of validation, to choose weights by


@dataclass(frozen=True, kw_only=True)
class Mix(Stage):
    """Add an n-gram model of the tokens that the trained model has, counted in the text that it learned from.

    The probability of a token is w times that of the counts and 1 - w times that of the trained model; w is one number
    for each length of the counted sequence that it follows, and is fitted on the validation documents. What was trained
    briefly gains most: names and phrases that it saw once are counted, not learned. The result runs in halfpint alone.

    Source: Jelinek and Mercer 1980, "Interpolated estimation of Markov source parameters from sparse data" (weights by
    context, fitted by expectation maximisation on held-out text); Mikolov et al. 2011, "Empirical evaluation and
    combination of advanced language modeling techniques", section 3.

    Args:
        order: tokens in the longest sequence counted, 2 to 8.
    """

    needs: ClassVar[tuple[str, ...]] = ("language",)
    gives: ClassVar[str] = "mixed"

    order: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.order <= 8:
            raise HalfpintError(f"{self.use}: order", wanted="2 to 8", got=str(self.order))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Count, fit the weights, write both models into one bundle."""
        assert bundle is not None
        started = time.monotonic()
        corpus = work.corpus
        if corpus is None or isinstance(corpus, Conversations) or not len(corpus.validation):
            raise HalfpintError(self.use, wanted="text with validation documents", got="none")
        engine = load_engine(bundle, None)
        if engine.objective != CAUSAL:
            raise HalfpintError(self.use, wanted="a causal model", got="a masked one")
        vocabulary = int(bundle.config["vocab_size"])
        counts = TokenNgram.fit(map(engine.encode, corpus.train), vocabulary, self.order, work.log)
        found: list[tuple[Any, Any, Any]] = []
        with work.log.bar("reading validation texts", len(corpus.validation)) as bar:
            for start in range(0, len(corpus.validation), _AT_ONCE):
                texts = corpus.validation[start : start + _AT_ONCE]
                found += [ids_and_logs(counts, engine.encode(text), scored.log_probabilities) for text, scored in
                          zip(texts, engine.score(texts), strict=True)]  # fmt: skip
                bar.advance(len(texts))
        trained, counted, lengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if len(trained) < _LEAST_TOKENS:
            raise HalfpintError(
                f"{self.use}: validation text", wanted=f"{_LEAST_TOKENS:,} tokens or more", got=f"{len(trained):,}"
            )
        weights = fit_weights(trained, counted, lengths, self.order)
        mixed = np.logaddexp(np.log1p(-weights[lengths]) + trained, np.log(weights[lengths]) + counted)
        before, after = float(-trained.mean()), float(-mixed.mean())
        work.log.say(
            f"  {before:.3f} nats a token trained, {-counted.mean():.3f} counted, {after:.3f} together",
            kind="mixed", trained=before, counted=float(-counted.mean()), together=after,
        )  # fmt: skip
        with new_bundle(work.target, bundle) as (folder, card):
            for file in bundle.path.iterdir():
                if file.is_file() and file.name not in ("card.json", "README.md"):
                    shutil.copyfile(file, folder / file.name)
            counts.save(folder / COUNTED)
            write_json(folder / COUNTED / WEIGHTS, {"weights": [round(float(one), 6) for one in weights]})
            card["engine"] = "mixed"
            card["stages"].append(
                self.entry(
                    started, weights=weights.round(4).tolist(), nats_trained=before, nats_together=after,
                    ngrams=counts.model.tables.ngrams,
                )
            )  # fmt: skip
        return Bundle(work.target)


def fit_weights(
    trained: npt.NDArray[np.float64], counted: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64], order: int
) -> npt.NDArray[np.float64]:
    """The weight of the counts for each length of what they know, by expectation maximisation.

    Args:
        trained, counted: nats of each token, (tokens,); lengths: of the known sequence before each.

    Returns:
        float64 (order,), each between 0.001 and 0.999; a length that does not occur takes that of all tokens.
    """
    gap = counted - trained

    def best(some: npt.NDArray[np.float64]) -> float:
        weight = 0.5
        for _ in range(_ROUNDS):
            weight = float(np.mean(1 / (1 + (1 - weight) / weight * np.exp(-some))))
            weight = min(max(weight, 0.001), 0.999)
        return weight

    general = best(gap)
    return np.array([best(gap[lengths == one]) if (lengths == one).sum() >= 100 else general for one in range(order)])
