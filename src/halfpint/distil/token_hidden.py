"""Stage: a language model learns to work inside as its teacher does, before it learns to go on as it would."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfpint.bundle import Bundle
from halfpint.data.packing import IGNORED
from halfpint.distil._inside import RELATIONS, STATES, Inward, pair
from halfpint.distil._token_distillation import TokenDistillation
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.models.sizes import CAUSAL
from halfpint.stage import Work
from halfpint.train.adapt import Loss
from halfpint.train.loop import device
from halfpint.train.rows import Judge

_RELATION_BYTES = 4 * 3 * 3  # of a relation: queries', keys' and values', each as scores, student's and teacher's


@dataclass(frozen=True, kw_only=True)
class TokenHidden(Inward, TokenDistillation):
    """Train the student's layers on what happens in the teacher's; what follows them stays as it is.

    The text is read, and nothing predicted. relations: the student's last layer learns how the teacher's queries (keys,
    values) stand to those before them, which works between any widths (Wang et al. 2021, "MiniLMv2", section 3).
    states: each layer learns the states of a layer of the teacher, of the same width (Jiao et al. 2020, "TinyBERT",
    equations 8 and 9, without its loss on attention). Packing and plan are those of train/adapt.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_inward(self.use)
        if self.train_embeddings and self.lora:
            raise HalfpintError(f"{self.use}: train_embeddings", wanted="false with adapters", got="true")

    def fits(self, bundle: Bundle) -> None:
        """Refuse a teacher of another tokenizer, and layers or widths that there are not."""
        super().fits(bundle)
        (teacher,) = self.teachers(bundle, "", self.use)
        widths = [int(one.config.get("hidden_size") or 0) for one in (bundle, teacher)]
        if self.match == STATES and 0 not in widths:
            self._check_widths(*widths)
        if self.teacher_layer > (layers := int(teacher.config.get("num_hidden_layers") or self.teacher_layer)):
            raise SettingError(
                f"{self.use}: teacher_layer", wanted=f"a number up to {layers}", got=str(self.teacher_layer)
            )

    def _check_widths(self, ours: int, theirs: int) -> None:
        if ours != theirs:
            raise HalfpintError(
                f"{self.use}: match", wanted=f"{RELATIONS} between models of {ours} and {theirs} wide states",
                got=STATES,
            )  # fmt: skip

    def _teacher(self, bundle: Bundle, some: Sequence[str]) -> Bundle:
        if (count := len(self.teachers(bundle, "", self.use))) > 1:
            raise SettingError(f"{self.use}: teacher", wanted="one, as its states are looked at", got=str(count))
        return super()._teacher(bundle, some)

    def _freeze(self, model: Any) -> None:
        """The output layer, and embeddings that are not to be trained."""
        model.get_output_embeddings().requires_grad_(False)
        model.get_input_embeddings().requires_grad_(self.train_embeddings)

    def _loss_of(self, bundle: Bundle, teacher: Bundle | None, learner: Any, learn: Any, work: Work) -> Loss:
        """The mean distance inside over the tokens, once for each label."""
        torch = need("torch", "distilling")
        assert teacher is not None
        small = learner.model.base_model
        large = load_model(teacher.path, CAUSAL).base_model.to(device()).eval()
        if self.match == STATES:
            self._check_widths(int(small.config.hidden_size), int(large.config.hidden_size))
        both = pair(self, small, large)

        def loss(arrays: dict[str, Any]) -> Any:
            numbers = torch.from_numpy(np.asarray(arrays["sequence_ids"])).to(learner.device)
            seen = (numbers[:, :, None] == numbers[:, None, :]).tril()  # of its own document, up to itself
            return both(numbers >= 0, seen, **learner.inputs(arrays)) * _labels(arrays)

        return loss

    def _judge(self, plain: Judge, loss: Loss) -> Judge:
        return _Beside(plain, loss, self.match)

    def _more_bytes(self, model: Any, rows: int, context: int) -> int:
        heads = self.relation_heads or max(1, int(model.config.hidden_size) // 32)
        return _RELATION_BYTES * rows * heads * context**2 if self.match == RELATIONS else 0

    def _guess(self, vocabulary: int) -> float:
        return math.inf  # there is no guessing


class _Beside(Judge):
    """The validation score by the loss beside the teacher, on the rows of `plain`."""

    def __init__(self, plain: Judge, loss: Loss, match: str) -> None:
        vars(self).update(vars(plain))
        self.names = f"{match}_before", match
        self.of = f"from the teacher's {match}"
        self._learner = self
        self._model, self._loss_of = plain._learner.model, loss

    def held_out(self, batches: Iterable[dict[str, Any]]) -> tuple[float, int]:
        """The summed loss over the labels, and how many there are."""
        torch = need("torch", "distilling")
        was, total, count = self._model.training, 0.0, 0
        self._model.eval()
        with torch.inference_mode():
            for arrays in batches:
                count += _labels(arrays)
                for row in range(len(arrays["input_ids"])):  # what two tokens are to each other takes room
                    total += float(self._loss_of({name: array[row : row + 1] for name, array in arrays.items()}))
        self._model.train(was)
        return total, count

    def __call__(self) -> tuple[float, dict[str, Any]]:
        total, count = self.loss()
        mean = total / max(count, 1)
        return -mean, {self.names[1]: mean, "said": f"validation {mean:.5f} {self.of}"}


def _labels(arrays: dict[str, Any]) -> int:
    return int((np.asarray(arrays["labels"])[:, 1:] != IGNORED).sum())
