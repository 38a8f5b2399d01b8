"""What all training of a language model beside a teacher has in common: text, rows, plan, judging, what is written."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from halfpint.bundle import Bundle, Kind
from halfpint.distil._zeros import hold_zeros
from halfpint.distil.teachers import WithTeacher, need_same_tokenizer
from halfpint.distil.token_answers import need_causal
from halfpint.models.weights import as_held
from halfpint.stage import Work
from halfpint.task import Split
from halfpint.train import budget
from halfpint.train.adapt import MOST_CONTEXT, Adapt

_COMPARED = 4  # documents that two tokenizers are compared on
_SHOWN = 4000  # characters of these


@dataclass(frozen=True, kw_only=True)
class TokenDistillation(WithTeacher, Adapt):
    """A language model that learns beside its teacher; a subclass says from what."""

    needs: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE,)
    gives: ClassVar[Kind] = Kind.LANGUAGE

    def fits(self, bundle: Bundle) -> None:
        """Refuse a student that its teacher cannot teach like this."""
        if self._asks():
            self._teacher(bundle, ())

    _is_unhurried = False

    def _asks(self) -> bool:
        """Whether there is a teacher at all."""
        return True

    def _sees(self, model: Any, work: Work) -> float:
        """About the tokens that training goes through; infinity where it goes by passes over the text."""
        if self.tokens or not self.minutes:
            return self.tokens or math.inf
        seconds = min(self.minutes * 60, work.seconds_left())
        return budget.tokens_in(model, self.context or MOST_CONTEXT, self.precision, seconds)

    def _teacher_for(self, bundle: Bundle, corpus: Split[str]) -> Bundle | None:
        first = [text[:_SHOWN] for text in islice(corpus.train, _COMPARED)]
        return self._teacher(bundle, first) if self._asks() else None

    def _taught_by(self, teacher: Bundle | None) -> dict[str, Any]:
        return {"teacher": teacher.fingerprint if teacher else None}

    def _context_of(self, model: Any) -> int:
        most = int(getattr(model.config, "max_position_embeddings", None) or MOST_CONTEXT)
        return min(self.context or MOST_CONTEXT, most)

    def _begins(self, started: float) -> float:
        """What a teacher was asked before, and is kept, is not the student's time."""
        return time.monotonic()

    def _hold(self, model: Any) -> dict[str, Any]:
        return {"zeros_held": hold_zeros(model, self.use, lora=self.lora)}

    def _as_written(self, bundle: Bundle, model: Any) -> Any:
        return as_held(bundle, model)

    def _teacher(self, bundle: Bundle, some: Sequence[str]) -> Bundle:
        """The one teacher, of the student's tokenizer, on some texts too."""
        found = self.teachers(bundle, "", self.use)
        for one in found:
            need_causal(one, self.use)
            need_same_tokenizer(one, bundle, some, self.use)
        return found[0]
