"""What `distil` is asked for, and the teachers and students that it names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from halfpint.bundle import CARD, Bundle, Kind, open_bundle
from halfpint.distil.hidden import Hidden
from halfpint.distil.logits import Logits
from halfpint.distil.student import Student
from halfpint.errors import HalfpintError, nearest
from halfpint.models.pull import Pull
from halfpint.models.sources import catalogue
from halfpint.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `distil` is asked for.

    Args:
        teachers: folders of bundles, or of what `fit` or `run` wrote; of a language model also a base model's name.
        source: the data: a table of labelled texts, or running text for language models.
        text, label: columns of tables (guessed where empty); test: texts of its own to compare on.
        student: layers=N, layers=1,6, size=5M, or a bundle or base model to train.
        methods: in order; empty takes hidden and logits of classifiers, logits of language models.
        out: the folder of the bundle to write.
        work: where intermediate results stay; None: beside `out`, until done.
        epochs: of each method; 0 takes its own. minutes, tokens: of a language model instead of them.
        temperature, divergence, js_beta, label_share: as of distil/logits; 0, empty, and a negative share take the
            stage's own, and a language model with its teacher's layers the share of distil/heal.
        learning_rate: 0 takes the stage's own; for new weights 5e-4, of a language model 1e-3, and that of distil/heal
            where it has its teacher's layers.
        match: relations or states, of hidden.
        unlabelled: a table of texts without labels.
        copies: changed copies of each labelled text that a classifier's teacher tells of, in logits.
        train_texts: learn from so many of the labelled texts; 0 takes all.
        control: also train the same student without a teacher.
        seed: of the split, of new weights and of training.
        force: replace a bundle in `out`.
    """

    teachers: tuple[str, ...]
    source: str
    student: str
    out: Path
    text: str = ""
    label: str = ""
    test: str = ""
    methods: tuple[str, ...] = ()
    work: Path | None = None
    epochs: int = 0
    minutes: float = 10.0
    tokens: int = 0
    temperature: float = 0.0
    divergence: str = ""
    js_beta: float = Logits.js_beta
    label_share: float = -1.0
    learning_rate: float = 0.0
    match: str = Hidden.match
    unlabelled: str = ""
    train_texts: int = 0
    copies: int = 0
    control: bool = True
    seed: int = 0
    force: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether the student is made from the teacher."""
        return self.student.partition("=")[0] in ("layers", "size")

    @property
    def is_fresh(self) -> bool:
        """Whether the student begins with new weights."""
        return self.student.startswith("size=")


def check_methods(given: tuple[str, ...], known: tuple[str, ...], last: tuple[str, ...]) -> None:
    """Refuse methods that there are not, and an order that ends with one that teaches no answer.

    Raises:
        HalfpintError: with what there is.
    """
    wrong = next((name for name in given if name not in known), "")
    if wrong or not given or len(set(given)) != len(given):
        raise HalfpintError(
            "--method", wanted=f"of {', '.join(known)}, each once, with commas", got=repr(",".join(given)),
            todo=nearest(wrong, known) if wrong else "",
        )  # fmt: skip
    if given[-1] not in last:
        raise HalfpintError(
            "--method", wanted=f"{' or '.join(last)} at the end ({given[-1]} alone teaches no answer)",
            got=repr(",".join(given)), todo=f"Write --method {','.join(given)},{last[0]}.",
        )  # fmt: skip


def first_stages(request: Request) -> tuple[Stage, ...]:
    """The stages that make a student of a classifier before it is taught; none of a bundle.

    Raises:
        HalfpintError: no such student.
    """
    name, _, value = request.student.partition("=")
    if name == "layers":
        return (Student(layers=value, seed=request.seed),)
    if name == "size":
        return (Student(size=value, seed=request.seed),)
    if (Path(request.student) / CARD).is_file():
        return ()
    need_student(request, catalogue())
    return (Pull(base=request.student),)


def need_student(request: Request, known: Iterable[str]) -> None:
    """Refuse what is no student: neither cut, nor a folder, nor a base model by a name that is `known` or the Hub's.

    Raises:
        HalfpintError: with what there is.
    """
    name = request.student
    if request.is_cut or Path(name).is_dir() or name in known or ("/" in name and "=" not in name):
        return
    raise HalfpintError(
        "--student", wanted="layers=N, size=5M, a bundle, or a base model", got=repr(name),
        todo=nearest(name, ["layers=2", "size=5M", *known]),
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
    if best == folder or found.kind in (Kind.CLASSIFIER, Kind.LANGUAGE):
        return found
    beside = {Bundle(one).fingerprint: one for one in (folder / "work").glob("*") if (one / CARD).is_file()}
    origin: Bundle | None = found
    while origin is not None and origin.card.get("engine") != "torch_classifier":
        parent = beside.get(str(origin.card.get("parent")))
        origin = Bundle(parent) if parent else None
    return open_bundle(origin.path) if origin is not None else found
