"""A model to call from Python: labels with probabilities, next words, generated text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfpint.bundle import Bundle
from halfpint.engines import Generation, open_engine, open_language_engine, prompt_of
from halfpint.errors import HalfpintError
from halfpint.files import at_home
from halfpint.lookup import task_of
from halfpint.models.pull_language import find_bundle
from halfpint.progress import Log
from halfpint.report import notebook
from halfpint.report.units import size
from halfpint.serve.batch import predict_texts
from halfpint.task import LabelTask
from halfpint.terminal import amount


@dataclass(frozen=True)
class Score:
    """One possible answer.

    Attributes:
        label: a label; from a language model a word.
        probability: between 0 and 1.
    """

    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What a model says about a text.

    Attributes:
        text: the text.
        label: the most likely label; from a language model the most likely next word.
        probability: the probability of `label`.
        scores: the most likely labels or words, best first.
        gap: which [MASK] of the text it is about, counted from 1, where there are several.
        row: all of it, as `halfpint predict --json` prints it.
        shown: all of it in a line.
    """

    text: str
    label: str
    probability: float
    scores: tuple[Score, ...]
    gap: int | None = None
    row: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    shown: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return self.shown


def load(bundle: str | os.PathLike[str], *, threads: int | None = None, quiet: bool = False) -> Model:
    """Load a model: the folder of a bundle, such as OUT/best, or the name of a language model in the catalogue.

    Args:
        bundle: the folder or the name.
        threads: threads that it uses; None takes one per core.
        quiet: hide the progress of a download.

    Raises:
        HalfpintError: there is no such model, it is damaged, or a package that runs it is missing.
    """
    name = at_home(os.fspath(bundle))
    return Model(find_bundle(Path(name) if isinstance(bundle, Path) else name, Log(quiet=quiet)), threads)


class Model:
    """A loaded model. Call it with texts; a language model can also `generate`, `stream` and give `next_words`.

    Attributes:
        path: the folder of its bundle.
        task: the name of its task.
        labels: the labels of a classifier; empty for a language model.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle, self.path = bundle, bundle.path
        task = task_of(bundle)
        self.task, self._task = task.name, task if isinstance(task, LabelTask) else None
        self._engine: Any
        if self._task is None:
            self.labels: tuple[str, ...] = ()
            self._engine = open_language_engine(bundle, threads=threads)
        else:
            self._engine = open_engine(bundle, threads=threads)
            self.labels = tuple(self._task.names(self._engine.labels))

    def __call__(self, texts: str | Sequence[str], top: int = 1, unsure: float = 0.0) -> list[Answer]:
        """An answer for each text, in order; a masked language model gives one for each [MASK].

        Args:
            texts: one text, or several.
            top: how many labels or words `Answer.scores` has.
            unsure: least probability of a label; below it the label is "unsure". 0 gives every label.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if self._task is None:
            return [answer for text in texts for answer in self._next(text, top)]
        rows = predict_texts(self._engine, self._task, texts, top)
        if unsure:
            rows = [self._task.unsure(row, unsure) for row in rows]
        return [self._answer(text, row, self._task.said(row)) for text, row in zip(texts, rows, strict=True)]

    def fill(self, texts: str | Sequence[str], top: int = 5) -> tuple[Answer, ...]:
        """What stands in each [MASK] of the texts, in order; `Answer.scores` has the most likely tokens.

        Raises:
            HalfpintError: it is no masked language model, or a text has no [MASK].
        """
        if self._task is not None or getattr(self._engine, "objective", "") != "masked":
            raise HalfpintError(
                str(self.path), wanted="a masked language model", got="another one",
                todo="Give it texts as they are: halfpint predict BUNDLE TEXT.",
                said=f"{self.path} fills no gaps: it is not a masked language model.",
            )  # fmt: skip
        return tuple(
            answer for text in ([texts] if isinstance(texts, str) else texts) for answer in self._next(text, top)
        )

    def next_words(self, text: str, top: int = 5) -> list[Score]:
        """The most likely words after `text`, best first.

        Raises:
            HalfpintError: it is a classifier.
        """
        self._need_language("next words")
        return list(self._next(text, top)[0].scores)

    def generate(
        self, prompt: str, *, max_tokens: int = 200, temperature: float = 0.8, chat: bool | None = None,
        system: str = "", **settings: Any,
    ) -> str:  # fmt: skip
        """The text that a language model writes after `prompt`, or its answer to it.

        Args:
            max_tokens: most tokens to generate.
            temperature: 0 always takes the most likely token.
            chat: whether `prompt` is a message to answer; None: it is for models that were trained on conversations.
            system: the system message before it.
            settings: top_k, top_p, min_p, repetition_penalty, stop, seed, schema.

        Raises:
            HalfpintError: a classifier, a setting out of its range, or a prompt that is too long.
        """
        return "".join(
            self.stream(prompt, max_tokens=max_tokens, temperature=temperature, chat=chat, system=system, **settings)
        )

    def stream(
        self, prompt: str, *, max_tokens: int = 200, temperature: float = 0.8, chat: bool | None = None,
        system: str = "", **settings: Any,
    ) -> Iterator[str]:  # fmt: skip
        """The pieces of the text that `generate` gives, as they come."""
        self._need_language("text")
        asked = Generation.of(max_tokens=max_tokens, temperature=temperature, **settings)
        given = prompt_of(self.bundle, self._engine, prompt, chat=chat, system=system)
        return (piece.text for piece in self._engine.write(given, asked) if piece.text)

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return self.bundle.size_bytes

    def __repr__(self) -> str:
        labels = f", {amount(len(self.labels), 'label')}" if self.labels else ""
        return f"Model({str(self.path)!r}, task {self.task!r}{labels}, {size(self.size_bytes)})"

    def _repr_html_(self) -> str:
        rows = [("task", self.task), ("labels", ", ".join(self.labels)), ("size", size(self.size_bytes))]
        return notebook.table((str(self.path), ""), [row for row in rows if row[1]])

    @staticmethod
    def _answer(text: str, row: Mapping[str, Any], shown: str) -> Answer:
        scores = tuple(Score(one["label"], one["probability"]) for one in row.get("scores", ()))
        label, chance = row.get("label", ""), row.get("probability", 1.0)
        return Answer(text, label, chance, scores, row={"text": text, **row}, shown=shown)

    def _next(self, text: str, top: int) -> list[Answer]:
        masked = getattr(self._engine, "objective", "") == "masked"
        gaps = self._engine.fill(text, top) if masked else [self._engine.next_words(text, top)]
        answers = []
        for number, words in enumerate(gaps, start=1):
            scores = tuple(Score(word, chance) for word, chance in words)
            first = scores[0] if scores else Score("", 0.0)
            gap = number if len(gaps) > 1 else None
            told = [{"word": one.label, "probability": round(one.probability, 6)} for one in scores]
            row = {"text": text, **({"gap": gap} if gap else {}), "words": told}
            shown = (f"[MASK] {gap}: " if gap else "") + "  ".join(f"{word} {chance:.3f}" for word, chance in words)
            answers.append(Answer(text, first.label, first.probability, scores, gap, row, shown))
        return answers

    def _need_language(self, what: str) -> None:
        if self._task is not None:
            raise HalfpintError(
                str(self.path), wanted=f"a language model for {what}", got=f"one that gives {self._task.about}",
                todo="Call the model itself with texts to get labels.",
            )  # fmt: skip
