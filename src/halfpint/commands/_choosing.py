"""Choosing among the models that are known: filters, one after the other, and what was nearest where none is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from halfpint.errors import SettingError, nearest
from halfpint.models.known import Known
from halfpint.models.known_shape import served
from halfpint.search.limits import bytes_text
from halfpint.terminal import amount

COMMERCIALLY = "commercial"
"""Asks for any licence that lets a model be used commercially, also with conditions."""
_ALLOWED = ("yes", "conditions")


@dataclass(frozen=True)
class Costs:
    """What models cost, for weights of one type on this machine.

    Attributes:
        kind: the type of the weights, a key of BITS.
        context: tokens in the cache.
        bandwidth: bytes a second that are read from memory.
    """

    kind: str
    context: int
    bandwidth: float

    def memory(self, model: Known) -> int:
        """Bytes of weights and cache."""
        return served(model, self.kind, self.context).memory

    def speed(self, model: Known) -> float | None:
        """The most tokens a second that it writes; None of a model that writes none."""
        read = served(model, self.kind, self.context).read
        return self.bandwidth / read if read else None


@dataclass(frozen=True)
class Filter:
    """One thing that is asked of models.

    Attributes:
        flag: the flag as it is typed, with its value.
        keeps: whether a model passes.
        nearest: of those that were left, what comes nearest to passing, in words.
    """

    flag: str
    keeps: Callable[[Known], bool]
    nearest: Callable[[Sequence[Known]], str]


def kept(models: Iterable[Known], filters: Sequence[Filter]) -> tuple[list[Known], str]:
    """The models that pass all filters, and where there are none a sentence: which filter left none, and what is
    nearest to it."""
    left = list(models)
    for one in filters:
        passed = [model for model in left if one.keeps(model)]
        if left and not passed:
            return [], f"{one.flag} leaves none of the {amount(len(left), 'model')} that were left; {one.nearest(left)}"
        left = passed
    return left, ""


def by_task(task: str, models: Sequence[Known]) -> Filter:
    """Models made for a task.

    Raises:
        SettingError: no model at all is.
    """
    known = sorted({one for model in models for one in model.tasks})
    if task not in known:
        raise SettingError(
            "--task", wanted=f"one of {', '.join(known)}", got=repr(task), todo=nearest(task, known, " ")
        )
    return Filter(f"--task {task}", lambda model: task in model.tasks, lambda left: _offered(left, "tasks"))


def by_memory(most: int, text: str, costs: Costs) -> Filter:
    """Models that need at most so many bytes served."""

    def least(left: Sequence[Known]) -> str:
        model = min(left, key=costs.memory)
        return f"the least is {bytes_text(costs.memory(model))}, of {model.name} in {costs.kind}"

    return Filter(f"--max-ram {text}", lambda model: costs.memory(model) <= most, least)


def by_speed(least: float, costs: Costs) -> Filter:
    """Models that can write so many tokens a second here."""

    def most(left: Sequence[Known]) -> str:
        rates = [(speed, model.name) for model in left if (speed := costs.speed(model)) is not None]
        if not rates:
            return "they read texts and write none"
        speed, name = max(rates)
        return f"the fastest is {name} with {speed:,.0f} tokens/s in {costs.kind}"

    flag = f"--min-tokens-per-s {least:g}"
    return Filter(flag, lambda model: (costs.speed(model) or 0.0) >= least, most)


def by_licence(licence: str, models: Sequence[Known]) -> Filter:
    """Models with a licence, or with any that allows commercial use.

    Raises:
        SettingError: no model has it.
    """
    known = sorted({model.licence for model in models})
    if licence != COMMERCIALLY and licence.lower() not in {one.lower() for one in known}:
        raise SettingError(
            "--licence", wanted=f"{COMMERCIALLY} or one of {', '.join(known)}", got=repr(licence),
            todo=nearest(licence, [COMMERCIALLY, *known], " "),
        )  # fmt: skip

    def keeps(model: Known) -> bool:
        return model.commercial in _ALLOWED if licence == COMMERCIALLY else model.licence.lower() == licence.lower()

    return Filter(f"--licence {licence}", keeps, lambda left: _offered(left, "licence"))


def by_language(language: str, models: Sequence[Known]) -> Filter:
    """Models whose sources list a language by its code.

    Raises:
        SettingError: no source lists it.
    """
    known = sorted({one for model in models for one in model.languages})
    if language not in known:
        raise SettingError(
            "--language", wanted="a language's code (ISO 639), such as en, de or zh", got=repr(language),
            todo=f"The sources list {', '.join(known)}.",
        )  # fmt: skip

    def listed(left: Sequence[Known]) -> str:
        counted = [model.name for model in left if model.languages_in_all and not model.languages]
        more = f"; of many languages that no source lists are {', '.join(counted)}" if counted else ""
        return _offered(left, "languages") + more

    return Filter(f"--language {language}", lambda model: language in model.languages, listed)


def _offered(left: Sequence[Known], what: str) -> str:
    """What those that are left have in place of what is asked."""
    held = [getattr(model, what) for model in left]
    found = sorted({one for value in held for one in ((value,) if isinstance(value, str) else value)})
    words = {"tasks": "they are made for", "licence": "their licences are", "languages": "their languages are"}
    return f"{words[what]} {', '.join(found)}" if found else f"{words[what]} unknown"
