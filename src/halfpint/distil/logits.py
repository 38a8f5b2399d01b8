"""Stage: a student classifier learns to answer as its teacher does."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle, Kind
from halfpint.distil import _student
from halfpint.distil._divergence import Softened
from halfpint.distil._zeros import hold_zeros
from halfpint.distil.answers import Answers, answers_for, training_examples
from halfpint.distil.teachers import WithTeacher
from halfpint.engines.torch_classifier import logits, picked, tensors
from halfpint.errors import SettingError, need
from halfpint.outputs import NO_LABEL
from halfpint.stage import Stage, Work
from halfpint.train.loop import Training, check_settings, device, train
from halfpint.train.lora import LoRA


@dataclass(frozen=True, kw_only=True)
class Logits(Softened, WithTeacher, LoRA, Training, Stage):
    """Train a student on a mix of its teacher's answers and the labels; an encoder gets a new head.

    Any classifier can teach, TF-IDF ones, exports and several together too: what they answer is asked once
    (distil/answers). Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.

    Args:
        label_share: share of the labels' cross-entropy in the loss; the rest is the distance to the teacher. 1 learns
            from the labels alone, and asks no teacher.
        unlabelled: a table of further texts, which only the teacher tells of.
        copies: changed copies of each labelled text, which only the teacher tells of: a teacher says of texts that it
            was trained on little but their label. 2 to 10 help most where labelled texts are few.
        label_smoothing: share of a label's weight that is spread over all labels.
        dropout: in the student's hidden states and before the head.
        train_embeddings: also train the token embeddings.
        max_tokens: where texts are cut; 0 takes it from the data or the student.
        train_texts: learn from so many of the labelled texts, drawn with `seed`; 0 takes all.
    """

    needs: ClassVar[tuple[Kind, ...]] = (Kind.ENCODER, Kind.CLASSIFIER)
    gives: ClassVar[Kind] = Kind.CLASSIFIER

    learning_rate: float = 1e-4
    head_learning_rate: float = 5e-4
    label_share: float = 0.3
    unlabelled: str = ""
    copies: int = 0
    label_smoothing: float = 0.0
    dropout: float = 0.1
    train_embeddings: bool = False
    max_tokens: int = 0
    train_texts: int = 0

    def __post_init__(self) -> None:
        check_settings(self, self.use)
        self.check_softened(self.use)
        self.check_lora(self.use)
        for name, fits, wanted in (
            ("label_share", 0 <= self.label_share <= 1, "a share from 0 to 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "a share below 1"),
            ("dropout", 0 <= self.dropout < 1, "a share below 1"),
            ("unlabelled", not self.unlabelled or self.label_share < 1, "a label_share below 1 for it"),
            ("copies", self.copies >= 0, "0 or more"),
            ("copies", not self.copies or self.label_share < 1, "a label_share below 1 for them"),
        ):
            if not fits:
                raise SettingError(f"{self.use}: {name}", wanted=wanted, got=str(getattr(self, name)))

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Ask the teacher, train, keep the best evaluation on validation."""
        assert bundle is not None
        started = time.monotonic()
        torch = need("torch", "distilling")
        _student.need_labels_of(bundle, work.labels, self.use)
        examples, more = training_examples(work, self.train_texts, self.seed, self.unlabelled, self.copies)
        teaching = self.label_share < 1
        task = work.labelled
        texts = task.texts(examples)
        answers = torch.from_numpy(self._answers(bundle, texts, work)) if teaching else None
        torch.manual_seed(self.seed)
        model, max_tokens = _student.classifier(bundle, work, self.max_tokens, self.dropout)
        if not self.train_embeddings:
            model.encoder.get_input_embeddings().weight.requires_grad_(False)
        adapted = _student.with_adapters(model, self, self.use)
        zeros = hold_zeros(model, self.use, lora=self.lora)
        model.to(device())
        encoded = _student.encoded(bundle.path, task, texts, max_tokens)
        held = _student.encoded(bundle.path, task, task.texts(work.validation), max_tokens)
        targets, judge = task.targets(examples, work.labels), _student.Judge.of(work, held.per_text)
        pad_id = int(model.config.encoder.get("pad_token_id") or 0)

        def batch_loss(batch: npt.NDArray[np.int64]) -> Any:
            found = picked(model(**tensors(encoded, batch, pad_id, device())).logits.float(), encoded, batch)
            units = encoded.units_of(batch)
            wanted = torch.from_numpy(targets[units]).to(device())
            share = self.label_share * (wanted != NO_LABEL)
            told = torch.nn.functional.cross_entropy(
                found, wanted, label_smoothing=self.label_smoothing, ignore_index=NO_LABEL, reduction="none"
            )
            loss = share * told
            if answers is not None:
                loss = loss + (1 - share) * self.distance(found, answers[units].to(device()))
            return loss.mean()

        outcome = train(
            model, encoded.lengths, batch_loss, lambda: judge(logits(model, held)), self, work,
            guess=float(np.log(len(work.labels))) * max(1.0, self.temperature**2),
        )  # fmt: skip
        model.to("cpu").eval()
        if adapted is not None:
            model = adapted.merge_and_unload(safe_merge=True)
        with self.new_bundle(work, bundle) as (folder, card):
            _student.write_classifier(folder, model, bundle.path)
            card.update(task=task.name, engine="torch_classifier")
            figures = {key: value for key, value in vars(outcome).items() if key != "seconds"}
            figures |= {
                "texts": len(examples),
                "labelled": len(examples) - more,
                "max_tokens": max_tokens,
                "zeros_held": zeros,
            }
            card["stages"].append(self.entry(started, **figures))
        shutil.rmtree(work.scratch, ignore_errors=True)
        return Bundle(work.target)

    def _answers(self, bundle: Bundle, texts: list[str], work: Work) -> npt.NDArray[np.float32]:
        """The teachers' log-probabilities of `texts`."""
        teachers = self.teachers(bundle, work.task.name, self.use)
        seed = self.seed if self.train_texts or self.copies else 0  # which else changes nothing of the answers
        asked = Answers(
            teacher=",".join(str(one.path) for one in teachers), unlabelled=self.unlabelled,
            train_texts=self.train_texts, copies=self.copies, seed=seed,
        )  # fmt: skip
        return answers_for(asked, texts, work)
