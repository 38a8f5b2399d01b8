"""Spans in a text with a label each: named entities, slots, parts of speech, personal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from halfpint.bundle import Kind
from halfpint.counts import Counts
from halfpint.data.span_faults import cleaned, find_faults, span_faults
from halfpint.data.span_files import looks_like_spans, read_spans
from halfpint.data.spans import Span, TagData, TagExample, prepare_spans, span_labels, text_of_file
from halfpint.data.words import words, words_in
from halfpint.errors import HalfpintError
from halfpint.lookup import guess_task
from halfpint.outputs import NO_LABEL, Encoded, Floats, Ints, Outputs, joined
from halfpint.progress import Log
from halfpint.task import Candidate, Checked, LabelTask, Split
from halfpint.tasks import _span_figures as figures
from halfpint.tasks._tags import OUTSIDE, Tags, best_tags, labels_in, tag_names
from halfpint.tasks._windows import word_rows
from halfpint.terminal import amount

_SHOWN, _SHOWN_TEXT, _WORST, _GLANCE = 5, 300, 20, 4096


class Tag(LabelTask[TagExample]):
    """The task; an answer is a tuple of `Span`, in order. Labels of models are tags of words (O, S-LOC, B-LOC, …)."""

    name = "tag"
    about = "spans in a text with a label each"
    data = TagData
    head = "tagger"
    routes = "tag"
    commands = frozenset(
        {"check", "compress", "distil", "evaluate", "fit", "init", "predict", "report", "run", "serve"}
    )
    ends = frozenset({Kind.CLASSIFIER, Kind.ONNX, Kind.READY})
    metrics = figures.METRICS
    cheap = ("dictionary", "crf", "bilstm", "blend")
    counting = ("crf",)
    headline = ("f1_strict", "f1_partial")
    ranks = False
    tuning: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 2e-4, "label_smoothing": 0.0, "refit_head": False, "start_share": 0.0,
    }  # fmt: skip

    def recognises(self, source: str) -> float:
        """Sure of CoNLL columns and of JSON with spans."""
        return looks_like_spans(source)

    def read(self, settings: Any, folder: Path, log: Log) -> Split[TagExample]:
        """Read, check, clean and split a file with labelled spans."""
        _refuse_other_data(settings)
        return prepare_spans(settings, log)

    def labels(self, train: Sequence[TagExample]) -> tuple[str, ...]:
        """O and the tags of each label, labels sorted."""
        return tag_names(list(span_labels(train)))

    def primary(self, train: Sequence[TagExample]) -> str:
        """F1 of spans with the right start, end and label."""
        return "f1_strict"

    def text(self, example: TagExample) -> str:
        """The text of an example."""
        return example.text

    def group(self, example: TagExample) -> int:
        """Its document."""
        return example.document or -1

    def unlabelled(self, text: str) -> TagExample:
        """An example without spans, not even an empty list."""
        return TagExample(text, None)

    def answered(self, text: str, answer: Any, labels: Sequence[str]) -> TagExample:
        """An example with these spans."""
        return TagExample(text, tuple(answer))

    def units(self, texts: Sequence[str]) -> Ints | None:
        """Words of each text."""
        return np.array(words_in(texts), dtype=np.int64)

    def given(self, settings: Any, log: Log) -> Sequence[TagExample]:
        """All texts of the file whose spans fit them."""
        _refuse_other_data(settings)
        found = read_spans(settings.source, settings)
        findings = [*found.findings, *span_faults(found.examples)]
        kept = cleaned(found, findings)
        log.say(f"{settings.source}: {amount(len(found.examples), 'text')}; {found.said}", kind="data")
        for finding in findings:
            log.say(f"  {'dropped' if finding.drop else finding.severity}: {finding.message}", kind="finding")
        if not kept:
            raise HalfpintError(settings.source, wanted="texts whose spans fit them", got="none")
        return kept

    def check(self, settings: Any) -> Checked:
        """Tags that cannot be, spans that do not fit their text, repeats, leaks and more."""
        _refuse_other_data(settings)
        found = read_spans(settings.source, settings)
        sides = [side for side in ("validation", "test") if getattr(settings, side)]
        others = {side: read_spans(getattr(settings, side), settings) for side in sides}
        return Checked(
            rows=len(found.examples), labels=len(span_labels(found.examples)), said=found.said, notes=found.notes,
            findings=find_faults(found, others),
        )  # fmt: skip

    def columns_of(self, settings: Any) -> tuple[dict[str, str], str]:
        """The columns of words and tags, or the fields of texts and spans."""
        _refuse_other_data(settings)
        found = read_spans(settings.source, settings)
        return found.columns, found.said

    def encode(self, texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Encoded:
        """Rows of tokens with the shapes of their words; a long text has several, which overlap."""
        return word_rows(texts, tokenizer, max_tokens)

    def targets(self, examples: Sequence[TagExample], labels: Sequence[str]) -> Ints:
        """The tag of each word: int64 of shape (words,). A word that a span touches belongs to it."""
        tags = Tags(labels)
        found: list[int] = []
        for example in examples:
            spans = words(example.text)
            if example.spans is None:
                found += [NO_LABEL] * len(spans)
                continue
            row = [tags.numbers[OUTSIDE]] * len(spans)
            place = 0
            for span in example.spans:
                while place < len(spans) and spans[place][1] <= span.start:
                    place += 1
                first = place
                while place < len(spans) and spans[place][0] < span.end:
                    place += 1
                if place > first:
                    try:
                        row[first:place] = tags.of_span(span.label, place - first)
                    except KeyError:
                        raise HalfpintError(
                            "labels", wanted="labels that the training data has", got=f"the label {span.label!r}",
                            todo="Check the column of the tags, or train on data that has it.",
                        ) from None  # fmt: skip
            found += row
        return np.array(found, dtype=np.int64)

    def decode(self, texts: Sequence[str], outputs: Outputs, labels: Sequence[str]) -> Sequence[Any]:
        """The spans of each text: those of its likeliest legal tags."""
        return [tuple(span for span, _, _ in found) for found in _decoded(texts, outputs, Tags(labels))]

    def rows(self, texts: Sequence[str], outputs: Outputs, labels: Sequence[str], top: int = 1) -> list[dict[str, Any]]:
        """For each text its entities: start and end in characters, label, text and probability."""
        tags = Tags(labels)
        found = _decoded(texts, outputs, tags)
        values = joined(outputs, len(labels))
        sure = _sureness(values, np.array([len(one) for one in outputs], dtype=np.int64), found, tags)
        return [
            {"entities": [_entity(text, span, value) for (span, _, _), value in zip(spans, values, strict=True)]}
            for text, spans, values in zip(texts, found, sure, strict=True)
        ]

    def said(self, row: Mapping[str, Any]) -> str:
        """Its entities with their labels and probabilities."""
        found = [f"{one['text']} ({one['label']}, {one['probability']:.3f})" for one in row["entities"]]
        return "  ".join(found) or "nothing"

    def names(self, labels: Sequence[str]) -> Sequence[str]:
        """The labels of spans, without their places in one."""
        return labels_in(labels)

    def columns(self, top: int, labels: Sequence[str], of: str = "") -> tuple[tuple[str, ...], ...]:
        """entities."""
        return (("entities",),)

    def cells(self, row: Mapping[str, Any] | None, ranks: int) -> list[tuple[Any, ...]]:
        """The entities, which a file of columns holds as JSON; nothing for a row without a text."""
        return [(None if row is None else row["entities"],)] * ranks

    def redacted(self, text: str, row: Mapping[str, Any]) -> str:
        """The text with [LABEL] in the place of each entity."""
        pieces, end = [], 0
        for entity in sorted(row.get("entities", ()), key=lambda one: int(one["start"])):
            pieces += [text[end : entity["start"]], f"[{entity['label']}]"]
            end = entity["end"]
        return "".join([*pieces, text[end:]])

    def need_labels(self, examples: Sequence[TagExample], labels: Sequence[str]) -> None:
        """Refuse texts that nobody has labelled, and labels that no tag is of."""
        known = labels_in(labels)
        bare = [example.row for example in examples if example.spans is None]
        unknown = {span.label for example in examples for span in example.spans or ()} - set(known)
        if not bare and not unknown:
            return
        rows = bare or [one.row for one in examples if any(span.label in unknown for span in one.spans or ())]
        raise HalfpintError(
            "labels in the data", wanted=f"only the {len(known)} labels that the bundle knows ({_some(known)})",
            got=f"{'texts without labels' if bare else _some(sorted(unknown))} (lines {_some(rows)})",
            todo="Leave these texts out or mend their labels, or fit a bundle on data that has them.",
        )  # fmt: skip

    def counts(self, examples: Sequence[TagExample], answers: Sequence[Any], labels: Sequence[str]) -> Counts:
        """Right, found and gold spans of each label, and what is nearly right."""
        if not examples:
            raise HalfpintError(
                "evaluation",
                wanted="at least one text",
                got="none",
                todo="Give labelled texts.",
                said="There are no labelled texts to evaluate.",
            )
        self.need_labels(examples, labels)
        gold = [example.spans or () for example in examples]
        found = figures.span_counts(gold, list(answers), labels_in(labels))
        return found.in_groups([self.group(example) for example in examples])

    def details(
        self, examples: Sequence[TagExample], outputs: Outputs, answers: Sequence[Any], labels: Sequence[str]
    ) -> dict[str, Any]:
        """per_type, and as a table; worst, the texts with the most confident mistakes."""
        types = figures.per_type(self.counts(examples, answers, labels), labels_in(labels))
        head = ["Label", "Precision", "Recall", "F1", "Spans"]
        rows = [list(one.values()) for one in sorted(types, key=lambda one: (one["f1"], one["label"]))]
        table = {"title": "Label by label, the weakest first", "head": head, "rows": rows}
        return {"per_type": types, "tables": [table], "worst": self._worst(examples, outputs, labels)}

    def _worst(self, examples: Sequence[TagExample], outputs: Outputs, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Texts whose spans are wrong: that with the surest wrong span first, then those where one is missed."""
        texts = self.texts(examples)
        found: list[tuple[float, dict[str, Any]]] = []
        for example, row in zip(examples, self.rows(texts, outputs, labels), strict=True):
            gold = set(example.spans or ())
            given = {Span(one["start"], one["end"], one["label"]): one["probability"] for one in row["entities"]}
            if gold == set(given):
                continue
            sure = max((value for span, value in given.items() if span not in gold), default=0.0)
            text = example.text
            short = text if len(text) <= _SHOWN_TEXT else text[: _SHOWN_TEXT - 1] + "…"
            words_of = {"label": _listed(text, gold), "predicted": _listed(text, given)}
            found.append((sure, {"text": short, **words_of, "probability": sure, "row": example.row}))
        return [one for _, one in sorted(found, key=lambda pair: -pair[0])[:_WORST]]

    def candidates(self) -> Sequence[Candidate]:
        """A dictionary of what was labelled, a conditional random field, one on top of a small network, and both."""
        bilstm = (("train/word_tagger", {"time_share": 0.3}),)
        return [
            Candidate(
                name="dictionary", group="dictionary", family="dictionary", precision=None,
                train=(("train/dictionary", {}),), baseline=True,
            ),
            Candidate(name="crf", group="crf", family="crf", precision="fp16", train=(("train/crf", {}),)),
            Candidate(name="bilstm", group="bilstm", family="bilstm", precision="fp16", train=bilstm),
            Candidate(
                name="bilstm+crf", group="bilstm", family="blend", precision="fp16", train=bilstm,
                finish=(("train/blend", {"other": "train/crf"}),),
            ),
        ]  # fmt: skip


def _refuse_other_data(settings: TagData) -> None:
    """Say so where a file is data of another task; who names its columns or fields is taken at the word.

    Raises:
        HalfpintError: with what it looks like, or what is wrong with the file.
    """
    text_of_file(settings.source, most_bytes=_GLANCE)  # says what is wrong with the file itself
    if looks_like_spans(settings.source) > 0 or settings.text or settings.label or settings.scheme:
        return
    other = guess_task(settings.source)
    raise HalfpintError(
        settings.source, wanted="texts with labelled spans: CoNLL columns, or JSONL with a text and its spans",
        got=f"neither; it looks like data of the task {other.name!r}: {other.about}",
        todo=f"Give another file or the task {other.name!r}, or name its columns or fields (--text, --label).",
    )  # fmt: skip


def _decoded(texts: Sequence[str], outputs: Outputs, tags: Tags) -> list[list[tuple[Span, int, int]]]:
    """The spans of each text with their first and their last word, counted through all texts."""
    path, per_text = best_tags(outputs, tags)
    firsts, lasts, kinds = (part.tolist() for part in tags.spans(path, per_text))
    ends = np.cumsum(per_text)
    text_of = np.searchsorted(ends, firsts, side="right").tolist() if len(firsts) else []
    found: list[list[tuple[Span, int, int]]] = [[] for _ in texts]
    split: dict[int, list[tuple[int, int]]] = {}
    for first, last, kind, number in zip(firsts, lasts, kinds, text_of, strict=True):
        if number not in split:
            split[number] = words(texts[number])
        begin = int(ends[number] - per_text[number])
        start, end = split[number][first - begin][0], split[number][last - begin][1]
        found[number].append((Span(start, end, tags.labels[kind]), first, last))
    return found


def _sureness(
    values: Floats, per_text: Ints, found: Sequence[Sequence[tuple[Span, int, int]]], tags: Tags
) -> list[list[float]]:
    """How sure each span is: the product of the probabilities of its words' tags, and of the next word's not going on.

    That it does not go on counts where tags do not say it themselves (BIO). Of six such measures this was the nearest
    to the share that is right: LOG.md, "Named entities".

    Args:
        values: probabilities (words of all texts, tags).
        per_text: words of each text.
    """
    last_words = set((np.cumsum(per_text) - 1).tolist())
    sure = []
    for spans in found:
        row = []
        for span, first, last in spans:
            value = float(values[np.arange(first, last + 1), tags.of_span(span.label, last - first + 1)].prod())
            goes_on = tags.numbers.get(f"I-{span.label}")
            if goes_on is not None and not tags.closes and last not in last_words:
                value *= 1.0 - float(values[last + 1, goes_on])
            row.append(value)
        sure.append(row)
    return sure


def _entity(text: str, span: Span, sure: float) -> dict[str, Any]:
    return {
        "start": span.start, "end": span.end, "label": span.label, "text": text[span.start : span.end],
        "probability": round(sure, 6),
    }  # fmt: skip


def _listed(text: str, spans: Any) -> str:
    """Spans in words: "Berlin (LOC), …"."""
    return ", ".join(f"{text[span.start : span.end]} ({span.label})" for span in sorted(spans)) or "nothing"


def _some(values: Sequence[object]) -> str:
    """The first values, and how many more there are."""
    shown = ", ".join(map(str, values[:_SHOWN]))
    return shown + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")


TASK = Tag()
