"""`halfpint evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from halfpint.command import Group, Result, option, positional
from halfpint.commands._table import ReadsTable
from halfpint.progress import Log, plain

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.data.corpus import CorpusData
    from halfpint.task import LabelTask, Task

_SURE = 0.5  # that data is conversations
_CONTEXT = 4096  # tokens of a conversation, where the model does not say how many it reads


@dataclass(frozen=True)
class Evaluated(Result):
    """What `evaluate` measured.

    Attributes:
        kind: "labels" of a classifier, "text" or "answers" of a language model, "kept" of one compared with its
            original.
        figures: every figure by its name, as in the JSON.
    """

    kind: Literal["labels", "text", "answers", "kept"]
    figures: Mapping[str, Any]

    def as_json(self) -> str:
        """All figures in one object."""
        return json.dumps(plain(dict(self.figures)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.compressed import kept_of
        from halfpint.report.terminal import evaluation, judged_answers, language

        return {"labels": evaluation, "text": language, "answers": judged_answers, "kept": kept_of}[self.kind](
            self.figures
        )


@dataclass(frozen=True, kw_only=True)
class Evaluate(ReadsTable):
    """Measure a model: its scores with 95 % confidence intervals, speed, memory and energy.

    A classifier is measured on labelled texts, a language model on running text, or on the answers of conversations.

    Args:
        bundle: Model folder, such as OUT/best.
        data: Labelled texts, text or conversations: CSV, TSV, JSONL, Parquet, text, a `datasets` folder or a Hub name.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        metric: Main metric of labels; `interval` in the JSON belongs to it (default: by the task, such as accuracy).
        reference: Original of a compressed language model, to compare it with: a bundle or a base model.
        tokens: Tokens to compare on with --reference; 0 takes the whole text.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.USE
    synonyms: ClassVar[tuple[str, ...]] = ("eval", "test", "score", "measure", "benchmark")

    bundle: str = positional(metavar="BUNDLE")
    data: str = positional(metavar="DATA")
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    metric: str = option("", metavar="METRIC")
    reference: str = option("", metavar="MODEL")
    tokens: int = option(32_768, least=0)
    json: bool = False

    def run(self, log: Log) -> Evaluated:
        """Measure a classifier or a language model."""
        from halfpint.lookup import need_command, tasks
        from halfpint.models.pull_language import find_bundle
        from halfpint.task import LabelTask

        bundle = find_bundle(self.bundle, log)
        task = need_command(bundle, self.word())
        if not isinstance(task, LabelTask):
            answering = None if self.text else next((one for one in tasks() if one.answers), None)
            if answering and answering.recognises(self.data) >= _SURE:
                return self._on_answers(bundle, answering, log)
            return self._on_text(bundle, log)
        self.refuse("reference", wanted="a language model", got=f"{self.bundle}: {task.about}")
        return self._on_labels(bundle, task, log)

    def _on_labels(self, bundle: Bundle, task: LabelTask[Any], log: Log) -> Evaluated:
        from halfpint.evaluate.evaluate import evaluate
        from halfpint.task import settings_of

        task.check_metric(self.metric, "--metric")
        data = settings_of(task, source=self.data, text=self.text, label=self.label, **self.written)
        examples = task.given(data, log)
        return Evaluated("labels", evaluate(bundle, examples, primary=self.metric, log=log))

    def _on_answers(self, bundle: Bundle, task: Task[Any], log: Log) -> Evaluated:
        from halfpint.evaluate.text import judge_answers
        from halfpint.train.chat import answers_of

        self.refuse("reference", wanted="running text", got=f"{self.data}: conversations")
        self.refuse("label", "metric", wanted="a classifier", got="a language model")
        conversations = task.given(task.data(source=self.data), log)
        most = int(bundle.config.get("max_position_embeddings") or 0) or _CONTEXT
        return Evaluated("answers", judge_answers(bundle, answers_of(bundle, conversations, most, log), log))

    def _on_text(self, bundle: Bundle, log: Log) -> Evaluated:
        from halfpint.data.corpus import CorpusData

        self.refuse("label", "metric", wanted="a classifier", got="a language model")
        self.refuse_form("a language model")
        if not self.reference:
            self.refuse("tokens", wanted="--reference", got="")
        source = CorpusData(sources=(self.data,), text=self.text)
        figures = evaluate_text(bundle, source, log, reference=self.reference, tokens=self.tokens)
        return Evaluated("kept" if self.reference else "text", figures)


def evaluate_text(bundle: Bundle, data: CorpusData, log: Log, reference: str = "", tokens: int = 0) -> dict[str, Any]:
    """The figures of a language model on text, which is taken as it is.

    Args:
        reference: a bundle or base model that it was made from; the figures are then those of `evaluate.kept`.
        tokens: how many are read beside a reference, from the front; 0 reads all.

    Raises:
        HalfpintError: no such text, a bundle that is no language model, or a reference of another vocabulary.
    """
    from halfpint.data.corpus import prepare_corpus
    from halfpint.evaluate.kept import kept
    from halfpint.evaluate.text import judge
    from halfpint.models.pull_language import base_bundle

    with TemporaryDirectory(prefix="halfpint-text-") as folder:
        corpus = prepare_corpus(replace(data, clean=False, validation="", validation_share=0.0), Path(folder), log)
        if not reference:
            return judge(bundle, corpus.train, log)
        figures = kept(base_bundle(reference, Path(folder) / "base", log), bundle, corpus.train, tokens=tokens, log=log)
    log.event("kept", bundle=bundle.path, reference=reference, **figures)
    return figures
