"""`halfpint predict`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import HalfpintError
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.model import Answer
    from halfpint.task import LabelTask


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
    """

    file: Path
    rows: int

    @property
    def is_shown(self) -> bool:
        """It is said on standard error: standard output may be the file."""
        return True

    def __str__(self) -> str:
        return f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} written to {self.file}"


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """Label texts, or the rows of a file; a language model gives the most likely next words.

    Args:
        bundle: Model folder, such as OUT/best.
        texts: Texts to label.
        file: File with a text in each row: CSV, TSV, JSONL, each also .gz; - is standard input.
        out: Where to write the rows of --file with their labels; - is standard output.
        text: Column with the texts (default: guessed).
        top: Labels per text, most likely first.
        redact: Replace what the model marks in a text by the name of its label (models that mark parts of texts).
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.USE

    bundle: str = positional(metavar="BUNDLE")
    texts: tuple[str, ...] = positional((), metavar="TEXT...")
    file: Path | None = option(None, metavar="FILE")
    out: Path | None = option(None, metavar="FILE")
    text: str = option("", metavar="COLUMN")
    top: int = option(1, least=1)
    redact: bool = False
    json: bool = False

    def run(self, log: Log) -> Predicted | Labelled | Redacted:
        """Answer the texts, or write the file."""
        from halfpint.lookup import need_command
        from halfpint.model import Model
        from halfpint.models.pull_language import find_bundle
        from halfpint.task import label_task

        if bool(self.texts) == bool(self.file) or (self.file and not self.out):
            raise HalfpintError(
                "halfpint predict",
                wanted='texts ("my card has not arrived"), or --file IN --out OUT',
                got="neither or both",
            )
        if (self.out and not self.file) or (self.json and self.file):
            by_name = "texts for --json; the name of --out says its form"
            wanted = "--file for --out" if self.out and not self.file else by_name
            raise HalfpintError("halfpint predict", wanted=wanted, got="the other")
        bundle = find_bundle(self.bundle, log)
        task = need_command(bundle, self.word())
        if not self.texts:
            return self._file(bundle, label_task(task, "--file"), log)
        if self.redact:
            one = label_task(task, "--redact")
            one.redacted("", {})  # refuses a task that marks nothing
            return Redacted(tuple(one.redacted(answer.text, answer.row) for answer in Model(bundle)(self.texts)))
        return Predicted(tuple(Model(bundle)(self.texts, self.top)))

    def _file(self, bundle: Bundle, task: LabelTask[Any], log: Log) -> Labelled:
        from halfpint.engines import open_engine
        from halfpint.serve.batch import predict_file

        assert self.file is not None and self.out is not None
        engine, column = open_engine(bundle), self.text or None
        rows = predict_file(engine, task, self.file, self.out, text=column, top=self.top, redact=self.redact, log=log)
        result = Labelled(self.out, rows)
        log.write(str(result))
        return result
