"""Stage: a student learns from texts that its teacher labelled, those that the teacher is sure of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from halfpint.bundle import Bundle
from halfpint.distil.answers import Answers, answers_for, training_examples
from halfpint.distil.teachers import WithTeacher
from halfpint.errors import HalfpintError, SettingError
from halfpint.outputs import per_text
from halfpint.stage import Work
from halfpint.train.finetune import Finetune


@dataclass(frozen=True, kw_only=True)
class PseudoLabels(WithTeacher, Finetune):
    """Fine-tune on the labelled texts and on those that the teacher labels with confidence.

    Source: Lee 2013, "Pseudo-Label", with the threshold of Sohn et al. 2020, "FixMatch", section 2.1; here the labels
    are a teacher's, not the student's own.

    Args:
        unlabelled: a table of texts for the teacher to label; empty learns from the labelled ones alone.
        confidence: the least probability of a label that is learned from.
    """

    unlabelled: str = ""
    confidence: float = 0.9
    refit_head: bool = False
    start_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.confidence < 1:
            raise SettingError(f"{self.use}: confidence", wanted="a share below 1", got=str(self.confidence))
        if self.teacher and not self.unlabelled:
            raise HalfpintError(
                f"{self.use}: unlabelled", wanted="a table of texts for the teacher to label", got="none",
                todo="Give one (--unlabelled), or take distil/logits: it learns from the labelled texts.",
            )  # fmt: skip

    def run(self, bundle: Bundle | None, work: Work) -> Bundle:
        """Let the teacher label, keep what it is sure of, and fine-tune on both."""
        if not self.unlabelled:
            return super().run(bundle, work)
        teachers = self.teachers(bundle, work.task.name, self.use)
        teacher = ",".join(str(one.path) for one in teachers)
        asked = Answers(teacher=teacher, unlabelled=self.unlabelled, train_texts=1)  # the labelled have their labels
        task = work.labelled
        texts = task.texts(training_examples(work, 1, 0, self.unlabelled)[0])
        logs = answers_for(asked, texts, work)
        units = task.units(texts)
        said = per_text(np.exp(logs), units)
        sure = [float(one.max(axis=-1).min(initial=1.0)) for one in said][1:]
        answers = task.decode(texts, said, work.labels)
        kept = [
            task.answered(text, answer, work.labels)
            for text, answer, chance in zip(texts[1:], answers[1:], sure, strict=True)
            if chance >= self.confidence
        ]
        if not kept:
            raise HalfpintError(
                f"{self.use}: confidence", wanted="a share that the teacher reaches on some of the texts",
                got=f"{self.confidence:g}, and {max(sure):.3f} at most", todo="Lower it.",
            )  # fmt: skip
        work.log.say(f"  the teacher labelled {len(kept):,} of {len(sure):,} texts surely", kind="labelled")
        return super().run(bundle, replace(work, split=replace(work.split, train=[*work.train, *kept])))
