"""Stage: a language model learns to go on as its teacher would."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfpint.bundle import Bundle
from halfpint.data.packing import IGNORED
from halfpint.distil._divergence import FORWARD, Softened
from halfpint.distil._sampled import sampled_loss
from halfpint.distil._token_distillation import TokenDistillation
from halfpint.distil.token_answers import TokenAnswers, draws_for
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, SettingError
from halfpint.models.sizes import CAUSAL
from halfpint.stage import Work
from halfpint.train import ranks
from halfpint.train.adapt import Loss
from halfpint.train.loop import check_settings, device
from halfpint.train.rows import Batches, Part

_PASSES = 0.75  # of the text: asking once is longer than asking at these steps where training sees less

_TRIED, _ASKING = 128, 0.2  # tokens; share of the time


@dataclass(frozen=True, kw_only=True)
class TokenLogits(Softened, TokenDistillation):
    """Train a student on a mix of its teacher's distributions and the text itself, token by token.

    The teacher's distributions are drawn from once (distil/token_answers); with `cached = false`, and where `minutes`
    or `tokens` are too few to go through the text, it is asked at every step instead, whole distributions and all.
    Packing, plan and validation are those of train/adapt.

    Args:
        label_share: share of the text's own cross-entropy in the loss; 1 asks no teacher.
        cached: learn from draws that are kept; divergences but forward need whole distributions, so false.
        draws: tokens drawn at each place.
    """

    temperature: float = 1.0
    label_share: float = 0.3
    cached: bool = True
    draws: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, self.use, may_be_zero=("learning_rate",))
        self.check_softened(self.use)
        TokenAnswers(draws=self.draws, temperature=self.temperature)
        if not 0 <= self.label_share <= 1:
            raise SettingError(f"{self.use}: label_share", wanted="a share from 0 to 1", got=str(self.label_share))
        if self.cached and self.divergence != FORWARD:
            raise HalfpintError(
                f"{self.use}: divergence", wanted=f"{FORWARD} with cached = true", got=self.divergence,
                todo="Set cached = false: whole distributions are asked for at every step.",
            )  # fmt: skip

    def _asks(self) -> bool:
        return self.label_share < 1

    def _loss_of(self, bundle: Bundle, teacher: Bundle | None, learner: Any, learn: Any, work: Work) -> Loss:
        """The mixed loss; the text's own where no teacher is asked."""
        if teacher is None:
            return lambda arrays: learner.loss(arrays, "sum")
        keeps = self._keeps(learner, learn, work) and _fits(teacher, learn, work)
        draws = self._kept(bundle, teacher, learn, work) if keeps else None
        large = None if keeps else load_model(teacher.path, CAUSAL).to(device())
        return lambda arrays: self._loss(learner, large, draws, arrays)

    def _batches(self, rows: Any, learn: Any, special: Any) -> Batches:
        return _Batches(rows, learn, CAUSAL, special, rows.rows())

    def _guess(self, vocabulary: int) -> float:
        return math.log(vocabulary) * max(1.0, self.temperature**2)

    def _teacher(self, bundle: Bundle, some: Sequence[str]) -> Bundle:
        found = self.teachers(bundle, "", self.use)
        if len(found) > 1 and not self.cached:
            raise SettingError(f"{self.use}: teacher", wanted="one, with cached = false", got=str(len(found)))
        return super()._teacher(bundle, some)

    def _keeps(self, learner: Any, learn: Any, work: Work) -> bool:
        """Whether answers to the whole text are asked for first: not where training sees little more than a part."""
        if not self.cached or "," in self.teacher:
            return self.cached
        return bool(ranks.decided(self._sees(learner.model, work) > _PASSES * len(learn.tokens)))

    def _kept(self, bundle: Bundle, teacher: Bundle, learn: Any, work: Work) -> Any:
        """What is kept of the teacher's answers to the tokens of `learn`."""
        asked = TokenAnswers(
            teacher=self.teacher or str(teacher.path), draws=self.draws, temperature=self.temperature,
            precision=self.precision,
        )  # fmt: skip
        return draws_for(asked, learn, work)

    def _loss(self, learner: Any, large: Any, draws: Any, arrays: dict[str, Any]) -> Any:
        """The mixed loss of a part, summed over its labels."""
        import torch

        inputs = learner.inputs(arrays)
        labels = np.asarray(arrays["labels"][:, 1:])
        counted = labels != IGNORED
        index = torch.from_numpy(np.flatnonzero(counted)).to(learner.device)

        def chosen(model: Any) -> Any:
            found = model(**inputs).logits[:, :-1]
            return found.reshape(-1, found.shape[-1]).index_select(0, index)

        ours = chosen(learner.model).float()
        wanted = torch.from_numpy(labels[counted]).to(learner.device)
        told = torch.nn.functional.cross_entropy(ours, wanted, reduction="sum") if self.label_share else 0.0
        if draws is not None:
            theirs = self._from_kept(ours, draws, arrays["places"][:, 1:][counted])
        else:
            with torch.no_grad():
                logits = chosen(large)
            theirs = self.distance(ours, logits).sum()
        return self.label_share * told + (1 - self.label_share) * theirs

    def _from_kept(self, logits: Any, draws: Any, places: Any) -> Any:
        """The distance of the student's logits (labels, vocabulary) to what is kept for these places, summed."""
        ids, counts, sizes = draws.at(places)
        return sampled_loss(logits / self.temperature, ids, counts, sizes, draws.draws) * self.temperature**2


def _fits(teacher: Bundle, learn: Any, work: Work) -> bool:
    """Whether asking a teacher about all tokens leaves most of the time for training, told by asking about a few."""
    if work.deadline is None:
        return True
    import torch

    model = load_model(teacher.path, CAUSAL).to(device())
    ids = torch.from_numpy(np.asarray(learn.tokens[:_TRIED]).astype(np.int64))[None].to(device())
    seconds = 0.0
    with torch.inference_mode():
        for _ in range(2):  # in the first one memory is got
            started = time.monotonic()
            model(input_ids=ids).logits.float().softmax(-1)
            seconds = time.monotonic() - started
    return bool(ranks.decided(seconds / ids.shape[1] * len(learn.tokens) < _ASKING * work.seconds_left()))


class _Same:
    """An array that holds its own indices."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(index)


@dataclass(frozen=True)
class _Places:
    """A token store whose tokens are their own places, for packing them as the tokens are packed."""

    tokens: _Same
    offsets: Any
    folder: Any


class _Batches(Batches):
    """Batches that also tell under "places" where in the store each label stands."""

    def __init__(self, rows: Any, store: Any, objective: str, special: Any, count: int) -> None:
        super().__init__(rows, store, objective, special, count)
        places: Any = _Places(_Same(len(store.tokens)), store.offsets, store.folder)
        self._places = Batches(rows, places, objective, special, count)

    def step(self, step: int) -> tuple[int, list[Part]]:
        """As of `Batches`."""
        epoch, parts = super().step(step)
        _, others = self._places.step(step)
        both = zip(parts, others, strict=True)
        return epoch, [Part({**one.arrays, "places": other.arrays["labels"]}, one.share) for one, other in both]
