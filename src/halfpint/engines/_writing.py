"""Writing on from a prompt, and the likeliest next words, for any engine that gives the logits after some tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from halfpint.engines._sampling import Sampling, choose

Logits = npt.NDArray[np.float32]
_WORD_PIECES = 6


class Writer:
    """What every engine that gives logits can do with them.

    Attributes:
        context: tokens that it sees at once.
        ends: ids at which a text or a turn ends.
    """

    context: int
    ends: Collection[int]

    def start(self, text: str) -> list[int]:
        """The ids to go on from after `text`: one at least, the context's at most."""
        raise NotImplementedError

    def after(self, ids: list[int]) -> Logits:
        """Logits of the token after `ids`: float32 of shape (vocabulary,)."""
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        raise NotImplementedError

    def check_writes(self, what: str) -> None:
        """Refuse `what` where the model cannot write."""

    def next_words(self, context: str, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest next words after `context`, each with its probability, likeliest first (see `likely_words`)."""
        self.check_writes("next_words")
        return likely_words(self.start(context), self.after, self.decode, ends=self.ends, context=self.context, top=top)

    def generate(
        self,
        prompt: str,
        max_tokens: int = 128,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """What the model writes after `prompt`, piece by piece as it comes; it ends at a document's or a turn's end.

        Args:
            prompt: the text to go on from; empty starts a document.
            max_tokens: most tokens written.
            temperature, top_k, top_p, min_p, repetition_penalty: as in `_sampling.Sampling`.
            seed: the same seed writes the same text.
            stop: texts at which it ends; they are not given.

        Once the context is full, the older half of it is forgotten.
        """
        self.check_writes("generate")
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        return write_on(
            self.start(prompt), self.after, self.decode, ends=self.ends, context=self.context, max_tokens=max_tokens,
            sampling=sampling, seed=seed, stop=tuple(stop),
        )  # fmt: skip


def write_on(
    start: Sequence[int],
    after: Callable[[list[int]], Logits],
    decode: Callable[[list[int]], str],
    *,
    ends: Collection[int],
    context: int,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[str],
) -> Iterator[str]:
    """Pieces of the text that goes on from the ids `start`.

    Args:
        after: gives the logits of the token after some ids, float32 of shape (vocabulary,).
        decode: gives the text of ids.
        ends: ids at which it ends.
        context: tokens seen at once; when they are full, the older half is forgotten.
        max_tokens: most tokens written.
        seed: of what is drawn.
        stop: texts at which it ends; they are not given.
    """
    random = np.random.default_rng(seed)
    ids, made, told = list(start), list[int](), ""
    longest = max((len(text) for text in stop), default=1) - 1
    for _ in range(max_tokens):
        if len(ids) >= context:
            ids = ids[-max(1, context // 2) :]
        token = choose(after(ids), sampling, ids, random)
        if token in ends:
            break
        made.append(token)
        ids.append(token)
        text = decode(made)
        found = [place for one in stop if (place := text.find(one)) >= 0]
        if found:
            yield text[len(told) : max(len(told), min(found))]
            return
        # An unfinished character, or what may become a stop text, is held back.
        ready = text[: len(text) - longest] if longest else text
        if not text.endswith("\ufffd") and len(ready) > len(told):
            yield ready[len(told) :]
            told = ready
    text = decode(made)
    if len(text) > len(told):
        yield text[len(told) :]


def likely_words(
    start: Sequence[int],
    after: Callable[[list[int]], Logits],
    decode: Callable[[list[int]], str],
    *,
    ends: Collection[int],
    context: int,
    top: int,
) -> list[tuple[str, float]]:
    """The likeliest words after the ids `start`, each with its probability, likeliest first; arguments as `write_on`.

    Each of the likeliest next tokens is carried on greedily to the end of its word; the probability is the product of
    the tokens'.
    """
    logs = log_softmax(after(list(start)))
    words: dict[str, float] = {}
    for first in np.argsort(-logs, kind="stable")[: 4 * top].tolist():
        if first in ends:
            continue
        pieces, total = [first], float(logs[first])
        for _ in range(_WORD_PIECES):
            following = log_softmax(after([*start, *pieces][-context:]))
            token = int(following.argmax())
            longer = decode([*pieces, token])
            if token in ends or len(longer.split()) > 1 or longer != longer.rstrip():
                break
            if longer.strip() and not longer.strip()[-1].isalnum():
                break
            pieces, total = [*pieces, token], total + float(following[token])
        word = decode(pieces).strip()
        if word and word not in words:
            words[word] = math.exp(total)
        if len(words) >= 2 * top:
            break
    return sorted(words.items(), key=lambda item: -item[1])[:top]


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities (nats) over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
