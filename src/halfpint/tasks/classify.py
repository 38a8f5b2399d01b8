"""One label per text: sentiment, topic, intent, spam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Kind
from halfpint.counts import Counts
from halfpint.data.check import check
from halfpint.data.columns import find_columns
from halfpint.data.examples import Example, labelled
from halfpint.data.prepare import Data, prepare
from halfpint.errors import HalfpintError
from halfpint.outputs import NO_LABEL, Encoded, Ints, Outputs, joined
from halfpint.progress import Log
from halfpint.task import UNSURE, Candidate, Checked, LabelTask, Split
from halfpint.tasks import _label_figures as figures
from halfpint.terminal import amount

_IMBALANCED = 1.5
_SHOWN_LABELS, _SHOWN_ROWS = 5, 5
_LIKELY = 0.3  # any table may hold labelled texts: what looks like data of another task says so more surely


class Classify(LabelTask[Example]):
    """The task; an answer is the index of a label."""

    name = "classify"
    about = "one label per text"
    data = Data
    head = "pooled_classifier"
    routes = "classify"
    commands = frozenset(
        {"check", "compress", "distil", "evaluate", "fit", "init", "predict", "report", "run", "serve"}
    )
    ends = frozenset({Kind.CLASSIFIER, Kind.LINEAR, Kind.ONNX, Kind.READY})
    metrics = figures.METRICS
    default = True
    cheap = ("majority", "tfidf", "static vectors")
    counting = ("tfidf",)
    headline = ("accuracy", "f1_macro")
    frozen, static, blend = "train/frozen_linear", "distil/static", "train/blend"

    def recognises(self, source: str) -> float:
        """As sure of every source: its reader says what is missing."""
        return _LIKELY

    def read(self, settings: Any, folder: Path, log: Log) -> Split[Example]:
        """Read, check, clean and split a table."""
        return prepare(settings, log)

    def reread(self, settings: Any, folder: Path, log: Log) -> Split[Example]:
        """Without the search for wrong labels."""
        return prepare(settings, log, probe_labels=False)

    def labels(self, train: Sequence[Example]) -> tuple[str, ...]:
        """The label names in sorted order (numbers by value)."""
        names = {example.label for example in train}
        if all(name.lstrip("-").isdigit() for name in names):
            return tuple(sorted(names, key=int))
        return tuple(sorted(names))

    def primary(self, train: Sequence[Example]) -> str:
        """Accuracy, or macro F1 where one label has over 1.5 times its fair share."""
        counts = Counter(example.label for example in train)
        fair = len(train) / max(len(counts), 1)
        return "f1_macro" if max(counts.values(), default=0) > _IMBALANCED * fair else "accuracy"

    def text(self, example: Example) -> str:
        """The text of an example."""
        return example.text

    def group(self, example: Example) -> int:
        """The group of its near duplicates."""
        return example.group

    def stratum(self, example: Example) -> str:
        """Its label."""
        return example.label

    def unlabelled(self, text: str) -> Example:
        """An example with the label ""."""
        return Example(text, "", 0)

    def answered(self, text: str, answer: Any, labels: Sequence[str]) -> Example:
        """An example with the label of that index."""
        return Example(text, labels[int(answer)], 0)

    def given(self, settings: Any, log: Log) -> Sequence[Example]:
        """All rows of the table."""
        table = settings.table()
        columns = find_columns(table, text=settings.text or None, label=settings.label or None)
        log.say(f"{settings.source}: {amount(len(table), 'row')}; {columns.said}", kind="data")
        return labelled(table, columns)

    def check(self, settings: Any) -> Checked:
        """Duplicates, leaks, wrong labels, personal data and more."""
        text, label = settings.text or None, settings.label or None
        table = settings.table()
        columns = find_columns(table, text=text, label=label)
        examples, others = labelled(table, columns), None
        if settings.test:
            test = settings.test_table()
            others = labelled(test, find_columns(test, text=text, label=label))
        return Checked(
            rows=len(examples), labels=len({example.label for example in examples}), said=columns.said,
            notes=table.notes, findings=check(examples, test=others),
        )  # fmt: skip

    def columns_of(self, settings: Any) -> tuple[dict[str, str], str]:
        """The columns of texts and labels."""
        found = find_columns(settings.table(), text=settings.text or None, label=settings.label or None)
        return {"text": found.text, "label": found.label}, found.said

    def encode(self, texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Encoded:
        """One row per text, cut at `max_tokens`."""
        tokenizer.enable_truncation(max_length=max_tokens)
        return Encoded([{"input_ids": one.ids} for one in tokenizer.encode_batch_fast(list(texts))])

    def targets(self, examples: Sequence[Example], labels: Sequence[str]) -> Ints:
        """The index of each example's label: int64 of shape (examples,); NO_LABEL for ""."""
        index = {"": NO_LABEL, **{name: number for number, name in enumerate(labels)}}
        try:
            return np.array([index[example.label] for example in examples], dtype=np.int64)
        except KeyError as error:
            raise HalfpintError(
                "label column", wanted="labels that the training data has", got=f"the label {error.args[0]!r}",
                todo="Check the label column, or train on data that has it.",
                said=f"The training data has no label {error.args[0]!r}.",
            ) from None  # fmt: skip

    def decode(self, texts: Sequence[str], outputs: Outputs, labels: Sequence[str]) -> Sequence[Any]:
        """The index of the likeliest label of each text."""
        return [int(best) for best in joined(outputs, len(labels)).argmax(axis=1)]

    def rows(self, texts: Sequence[str], outputs: Outputs, labels: Sequence[str], top: int = 1) -> list[dict[str, Any]]:
        """For each text its label, probability and the `top` scores, best first."""
        values = joined(outputs, len(labels))
        best = np.argsort(-values, axis=1, kind="stable")[:, :top]
        found = []
        for row, order in zip(values, best, strict=True):
            scores = [{"label": labels[index], "probability": round(float(row[index]), 6)} for index in order]
            found.append({**scores[0], "scores": scores})
        return found

    def said(self, row: Mapping[str, Any]) -> str:
        """Its labels with their probabilities."""
        found = "  ".join(f"{one['label']} {one['probability']:.3f}" for one in row["scores"])
        return f"{UNSURE} ({found})" if row.get("unsure") else found

    def columns(self, top: int, labels: Sequence[str], of: str = "") -> tuple[tuple[str, ...], ...]:
        """label and probability, or topic_predicted and topic_probability; then label_2, probability_2 and so on."""
        names = (f"{of}_predicted", f"{of}_probability") if of else ("label", "probability")
        ends = ["", *(f"_{rank}" for rank in range(2, min(top, len(labels)) + 1))]
        return tuple((f"{names[0]}{end}", f"{names[1]}{end}") for end in ends)

    def cells(self, row: Mapping[str, Any] | None, ranks: int) -> list[tuple[Any, ...]]:
        """Label and probability of each rank; nothing for a row without a text."""
        if row is None:
            return [(None, None)] * ranks
        first = (row["label"], row["probability"])
        return [first, *((score["label"], score["probability"]) for score in row["scores"][1:])]

    def unsure(self, row: Mapping[str, Any], least: float) -> dict[str, Any]:
        """The label "unsure" where its probability is below `least`; probability and scores stay."""
        below = row["probability"] < least
        return {**row, "label": UNSURE if below else row["label"], "unsure": below}

    def coverage(self, examples: Sequence[Example], outputs: Outputs, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Share of the texts that are answered at some thresholds, and accuracy among them."""
        return figures.coverage(_indices(examples, labels), joined(outputs, len(labels)))

    def need_labels(self, examples: Sequence[Example], labels: Sequence[str]) -> None:
        """Refuse labels that are not among `labels`."""
        _indices(examples, labels)

    def counts(self, examples: Sequence[Example], answers: Sequence[Any], labels: Sequence[str]) -> Counts:
        """Hits, support and guesses of each label."""
        found = figures.label_counts(_indices(examples, labels), np.asarray(answers), len(labels))
        return found.in_groups([self.group(example) for example in examples])

    def calibration(self, examples: Sequence[Example], outputs: Outputs, labels: Sequence[str]) -> dict[str, float]:
        """calibration_error and log_loss (natural logarithm)."""
        true, values = _indices(examples, labels), joined(outputs, len(labels))
        return {
            "calibration_error": figures.calibration_error(true, values), "log_loss": figures.log_loss(true, values)
        }  # fmt: skip

    def details(
        self, examples: Sequence[Example], outputs: Outputs, answers: Sequence[Any], labels: Sequence[str]
    ) -> dict[str, Any]:
        """per_class; confusion with labels and matrix [true][predicted]; worst, the most confident mistakes."""
        true, predicted = _indices(examples, labels), np.asarray(answers)
        texts, rows = self.texts(examples), [example.row for example in examples]
        return {
            "per_class": figures.per_class(figures.label_counts(true, predicted, len(labels)), labels),
            "confusion": {
                "labels": list(labels), "matrix": figures.confusion(true, predicted, len(labels)).tolist(),
            },
            "worst": figures.worst_errors(true, joined(outputs, len(labels)), texts, rows, labels),
        }  # fmt: skip

    def candidates(self) -> Sequence[Candidate]:
        """The majority label, and two sizes of counted words."""
        found = [_candidate("majority", "majority", "majority", None, "train/majority", baseline=True)]
        for size, settings in (("small", {"features": 6000}), ("linear", {})):
            for precision, finish in (("fp32", ("export/onnx",)), ("int8", ("export/onnx", "compress/onnx_int8"))):
                name = f"tfidf-{size}"
                found.append(
                    _candidate(f"{name}-{precision}", name, "tfidf", precision, "train/tfidf_linear", settings, finish)
                )
        return found


def _candidate(
    name: str,
    group: str,
    family: str,
    precision: str | None,
    train: str,
    settings: Mapping[str, Any] | None = None,
    finish: Sequence[str] = (),
    *,
    baseline: bool = False,
) -> Candidate:
    return Candidate(
        name=name, group=group, family=family, precision=precision, train=((train, settings or {}),),
        finish=tuple((use, {}) for use in finish), baseline=baseline,
    )  # fmt: skip


def _indices(examples: Sequence[Example], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """The index of each example's label, shape (examples,).

    Raises:
        HalfpintError: there is no example, or a label is not among `labels`.
    """
    if not examples:
        raise HalfpintError(
            "evaluation",
            wanted="at least one row",
            got="none",
            todo="Give data with labelled rows.",
            said="There are no labelled rows to evaluate.",
        )
    index = {label: at for at, label in enumerate(labels)}
    unknown: dict[str, list[int]] = {}
    for example in examples:
        if example.label not in index:
            unknown.setdefault(example.label, []).append(example.row)
    if unknown:
        known = _some([repr(label) for label in index], _SHOWN_LABELS)
        named = [
            f"{f'{label!r:.40}' if label else 'no label'} (row{'s' * (len(rows) > 1)} {_some(rows, _SHOWN_ROWS)})"
            for label, rows in unknown.items()
        ]
        raise HalfpintError(
            "labels in the data",
            wanted=f"only the {len(index)} labels that the bundle knows ({known})",
            got=_some(named, _SHOWN_LABELS),
            todo="Leave these rows out or mend their labels, or fit a bundle on data that has them.",
            said=f"The data has labels that the model does not know: {_some(named, _SHOWN_LABELS)}. It knows "
            f"{len(index)}: {known}.",
        )
    return np.array([index[example.label] for example in examples], dtype=np.int64)


def _some(values: Sequence[object], n: int) -> str:
    """The first `n` values, and how many more there are."""
    shown = ", ".join(map(str, values[:n]))
    return shown + (f" and {len(values) - n} more" if len(values) > n else "")


TASK = Classify()
