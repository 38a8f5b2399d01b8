"""The methods and the students that `halfpint distil` can be asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from halfpint.bundle import CARD, Kind
from halfpint.distil.student import Student
from halfpint.errors import HalfpintError, SettingError, nearest
from halfpint.models.known import names_of
from halfpint.models.pull import Pull
from halfpint.stage import Stage

if TYPE_CHECKING:
    from halfpint.commands.distil import Distil


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
        raise SettingError(
            "--method", wanted=f"{' or '.join(last)} at the end ({given[-1]} alone teaches no answer)",
            got=repr(",".join(given)), todo=f"Write --method {','.join(given)},{last[0]}.",
        )  # fmt: skip


def first_stages(asked: Distil) -> tuple[Stage, ...]:
    """The stages that make a student of a classifier before it is taught; none of a bundle.

    Raises:
        HalfpintError: no such student.
    """
    name, _, value = asked.student.partition("=")
    if name == "layers":
        return (Student(layers=value, seed=asked.seed),)
    if name == "size":
        return (Student(size=value, seed=asked.seed),)
    if (Path(asked.student) / CARD).is_file():
        return ()
    need_student(asked, names_of(Kind.ENCODER))
    return (Pull(base=asked.student),)


def need_student(asked: Distil, known: Iterable[str]) -> None:
    """Refuse what is no student: neither cut, nor a folder, nor a base model by a name that is `known` or the Hub's.

    Raises:
        HalfpintError: with what there is.
    """
    name = asked.student
    if asked.is_cut or Path(name).is_dir() or name in known or ("/" in name and "=" not in name):
        return
    raise SettingError(
        "--student", wanted="layers=N, size=5M, a bundle, or a base model", got=repr(name),
        todo=nearest(name, ["layers=2", "size=5M", *known]),
    )  # fmt: skip
