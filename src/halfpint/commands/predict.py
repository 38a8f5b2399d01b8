"""`halfpint predict`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.errors import HalfpintError
from halfpint.progress import Log

if TYPE_CHECKING:
    from halfpint.bundle import Bundle
    from halfpint.model import Answer


@dataclass(frozen=True)
class Predicted(Result):
    """The answers to some texts.

    Attributes:
        answers: one per text, in order; from a masked language model one per [MASK].
        are_words: whether they are the words of a language model, not labels.
    """

    answers: tuple[Answer, ...]
    are_words: bool = False

    def as_json(self) -> str:
        """One object per answer, each on its own line."""
        return "\n".join(json.dumps(self._row(answer), ensure_ascii=False) for answer in self.answers)

    def __str__(self) -> str:
        lines = []
        for answer in self.answers:
            which = f"[MASK] {answer.gap}: " if answer.gap else ""
            scores = "  ".join(f"{one.label} {one.probability:.3f}" for one in answer.scores)
            lines.append(f"{which}{scores}  |  {answer.text}")
        return "\n".join(lines)

    def _row(self, answer: Answer) -> dict[str, Any]:
        if self.are_words:
            words = [{"word": one.label, "probability": round(one.probability, 6)} for one in answer.scores]
            return {"text": answer.text, **({"gap": answer.gap} if answer.gap else {}), "words": words}
        scores = [asdict(one) for one in answer.scores]
        return {"text": answer.text, "label": answer.label, "probability": answer.probability, "scores": scores}

    def _repr_html_(self) -> str:
        from halfpint.report import notebook

        rows = [(one.text, one.label, round(one.probability, 3)) for one in self.answers]
        return notebook.table(("text", "word" if self.are_words else "label", "probability"), rows)


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
    """Classify texts, or the rows of a file; a language model gives the most likely next words.

    Args:
        bundle: Model folder, such as OUT/best.
        texts: Texts to classify.
        file: File with a text in each row: CSV, TSV, JSONL, each also .gz; - is standard input.
        out: Where to write the rows of --file with their labels; - is standard output.
        text: Column with the texts (default: guessed).
        top: Labels per text, most likely first.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.USE

    bundle: str = positional(metavar="BUNDLE")
    texts: tuple[str, ...] = positional((), metavar="TEXT...")
    file: Path | None = option(None, metavar="FILE")
    out: Path | None = option(None, metavar="FILE")
    text: str = option("", metavar="COLUMN")
    top: int = option(1, least=1)
    json: bool = False

    def run(self, log: Log) -> Predicted | Labelled:
        """Answer the texts, or write the file."""
        from halfpint.model import Model, is_language_model
        from halfpint.models.pull_language import find_bundle

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
        if self.texts:
            return Predicted(tuple(Model(bundle)(self.texts, self.top)), is_language_model(bundle))
        return self._file(bundle, log)

    def _file(self, bundle: Bundle, log: Log) -> Labelled:
        from halfpint.bundle import need_task
        from halfpint.engines import open_engine
        from halfpint.serve.batch import predict_file

        assert self.file is not None and self.out is not None
        need_task(bundle, "classify")
        engine = open_engine(bundle)
        rows = predict_file(engine, self.file, self.out, text=self.text or None, top=self.top, log=log)
        result = Labelled(self.out, rows)
        log.write(str(result))
        return result
