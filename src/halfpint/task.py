"""Task: what goes in, what comes out, how it is judged. One file per task in tasks/; every room asks it by this.

A task knows data, labels and numbers; it knows no network, no report and no search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from halfpint.bundle import Kind
from halfpint.counts import Counts, Metric, check_metric
from halfpint.errors import HalfpintError
from halfpint.outputs import Encoded, Ints, Outputs
from halfpint.progress import Log

Ex = TypeVar("Ex")
UNSURE = "unsure"
"""What stands in the place of a label that is given up (`LabelTask.unsure`)."""


@dataclass(frozen=True, kw_only=True)
class Split(Generic[Ex]):
    """Examples for training, for choosing a model, and for the final test.

    Attributes:
        train, validation, test: the examples; a corpus reads them from disk as they are asked for.
        key: the hash of what training sees (train and validation); proof: that of the test examples.
        facts: what `summary` gives.
        judged_only: positions in `validation` of examples that nothing learns from: their texts have several labels.
    """

    train: Sequence[Ex]
    validation: Sequence[Ex]
    test: Sequence[Ex] = ()
    key: str = ""
    proof: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    judged_only: frozenset[int] = frozenset()

    def together(self) -> Split[Ex]:
        """The same data with validation learned from as well; what is chosen then, is chosen by rows that were seen."""
        more = [example for at, example in enumerate(self.validation) if at not in self.judged_only]
        train = [*self.train, *more]
        return replace(self, train=train, key=f"{self.key} together")

    def summary(self) -> dict[str, Any]:
        """What a report says of the data."""
        return dict(self.facts)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault in the data.

    Attributes:
        kind: its name, such as "exact_duplicate".
        severity: "error" (training makes no sense), "warning" or "note".
        message: one line with the count and the first rows.
        rows: all rows concerned, as a person finds them; empty where the fault is in no row.
        drop: whether those rows are left out of training.
    """

    kind: str
    severity: str
    message: str
    rows: tuple[int, ...] = ()
    drop: bool = False


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `check` says of a file: its rows, labels, how it was read, and what is wrong with it."""

    rows: int
    labels: int
    said: str
    notes: Sequence[str] = ()
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that `fit` tries without an encoder: the stages that train it and those that finish it, by their names.

    Args:
        name, family: as reports show them.
        group: the name of the training; candidates that share it share `train`.
        precision: fp32, int8 or None where it does not apply.
        train, finish: stages as (room/file, settings).
        baseline: whether it is what every other one has to beat, which is always proved on the test rows too.
    """

    name: str
    group: str
    family: str
    precision: str | None
    train: tuple[tuple[str, Mapping[str, Any]], ...]
    finish: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    expected_s: float = 0.0
    baseline: bool = False


class Task(ABC, Generic[Ex]):
    """What every task says of itself.

    Attributes:
        name: in cards, recipes and reports: the file's name.
        about: what it is in a few words, such as "one label per text".
        data: the settings of [data], a dataclass.
        head: a file in models/ with the network on top of an encoder; None: it has none of its own.
        routes: the file in serve/ that serves it.
        commands: the commands that make sense for its bundles and its data.
        ends: the kinds of bundle that do it; stages have to end with one of them.
        metrics: what it is judged by, from summed counts; the first is what `evaluate` gives the interval of.
        of_text: whether it is what a model does that has learned running text and nothing else.
        default: whether it is the task of recipes that name none.
        answers: whether its models answer messages.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    data: ClassVar[type[Any]]
    head: ClassVar[str | None] = None
    routes: ClassVar[str]
    commands: ClassVar[frozenset[str]]
    ends: ClassVar[frozenset[Kind]]
    metrics: ClassVar[Mapping[str, Metric]]
    of_text: ClassVar[bool] = False
    default: ClassVar[bool] = False
    answers: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, source: str) -> float:
        """How surely the file or folder `source` is data of this task, from 0 to 1; it never raises."""

    @abstractmethod
    def read(self, settings: Any, folder: Path, log: Log) -> Split[Ex]:
        """The data of `settings`: read, checked, cleaned and split, each step said.

        Args:
            settings: of the type `data`.
            folder: where what is too large for memory may be kept.

        Raises:
            HalfpintError: it cannot be read or cannot be learned from.
        """

    def given(self, settings: Any, log: Log) -> Sequence[Ex]:
        """The examples of `settings.source` as they are: not cleaned and not split.

        Raises:
            HalfpintError: it cannot be read, or the task's examples are pieces of a text.
        """
        raise HalfpintError("data", wanted="data of rows", got=self.about)

    def labels(self, train: Sequence[Ex]) -> tuple[str, ...]:
        """Names of the model's outputs in their order; empty where the text itself is the target."""
        return ()

    @abstractmethod
    def primary(self, train: Sequence[Ex]) -> str:
        """The metric that choices are made on."""

    @abstractmethod
    def documents(self, split: Split[Ex]) -> Split[str]:
        """The same data as running text, for stages that learn from text alone."""

    def check_metric(self, name: str, place: str) -> None:
        """Refuse a name that is none of the task's metrics; empty lets the data choose.

        Raises:
            HalfpintError: with the nearest name.
        """
        if name:
            check_metric(name, self.metrics, place)


class LabelTask(Task[Ex]):
    """A task whose engines give probabilities of labels: for each text, or for parts of it.

    Attributes:
        cheap: the families of candidates that need no encoder to run; counting: those of them that a candidate with an
            encoder has to beat.
        headline: the metrics that a card names besides the primary one.
        ranks: whether an answer has a second best one.
        frozen, static, blend: stages (room/file) that make further candidates of an encoder; empty where there is none.
        tuning: settings of train/finetune that suit the task better than the usual ones.
    """

    cheap: ClassVar[tuple[str, ...]] = ()
    counting: ClassVar[tuple[str, ...]] = ()
    headline: ClassVar[tuple[str, ...]] = ()
    ranks: ClassVar[bool] = True
    frozen: ClassVar[str] = ""
    static: ClassVar[str] = ""
    blend: ClassVar[str] = ""
    tuning: ClassVar[Mapping[str, Any]] = {}

    # What goes in

    def reread(self, settings: Any, folder: Path, log: Log) -> Split[Ex]:
        """As `read`, of data that a model learned from before: what takes long and only tells of it is left out."""
        return self.read(settings, folder, log)

    @abstractmethod
    def text(self, example: Ex) -> str:
        """The text of an example."""

    def texts(self, examples: Sequence[Ex]) -> list[str]:
        """The texts of examples."""
        return [self.text(example) for example in examples]

    def group(self, example: Ex) -> int:
        """The number of the examples that it is alike to, or shares a document with; below 0 where it is alone."""
        return -1

    def stratum(self, example: Ex) -> str:
        """What parts of the data should hold in proportion, such as its label."""
        return ""

    @abstractmethod
    def unlabelled(self, text: str) -> Ex:
        """An example without a label: its targets are NO_LABEL."""

    @abstractmethod
    def answered(self, text: str, answer: Any, labels: Sequence[str]) -> Ex:
        """An example with what a model answered (one of what `decode` gives) as its label."""

    def units(self, texts: Sequence[str]) -> Ints | None:
        """How many units each text has, as `Encoded.per_text`; None: one each."""
        return None

    @abstractmethod
    def check(self, settings: Any) -> Checked:
        """What is wrong with the data of `settings`.

        Raises:
            HalfpintError: it cannot be read.
        """

    @abstractmethod
    def columns_of(self, settings: Any) -> tuple[dict[str, str], str]:
        """The columns or fields that the data of `settings` is read from, by setting, and how they were found.

        Raises:
            HalfpintError: it cannot be read.
        """

    @abstractmethod
    def encode(self, texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Encoded:
        """Texts as an encoder reads them, by a `tokenizers.Tokenizer`; rows have at most `max_tokens`."""

    @abstractmethod
    def targets(self, examples: Sequence[Ex], labels: Sequence[str]) -> Ints:
        """The index of each unit's label, or NO_LABEL: int64 of shape (units,).

        Raises:
            HalfpintError: a label that is not among `labels`.
        """

    # What comes out

    @abstractmethod
    def decode(self, texts: Sequence[str], outputs: Outputs, labels: Sequence[str]) -> Sequence[Any]:
        """The answer to each text from an engine's outputs; answers compare by ==."""

    @abstractmethod
    def rows(self, texts: Sequence[str], outputs: Outputs, labels: Sequence[str], top: int = 1) -> list[dict[str, Any]]:
        """How answers read in JSON: for each text a dictionary, with the `top` likeliest where that makes sense."""

    @abstractmethod
    def said(self, row: Mapping[str, Any]) -> str:
        """One of `rows` in one line, for a terminal."""

    def names(self, labels: Sequence[str]) -> Sequence[str]:
        """The labels that people know, of a model whose outputs have the names `labels`."""
        return labels

    @abstractmethod
    def columns(self, top: int, labels: Sequence[str], of: str = "") -> tuple[tuple[str, ...], ...]:
        """For files: names of the added columns, one tuple for each rank up to `top`.

        Args:
            of: the column that the labels were learned from; empty where it is not known.
        """

    @abstractmethod
    def cells(self, row: Mapping[str, Any] | None, ranks: int) -> list[tuple[Any, ...]]:
        """What goes into those columns for one of `rows`; None is a row of the file without a text."""

    def unsure(self, row: Mapping[str, Any], least: float) -> dict[str, Any]:
        """One of `rows` where an answer below the probability `least` is given up: "unsure" says whether it was.

        Raises:
            HalfpintError: the task gives no single answer with a probability.
        """
        raise HalfpintError("--unsure", wanted="a model with one label per text", got=f"one that gives {self.about}")

    def coverage(self, examples: Sequence[Ex], outputs: Outputs, labels: Sequence[str]) -> list[dict[str, Any]]:
        """What `unsure` would leave at some thresholds: "threshold", "answered" (share of the examples) and "accuracy"
        among them; empty where there are too few to say."""
        return []

    def redacted(self, text: str, row: Mapping[str, Any]) -> str:
        """The text with everything that was found in it replaced by the name of its label.

        Raises:
            HalfpintError: the task marks nothing in a text.
        """
        raise HalfpintError(
            "--redact",
            wanted="a model that marks parts of texts",
            got=f"one that gives {self.about}",
            said=f"--redact needs a model that marks parts of texts, not one that gives {self.about}.",
        )

    # How it is judged

    @abstractmethod
    def need_labels(self, examples: Sequence[Ex], labels: Sequence[str]) -> None:
        """Refuse examples that a model with these labels cannot be judged on.

        Raises:
            HalfpintError: with the labels that it does not know, and their rows.
        """

    @abstractmethod
    def counts(self, examples: Sequence[Ex], answers: Sequence[Any], labels: Sequence[str]) -> Counts:
        """One row of counts per example, as `metrics` take them.

        Raises:
            HalfpintError: an example has a label that is not among `labels`; there is no example.
        """

    def details(
        self, examples: Sequence[Ex], outputs: Outputs, answers: Sequence[Any], labels: Sequence[str]
    ) -> dict[str, Any]:
        """What `evaluate` and the report say besides the metrics; JSON can hold it."""
        return {}

    def calibration(self, examples: Sequence[Ex], outputs: Outputs, labels: Sequence[str]) -> dict[str, float]:
        """Figures of the probabilities themselves, beside the metrics."""
        return {}

    @abstractmethod
    def candidates(self) -> Sequence[Candidate]:
        """What `fit` tries without an encoder, cheapest first."""

    def score(self, primary: str, examples: Sequence[Ex], outputs: Outputs, labels: Sequence[str]) -> float:
        """The metric `primary` of an engine's outputs."""
        answers = self.decode(self.texts(examples), outputs, labels)
        return self.metrics[primary](self.counts(examples, answers, labels))

    def documents(self, split: Split[Ex]) -> Split[str]:
        """The texts of both sides, each a document; those of the final test are not among them."""
        train, validation = self.texts(split.train), self.texts(split.validation)
        return Split(train=train, validation=validation, key=split.key)


def label_task(task: Task[Any], place: str) -> LabelTask[Any]:
    """The task as one that gives labels.

    Raises:
        HalfpintError: it is none.
    """
    if not isinstance(task, LabelTask):
        raise HalfpintError(
            place, wanted="a task that gives labels", got=f"the task {task.name!r}: {task.about}",
            said=f"{place} needs a model that gives labels; this one is for the task {task.name!r} ({task.about}).",
        )  # fmt: skip
    return task


def settings_of(task: Task[Any], **given: Any) -> Any:
    """The settings of [data] with what a command was given; what is empty keeps its default.

    Raises:
        HalfpintError: a setting that the task's data does not have.
    """
    known = {item.name for item in fields(task.data)}
    values = {name: value for name, value in given.items() if value not in ("", None, False)}
    for name in values:
        if name not in known:
            flag = f"--{name.replace('_', '-')}"
            raise HalfpintError(
                flag,
                wanted=f"no such option for the task {task.name!r} ({task.about})",
                got=flag,
                said=f"{flag} does not fit the task {task.name!r} ({task.about}).",
            )
    return task.data(**values)
