"""Distilling classifiers: the stages, and teacher, student and control on the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfpint.bundle import CARD, Bundle, Kind, open_bundle
from halfpint.commands._distil_student import check_methods, first_stages
from halfpint.commands._learned_texts import may_know
from halfpint.counts import INTERVAL, Counts
from halfpint.distil.hidden import Hidden
from halfpint.distil.logits import Logits
from halfpint.distil.pseudo_labels import PseudoLabels
from halfpint.distil.teachers import Ensemble
from halfpint.errors import HalfpintError, RefusedError
from halfpint.evaluate.intervals import difference, interval
from halfpint.evaluate.measure import figures, measure
from halfpint.export.onnx import Onnx
from halfpint.lookup import task_of
from halfpint.models.pull import Pull
from halfpint.outputs import Outputs
from halfpint.pipeline import Made, Pipeline
from halfpint.progress import Log
from halfpint.stage import Stage, stage_class
from halfpint.task import Split, label_task, settings_of

if TYPE_CHECKING:
    from halfpint.commands.distil import Distil

METHODS = ("hidden", "logits", "sequence")
AS_STUDENT = "as the student"
"""What a control begins with that has the student's own beginning."""
_FRESH_RATE, _FRESH_HEAD_RATE = 5e-4, 1e-3  # of a student that begins with new weights
_LATENCIES = ("latency_p50_ms", "latency_p50_low_ms", "latency_p50_high_ms")
_COSTS = ("size_bytes", *_LATENCIES, "throughput_per_s")


class Classifiers:
    """One distillation of a classifier: what is asked, the teachers, and what was made.

    Raises:
        HalfpintError: a method, a student or a setting that cannot be.
    """

    def __init__(self, asked: Distil, teachers: list[Bundle], log: Log) -> None:
        self.asked, self.teachers, self.log = asked, teachers, log
        self.task = label_task(task_of(teachers[0]), "TEACHER")
        # Counts and taggers of words have no states to look at, and no layers: a student is cut from a base encoder.
        self.has_layers = "encoder" in teachers[0].config
        self.methods = asked.methods or (("hidden", "logits") if self.has_layers else ("logits",))
        check_methods(self.methods, METHODS, ("logits", "sequence"))
        for stage in (*self._first, *self._taught):
            stage.check()
        self._origin  # noqa: B018  (refuses a student that cannot be trained)

    def open(self, work: Path) -> None:
        """Take the data; nothing is written before it is known to fit the teachers.

        Raises:
            HalfpintError: bad data, or a teacher with other labels.
        """
        asked = self.asked
        data = settings_of(
            self.task,
            source=asked.data,
            test=asked.test,
            text=asked.text,
            label=asked.label,
            seed=asked.seed,
            **asked.written,
        )
        split: Split[Any] = self.task.reread(data, work / "data", self.log)
        labels = set(self.task.labels(split.train))
        for teacher in self.teachers:
            other = sorted(labels ^ set(teacher.labels))
            if other:
                raise HalfpintError(
                    f"teacher {teacher.path}", wanted=f"one that knows the {len(labels)} labels of the data",
                    got=f"one with {len(teacher.labels)}; not in both: {', '.join(other[:5])}",
                    todo="Give a teacher for the same task, or the data that it was made for.",
                )  # fmt: skip
        start = self._origin
        if start is not None and start.kind == Kind.CLASSIFIER and set(start.labels) != labels:
            raise HalfpintError(
                f"--student {start.path}", wanted=f"the labels of the data: {', '.join(sorted(labels)[:5])}",
                got=", ".join(start.labels[:5]), todo="Give a student of the same job, or an encoder without a head.",
            )  # fmt: skip
        self.split = split
        self.primary = self.task.primary(split.train)
        work.mkdir(parents=True, exist_ok=True)
        self.pipeline = Pipeline(split, work, self.task, self.primary, self.log)

    @cached_property
    def _origin(self) -> Bundle | None:
        """The bundle that the student's chain begins with."""
        is_bundle = (Path(self.asked.student) / CARD).is_file()
        if not is_bundle and not (self.asked.is_cut and self.has_layers):
            return None
        start = self.teachers[0] if self.asked.is_cut else open_bundle(self.asked.student)
        if start.kind not in (Kind.CLASSIFIER, Kind.ENCODER):
            raise HalfpintError(
                f"--student {self.asked.student}", wanted="a trained encoder that was not exported",
                got=f"one that runs with {start.card.get('engine')} ({start.path})",
                todo="Give a base encoder as --student, such as all-minilm-l6-v2, or a trained bundle.",
            )  # fmt: skip
        return start

    @cached_property
    def _first(self) -> tuple[Stage, ...]:
        base = (Pull(),) if self.asked.is_cut and not self.has_layers else ()
        return (*base, *first_stages(self.asked))

    @cached_property
    def _taught(self) -> tuple[Stage, ...]:
        """The stages of the methods."""
        asked, fresh = self.asked, self.asked.is_fresh
        shared: dict[str, Any] = {
            "teacher": ",".join(str(one.path.resolve()) for one in self.teachers), "unlabelled": asked.unlabelled,
            "train_texts": asked.train_texts, "seed": asked.seed, "train_embeddings": fresh,
        }  # fmt: skip
        found: list[Stage] = []
        for method in self.methods:
            if method == "hidden":
                found.append(Hidden(**shared, match=asked.match, epochs=asked.epochs or Hidden.epochs))
                continue
            rates: dict[str, Any] = {
                "learning_rate": asked.rate or (_FRESH_RATE if fresh else Logits.learning_rate),
                "head_learning_rate": _FRESH_HEAD_RATE if fresh else Logits.head_learning_rate,
            }
            if method == "sequence":
                found.append(PseudoLabels(**shared, **rates, epochs=asked.epochs or Logits.epochs))
                continue
            found.append(
                Logits(
                    **shared, **rates, copies=asked.copies, js_beta=asked.js_beta,
                    divergence=asked.divergence or Logits.divergence,
                    temperature=asked.temperature or Logits.temperature, epochs=asked.epochs or Logits.epochs,
                    label_share=asked.label_share if asked.label_share >= 0 else Logits.label_share,
                )
            )  # fmt: skip
        return tuple(found)

    @cached_property
    def _alone(self) -> Stage:
        """The training of the control: the labels alone, for as many epochs as all methods of the student together."""
        epochs = sum(stage.epochs for stage in self._taught if isinstance(stage, Hidden | Logits | PseudoLabels))
        last = self._taught[-1]
        if isinstance(last, Logits):
            return replace(last, teacher="", unlabelled="", copies=0, label_share=1.0, epochs=epochs)
        assert isinstance(last, PseudoLabels)
        return replace(last, teacher="", unlabelled="", epochs=epochs)

    @cached_property
    def _untaught(self) -> tuple[Stage, ...]:
        """The stages that a student cut from its teacher has without it: what the teacher was before it was trained,
        cut alike. Empty where the student is another, where the teacher's card does not tell, or where that is of
        another shape than the student."""
        if not (self.asked.is_cut and self.asked.has_control and self.has_layers):
            return ()
        found: list[Stage] = []
        why = "its card does not tell what it was made from"
        try:
            for entry in self.teachers[0].card["stages"]:
                if str(entry["use"]).startswith(("train/", "distil/")):
                    break
                found.append(stage_class(entry["use"], "teacher")(**entry["settings"]))
            if found and isinstance(found[0], Pull):
                made, ours = self.pipeline.make([*found, *self._first]).bundle, self._made().bundle
                if _shape(made) == _shape(ours):
                    return (*found, *self._first)
                why = "what it was made from has another shape"
        except (HalfpintError, TypeError, KeyError) as error:
            why = str(error)
        self.log.say(f"  the control begins with the teacher's layers: {why}", kind="refused")
        return ()

    def _made(self, *taught: Stage) -> Made:
        return self.pipeline.make([*self._first, *taught], start=self._origin)

    def _control(self) -> Made:
        """The same student by the labels alone: with the teacher's own layers it would have learned from it, too."""
        if not self._untaught:
            return self._made(self._alone)
        alone: Any = self._alone
        longest = int(self.teachers[0].config.get("max_tokens") or 0)  # where the student's texts are cut
        return self.pipeline.make([*self._untaught, replace(alone, max_tokens=longest)])

    @cached_property
    def student(self) -> Made:
        """The student, taught."""
        return self._made(*self._taught)

    def report(self) -> dict[str, Any]:
        """Make all and compare them."""
        self.log.say("student:", kind="group")
        self._untaught  # noqa: B018  (what cannot be had is told before the training)
        made: dict[str, Bundle] = {"student": self.student.bundle}
        if self.asked.has_control:
            self.log.say("the same student without a teacher:", kind="group")
            made["control"] = self._control().bundle
        answers = {name: self._answers([bundle]) for name, bundle in made.items()}
        answers = {"teacher": self._answers(self.teachers), **answers}
        rows = {name: {**self._row(found), **self._costs(name, made.get(name))} for name, found in answers.items()}
        compared = {
            f"student less {name}": self._difference(answers["student"], answers[name])
            for name in ("teacher", "control")
            if name in answers
        }
        return {
            "task": self.task.name, "primary_metric": self.primary, "models": rows, "differences": compared,
            **({"control_begins": self._begins} if self.asked.has_control else {}),
            "verdict": verdict(
                rows, compared, self.primary, self._begins, may_know=self._may_know, has_layers=self._has_its_layers
            ),
            "data": self.split.summary(),
        }  # fmt: skip

    @property
    def _has_its_layers(self) -> bool:
        """Whether the student begins with the teacher's trained layers."""
        return self.asked.is_cut and self.has_layers and not self.asked.is_fresh

    @property
    def _may_know(self) -> str:
        """Why a teacher may have learned some of the test texts; "" where none has."""
        return may_know([teacher.path for teacher in self.teachers], self.split.key)

    @property
    def _begins(self) -> str:
        """What the control begins with."""
        return "as the teacher began" if self._untaught else AS_STUDENT

    @property
    def _sides(self) -> dict[str, Sequence[Any]]:
        return {"validation": self.split.validation, "test": self.split.test}

    def _answers(self, bundles: Sequence[Bundle]) -> dict[str, Outputs]:
        """What the bundles' own engines say on both sides; of several the mean."""
        teachers = Ensemble(bundles, self.pipeline.labels, "halfpint distil")
        return {side: teachers.probabilities(self.task.texts(examples)) for side, examples in self._sides.items()}

    def _counts(self, answers: dict[str, Outputs], side: str) -> Counts:
        examples, labels = self._sides[side], self.pipeline.labels
        return self.task.counts(examples, self.task.decode(self.task.texts(examples), answers[side], labels), labels)

    def _row(self, answers: dict[str, Outputs]) -> dict[str, Any]:
        """The metrics on both sides, with intervals."""
        row: dict[str, Any] = {}
        for side, outputs in answers.items():
            examples, counts = self._sides[side], self._counts(answers, side)
            row[side] = {
                **{name: metric(counts) for name, metric in self.task.metrics.items()},
                **self.task.calibration(examples, outputs, self.pipeline.labels),
                "interval": list(interval(counts, self.task.metrics[self.primary])), "rows": len(examples),
            }  # fmt: skip
        return row

    def _difference(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, list[float]]:
        """On both sides the difference of the primary metric, and the ends of its interval (paired)."""
        metric = self.task.metrics[self.primary]
        return {
            side: list(difference(self._counts(first, side), self._counts(second, side), metric))
            for side in self._sides
        }

    def _costs(self, name: str, bundle: Bundle | None) -> dict[str, Any]:
        """Bytes and speed as the model is deployed (a trained encoder as ONNX); the control's are the student's."""
        if name == "control":
            return {}
        sums: dict[str, Any] = dict.fromkeys(_COSTS, 0.0)
        seconds = 0.0
        for one in [bundle] if bundle else self.teachers:
            measured = figures(measure(self._deployed(one), self.pipeline.held_texts, log=self.log))
            sums["size_bytes"] += measured["size_bytes"]
            for key in _LATENCIES:
                sums[key] += measured[key]
            seconds += 1 / measured["throughput_per_s"]
        return {**sums, "throughput_per_s": 1 / seconds}

    def _deployed(self, bundle: Bundle) -> Bundle:
        """The bundle as ONNX; as it is where it is exported already, or where the export answers otherwise."""
        if bundle.kind != Kind.CLASSIFIER:
            return bundle
        try:
            return self.pipeline.make([Onnx()], start=bundle).bundle
        except RefusedError as error:
            self.log.say(f"  measured as it was trained: {error}", kind="refused")
            return bundle


def _shape(bundle: Bundle) -> dict[str, Any]:
    """What says how large an encoder is."""
    inner = bundle.config.get("encoder") or bundle.config
    return {key: inner.get(key) for key in sorted(inner) if key.endswith(("_size", "_layers", "_heads"))}


def verdict(
    rows: dict[str, Any], compared: dict[str, Any], primary: str, begins: str = "", *, may_know: str = "",
    has_layers: bool = False,
) -> str:  # fmt: skip
    """What the student came to, and whether the teacher was worth it, by the texts that nothing was chosen by.

    Args:
        begins: what the control began with, to be told.
        may_know: why the teacher may have learned some of these texts; "" where it has not.
        has_layers: whether the student began with the teacher's trained layers.
    """
    of = {name: row["test"][primary] for name, row in rows.items()}
    said = f"The student has {of['student']:.4f} {primary} on the test texts, its teacher {of['teacher']:.4f}"
    if "control" not in of:
        said += ". Whether the teacher helped is unknown: the control was skipped."
    else:
        said += _compared(of["control"], compared["student less control"]["test"], begins, has_layers=has_layers)
    if may_know:
        layers = ", and the student began with its layers" if has_layers else ""
        said += f" The teacher may have learned some of these test texts ({may_know}){layers}."
    return said


def _compared(control: float, difference: Sequence[float], begins: str, *, has_layers: bool) -> str:
    began = f" (it began {begins})" if begins else ""
    value, low, high = difference
    told = f"{value:+.4f} ({INTERVAL} {low:+.4f} to {high:+.4f}, over texts; one run of each)"
    # A control that begins otherwise lacks the layers that the teacher's own training made, besides its answers.
    what = "the teacher, its trained layers and its answers together," if has_layers else "the teacher"
    if has_layers and begins == AS_STUDENT:
        what = "what the teacher answers, beside its layers, which both have,"
    if low > 0:
        return f", and the same student without a teacher{began} {control:.4f}: {what} is worth {told}."
    return f"; but the same student without a teacher{began} has {control:.4f}: the difference of {told} " + (
        "says that the teacher did harm." if high < 0 else "does not show that the teacher helped."
    )
