"""Judge a language model on documents: perplexity, bits per byte, their intervals, speed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines import LanguageEngine, Reading, ScoredText, open_language_engine
from halfpint.errors import HalfpintError
from halfpint.evaluate.perplexity import perplexity_of
from halfpint.models.sizes import MASKED
from halfpint.progress import Log

_MASKED_CHARS, _EXCERPT_CHARS = 10_000, 400  # of text that masked models are judged on: half a minute
_LONG_EXCERPT_CHARS = 4000  # of a model that sees what is before each token
_TRIED_CHARS = 2000
_SURELY = 0.7  # of the time: other programs may want the machine more than while it was tried


def judge(
    bundle: Bundle, documents: Sequence[str], log: Log, scores: list[ScoredText] | None = None, until: float = math.inf,
    reading: Reading | None = None,
) -> dict[str, Any]:  # fmt: skip
    """How well a language model predicts documents: perplexity (which, the names say), bits per byte, intervals, speed.

    "perplexity" is that per token of the model. A model of whole words (n-grams) counts the end of each line as a
    token, as KenLM does, and "perplexity_without_unknown" leaves out the words it does not know.

    Args:
        scores: gets the score of each document, where all of it was read.
        until: when it should be done, by the monotonic clock: excerpts stand for text that takes longer.
        reading: how a Transformer reads texts longer than its context; None as it does by itself.

    Raises:
        HalfpintError: it cannot read so.
    """
    engine, whole = open_language_engine(bundle), documents
    if reading is not None:
        read_by(engine, reading)
    if getattr(engine, "objective", "") == MASKED:
        if sum(map(len, documents)) > _MASKED_CHARS:
            documents = _excerpts(documents, _MASKED_CHARS, _EXCERPT_CHARS)
            chars = sum(map(len, documents))
            log.say(f"  a masked model runs once per token: {chars:,} characters stand for the text", kind="excerpts")
        documents = in_time([engine], documents, until, log, least=_EXCERPT_CHARS, each=_EXCERPT_CHARS)
    else:
        documents = in_time([engine], documents, until, log)
    started = time.monotonic()
    with log.bar("evaluate", 1.0) as bar:
        scored = engine.score(documents, bar.advance)
    if scores is not None and documents is whole:
        scores += scored
    found = _figures(bundle, scored, time.monotonic() - started, log)
    return found if reading is None else {**found, **read_by(engine, reading)}


def read_by(engine: Any, reading: Reading) -> dict[str, int]:
    """Have an engine read long texts as `reading` says; gives its numbers with those that were left open.

    Raises:
        HalfpintError: it cannot.
    """
    if not hasattr(engine, "read_by"):
        raise HalfpintError(
            "--context, --stride, --mem-length", wanted="a trained Transformer",
            got="a model that was exported or counted", todo="Leave them out, or give the bundle before its export.",
        )  # fmt: skip
    found: Reading = engine.read_by(reading)
    memory = found.mem_length is not None
    held = {"context": found.context, "mem_length": found.mem_length, "stride": None if memory else found.stride}
    return {name: value for name, value in held.items() if value is not None}


def judge_answers(bundle: Bundle, rows: Sequence[tuple[list[int], npt.NDArray[np.bool_]]], log: Log) -> dict[str, Any]:
    """How well a language model predicts answers, each token given the conversation before it; figures as `judge` has.

    Bytes and words are those of the answers; their nats hold the tokens that end a turn too.

    Args:
        rows: of each conversation its ids, and which of them the figures are of.
    """
    engine: Any = open_language_engine(bundle)
    started = time.monotonic()
    with log.bar("evaluate", 1.0) as bar:
        scores = engine.score_ids([ids for ids, _ in rows], bar.advance)
    scored = []
    for (ids, counted), logs in zip(rows, scores, strict=True):
        text = engine.decode([token for token, counts in zip(ids, counted, strict=True) if counts])
        scored.append(ScoredText.of(text, logs[counted[1:]]))
    figures = _figures(bundle, scored, time.monotonic() - started, log)
    answers = sum(int((counted[1:] & ~counted[:-1]).sum()) for _, counted in rows)
    return {**figures, "conversations": len(rows), "answers": answers}


def _figures(bundle: Bundle, scored: Sequence[ScoredText], seconds: float, log: Log) -> dict[str, Any]:
    found = perplexity_of(scored).figures()
    figures = {"perplexity": found["perplexity_per_token"], "bits_per_byte": found["bits_per_byte"]}
    if scored[0].unknown is not None:
        logs = np.concatenate([one.log_probabilities for one in scored]).astype(np.float64)
        unknown = np.concatenate([one.unknown for one in scored])
        figures["perplexity_without_unknown"] = float(np.exp(-logs[~unknown].mean())) if not unknown.all() else None
        figures["unknown_share"] = float(unknown.mean())
    figures |= found
    figures |= {"tokens_per_s": round(found["tokens"] / max(seconds, 1e-9), 1), "size_bytes": bundle.size_bytes}
    log.event("evaluated", bundle=bundle.path, **figures)
    return figures


def in_time(
    engines: Sequence[LanguageEngine], documents: Sequence[str], until: float, log: Log, *, least: int = _TRIED_CHARS,
    each: int = _LONG_EXCERPT_CHARS,
) -> Sequence[str]:  # fmt: skip
    """The documents, or excerpts of them where the engines, one after the other, do not score all of them by then.

    What little is scored whatever time it takes is a thousandth of a megabyte.

    Args:
        until: by the monotonic clock.
        least: characters that are scored to see how fast that is, and in any case.
        each: characters of one excerpt, about.
    """
    if not math.isfinite(until) or not len(documents):
        return documents
    whole = sum(map(len, documents))
    tried = _excerpts(documents, min(whole, least), _EXCERPT_CHARS)
    seconds = 0.0
    for engine in engines:
        engine.score(tried[:1])  # in the first one memory is got
        started = time.monotonic()
        engine.score(tried)
        seconds += (time.monotonic() - started) / sum(map(len, tried))
    fitting = int(_SURELY * max(until - time.monotonic(), 0.0) / max(seconds, 1e-9))
    if fitting >= whole:
        return documents
    found = _excerpts(documents, max(fitting, min(whole, least)), each)
    chars = sum(map(len, found))
    log.say(
        f"  judged by {chars:,} of {whole:,} characters, as no time was left for more", kind="excerpts",
        characters=chars, of=whole,
    )  # fmt: skip
    return found


def _excerpts(documents: Sequence[str], most: int, each: int) -> list[str]:
    """Pieces from evenly spread documents, each from one's middle.

    Args:
        most: characters of all of them, about; each: of one, about.
    """
    number = max(1, most // each)
    chosen = [documents[place * len(documents) // number] for place in range(min(number, len(documents)))]
    size = max(1, most // len(chosen))
    return [text[max(0, len(text) // 2 - size // 2) :][:size] for text in chosen]
