"""Stage: let counts of the same tokens, and the text so far, predict the next token with a trained language model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, copy_files
from halfpint.engines.mixed import COUNTED, Floats, Mixture, Scored, mixed_logs
from halfpint.engines.torch_lm import load as load_engine
from halfpint.errors import HalfpintError, SettingError
from halfpint.models.continuous_cache import AGES, ContinuousCache, ages
from halfpint.models.sizes import CAUSAL
from halfpint.models.token_ngram import TokenNgram
from halfpint.stage import Stage, Work

_ROUNDS = 200
_MOST_TOKENS = 200_000  # of validation: more would not change a weight
_SHARPNESSES = (2.0, 4.0, 8.0, 12.0, 16.0, 24.0)
_LEAST_TOKENS = 2_000  # of validation, to choose weights by


@dataclass(frozen=True, kw_only=True)
class Mix(Stage):
    """Let an n-gram model of the tokens in the text that was learned from, and the text that is read, predict along.

    The probability of a token is w times that of the counts and 1 - w times that of the trained model; w is one number
    for each length of the counted sequence that it follows. Of the result and of a continuous cache (what followed
    states like this one earlier in the text) a mean is taken in the same way, with a weight for each age of the text.
    All weights are fitted on the validation documents. What was trained briefly gains most: names and phrases that it
    saw once are counted, not learned. The result runs in halfpint alone.

    Source: Jelinek and Mercer 1980, "Interpolated estimation of Markov source parameters from sparse data" (weights by
    context, fitted by expectation maximisation on held-out text); Mikolov et al. 2011, "Empirical evaluation and
    combination of advanced language modeling techniques", section 3; Grave et al. 2017, "Improving Neural Language
    Models with a Continuous Cache".

    Args:
        order: tokens in the longest sequence counted, 2 to 8.
        cache: tokens back in the text that the cache looks; 0 has none.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE,)
    gives: ClassVar[Kind] = Kind.MIXED

    order: int = 5
    cache: int = 2000

    def __post_init__(self) -> None:
        if not 2 <= self.order <= 8:
            raise SettingError(f"{self.use}: order", wanted="2 to 8", got=str(self.order))
        if self.cache < 0:
            raise SettingError(f"{self.use}: cache", wanted="0 or more", got=str(self.cache))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Count, fit the weights, write all of it into one bundle."""
        assert bundle is not None
        started = time.monotonic()
        corpus = work.documents
        if not len(corpus.validation):
            raise HalfpintError(self.use, wanted="text with validation documents", got="none")
        engine = load_engine(bundle, None)
        if engine.objective != CAUSAL:
            raise HalfpintError(self.use, wanted="a causal model", got="a masked one")
        vocabulary = int(bundle.config["vocab_size"])
        counts = TokenNgram.fit(map(engine.encode, corpus.train), vocabulary, self.order, work.log, work.scratch)
        scored: list[Scored] = []
        tokens = 0
        with work.log.bar("reading validation texts", len(corpus.validation)) as bar:
            for following, logs, states in engine.score_states(corpus.validation):
                scored.append((following, logs, states.astype(np.float16)))  # which tells them apart as well
                tokens += len(logs)
                bar.advance(1)
                if tokens >= _MOST_TOKENS:
                    break
        if tokens < _LEAST_TOKENS:
            raise HalfpintError(
                f"{self.use}: validation text", wanted=f"{_LEAST_TOKENS:,} tokens or more", got=f"{tokens:,}"
            )
        ids = [engine.encode(text) for text in corpus.validation[: len(scored)]]
        mixture, nats = fitted(counts, ids, scored, self.cache)
        work.log.say(
            "  nats per token: " + ", ".join(f"{value:.3f} {name}" for name, value in nats.items()),
            kind="mixed",
            **nats,
        )
        with self.new_bundle(work, bundle) as (folder, card):
            copy_files(bundle, folder)
            mixture.save(folder / COUNTED)
            card["engine"] = "mixed"
            card["stages"].append(self.entry(started, nats=nats, ngrams=counts.model.tables.ngrams))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)


def fitted(
    counts: TokenNgram, ids: Sequence[Sequence[int]], scored: Sequence[Scored], reach: int
) -> tuple[Mixture, dict[str, float]]:
    """The mixture that predicts these texts best, and the mean nats a token of its parts and of all together.

    Args:
        ids: of each text; scored: what the trained model says of it.
        reach: tokens back that the cache looks; 0 leaves it out.
    """
    plain = Mixture(counts, np.zeros(counts.order), None, np.zeros(0))
    parts = [plain.counted(some, len(one[1])) for some, one in zip(ids, scored, strict=True)]
    counted, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    trained = np.concatenate([one[1] for one in scored]).astype(np.float64)
    by_length = fit_weights(trained, counted, lengths, counts.order)
    together = mixed_logs(trained, counted, by_length[lengths])
    nats = {"trained": trained, "counted": counted, "together": together}
    found: tuple[ContinuousCache | None, Floats] = None, np.zeros(0)
    if reach:
        old = np.concatenate([ages(len(one[1])) for one in scored])
        for sharpness in _SHARPNESSES:
            cache = ContinuousCache(sharpness, reach)
            told = np.concatenate([cache.score(states, following) for following, _, states in scored])
            by_age = fit_weights(together, told, old, AGES)
            by_age[0] = 0.0  # there is nothing yet
            logs = mixed_logs(together, told, by_age[old])
            if logs.sum() > nats.get("with the text so far", together).sum():
                nats["with the text so far"], found = logs, (cache, by_age)
    return Mixture(counts, by_length, *found), {name: float(-logs.mean()) for name, logs in nats.items()}


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
