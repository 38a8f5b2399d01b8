"""`halfpint predict`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.command import Group, Result, option, positional
from halfpint.commands._table import ReadsTable
from halfpint.errors import HalfpintError
from halfpint.progress import Log
from halfpint.terminal import amount

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.model import Answer
    from halfpint.task import LabelTask

_SHOWN = 20


@dataclass(frozen=True)
class Predicted(Result):
    """The answers to some texts.

    Attributes:
        answers: one per text, in order; from a masked language model one per [MASK].
    """

    answers: tuple[Answer, ...]

    def as_json(self) -> str:
        """One object per answer, each on its own line."""
        return "\n".join(json.dumps(answer.row, ensure_ascii=False) for answer in self.answers)

    def __str__(self) -> str:
        return "\n".join(f"{answer}  |  {answer.text}" for answer in self.answers)

    def _repr_html_(self) -> str:
        from halfpint.report import notebook

        return notebook.table(("text", "answer"), [(one.text, str(one)) for one in self.answers])


@dataclass(frozen=True)
class Redacted(Result):
    """Texts in which what was found is replaced by the name of its label."""

    texts: tuple[str, ...]

    def as_json(self) -> str:
        """One object per text, each on its own line."""
        return "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in self.texts)

    def __str__(self) -> str:
        return "\n".join(self.texts)


@dataclass(frozen=True)
class Labelled(Result):
    """A file whose rows were labelled.

    Attributes:
        file: where they were written.
        rows: their number.
        labels: how many rows got each label, most first.
    """

    file: Path
    rows: int
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_shown(self) -> bool:
        """It is said on standard error: standard output may be the file."""
        return True

    def __str__(self) -> str:
        counts = "".join(f"\n  {count:>9,}  {label}" for label, count in list(self.labels.items())[:_SHOWN])
        more = f"\n  and {len(self.labels) - _SHOWN:,} more labels" if len(self.labels) > _SHOWN else ""
        return f"{amount(self.rows, 'row')} written to {self.file}{counts}{more}"


@dataclass(frozen=True, kw_only=True)
class Predict(ReadsTable):
    """Label texts, or the rows of a file; a language model gives the most likely next words.

    The columns that a file gets are named after the one that the model learned from: `topic_predicted` and
    `topic_probability`.

    Args:
        bundle: Model folder, such as OUT/best.
        texts: Texts to label.
        file: File with a text in each row: CSV, TSV, JSONL, JSON, Parquet, each also .gz, or .xlsx; - is standard
            input.
        out: Where to write the rows of --file with their labels: .csv, .tsv, .jsonl or .json, each also .gz; - is
            standard output (default: FILE-labelled.csv next to FILE).
        text: Column with the texts (default: guessed).
        top: Labels per text, most likely first.
        unsure: Least probability of a label; below it the answer is "unsure" (`evaluate` says what a value leaves).
        only: Label only the rows of --file with this value, such as complaint_predicted=yes; the others stay empty.
        redact: Replace what the model marks in a text by the name of its label (models that mark parts of texts).
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.USE
    synonyms: ClassVar[tuple[str, ...]] = ("labels", "classifying", "tagging", "infer")

    bundle: str = positional(metavar="BUNDLE")
    texts: tuple[str, ...] = positional((), metavar="TEXT...")
    file: Path | None = option(None, metavar="FILE")
    out: Path | None = option(None, metavar="FILE")
    text: str = option("", metavar="COLUMN")
    top: int = option(1, least=1)
    unsure: float = option(0.0, metavar="PROBABILITY", least=0, most=1)
    only: str = option("", metavar="COLUMN=VALUE")
    redact: bool = False
    json: bool = False

    def writes(self) -> tuple[Path, ...]:
        """Where the rows of a file go."""
        from halfpint.serve.batch import beside

        return (beside(self.file),) if self.file and self.out is None and str(self.file) != "-" else super().writes()

    def run(self, log: Log) -> Predicted | Labelled | Redacted:
        """Answer the texts, or write the file."""
        from halfpint.lookup import need_command
        from halfpint.model import Model
        from halfpint.models.pull_language import find_bundle
        from halfpint.task import LabelTask, label_task

        self._refuse_halves()
        self._refuse_files()
        bundle = find_bundle(self.bundle, log)
        task = need_command(bundle, self.word())
        if isinstance(task, LabelTask) and not task.ranks:
            self.refuse("top", wanted="a model that ranks labels", got=f"one that gives {task.about}")
        if self.redact:
            label_task(task, "--redact").redacted("", {})  # refuses a task that marks nothing
            self.refuse("top", "unsure", "only", wanted="answers", got="--redact")
        if self.unsure:
            self._check_unsure(bundle, label_task(task, "--unsure"))
        if not self.texts:
            return self._file(bundle, label_task(task, "--file"), log)
        if isinstance(task, LabelTask) and not all(text.strip() for text in self.texts):
            # As the server does; a row of a file without a text gets no label.
            raise HalfpintError(
                "halfpint predict",
                wanted="texts",
                got="an empty one",
                todo="Leave it out.",
                said="An empty text has no answer.",
            )
        if self.redact:
            one = label_task(task, "--redact")
            return Redacted(tuple(one.redacted(answer.text, answer.row) for answer in Model(bundle)(self.texts)))
        return Predicted(tuple(Model(bundle)(self.texts, self.top, self.unsure)))

    def _check_unsure(self, bundle: Bundle, task: LabelTask[Any]) -> None:
        from halfpint.task import UNSURE

        task.unsure({"label": "", "probability": 0.0}, self.unsure)  # refuses a task without single answers
        self.refuse("top", wanted="the labels as they are", got="--unsure")
        if UNSURE in bundle.labels:
            raise HalfpintError("--unsure", wanted=f"a model without a label {UNSURE!r}", got="one that has it")

    def _refuse_halves(self) -> None:
        """Refuse flags that do not make one question."""
        said = ""
        if self.texts and self.file:
            said = "Give texts or --file, not both."
        elif not self.texts and not self.file:
            said = 'Give a text, such as "my card has not arrived", or --file with a table of texts.'
        elif str(self.file) == "-" and not self.out:
            said = "Add --out FILE to say where the labelled rows go."
        elif self.out and not self.file:
            said = "--out needs --file; the answer to a text is printed."
        elif self.json and self.file:
            said = "--json is for texts; with --file the name of --out says the form, such as .jsonl."
        if said:
            wanted = "texts (--json), or --file IN (--out OUT)"
            raise HalfpintError("halfpint predict", wanted=wanted, got="another choice of them", said=said)

    def _refuse_files(self) -> None:
        """Ask whether a text that is the name of a table was meant as one; refuse what belongs to tables alone."""
        from halfpint.data.rows import DATA_ENDINGS, ending_of

        for text in self.texts:
            if ending_of(text) in DATA_ENDINGS and len(text) < 1000 and Path(text).expanduser().is_file():
                raise HalfpintError(
                    "halfpint predict", wanted="texts", got=f"{text!r}, which is a file",
                    todo=f"Did you mean --file {text}? A text of that name can be sent through --file -.",
                    said=f"{text!r} is a file, not a text.",
                )  # fmt: skip
        if not self.file:
            self.refuse("only", "header", "delimiter", "encoding", "sheet", wanted="--file", got="texts")

    def _file(self, bundle: Bundle, task: LabelTask[Any], log: Log) -> Labelled:
        from halfpint.data.table import Form
        from halfpint.engines import open_engine
        from halfpint.serve.batch import beside, predict_file

        assert self.file is not None
        file, column = self.file.expanduser(), self.text or None
        out = beside(file) if self.out is None else self.out
        form = Form(header=self.header, delimiter=self.delimiter, encoding=self.encoding, sheet=self.sheet)
        done = predict_file(
            open_engine(bundle), task, file, out, text=column, of=str(bundle.card.get("label_column") or ""),
            top=self.top, unsure=self.unsure, only=self.only, redact=self.redact, form=form, log=log,
        )  # fmt: skip
        result = Labelled(out, done.rows, done.labels)
        log.write(str(result))
        return result
