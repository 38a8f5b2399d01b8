"""How well a language model predicts text: perplexity a token and a word, bits a byte, each with an interval.

Only bits per byte (and perplexity per word) compare models with different vocabularies; perplexity per token compares
models with the same tokenizer alone. All are of held-out text that the model scores token by token; what makes the
scores (a Transformer, an n-gram model) does not matter here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from halfpint.counts import LEVEL, Counts
from halfpint.errors import HalfpintError, SettingError
from halfpint.evaluate.intervals import difference, intervals
from halfpint.lookup import text_task

METRICS = ("perplexity_per_token", "perplexity_per_word", "bits_per_byte")
"""The figures that choices can be made on; lower is better."""
FEWEST_UNITS = 50
"""With fewer documents than this an interval is over blocks of them."""
BLOCK_TOKENS = 256

FloatArray = npt.NDArray[np.float64]


class Scored(Protocol):
    """One scored document, as engines of language models give it."""

    @property
    def log_probabilities(self) -> npt.NDArray[Any]:
        """Of each scored token given those before it, in nats: float of shape (tokens,)."""

    @property
    def words(self) -> int:
        """Words between ASCII white space, and ends of lines."""

    @property
    def bytes(self) -> int:
        """Bytes of the text in UTF-8."""


@dataclass(frozen=True)
class Figure:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Perplexity:
    """What a model's scores of some text come to.

    Attributes:
        per_token: exp of the mean nats a token.
        per_word: exp of the summed nats over the number of words, ends of lines among them.
        bits_per_byte: summed bits over bytes of UTF-8.
        nats_per_token: the mean loss.
        tokens, words, bytes: what was counted.
        documents: how many.
        unit: what the intervals are over: "documents", or "blocks of N tokens".
    """

    per_token: Figure
    per_word: Figure
    bits_per_byte: Figure
    nats_per_token: float
    tokens: int
    words: int
    bytes: int
    documents: int
    unit: str

    def figures(self) -> dict[str, Any]:
        """All of it as JSON can hold it; the names say which perplexity is which."""
        shown: dict[str, Any] = {}
        for name, figure in (
            ("perplexity_per_token", self.per_token),
            ("perplexity_per_word", self.per_word),
            ("bits_per_byte", self.bits_per_byte),
        ):
            shown[name] = figure.value
            shown[f"{name}_interval"] = [figure.low, figure.high]
        counts = {name: getattr(self, name) for name in ("nats_per_token", "tokens", "words", "bytes", "documents")}
        return {**shown, **counts, "interval_over": self.unit}


def perplexity(
    nats: npt.ArrayLike,
    tokens: npt.ArrayLike,
    words: npt.ArrayLike,
    size_bytes: npt.ArrayLike,
    *,
    unit: str = "documents",
    documents: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> Perplexity:
    """Perplexity and its intervals from sums and counts, one entry a document (or block).

    Args:
        nats: summed negative log-probability of each unit; infinite where something was held impossible.
        tokens, words, size_bytes: how many tokens, words and bytes each unit has.
        unit: what the units are.
        documents: how many documents they are of; None where each is one.
        resamples: how often units are drawn anew.
        seed: the same seed gives the same interval.
        level: the share of resamples inside.

    Raises:
        HalfpintError: nothing was scored, the lengths differ, a sum is negative, or the level is no share.

    Source: percentile bootstrap of a ratio of sums, Efron & Tibshirani 1993, section 13.3; units are drawn whole, as
    tokens of one text are not independent.
    """
    columns = [np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in (nats, tokens, words, size_bytes)]
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise HalfpintError(
            "perplexity", wanted="one sum and three counts for each document",
            got=f"shapes {', '.join(str(column.shape) for column in columns)}",
        )  # fmt: skip
    table = np.stack(columns, axis=1)
    table = table[table[:, 1] > 0]
    if not len(table):
        raise HalfpintError("perplexity", wanted="text with at least one token", got="none", todo="Give longer texts.")
    if np.isnan(table).any() or (table[:, 0] < -1e-6 * table[:, 1]).any():
        raise HalfpintError(
            "perplexity", wanted="negative log-probabilities of 0 or more", got="others", todo="Check what scored them."
        )
    if not 0 < level < 1:
        raise SettingError("level", wanted="a share between 0 and 1", got=str(level), todo="Give 0.95, for example.")
    total = table.sum(axis=0)
    counts = Counts(np.arange(len(table)), table)
    metrics = [text_task().metrics[name] for name in METRICS]
    ends = intervals(counts, metrics, resamples=resamples, seed=seed, level=level)
    per_token, per_word, bits = (
        Figure(float(metric.of(total)), low, high) for metric, (low, high) in zip(metrics, ends, strict=True)
    )
    return Perplexity(
        per_token=per_token, per_word=per_word, bits_per_byte=bits, nats_per_token=float(total[0] / total[1]),
        tokens=round(total[1]), words=round(total[2]), bytes=round(total[3]),
        documents=len(table) if documents is None else documents, unit=unit,
    )  # fmt: skip


def perplexity_of(scored: Iterable[Scored], **settings: Any) -> Perplexity:
    """`perplexity` of scored documents; settings are passed on.

    The intervals are over documents where there are 50 of them, else over blocks of 256 tokens, a block having its
    share of the document's words and bytes.
    """
    found = [one for one in scored if len(one.log_probabilities)]
    if len(found) >= FEWEST_UNITS:
        sums = [
            (-float(np.sum(one.log_probabilities, dtype=np.float64)), len(one.log_probabilities), one.words, one.bytes)
            for one in found
        ]
        return perplexity(*_columns(sums), **settings)
    sums = []
    for one in found:
        logs = np.asarray(one.log_probabilities, dtype=np.float64)
        starts = np.arange(0, len(logs), BLOCK_TOKENS)
        blocks = -np.add.reduceat(logs, starts)
        sizes = np.diff([*starts, len(logs)])
        shares = sizes / len(logs)
        sums += list(zip(blocks, sizes, shares * one.words, shares * one.bytes, strict=True))
    unit = f"blocks of {BLOCK_TOKENS} tokens"
    return perplexity(*_columns(sums), unit=unit, documents=len(found), **settings)


def _columns(rows: Sequence[tuple[float, ...]]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def paired_counts(first: Sequence[Scored], second: Sequence[Scored]) -> tuple[Counts, Counts]:
    """The counts of two models' scores of the same documents, whose tokens may differ.

    A unit is a document; where there are fewer than 50, a block of it: each document is cut into as many blocks for
    both models, which share its bytes.
    """
    few = sum(len(one.log_probabilities) > 0 for one in first) < FEWEST_UNITS
    tables: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for pair in zip(first, second, strict=True):
        tokens = min(len(one.log_probabilities) for one in pair)
        blocks = max(1, tokens // BLOCK_TOKENS) if few else 1
        for table, one in zip(tables, pair, strict=True):
            parts = np.array_split(np.asarray(one.log_probabilities, dtype=np.float64), blocks)
            sums = [(-part.sum(), len(part), one.words / blocks, one.bytes / blocks) for part in parts]
            table.append(np.array(sums, dtype=np.float64))
    counts = [np.concatenate(table) for table in tables]
    return Counts(np.arange(len(counts[0])), counts[0]), Counts(np.arange(len(counts[1])), counts[1])


def bits_difference(first: Sequence[Scored], second: Sequence[Scored], seed: int = 0) -> tuple[float, float, float]:
    """Bits per byte of the first model less those of the second on the same documents, and the ends of its interval."""
    metric = text_task().metrics["bits_per_byte"]
    return difference(*paired_counts(first, second), metric, seed=seed)
