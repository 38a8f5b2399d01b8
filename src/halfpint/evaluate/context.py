"""How much a language model gains from what stands further back: its loss by the context that each token sees.

Source: Dai et al. 2019, "Transformer-XL", section 4.4 and appendix C: the relative effective context length. Of a group
of models, the loss on the hardest tokens (by the best model at the shorter context) is compared with that at the next
longer one; the effective context is the longest that still gains more than a threshold over the best of the group.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.engines import Reading, ScoredText, remembers
from halfpint.errors import HalfpintError, SettingError
from halfpint.evaluate.perplexity import perplexity_of
from halfpint.progress import Log

HARDEST = (0.1, 0.5, 1.0)
"""Shares of the tokens, the hardest ones, that the effective context is told for; the paper's."""
THRESHOLD = 0.01
"""Of the loss: a gain of less is none; the paper's."""
STEP = 32
"""A token sees the context asked for and fewer than so many tokens more."""

Floats = npt.NDArray[np.float64]


def by_context(engine: Any, documents: Sequence[str], contexts: Sequence[int], log: Log) -> dict[str, Any]:
    """The figures of a causal model for each length of context, and its effective contexts.

    Every token of the documents is scored each time; one near a document's beginning sees what there is. A model with a
    memory reads segments of `STEP` tokens and remembers the context; over others a window slides by `STEP` tokens.

    Args:
        engine: of a causal Transformer, as `engines.open_language_engine` gives it.
        contexts: tokens, rising.

    Returns:
        "contexts": by each, what `Perplexity.figures` has, with "context" and "tokens_per_s"; "effective_context": by
        the share of hardest tokens, tokens of context (the first of `contexts` where no longer one gains).

    Raises:
        HalfpintError: no such lengths, or one that the model cannot see.
    """
    if len(contexts) < 2 or list(contexts) != sorted(set(contexts)) or contexts[0] < 0:
        raise SettingError(
            "--contexts", wanted="two lengths or more, rising", got=" ".join(map(str, contexts)) or "none",
            todo='Such as --contexts "32 64 128".',
        )  # fmt: skip
    if not hasattr(engine, "read_by"):
        raise HalfpintError("--contexts", wanted="a trained Transformer", got="a model that was exported or counted")
    rows, losses = [], []
    memory = remembers(engine.config)
    with log.bar("evaluate", float(len(contexts))) as bar:
        for length in contexts:
            if memory:
                engine.read_by(Reading(context=STEP, mem_length=length))
            else:
                engine.read_by(Reading(context=length + STEP, stride=STEP))
            started = time.monotonic()
            scored: list[ScoredText] = engine.score(documents, bar.advance)
            seconds = time.monotonic() - started
            found = perplexity_of(scored).figures()
            rows.append({"context": length, **found, "tokens_per_s": round(found["tokens"] / seconds, 1)})
            losses.append(-np.concatenate([one.log_probabilities for one in scored]).astype(np.float64))
    return {"contexts": rows, "effective_context": effective_contexts([losses], contexts)[0]}


def from_front(engine: Any, documents: Sequence[str], tokens: int) -> list[str]:
    """The first documents, up to about so many tokens: the last of them is cut; 0 takes all."""
    if not tokens:
        return list(documents)
    found: list[str] = []
    for text in documents:
        count = engine.count(text)
        found.append(text if count <= tokens else text[: max(1, len(text) * tokens // count)])
        tokens -= count
        if tokens <= 0:
            break
    return found


def effective_contexts(losses: Sequence[Sequence[Floats]], contexts: Sequence[int]) -> list[dict[str, int]]:
    """The relative effective context length of each model of a group, for each share in `HARDEST`.

    Args:
        losses: of each model, of each context: nats of the same tokens, (tokens,).
        contexts: their lengths, rising.
    """
    found: list[dict[str, int]] = [{} for _ in losses]
    for share in HARDEST:
        for number, model in enumerate(losses):
            longest = contexts[0]
            for place in range(len(contexts) - 1):
                best = min((one[place] for one in losses), key=lambda one: float(one.mean()))
                count = max(1, round(share * len(best)))
                hardest = np.argpartition(-best, count - 1)[:count]
                least = min(float(one[place][hardest].mean()) for one in losses)
                gain = (least - min(least, float(model[place + 1][hardest].mean()))) / least
                if gain < THRESHOLD:
                    break
                longest = contexts[place + 1]
            found[number][f"{share:g}"] = longest
    return found
