"""Beam search: about the likeliest texts that a model can write, several of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from halfpint.engines._constraint import Constraint
from halfpint.engines._generation import Continuation, Generation, TokenScore
from halfpint.engines._sampling import likeliest
from halfpint.engines._text import Text
from halfpint.engines._writing import Logits, Writer, log_softmax, score_token
from halfpint.errors import SettingError


@dataclass(frozen=True)
class _Beam:
    """A text so far: its ids with the prompt's, what was given of it, its scores and their sum."""

    ids: list[int]
    text: Text
    given: str
    scores: tuple[TokenScore, ...]
    total: float
    constraint: Constraint | None

    def done(self, finish: str) -> Continuation:
        given = self.given if self.text.stopped else self.given + copy(self.text).rest()
        return Continuation(given, self.scores, finish, self.total, self.total / max(1, len(self.scores)))


def beams(
    writer: Writer, start: Sequence[int], constraint: Constraint | None, settings: Generation, width: int
) -> list[Continuation]:
    """Texts that go on from the ids `start`, `width` of them or more, in no order.

    At each step the `width` likeliest texts so far are kept, by their summed log-probabilities; those that end are put
    aside. It is over when as many ended as are wanted and no text that goes on has a higher mean log-probability, or at
    `max_tokens`.

    Raises:
        HalfpintError: a repetition penalty: it changes what is likely.

    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 3; ending as in Wu et al. 2016,
    section 7, with the mean as the length's normalisation.
    """
    if settings.repetition_penalty != 1:
        raise SettingError(
            "repetition_penalty", wanted="1 with a temperature of 0 and several texts",
            got=str(settings.repetition_penalty), todo="Give a temperature above 0.",
        )  # fmt: skip
    live = [_Beam(list(start), Text(writer.decode, start, settings.stop), "", (), 0.0, constraint)]
    ended: list[Continuation] = []
    for _ in range(settings.max_tokens):
        live = _step(writer, live, ended, width, settings.logprobs or 0)
        ended.sort(key=lambda one: -one.mean_log_probability)
        del ended[width:]
        going = max((one.total / len(one.scores) for one in live), default=-np.inf)
        if not live or (len(ended) == width and ended[-1].mean_log_probability >= going):
            return ended
    return [*ended, *(one.done("length") for one in live)]


def _step(writer: Writer, live: list[_Beam], ended: list[Continuation], width: int, top: int) -> list[_Beam]:
    """The beams one token on; those that end with it go to `ended`."""
    found: list[tuple[float, int, int, Logits]] = []
    for place, beam in enumerate(live):
        ids = beam.ids if len(beam.ids) < writer.context else beam.ids[-max(1, writer.context // 2) :]
        logits = writer.after(ids)
        logs = log_softmax(logits)
        allowed = logs if beam.constraint is None else np.where(beam.constraint.mask(logits) > -np.inf, logs, -np.inf)
        for token in likeliest(allowed, 2 * width).tolist():
            if allowed[token] > -np.inf:
                found.append((beam.total + float(logs[token]), place, token, logits))
    found.sort(key=lambda one: (-one[0], one[1], one[2]))
    kept: list[_Beam] = []
    for rank, (total, place, token, logits) in enumerate(found):
        beam = live[place]
        scores = (*beam.scores, score_token(writer, token, logits, top))
        if token in writer.ends:
            if rank < width:  # what ends competes with what goes on
                finished = _Beam(beam.ids, beam.text, beam.given, scores, total, None).done("stop")
                ended.append(
                    Continuation(
                        finished.text, scores[:-1], "stop", finished.log_probability, finished.mean_log_probability
                    )
                )
            continue
        text = copy(beam.text)
        given = beam.given + text.add(token)
        constraint = None if beam.constraint is None else beam.constraint.copy()
        if constraint is not None:
            constraint.take(token)
        one = _Beam([*beam.ids, token], text, given, scores, total, constraint)
        if text.stopped or (constraint is not None and constraint.ended):
            ended.append(one.done("stop"))
        else:
            kept.append(one)
        if len(kept) == width:
            break
    return kept
