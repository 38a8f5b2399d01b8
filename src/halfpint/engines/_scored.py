"""What engines of language models give of a text that they scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.data.documents import count_words

Done = Callable[[float], None]


def unsaid(share: float) -> None:
    """What is done is told to nobody."""


@dataclass(frozen=True)
class ScoredText:
    """A text's scores: one log-probability a token (nats), and what to divide by.

    `words` are those between ASCII white space and the ends of lines, `bytes` UTF-8; `unknown` marks the tokens
    whose word the vocabulary has not, where words can be unknown.
    """

    log_probabilities: npt.NDArray[Any]
    words: int
    bytes: int
    unknown: npt.NDArray[np.bool_] | None = None

    @property
    def tokens(self) -> int:
        """How many were scored."""
        return len(self.log_probabilities)

    @classmethod
    def of(cls, text: str, logs: npt.NDArray[Any], unknown: npt.NDArray[np.bool_] | None = None) -> ScoredText:
        """The scores of `text`, whose words and bytes are counted here."""
        return cls(logs, count_words(text), len(text.encode("utf-8", "surrogatepass")), unknown)
