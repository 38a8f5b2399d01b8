"""Distilling language models: the stages, and teacher, student and control on the same held-out documents."""

from __future__ import annotations

import math
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.bundle import CARD, Bundle, Kind, open_bundle
from halfpint.commands._before import say_teaching
from halfpint.commands._distil_student import check_methods, need_student
from halfpint.commands._learned_texts import may_know
from halfpint.counts import INTERVAL
from halfpint.data.corpus import CorpusData, choosing, prepare_corpus
from halfpint.distil.heal import TOKEN_BATCH, TOKEN_RATE, Heal
from halfpint.distil.on_policy import OnPolicy
from halfpint.distil.sequence import Sequence as Written
from halfpint.distil.student import Student
from halfpint.distil.token_answers import need_causal
from halfpint.distil.token_hidden import TokenHidden
from halfpint.distil.token_logits import TokenLogits
from halfpint.distil.universal import Universal
from halfpint.engines import open_language_engine
from halfpint.errors import HalfpintError
from halfpint.evaluate.perplexity import bits_difference, perplexity_of
from halfpint.evaluate.text import in_time
from halfpint.evaluate.writing import writing
from halfpint.lookup import text_task
from halfpint.models.pull_language import base_bundle
from halfpint.models.sources import catalogue
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.stage import Stage
from halfpint.train.adapt import Adapt

if TYPE_CHECKING:
    from halfpint.commands.distil import Distil

METHODS = ("hidden", "logits", "sequence", "on_policy", "uld")
_FRESH_RATE = 1e-3  # of a student that begins with new weights
_RESERVE_S, _RESERVE_SHARE = 90.0, 0.25  # of the minutes, for the comparison, the less of the two
_WRITING_S = 12.0  # that measuring how fast a model writes takes
_CHOOSING = 0.05  # of the training text, to choose checkpoints by


class Languages:
    """One distillation of a language model: what is asked, the teacher, and what was made.

    Raises:
        HalfpintError: a method, a student or a setting that cannot be.
    """

    def __init__(self, asked: Distil, teachers: list[Bundle], log: Log) -> None:
        self.asked, self.teachers, self.log = asked, teachers, log
        by_time = asked.minutes and not (asked.epochs or asked.token_count)
        self.end = time.monotonic() + (60 * asked.minutes if by_time else math.inf)
        self._reserve = min(_RESERVE_S, _RESERVE_SHARE * 60 * asked.minutes)
        self.methods = asked.methods or ("logits",)
        check_methods(self.methods, METHODS, METHODS[1:])
        for teacher in teachers:
            need_causal(teacher, "--teacher")
        if asked.unlabelled or asked.train_texts or asked.copies or asked.label:
            raise HalfpintError(
                "halfpint distil", wanted="running text alone for a language model",
                got="settings of labelled texts (--unlabelled, --copies, --train-texts or --label)",
                todo="Leave them out.",
            )  # fmt: skip
        if asked.is_fresh and asked.match != "relations" and "hidden" in self.methods:
            raise HalfpintError(
                "--match",
                wanted=f"relations for a student of another shape (--student {asked.student})",
                got=asked.match,
            )
        asked.refuse_form("a language model")
        need_student(asked, catalogue(Kind.LANGUAGE))
        for stage in (*self._first, *self._taught):
            stage.check()

    def open(self, work: Path) -> None:
        """Take the text.

        Raises:
            HalfpintError: no text, or none to choose by.
        """
        asked, self._base = self.asked, work / "base"
        places = [str(one.path) for one in self.teachers]
        minutes = asked.minutes if math.isfinite(self.end) else 0.0
        say_teaching(places, asked.student, minutes, asked.token_count, asked.data, self.log)
        for stage in self._taught:
            stage.fits(self._origin)
        data = CorpusData(sources=(asked.data,), text=asked.text, validation=asked.test, seed=asked.seed)
        corpus = prepare_corpus(data, work / "corpus", self.log)
        self._corpus_key = corpus.key
        self.corpus, self.judged = choosing(corpus, _CHOOSING)
        if not len(self.judged):
            raise HalfpintError(
                asked.data, wanted="documents enough to keep some to compare on", got=f"{len(corpus.train)}",
                todo="Give more text, or --test with text of its own.",
            )  # fmt: skip
        self.pipeline = Pipeline(self.corpus, work, text_task(), text_task().primary(()), self.log)

    @cached_property
    def _first(self) -> tuple[Stage, ...]:
        name, _, value = self.asked.student.partition("=")
        if name == "layers":
            return (Student(layers=value, seed=self.asked.seed),)
        return (Student(size=value, seed=self.asked.seed),) if name == "size" else ()

    @cached_property
    def _origin(self) -> Bundle:
        """The bundle that the student's chain begins with."""
        if self.asked.is_cut:
            return self.teachers[0]
        given = Path(self.asked.student)
        found = open_bundle(given) if (given / CARD).is_file() else base_bundle(str(given), self._base, self.log)
        need_causal(found, "--student")
        return found

    def _settings(self, kind: type[Adapt]) -> dict[str, Any]:
        asked = self.asked
        heals = self._heals  # it is to find its way again
        rate = _FRESH_RATE if asked.is_fresh else TOKEN_RATE if heals else 0.0
        shared: dict[str, Any] = {
            "minutes": 0.0 if asked.epochs else asked.minutes, "tokens": asked.token_count, "seed": asked.seed,
            "epochs": asked.epochs or 1, "learning_rate": asked.rate or rate,
        }  # fmt: skip
        if heals and not asked.epochs:
            shared["batch_tokens"] = TOKEN_BATCH
        if issubclass(kind, TokenHidden):
            return {**shared, "match": asked.match, "train_embeddings": asked.is_fresh}
        if issubclass(kind, Written):
            return shared
        if asked.temperature:
            shared["temperature"] = asked.temperature
        if asked.label_share >= 0:
            shared["label_share"] = asked.label_share
        elif heals and kind is TokenLogits:
            shared["label_share"] = Heal.label_share
        if asked.divergence and kind is not Universal:
            shared |= {"divergence": asked.divergence, "js_beta": asked.js_beta}
        if kind is TokenLogits:
            shared["cached"] = asked.divergence in ("", "forward")
        return shared

    @cached_property
    def _taught(self) -> tuple[Stage, ...]:
        """The stages of the methods."""
        kinds: dict[str, Any] = {
            "hidden": TokenHidden, "logits": TokenLogits, "sequence": Written, "on_policy": OnPolicy, "uld": Universal,
        }  # fmt: skip
        teacher = ",".join(str(one.path.resolve()) for one in self.teachers)
        return tuple(kinds[name](teacher=teacher, **self._settings(kinds[name])) for name in self.methods)

    @cached_property
    def _alone(self) -> Stage:
        """The training of the control: the text alone, as long as all methods of the student together."""
        count = len(self.methods)
        settings = {**self._settings(TokenLogits), "label_share": 1.0}
        settings |= {name: settings[name] * count for name in ("minutes", "tokens", "epochs")}
        return TokenLogits(**settings)

    def _made(self, seconds: float, *taught: Stage) -> Made:
        """What stages make of the student, each in its share of so many seconds."""
        made = None
        until = time.monotonic() + seconds
        for count in range(1, len(taught) + 1):
            left = (until - time.monotonic()) / (len(taught) - count + 1)
            deadline = time.monotonic() + left if math.isfinite(left) else None
            made = self.pipeline.make([*self._first, *taught[:count]], start=self._origin, deadline=deadline)
        assert made is not None
        return made

    def _seconds_left(self) -> float:
        """Seconds for training: the comparison takes the rest."""
        return self.end - self._reserve - time.monotonic()

    @cached_property
    def student(self) -> Made:
        """The student, taught."""
        return self._made(self._seconds_left() / (2 if self.asked.has_control else 1), *self._taught)

    def report(self) -> dict[str, Any]:
        """Make all and compare them."""
        self.log.say("student:", kind="group")
        others = {f"teacher {number}": one for number, one in enumerate(self.teachers[1:], 2)}
        made = {"teacher": self.teachers[0], **others, "student": self.student.bundle}
        if self.asked.has_control:
            self.log.say("the same student without a teacher:", kind="group")
            learned = sum(entry["seconds"] for entry in made["student"].card["stages"][-len(self._taught) :])
            left = self._seconds_left()
            made["control"] = self._made(min(left, learned) if math.isfinite(left) else left, self._alone).bundle
        engines = {name: open_language_engine(bundle) for name, bundle in made.items()}
        documents = in_time(list(engines.values()), self.judged, self.end - self._reserve / 2, self.log)
        scored = {}
        with self.log.bar("evaluate", len(engines)) as bar:
            for name, engine in engines.items():
                scored[name] = engine.score(documents, bar.advance)
        engines.clear()
        rows = {
            name: {
                "test": perplexity_of(found).figures(),
                "size_bytes": made[name].size_bytes,
                **({} if name == "control" or time.monotonic() + _WRITING_S > self.end else writing(made[name])),
            }
            for name, found in scored.items()
        }
        compared = {
            f"student less {name}": {"test": list(bits_difference(scored["student"], scored[name]))}
            for name in ("teacher", "control")
            if name in scored
        }
        return {
            "task": text_task().name, "primary_metric": "bits_per_byte", "models": rows, "differences": compared,
            "verdict": verdict(rows, compared, may_know=self._may_know, has_layers=self._heals),
            "data": self.corpus.summary(),
        }  # fmt: skip

    @property
    def _heals(self) -> bool:
        """Whether the student begins with layers of its teacher."""
        return self.asked.is_cut and not self.asked.is_fresh

    @property
    def _may_know(self) -> str:
        """Why a teacher may have learned some of the held-out text; "" where none has."""
        return may_know([teacher.path for teacher in self.teachers], self._corpus_key)


def verdict(
    rows: dict[str, Any], compared: dict[str, Any], *, may_know: str = "", has_layers: bool = False
) -> str:  # fmt: skip
    """One sentence on whether the teacher was worth it; fewer bits are better.

    Args:
        may_know: why the teacher may have learned some of this text; "" where it has not.
        has_layers: whether the student began with layers of its teacher.
    """
    said = _compared(rows, compared)
    if may_know:
        layers = ", and the student began with its layers" if has_layers else ""
        said += f" The teacher may have learned some of this held-out text ({may_know}){layers}."
    return said


def _compared(rows: dict[str, Any], compared: dict[str, Any]) -> str:
    of = {name: row["test"]["bits_per_byte"] for name, row in rows.items()}
    theirs = [f"{value:.4f}" for name, value in of.items() if name.startswith("teacher")]
    small = (
        f"The student takes {of['student']:.4f} bits per byte of held-out text, its teacher"
        f"{'s' * (len(theirs) > 1)} {', '.join(theirs)}"
    )
    if "control" not in of:
        return f"{small}. Whether the teacher helped is unknown: the control was skipped."
    value, low, high = compared["student less control"]["test"]
    told = f"{value:+.4f} ({INTERVAL} {low:+.4f} to {high:+.4f}, over documents; one run of each)"
    if high < 0:
        return f"{small}, and the same student without a teacher {of['control']:.4f}: the teacher is worth {told}."
    return f"{small}; but the same student without a teacher takes {of['control']:.4f}: the difference of {told} " + (
        "says that the teacher did harm." if low > 0 else "does not show that the teacher helped."
    )
