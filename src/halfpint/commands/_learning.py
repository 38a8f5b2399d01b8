"""The training of a language model from end to end, from text or from a model that is there."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.bundle import CARD, write_json
from halfpint.commands._before import say_training
from halfpint.commands._made import figures_of
from halfpint.data.conversations import ChatData
from halfpint.data.corpus import Corpus, CorpusData, judging
from halfpint.energy import metered
from halfpint.engines import ScoredText
from halfpint.errors import HalfpintError
from halfpint.evaluate.text import judge
from halfpint.files import replace_folder
from halfpint.lookup import tasks
from halfpint.machine import describe
from halfpint.models.pull_language import PullLanguage, base_bundle, can_start
from halfpint.pipeline import Pipeline
from halfpint.progress import Log
from halfpint.recipe import Recipe
from halfpint.search.language_report import write_language_report
from halfpint.stage import Stage
from halfpint.task import Split, Task
from halfpint.train import ranks
from halfpint.train.pretrain import Pretrain
from halfpint.workspace import open_workspace

COUNTS = "train/ngram"
"""The stage that learns without choosing anything."""
_RESERVE_S, _RESERVE_SHARE = 45.0, 0.2  # of the minutes, for judging and the report, the less of the two


def pretrain(
    data: CorpusData, stages: Sequence[Stage], out: Path, log: Log, *, force: bool = False, command: str = ""
) -> dict[str, Any]:
    """Make a language model from text: the bundle goes to `out`; gives its figures on the validation documents.

    What is unfinished is kept beside `out` (its name with ".unfinished"), and the same call goes on from there.

    Raises:
        HalfpintError: no text to learn from, settings that do not fit, or an `out` that holds something else.
    """
    return _learn("", data, stages, out, log, force=force, command=command)


def finetune(
    base: str, data: ChatData | CorpusData, stage: Stage, out: Path, log: Log, *, force: bool = False, command: str = ""
) -> dict[str, Any]:
    """Teach a language model on conversations or on the text of a domain: the bundle goes to `out`.

    Gives what was done and, of text, the figures on the validation documents.

    Args:
        base: a bundle's folder, or a base model (a name of the catalogue, a Hub name, a folder).

    What is unfinished is kept beside `out`, and the same call goes on from there.

    Raises:
        HalfpintError: no such base or data, settings that do not fit, or an `out` that holds something else.
    """
    return _learn(base, data, [stage], out, log, force=force, command=command)


def apart(task: Task[Any], split: Split[Any], stages: Sequence[Stage]) -> tuple[Split[Any], Sequence[str]]:
    """The split to choose weights by, and the documents to judge what was chosen by; none where it is no running text.

    Counting chooses nothing: all validation documents are for the end.
    """
    if not (task.of_text and isinstance(split, Corpus) and len(split.validation)):
        return split, split.validation if task.of_text else ()
    return judging(split) if any(stage.use != COUNTS for stage in stages) else (split, split.validation)


def _minutes(stages: Sequence[Stage]) -> float:
    """The minutes that the command is to take; 0 where steps, passes or tokens are counted."""
    found = (getattr(stage, "minutes", 0.0) for stage in stages if not getattr(stage, "tokens", 0))
    return float(next((minutes for minutes in found if minutes), 0.0))


def sources_of(data: Any) -> tuple[str, ...]:
    """The files that data of a command is read from, as they were given."""
    found = getattr(data, "sources", None) or (getattr(data, "source", ""),)
    return tuple(str(one) for one in found if one)


def _learn(
    base: str, data: Any, stages: Sequence[Stage], out: Path, log: Log, *, force: bool, command: str
) -> dict[str, Any]:
    task = next(one for one in tasks() if isinstance(data, one.data))
    rank, processes = ranks.join()
    log = Log(quiet=True) if rank else log  # of several processes one tells, and writes
    alone = next((stage.use for stage in stages if processes > 1 and not isinstance(stage, Pretrain)), "")
    if alone:
        raise HalfpintError(alone, wanted="one process", got=f"{processes}", todo="Run it without torchrun.")
    started = time.monotonic()
    end = started + (60 * _minutes(stages) or math.inf)
    reserve = min(_RESERVE_S, _RESERVE_SHARE * (end - started))
    figures: dict[str, Any] = {}
    with open_workspace(out, log, force=force, keep=("corpus.json",), lock=ranks.is_first()) as space:
        with ranks.after_first():
            for stage in stages:
                stage.check()
            say_training(base, stages, sources_of(data), log)
            split = task.read(data, space.folder / "corpus", log)
            split, judged = apart(task, split, stages)
            start = can_start(base_bundle(base, space.folder / "base", log)) if base else None
        space.begin()
        log.events = space.events if ranks.is_first() else None
        with metered(log):
            pipeline = Pipeline(split, space.folder, task, task.primary(split.train), log)
            deadline = end - reserve if math.isfinite(end) else None
            made = pipeline.make(stages, start=start, deadline=deadline).bundle
        ranks.wait()  # until all have opened it: it is moved now
        with ranks.after_first() as first:
            if first:
                scores: list[ScoredText] = []
                figures = judge(made, judged, log, scores, end - reserve / 2) if len(judged) else {}
                told = {"validation": figures, "data": split.summary(), "machine": describe()["cpu"]}
                write_json(made.path / CARD, {**made.card, "figures": told})
                again = Recipe(data, task, "", (PullLanguage(base=base), *stages) if base else tuple(stages))
                if task.of_text and time.monotonic() > end - reserve / 4:
                    judged = ()
                    log.say("  the report has no baseline and no samples: no time was left for them", kind="skipped")
                write_language_report(
                    made, split, figures, out=out, into=made.path, events=space.events, recipe=again.toml(),
                    command=command, seconds=time.monotonic() - started, judged=judged, scores=scores, log=log,
                )  # fmt: skip
                log.events = None  # the folder goes
                replace_folder(made.path, out)
                space.clear()
    return figures_of(out, started, data=split.summary(), validation=figures)
