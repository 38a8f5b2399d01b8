"""Stage: a student encoder learns to work inside as its teacher does, before it learns to answer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind, open_bundle
from halfpint.distil import _student
from halfpint.distil._inside import Inward, pair
from halfpint.distil.answers import training_examples
from halfpint.distil.teachers import WithTeacher, folders, need_same_tokenizer
from halfpint.engines.torch_classifier import tensors
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.outputs import Encoded
from halfpint.stage import Stage, Work
from halfpint.tokenizers.batching import length_batches
from halfpint.train.loop import Training, check_settings, device, train


@dataclass(frozen=True, kw_only=True)
class Hidden(Inward, WithTeacher, Training, Stage):
    """Train the student's layers on what happens in the teacher's; the head, if there is one, stays as it is.

    Labels are not used. relations: the student's last layer learns how the teacher's queries (keys, values) stand to
    each other, which works between any widths (Wang et al. 2021, "MiniLMv2", section 3). states: each layer learns the
    states of a layer of the teacher, through a learned projection where the widths differ (Jiao et al. 2020,
    "TinyBERT", equations 8 and 9, without its loss on attention).

    Args:
        unlabelled: a table of further texts.
        dropout: in the student's hidden states.
        max_tokens: where texts are cut; 0 takes it from the data or the student.
        train_texts: learn from so many of the training texts, drawn with `seed`; 0 takes all.
        evaluation_texts: validation texts that the loss is looked at on, at most.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER)
    gives: ClassVar[Kind] = Kind.SAME

    learning_rate: float = 2e-4
    epochs: int = 2
    unlabelled: str = ""
    dropout: float = 0.0
    max_tokens: int = 0
    train_texts: int = 0
    evaluation_texts: int = 500

    def __post_init__(self) -> None:
        check_settings(self, self.use)
        self.check_inward(self.use)
        for name, fits, wanted in (
            ("dropout", 0 <= self.dropout < 1, "a share below 1"),
            ("evaluation_texts", self.evaluation_texts >= 1, "1 or more"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=repr(getattr(self, name)))

    def check(self) -> None:
        """Refuse a teacher that is not there, or whose states cannot be looked at."""
        super().check()
        if self.teacher:
            self._teacher([open_bundle(name) for name in folders(self.teacher)])

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Train beside the teacher, keep the best evaluation on validation."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "distilling")
        teacher = self._teacher(self.teachers(bundle, work.task.name, self.use))
        task = work.labelled
        texts = task.texts(training_examples(work, self.train_texts, self.seed, self.unlabelled)[0])
        need_same_tokenizer(teacher, bundle, texts, self.use)
        torch.manual_seed(self.seed)
        student, max_tokens = _student.classifier(bundle, work, self.max_tokens, self.dropout)
        large, _ = _student.classifier(teacher, work, max_tokens, 0.0)
        for parameter in [*large.parameters(), *student.classifier.parameters()]:
            parameter.requires_grad_(False)
        if not self.train_embeddings:
            student.encoder.get_input_embeddings().weight.requires_grad_(False)
        both = pair(self, student.encoder, large.encoder).to(device())
        large.encoder.to(device()).eval()
        encoded = _student.encoded(bundle.path, task, texts, max_tokens)
        held_texts = task.texts(work.validation[: self.evaluation_texts])
        held = _student.encoded(bundle.path, task, held_texts, max_tokens)
        pad_id = int(student.config.encoder.get("pad_token_id") or 0)

        def loss_of(some: Encoded, batch: Sequence[int] | npt.NDArray[np.int64]) -> Any:
            inputs = tensors(some, batch, pad_id, device())
            mask = inputs["attention_mask"]
            return both(mask, input_ids=inputs["input_ids"], attention_mask=mask)

        def batch_loss(batch: npt.NDArray[np.int64]) -> Any:
            return loss_of(encoded, batch)

        def score() -> tuple[float, dict[str, Any]]:
            total = 0.0
            with torch.inference_mode():
                for batch in length_batches(held.lengths):
                    total += float(loss_of(held, batch)) * len(batch)
            mean = total / len(held.rows)
            return -mean, {"said": f"validation: {mean:.5f} from the teacher's {self.match}"}

        outcome = train(both, encoded.lengths, batch_loss, score, self, work)
        with self.new_bundle(work, bundle) as (folder, card):
            _student.write_encoder(folder, student.to("cpu").eval(), bundle)
            figures = {key: value for key, value in vars(outcome).items() if key != "seconds"}
            figures |= {"texts": len(texts), "max_tokens": max_tokens, "teacher": teacher.fingerprint}
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _teacher(self, held: Sequence[Bundle]) -> Bundle:
        """The one teacher, an encoder in PyTorch."""
        if len(held) != 1 or held[0].card.get("engine") != "torch_classifier":
            got = f"{len(held)} teachers" if len(held) != 1 else f"one that runs with {held[0].card.get('engine')}"
            raise HalfpintError(
                f"{self.use}: teacher", wanted="one trained encoder that was not exported (its states are looked at)",
                got=got, todo="Give such a bundle, or leave this method out: distil/logits takes any classifier.",
            )  # fmt: skip
        return held[0]
