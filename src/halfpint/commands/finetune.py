"""`halfpint finetune`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from halfpint.command import Command, Group, Result, named_after, option, positional, stem_of
from halfpint.commands._made import Made
from halfpint.errors import SettingError, nearest
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.data.conversations import ChatData
    from halfpint.data.corpus import CorpusData
    from halfpint.stage import Stage

_OF_CONVERSATIONS = ("template", "drop_faulty", "show_mask")


@dataclass(frozen=True)
class Mask(Result):
    """A conversation as the model reads it, with the tokens marked that the loss counts."""

    shown: str

    @property
    def is_styled(self) -> bool:
        """It may be coloured."""
        return True

    def __str__(self) -> str:
        return self.shown


@dataclass(frozen=True, kw_only=True)
class Finetune(Command):
    """Fine-tune a language model on conversations, or on the text of a domain.

    On conversations the loss counts only what the assistant says.

    Args:
        base: Model to start from: a bundle, or a base model by name or folder.
        data: Conversations (JSON, JSONL or Parquet, each also .gz), or text.
        out: Output folder (default: BASE-DATA).
        task: chat (default) for conversations, predict for the text of a domain.
        lora: Train low-rank adapters (LoRA) instead of all weights.
        merge: Merge the adapters into the weights; without it they are also kept in adapter/.
        minutes: Time limit: training gets what judging and the report leave; 0 goes by --epochs.
        epochs: Passes over the data; 0 takes 3 for conversations, 1 for text.
        context: Context length in tokens; 0 takes it from the data.
        template: Chat template for models without one: chatml.
        validation: Validation data (default: a part of DATA).
        text: Column with the texts, in tables (default: guessed).
        drop_faulty: Skip invalid conversations.
        show_mask: Show a conversation with the tokens marked that the loss counts, and exit.
        seed: Random seed of the split and the training.
        set: Any other setting of the training (see docs/stages.md), such as batch_tokens=1024; repeatable.
        force: Replace an earlier model in the output folder.
        quiet: Hide progress.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.LANGUAGE
    synonyms: ClassVar[tuple[str, ...]] = ("train", "tune", "fine-tune", "sft", "lora")
    resumes: ClassVar[bool] = True

    base: str = positional(metavar="BASE")
    data: str = positional(metavar="DATA")
    out: Path | None = option(None, metavar="FOLDER")
    task: str = option("", metavar="TASK")
    lora: bool = False
    merge: bool = True
    minutes: float = 0.0
    epochs: int = option(0, least=0)
    context: int = option(0, least=0)
    template: str = ""
    validation: str = option("", metavar="DATA")
    text: str = option("", metavar="COLUMN")
    drop_faulty: bool = False
    show_mask: bool = False
    seed: int = option(0, least=0)
    set: tuple[str, ...] = option((), metavar="KEY=VALUE")
    force: bool = False
    quiet: bool = False
    json: bool = False

    def run(self, log: Log) -> Made | Mask:
        """Train, or show what training would count."""
        from halfpint.commands._learning import finetune
        from halfpint.lookup import refuse_other
        from halfpint.recipe import changed

        refuse_other(self.base, self.word())
        data, stage = self._asked()
        if self.show_mask:
            colour = sys.stdout.isatty()
            return Mask(mask_shown(self.base, data, self.template, log, colour=colour))  # type: ignore[arg-type]
        out = self.out or named_after(self.base, stem_of(self.data))
        stage = changed(stage, self.set)
        return Made.of(finetune(self.base, data, stage, out, log, force=self.force, command=self.line()))

    def _asked(self) -> tuple[ChatData | CorpusData, Stage]:
        from halfpint.data.conversations import ChatData
        from halfpint.data.corpus import CorpusData
        from halfpint.lookup import tasks
        from halfpint.train.adapt import Adapt
        from halfpint.train.chat import Chat

        known = [one for one in tasks() if self.word() in one.commands]
        task = next((one for one in known if (one.name == self.task if self.task else one.answers)), None)
        if task is None:
            names = [one.name for one in known]
            todo = nearest(self.task, names, "For labels: halfpint fit DATA.")
            raise SettingError("--task", wanted=" or ".join(names), got=repr(self.task), todo=todo)
        if task.answers:
            return ChatData(
                source=self.data, validation=self.validation, drop_faulty=self.drop_faulty, seed=self.seed
            ), Chat(
                lora=self.lora, minutes=self.minutes, epochs=self.epochs or Chat.epochs, context=self.context,
                template=self.template, seed=self.seed, merge=self.merge,
            )  # fmt: skip
        unused = _OF_CONVERSATIONS if self.merge else (*_OF_CONVERSATIONS, "merge")
        self.refuse(*unused, wanted="--task chat", got=f"--task {task.name}")
        return CorpusData(
            sources=(self.data,), text=self.text, validation=self.validation, seed=self.seed
        ), Adapt(
            lora=self.lora, minutes=self.minutes, epochs=self.epochs or Adapt.epochs, context=self.context,
            seed=self.seed,
        )  # fmt: skip


def mask_shown(base: str, data: ChatData, template: str, log: Log, *, colour: bool) -> str:
    """The first conversation of `data` as `base` reads it, with what the loss counts marked.

    Raises:
        HalfpintError: no such base or data, or a base without a chat template.
    """
    from halfpint.data.conversations import prepare_chat
    from halfpint.models.pull_language import base_bundle
    from halfpint.report.mask import show_mask
    from halfpint.train.chat import masked_tokens

    conversations = prepare_chat(data, log)
    with TemporaryDirectory(prefix="halfpint-base-") as folder:
        parent = base_bundle(base, Path(folder) / "base", log)
        pieces, counted = masked_tokens(parent, conversations.train, template, log)
    return show_mask(pieces, counted, colour=colour)
