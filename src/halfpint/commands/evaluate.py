"""`halfpint evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from halfpint.command import Group, Result, option, positional
from halfpint.commands._table import ReadsTable
from halfpint.errors import SettingError
from halfpint.progress import Log, plain

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.data.corpus import CorpusData
    from halfpint.engines import Reading
    from halfpint.task import LabelTask, Task

_SURE = 0.5  # that data is conversations
_OF_TEXT = ("context", "stride", "mem_length", "contexts")  # flags that say how running text is read
_CONTEXT = 4096  # tokens of a conversation, where the model does not say how many it reads


@dataclass(frozen=True)
class Evaluated(Result):
    """What `evaluate` measured.

    Attributes:
        kind: "labels" of a classifier, "text" or "answers" of a language model, "kept" of one compared with its
            original, "contexts" of one by the length of its context.
        figures: every figure by its name, as in the JSON.
    """

    kind: Literal["labels", "text", "answers", "kept", "contexts"]
    figures: Mapping[str, Any]

    def as_json(self) -> str:
        """All figures in one object."""
        return json.dumps(plain(dict(self.figures)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.compressed import kept_of
        from halfpint.report.terminal import by_context, evaluation, judged_answers, language

        shown = {
            "labels": evaluation, "text": language, "answers": judged_answers, "kept": kept_of, "contexts": by_context,
        }  # fmt: skip
        return shown[self.kind](self.figures)


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
        tokens: Tokens to read with --reference or --contexts; 0 takes the whole text.
        context: Tokens that a language model reads at once (default: as it was trained).
        stride: Tokens that the window over a longer text slides by (default: half of the context).
        mem_length: Tokens that a model with a memory, such as transformer-xl, remembers (default: as it was trained).
        contexts: Compare lengths of context or memory, such as "0 64 128 256": perplexity by each, effective context.
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
    context: int = option(0, least=0)
    stride: int = option(0, least=0)
    mem_length: int | None = option(None, least=0)
    contexts: str = option("", metavar="LENGTHS")
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
        self.refuse("reference", *_OF_TEXT, wanted="a language model", got=f"{self.bundle}: {task.about}")
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

        self.refuse("reference", *_OF_TEXT, wanted="running text", got=f"{self.data}: conversations")
        self.refuse("label", "metric", wanted="a classifier", got="a language model")
        conversations = task.given(task.data(source=self.data), log)
        most = int(bundle.config.get("max_position_embeddings") or 0) or _CONTEXT
        return Evaluated("answers", judge_answers(bundle, answers_of(bundle, conversations, most, log), log))

    def _on_text(self, bundle: Bundle, log: Log) -> Evaluated:
        from halfpint.data.corpus import CorpusData
        from halfpint.engines import Reading

        self.refuse("label", "metric", wanted="a classifier", got="a language model")
        self.refuse_form("a language model")
        if not self.reference and not self.contexts:
            self.refuse("tokens", wanted="--reference or --contexts", got="")
        if self.reference or self.contexts:
            self.refuse("context", "stride", "mem_length", wanted="neither --reference nor --contexts", got="one")
        if self.reference:
            self.refuse("contexts", wanted="no --reference", got="one")
        source = CorpusData(sources=(self.data,), text=self.text)
        if self.contexts:
            return Evaluated("contexts", contexts_of(bundle, source, self.contexts, self.tokens, log))
        asked = self.context or self.stride or self.mem_length is not None
        figures = evaluate_text(
            bundle, source, log, reference=self.reference, tokens=self.tokens,
            reading=Reading(self.context, self.stride, self.mem_length) if asked else None,
        )  # fmt: skip
        return Evaluated("kept" if self.reference else "text", figures)


def contexts_of(bundle: Bundle, data: CorpusData, lengths: str, tokens: int, log: Log) -> dict[str, Any]:
    """The figures of a language model by the length of its context, on about so many tokens of the text (0: all)."""
    from halfpint.engines import open_language_engine
    from halfpint.evaluate.context import by_context, from_front

    try:
        contexts = [int(one) for one in lengths.replace(",", " ").split()]
    except ValueError:
        raise SettingError("--contexts", wanted="whole numbers of tokens", got=repr(lengths)) from None
    engine = open_language_engine(bundle)
    with _text(data, log) as documents:
        return by_context(engine, from_front(engine, documents, tokens), contexts, log)


@contextmanager
def _text(data: CorpusData, log: Log) -> Iterator[Sequence[str]]:
    """The documents of a text, which is taken as it is."""
    from halfpint.data.corpus import prepare_corpus

    with TemporaryDirectory(prefix="halfpint-text-") as folder:
        whole = replace(data, clean=False, validation="", validation_share=0.0)
        yield prepare_corpus(whole, Path(folder), log).train


def evaluate_text(
    bundle: Bundle, data: CorpusData, log: Log, reference: str = "", tokens: int = 0, reading: Reading | None = None
) -> dict[str, Any]:  # fmt: skip
    """The figures of a language model on text, which is taken as it is.

    Args:
        reference: a bundle or base model that it was made from; the figures are then those of `evaluate.kept`.
        tokens: how many are read beside a reference, from the front; 0 reads all.
        reading: how texts longer than the context are read.

    Raises:
        HalfpintError: no such text, a bundle that is no language model, or a reference of another vocabulary.
    """
    from halfpint.evaluate.kept import kept
    from halfpint.evaluate.text import judge
    from halfpint.models.pull_language import base_bundle

    with _text(data, log) as documents, TemporaryDirectory(prefix="halfpint-base-") as folder:
        if not reference:
            return judge(bundle, documents, log, reading=reading)
        figures = kept(base_bundle(reference, Path(folder) / "base", log), bundle, documents, tokens=tokens, log=log)
    log.event("kept", bundle=bundle.path, reference=reference, **figures)
    return figures
