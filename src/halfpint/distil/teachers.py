"""Teachers: any bundles that answer, found by their folder or as what a student was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from halfpint.bundle import CARD, Bundle, Kind, file_sha256, need_task, open_bundle
from halfpint.data.columns import find_text_column
from halfpint.data.read import read_table
from halfpint.engines import open_engine
from halfpint.errors import HalfpintError
from halfpint.outputs import Outputs, joined, per_text
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer

_SMALLER = ("compress/", "distil/")  # stages after which a model is no longer what it was made from
_COMPARED = 200  # texts on which two tokenizers have to agree


@dataclass(frozen=True, kw_only=True)
class WithTeacher:
    """Settings of a stage that learns from a teacher; it stands before the stage among the bases of a class.

    Args:
        teacher: the teacher's folder, or several with commas (the mean of their probabilities);
            empty takes the bundle that the compress/ and distil/ stages before this one began from.
    """

    teacher: str = ""

    def check(self) -> None:
        """As of the stage, and a teacher that is not there is refused."""
        super().check()  # type: ignore[misc]
        for name in folders(self.teacher):
            open_bundle(name)

    def key(self, parent: str, data: str) -> str:
        """As of every stage, and of what is in the teachers' folders."""
        seen = content_key(self.teacher, getattr(self, "unlabelled", ""))
        return str(super().key(parent + seen, data))  # type: ignore[misc]

    def teachers(self, bundle: Bundle | None, task: str, place: str) -> list[Bundle]:
        """The bundles that teach, checked to be of the task ("": of any).

        Raises:
            HalfpintError: there is none, or one is of another task.
        """
        found = [open_bundle(name) for name in folders(self.teacher)] or [made_from(bundle, place)]
        for one in found if task else ():
            need_task(one, task)
        return found


def folders(written: str) -> list[str]:
    """The folders in a setting that may name several, with commas."""
    if Path(written).is_dir():
        return [written] if written else []
    return [name.strip() for name in written.split(",") if name.strip()]


def content_key(teacher: str, source: str = "") -> str:
    """A hash of what is in the bundles and in the file with these names; a path alone does not tell."""
    names = folders(teacher)
    parts = [Bundle(Path(name)).fingerprint if (Path(name) / CARD).is_file() else name for name in names]
    parts.append(file_sha256(Path(source)) if source and Path(source).is_file() else source)
    return sha256(json.dumps(parts).encode()).hexdigest()


def made_from(bundle: Bundle | None, place: str) -> Bundle:
    """The bundle that the last stages of `bundle` which made it smaller began from; it lies beside it.

    Raises:
        HalfpintError: nothing made it smaller, or what it was before is no longer there.
    """
    found = bundle
    while found is not None and str(found.card["stages"][-1]["use"]).startswith(_SMALLER):
        found = _parent(found)
    if found is None or found is bundle:
        raise HalfpintError(
            f"{place}: teacher", wanted="the folder of a teacher",
            got="none, and no larger model that this one was made from" if bundle else "none",
            todo='Give it, such as teacher = "OUT/best".',
        )  # fmt: skip
    return found


def _parent(bundle: Bundle) -> Bundle | None:
    for folder in sorted(bundle.path.resolve().parent.iterdir()):
        if (folder / CARD).is_file() and Bundle(folder).fingerprint == bundle.card["parent"]:
            return open_bundle(folder)
    return None


def need_labels(teacher: Bundle, labels: Sequence[str], place: str) -> list[int]:
    """Where each of `labels` stands among the teacher's.

    Raises:
        HalfpintError: it knows others.
    """
    index = {name: number for number, name in enumerate(teacher.labels)}
    other = sorted(set(index) ^ set(labels))
    if other:
        raise HalfpintError(
            f"{place}: teacher {teacher.path}", wanted=f"one that knows the {len(labels)} labels of the data",
            got=f"one with {len(index)} labels; not in both: {', '.join(other[:5])}",
            todo="Give a teacher of the same job, or the data that it was made for.",
        )  # fmt: skip
    return [index[name] for name in labels]


class Ensemble:
    """Classifiers that answer together: the mean of their probabilities, in the order of `labels`."""

    def __init__(self, bundles: Sequence[Bundle], labels: Sequence[str], place: str) -> None:
        self._orders = [need_labels(bundle, labels, place) for bundle in bundles]
        self._engines = [open_engine(bundle) for bundle in bundles]

    def probabilities(self, texts: Sequence[str]) -> Outputs:
        """As of engines."""
        said = [engine.probabilities(texts) for engine in self._engines]
        answers = [joined(one, len(order))[:, order] for one, order in zip(said, self._orders, strict=True)]
        mean = np.stack(answers).mean(axis=0, dtype=np.float64).astype(np.float32)
        whole = isinstance(said[0], np.ndarray)
        return per_text(mean, None if whole else np.array([len(one) for one in said[0]], dtype=np.int64))


def unlabelled_texts(source: str, work: Work) -> list[str]:
    """The texts of a table, those aside that are in the data anyway (what is chosen by must not be learned from).

    Raises:
        HalfpintError: it cannot be read, or holds no other text.
    """
    if not source:
        return []
    table = read_table(source)
    cells = table.columns[find_text_column(table)]
    known = {text for examples in (work.train, work.validation) for text in work.labelled.texts(examples)}
    found = [text for text in dict.fromkeys("" if cell is None else str(cell) for cell in cells) if text.strip()]
    kept = [text for text in found if text not in known]
    if not kept:
        raise HalfpintError(
            f"unlabelled: {source}", wanted="texts that the labelled data does not have", got=f"none of {len(found):,}"
        )
    return kept


def same_tokenizer(teacher: Bundle, student: Bundle) -> bool:
    """Whether both cut texts into the same ids."""
    return bool(open_tokenizer(teacher.path).get_vocab() == open_tokenizer(student.path).get_vocab())


def need_same_tokenizer(teacher: Bundle, student: Bundle, texts: Sequence[str], place: str) -> None:
    """Refuse two bundles whose tokens are not the same, on some of the texts too.

    Raises:
        HalfpintError: with what to do instead.
    """
    some = list(texts[:_COMPARED])
    ids: list[Any] = [
        [encoding.ids for encoding in open_tokenizer(bundle.path).encode_batch_fast(some)]
        for bundle in (teacher, student)
    ]
    if not same_tokenizer(teacher, student) or ids[0] != ids[1]:
        raise HalfpintError(
            f"{place}: teacher {teacher.path}", wanted="the tokenizer that the student has",
            got="another one, so their tokens do not stand for each other",
            todo="Leave this method out (distil/logits needs no common tokenizer), or take a student of the teacher's.",
        )  # fmt: skip


def teacher_bundle(name: str) -> Bundle:
    """The bundle to learn from: a bundle's own folder, or of what `fit` or `run` wrote the model behind OUT/best.

    Of an export the trained model is taken where it is still there: its states can be looked at, and it is the
    original.

    Raises:
        HalfpintError: no such folder, or no bundle in it.
    """
    folder = Path(name)
    best = folder if (folder / CARD).is_file() else folder / "best"
    if not (best / CARD).is_file():
        return open_bundle(folder)  # which says what is wrong
    found = open_bundle(best)
    if found.kind in (Kind.CLASSIFIER, Kind.LANGUAGE):
        return found
    beside = {Bundle(one).fingerprint: one for one in (best.parent / "work").glob("*") if (one / CARD).is_file()}
    origin: Bundle | None = found
    while origin is not None and origin.kind != Kind.CLASSIFIER:
        parent = beside.get(str(origin.card.get("parent")))
        origin = Bundle(parent) if parent else None
    return open_bundle(origin.path) if origin is not None else found
