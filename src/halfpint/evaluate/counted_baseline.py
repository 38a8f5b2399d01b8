"""What counting comes to on the same text: the n-gram model that a trained language model has to beat.

The n-grams are over the model's own tokens (see `models.token_ngram`): both predict the same text, token by token and
byte by byte, so that their bits per byte (and their perplexity per token) are of the same thing. A model of words would
give every word that it does not know one probability, however many bytes the word has.

Source: interpolated modified Kneser-Ney, Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for
Language Modeling", section 3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.data.documents import count_words
from halfpint.evaluate.perplexity import Scored, bits_difference, perplexity_of
from halfpint.models.token_ngram import TokenNgram
from halfpint.progress import SILENT, Log
from halfpint.tokenizers.load import open_tokenizer

ORDER, CHARACTER_ORDER = 5, 8
"""Tokens in the longest sequence counted: of ordinary tokens, and of those that are hardly longer than a character."""
MOST_TOKENS = 4_000_000
"""Tokens that are counted: a text that has more is counted in documents spread evenly over it."""

_CHARACTERS = 2.0  # bytes a token below which tokens are about characters
_LOOKED_AT = 200  # documents by which the tokens of a text are reckoned
_AT_ONCE = 512


@dataclass(frozen=True)
class _Scored:
    log_probabilities: npt.NDArray[Any]
    words: int
    bytes: int


def counted_baseline(
    bundle: Bundle,
    train: Sequence[str],
    held: Sequence[str],
    log: Log = SILENT,
    *,
    masked: bool = False,
    most_tokens: int = MOST_TOKENS,
    beside: Sequence[Scored] = (),
) -> dict[str, Any] | None:
    """The figures of an n-gram model counted in `train`, over the tokens of `bundle`, on the documents of `held`.

    None where there is nothing to count or to judge by, or the bundle has no tokenizer.json.

    Args:
        masked: count single tokens alone: what a guess by frequency comes to where both sides of a gap are seen. Its
            figure to compare by is nats per token; no counted model has the pseudo-likelihood of a masked one.
        most_tokens: see `MOST_TOKENS`.
        beside: the model's scores of `held`, to be compared with, document by document.

    Gives the figures of `evaluate.perplexity`, and "order", "train_tokens", "train_share" (of the documents that were
    counted), "ngrams" of each order, and "seconds"; and "difference", the bits per byte of the model less those of
    counting with the ends of the interval (paired), where its scores are given.
    """
    if not len(train) or not len(held) or not (bundle.path / "tokenizer.json").is_file():
        return None
    started = time.monotonic()
    tokenizer = open_tokenizer(bundle.path)
    every, bytes_a_token = _reckoned(tokenizer, train, most_tokens)
    order = 1 if masked else CHARACTER_ORDER if bytes_a_token < _CHARACTERS else ORDER
    chosen = range(0, len(train), every)
    tokens = 0

    def counted() -> Iterator[list[int]]:
        nonlocal tokens
        with log.bar("counting n-grams for the baseline", len(chosen)) as bar:
            for ids in _ids(tokenizer, (train[number] for number in chosen)):
                tokens += len(ids)
                yield ids
                bar.advance()

    if not any(_ids(tokenizer, train[:_LOOKED_AT])):
        return None
    vocabulary = int(bundle.config.get("vocab_size") or tokenizer.get_vocab_size())
    model = TokenNgram.fit(counted(), vocabulary, order)
    scored = [
        _Scored(model.score(ids)[0], count_words(text), len(text.encode("utf-8", "surrogatepass")))
        for text, ids in zip(held, _ids(tokenizer, held), strict=True)
    ]
    found = perplexity_of(scored).figures()
    figures = {
        **found, "order": order, "train_tokens": tokens, "train_share": round(len(chosen) / len(train), 4),
        "ngrams": model.model.tables.ngrams, "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip
    if len(beside) == len(scored):
        figures["difference"] = list(bits_difference(beside, scored))
    log.event("counted", **figures)
    return figures


def _reckoned(tokenizer: Any, train: Sequence[str], most: int) -> tuple[int, float]:
    """Every how many documents are counted so that there are about `most` tokens, and bytes a token."""
    places = range(0, len(train), max(1, len(train) // _LOOKED_AT))
    texts = [train[place] for place in places]
    tokens = sum(len(ids) for ids in _ids(tokenizer, texts))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    total = tokens * len(train) / max(len(texts), 1)
    return max(1, math.ceil(total / most)), size / max(tokens, 1)


def _ids(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:
    """The tokens of each text."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) == _AT_ONCE:
            yield from (encoding.ids for encoding in tokenizer.encode_batch_fast(held, add_special_tokens=False))
            held = []
    yield from (encoding.ids for encoding in tokenizer.encode_batch_fast(held, add_special_tokens=False))
