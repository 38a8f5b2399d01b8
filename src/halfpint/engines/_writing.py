"""Writing on from a prompt, and the likeliest next words, for any engine that gives the logits after some tokens."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.engines._constraint import Constraint, Grammars
from halfpint.engines._generation import Continuation, Generation, Piece, TokenScore
from halfpint.engines._sampling import choose, likeliest
from halfpint.engines._text import Text
from halfpint.errors import HalfpintError, SettingError

Logits = npt.NDArray[np.float32]
_WORD_PIECES = 6
_MAKING = threading.Lock()  # of grammars, which takes seconds for a large vocabulary: once is enough


class Writer:
    """What every engine that gives logits can do with them.

    Attributes:
        context: tokens that it sees at once.
        ends: ids at which a text or a turn ends.
    """

    context: int
    ends: Collection[int]
    _grammars: Grammars | None = None

    def start(self, text: str) -> list[int]:
        """The ids to go on from after `text`: one at least, the context's at most."""
        raise NotImplementedError

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone; with `special`, names of special tokens in it are those tokens."""
        raise NotImplementedError

    def after(self, ids: list[int]) -> Logits:
        """Logits of the token after `ids`: float32 of shape (vocabulary,)."""
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        raise NotImplementedError

    def token(self, number: int) -> bytes:
        """The bytes that a token stands for; of a special one its name's."""
        raise NotImplementedError

    def grammars(self) -> Grammars:
        """What makes constraints over this vocabulary.

        Raises:
            HalfpintError: its tokens do not stand for bytes, or llguidance is not installed.
        """
        raise NotImplementedError

    def check_writes(self, what: str) -> None:
        """Refuse `what` where the model cannot write."""

    def count(self, text: str) -> int:
        """The tokens of `text`."""
        return len(self.encode(text))

    def next_words(self, context: str, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest next words after `context`, each with its probability, likeliest first (see `likely_words`)."""
        self.check_writes("next_words")
        return likely_words(self.start(context), self.after, self.decode, ends=self.ends, context=self.context, top=top)

    def write(self, prompt: str | Sequence[int], settings: Generation) -> Iterator[Piece]:
        """What the model writes after `prompt`, a piece for each token; it ends at a document's or a turn's end.

        Args:
            prompt: the text to go on from, empty for the start of a document; or ids, taken as they are.

        Once the context is full, the older half of it is forgotten. Iterators may take turns: each writes what it
        would alone. Nothing is computed before the first piece is asked for.

        Raises:
            HalfpintError: a model that cannot write, or a schema that cannot be kept to.
        """
        ids, constraint = self.prepare(prompt, settings, "generate")
        return write_on(self, ids, settings, constraint)

    def prepare(
        self, prompt: str | Sequence[int], settings: Generation, what: str
    ) -> tuple[list[int], Constraint | None]:
        """The ids to go on from, and what the text must keep to; refuses as `write` does, for `what`."""
        self.check_writes(what)
        if not isinstance(prompt, str) and not len(prompt):
            raise HalfpintError("prompt", wanted="one token or more", got="none")
        ids = self.start(prompt) if isinstance(prompt, str) else list(prompt)
        return ids, None if settings.schema is None else self.constraint(settings.schema)

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """What keeps a text to `schema`; it may be asked for in another thread, while a text is written.

        Raises:
            HalfpintError: it cannot be kept to.
        """
        if self._grammars is None:
            with _MAKING:
                self._grammars = self._grammars or self.grammars()
        return self._grammars.constraint(schema)

    def generate(self, prompt: str | Sequence[int], max_tokens: int = 128, **settings: Any) -> Iterator[str]:
        """The text alone of `write`, piece by piece; settings are those of `Generation`."""
        pieces = self.write(prompt, Generation.of(max_tokens=max_tokens, **settings))
        return (piece.text for piece in pieces if piece.text)

    def best(self, prompt: str | Sequence[int], n: int, settings: Generation) -> list[Continuation]:
        """The best of what the model writes after `prompt`: at most `n` texts, all different, best first.

        With a temperature of 0 they are found by beam search, `n` wide: about the likeliest there are. Else `n` are
        drawn, with the seeds `seed`, `seed` + 1, and so on, each as `write` writes it. Best is the highest mean
        log-probability per token.

        Raises:
            HalfpintError: as `write`; n below 1; a repetition penalty in beam search.
        """
        from halfpint.engines._beams import beams

        if n < 1:
            raise SettingError("n", wanted="1 or more", got=str(n))
        scored = replace(settings, logprobs=settings.logprobs or 0)
        if settings.temperature == 0 and n > 1:
            found = beams(self, *self.prepare(prompt, scored, "best"), scored, n)
        else:
            found = [
                gather(self.write(prompt, replace(scored, seed=seed))) for seed in range(scored.seed, scored.seed + n)
            ]
        different = {one.text: one for one in sorted(found, key=lambda one: one.mean_log_probability)}
        return sorted(different.values(), key=lambda one: -one.mean_log_probability)[:n]


def gather(pieces: Iterator[Piece]) -> Continuation:
    """The whole of a text that comes in pieces; figures are of use where they hold scores."""
    text, tokens, last = [], list[TokenScore](), Piece("", (), "", 0)
    for last in pieces:
        text.append(last.text)
        tokens += last.tokens
    ended = last.written + (last.finish == "stop")
    mean = last.log_probability / max(1, ended)
    return Continuation("".join(text), tuple(tokens), last.finish, last.log_probability, mean)


def write_on(
    writer: Writer, start: Sequence[int], settings: Generation, constraint: Constraint | None = None
) -> Iterator[Piece]:
    """Pieces of the text that goes on from the ids `start`, as `Writer.write` gives them.

    Args:
        writer: gives logits, and the text of ids.
        constraint: what the text must keep to.
    """
    random = np.random.default_rng(settings.seed)
    ids, text, scores = list(start), Text(writer.decode, start, settings.stop), _Scores(writer, settings.logprobs)
    for written in range(settings.max_tokens):
        if len(ids) >= writer.context:
            ids = ids[-max(1, writer.context // 2) :]
        logits = writer.after(ids)
        token = choose(logits if constraint is None else constraint.mask(logits), settings, ids, random)
        scores.add(token, logits, ended=token in writer.ends, place=text.length)
        if token in writer.ends:
            yield Piece(text.rest(), scores.told(), "stop", written, scores.total)
            return
        ids.append(token)
        new = text.add(token)
        if constraint is not None:
            constraint.take(token)
        whole = constraint is not None and constraint.ended
        if text.stopped or whole or written + 1 == settings.max_tokens:
            new += "" if text.stopped else text.rest()
            finish = "stop" if text.stopped or whole else "length"
            yield Piece(new, scores.told(text.told if text.stopped else None), finish, written + 1, scores.total)
            return
        yield Piece(new, scores.told(text.told) if new else (), "", written + 1, scores.total)


class _Scores:
    """Scores of tokens, held back until their text is given."""

    def __init__(self, writer: Writer, top: int | None) -> None:
        self._writer, self._top = writer, top
        self._held: list[tuple[int, TokenScore]] = []
        self.total = 0.0

    def add(self, token: int, logits: Logits, *, ended: bool, place: int) -> None:
        if self._top is None:
            return
        score = score_token(self._writer, token, logits, self._top)
        self.total += score.log_probability
        if not ended:
            self._held.append((place, score))

    def told(self, end: int | None = None) -> tuple[TokenScore, ...]:
        """Those whose text begins before the character `end`, or all; each is given once."""
        given = [score for place, score in self._held if end is None or place < end]
        self._held = self._held[len(given) :]
        return tuple(given)


def score_token(writer: Writer, token: int, logits: Logits, top: int) -> TokenScore:
    """The score of `token`, and those of the `top` likeliest."""
    logs = log_softmax(logits)
    best = likeliest(logs, top).tolist()
    others = tuple((writer.token(number).decode("utf-8", "replace"), float(logs[number])) for number in best)
    raw = writer.token(token)
    return TokenScore(raw.decode("utf-8", "replace"), float(logs[token]), others, raw)


def likely_words(
    start: Sequence[int],
    after: Callable[[list[int]], Logits],
    decode: Callable[[list[int]], str],
    *,
    ends: Collection[int],
    context: int,
    top: int,
) -> list[tuple[str, float]]:
    """The likeliest words after the ids `start`, each with its probability, likeliest first.

    Args:
        after: gives the logits of the token after some ids, float32 of shape (vocabulary,).
        decode: gives the text of ids.
        ends: ids at which a text ends.
        context: tokens seen at once.

    Each of the likeliest next tokens is carried on greedily to the end of its word; the probability is the product of
    the tokens'.
    """
    logs = log_softmax(after(list(start)))
    words: dict[str, float] = {}
    for first in likeliest(logs, 4 * top).tolist():
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
