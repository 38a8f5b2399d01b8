"""One run of `halfpint compress`: its model and its data, opened; what the kinds of models have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.bundle import CARD, Bundle, Kind, read_json
from halfpint.commands._before import refuse_unfit
from halfpint.commands._compress_refusals import refuse_test_split
from halfpint.commands._compress_time import NOTHING, Costs
from halfpint.commands._learned_texts import data_key
from halfpint.data.corpus import CorpusData, choosing, prepare_corpus
from halfpint.distil.teachers import teacher_bundle
from halfpint.errors import HalfpintError
from halfpint.lookup import need_command, open_task, text_task
from halfpint.models.pull_language import base_bundle
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.search import planner
from halfpint.stage import Stage
from halfpint.task import LabelTask, label_task, settings_of

if TYPE_CHECKING:
    from halfpint.commands.compress import Compress

_HELD_SHARE = 0.2  # of the text, to judge by
_MADE_BY = 0.6  # of the minutes: what was made is judged and compared in the rest
JUDGED_BY = 0.8
"""Of the minutes: what is not read by then is left out."""
_CHOOSING = 0.1  # of the rest, where something is chosen


@dataclass
class Compression:
    """One run of `compress`: the model that it begins with, the data, and what was tried.

    Attributes:
        held, judged: text that nothing is fitted on, to choose by, and to judge what was chosen by.
        started: when, by the monotonic clock; healing a classifier, which goes by passes, moves it on.
        costs: what parts of the work take here; of a classifier not known.
    """

    asked: Compress
    pipeline: Pipeline
    start: Bundle
    log: Log
    held: Sequence[str] = ()
    judged: Sequence[str] = ()
    points: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    costs: Costs = NOTHING

    @property
    def end(self) -> float:
        """When all should be done, by the monotonic clock."""
        return self.until(1.0)

    def make(self, stages: Sequence[Stage], *, in_time: bool = True) -> Made:
        """What stages make of the model, in time for measuring it."""
        deadline = min(self.until(_MADE_BY), self.end - self.costs.ending) if in_time else None
        return self.pipeline.make(stages, start=self.start, deadline=deadline)

    def until(self, share: float) -> float:
        """When so much of `--minutes` is over, by the monotonic clock; those of `--heal` come before them."""
        return self.started + 60 * (self.asked.heal + share * self.asked.minutes)

    def judged_by(self) -> float:
        """When no more text is read to judge by."""
        return min(self.until(JUDGED_BY), self.end - self.costs.written)

    def has_time(self, seconds: float) -> bool:
        """Whether something that takes so long fits in."""
        return time.monotonic() + seconds < self.end


def is_classifier(model: str) -> bool:
    """Whether a bundle, or what `fit` or `run` wrote, says of itself that it is a classifier."""
    card = next((folder / CARD for folder in (Path(model), Path(model) / "best") if (folder / CARD).is_file()), None)
    name = read_json(card).get("task") if card else None
    return name is not None and isinstance(open_task(str(name), f"{card}: task"), LabelTask)


def opened(asked: Compress, work: Path, log: Log) -> Compression:
    """The model and the data, each of its kind."""
    given = Path(asked.model)
    if is_classifier(asked.model):
        start = teacher_bundle(asked.model)
        task = label_task(need_command(start, asked.word()), str(start.path))
        if start.kind not in (Kind.CLASSIFIER, Kind.ONNX):
            run = given.parent if given.name == "best" else given
            trained = [one.parent for one in sorted((run / "work").glob(f"train-*/{CARD}"))]
            other = next((one for one in trained if Bundle(one).kind == Kind.CLASSIFIER), None)
            raise HalfpintError(
                str(start.path), wanted="a fine-tuned encoder, or its export",
                got=f"a bundle that runs with {start.card.get('engine')}, which has nothing to prune or to quantize",
                todo=f"The same run trained an encoder: {other}" if other else "Use it as it is.",
            )  # fmt: skip
        settings = settings_of(
            task,
            source=asked.data,
            test=asked.test,
            text=asked.text,
            label=asked.label,
            seed=asked.seed,
            **asked.written,
        )
        split = task.reread(settings, work / "data", log)
        _tell_of_split(given, split.key, log)
        for examples in (split.train, split.validation):
            task.need_labels(examples, start.labels)
        pipeline = Pipeline(split, work, task, task.primary(split.train), log, start.labels)
        return Compression(asked, pipeline, start, log)
    known = refuse_unfit(asked.model, "load")
    if known is not None:
        log.say(
            f"forecast: {asked.model} takes about {planner.loaded_bytes(known.shape) / 1e9:.2f} GB of memory to load, "
            "and its quantization more, which is said when its layers are known", kind="forecast",
        )  # fmt: skip
    start = base_bundle(asked.model, work / "base", log)
    refuse_test_split(asked.data, below=True)
    if start.kind != Kind.LANGUAGE:
        raise HalfpintError(
            str(start.path), wanted="a model that is not quantised or exported yet",
            got=f"one of the kind '{start.kind}'",
            todo="Compress the model that it was made from.",
        )  # fmt: skip
    asked.refuse_form("a language model")
    asked.refuse("static", "test", wanted="a classifier", got="a language model", todo="Leave it out.")
    data = CorpusData(
        sources=(asked.data,), text=asked.text, validation_share=_HELD_SHARE, clean=False, seed=asked.seed
    )
    corpus = prepare_corpus(data, work / "corpus", log)
    judged = corpus.validation
    if asked.target_bytes or asked.keep or asked.heal:
        corpus, judged = choosing(corpus, _CHOOSING)
    pipeline = Pipeline(corpus, work, text_task(), text_task().primary(()), log)
    return Compression(asked, pipeline, start, log, held=corpus.validation, judged=judged)


def _tell_of_split(given: Path, key: str, log: Log) -> None:
    """Say where `fit`, which made the model, had divided the texts otherwise."""
    trained_on = data_key(given)
    if trained_on and trained_on != key:
        log.say(
            "  the model was trained on another part of these texts, or on others: it may know some that it is judged "
            "by now. Give DATA, --test and --seed as fit had them.", kind="finding",
        )  # fmt: skip
