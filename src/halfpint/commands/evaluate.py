"""`halfpint evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import HalfpintError
from halfpint.progress import Log, plain

if TYPE_CHECKING:
    from halfpint.bundle import Bundle


@dataclass(frozen=True)
class Evaluated(Result):
    """What `evaluate` measured.

    Attributes:
        kind: "labels" of a classifier, "text" of a language model, "kept" of one compared with its original.
        figures: every figure by its name, as in the JSON.
    """

    kind: Literal["labels", "text", "kept"]
    figures: Mapping[str, Any]

    def as_json(self) -> str:
        """All figures in one object."""
        return json.dumps(plain(dict(self.figures)), ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.report.compressed import kept_of
        from halfpint.report.terminal import evaluation, language

        return {"labels": evaluation, "text": language, "kept": kept_of}[self.kind](self.figures)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a model: its scores with 95 % confidence intervals, speed, memory and energy.

    A classifier is measured on labelled texts, a language model on running text.

    Args:
        bundle: Model folder, such as OUT/best.
        data: Labelled texts or running text: CSV, TSV, JSONL, Parquet, text files, a `datasets` folder or a Hub name.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        metric: Main metric of a classifier; `interval` in the JSON belongs to it.
        reference: Original of a compressed language model, to compare it with: a bundle or a base model.
        tokens: Tokens to compare on with --reference; 0 takes the whole text.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.USE

    bundle: str = positional(metavar="BUNDLE")
    data: str = positional(metavar="DATA")
    text: str = option("", metavar="COLUMN")
    label: str = option("", metavar="COLUMN")
    metric: str = option("accuracy", metavar="METRIC")
    reference: str = option("", metavar="MODEL")
    tokens: int = option(32_768, least=0)
    json: bool = False

    def run(self, log: Log) -> Evaluated:
        """Measure a classifier or a language model."""
        from halfpint.bundle import need_task
        from halfpint.metrics import check_metric
        from halfpint.model import is_language_model
        from halfpint.models.pull_language import find_bundle

        check_metric(self.metric, "--metric")
        bundle = find_bundle(self.bundle, log)
        if is_language_model(bundle):
            return self._on_text(bundle, log)
        if self.reference:
            raise HalfpintError("--reference", wanted="a language model for it", got=f"the classifier {self.bundle}")
        need_task(bundle, "classify")
        return self._on_labels(bundle, log)

    def _on_labels(self, bundle: Bundle, log: Log) -> Evaluated:
        from halfpint.data.columns import find_columns
        from halfpint.data.examples import labelled
        from halfpint.data.read import read_table
        from halfpint.evaluate.evaluate import evaluate

        table = read_table(self.data)
        columns = find_columns(table, text=self.text or None, label=self.label or None)
        log.write(f"{self.data}: {len(table):,} rows; {columns.said}")
        return Evaluated("labels", evaluate(bundle, labelled(table, columns), primary=self.metric, log=log))

    def _on_text(self, bundle: Bundle, log: Log) -> Evaluated:
        from halfpint.data.corpus import CorpusData
        from halfpint.language import evaluate_text

        source = CorpusData(sources=(self.data,), text=self.text)
        figures = evaluate_text(bundle, source, log, reference=self.reference, tokens=self.tokens)
        return Evaluated("kept" if self.reference else "text", figures)
