"""`halfpint models`."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from halfpint.command import Command, Group, Result, command_names, option, positional, settings_of
from halfpint.errors import EXIT_INFEASIBLE
from halfpint.progress import Log
from halfpint.terminal import amount

if TYPE_CHECKING:
    from halfpint.commands._choosing import Costs, Filter
    from halfpint.models.known import Known

_WIDE = 132  # columns; from here on tasks and languages stand in the same line
_SHOWN_LANGUAGES = 6
_COSTING = ("name", "type", "context", "json")
"""Fields that do not filter: they say what is shown."""
_PLACES = {"hub": "Hub", "ollama": "Ollama", "nim": "NVIDIA NIM", "azure": "Azure AI catalogue"}


@dataclass(frozen=True)
class Models(Result):
    """The models that pass.

    Attributes:
        models: those that pass, as `halfpint.models.known` has them.
        total: how many are known in all.
        costs: what they cost on this machine.
        asked: the filters, as they are typed.
        nearest: where none passes: which filter left none, and what is nearest.
    """

    models: tuple[Known, ...]
    total: int
    costs: Costs
    asked: tuple[str, ...] = ()
    nearest: str = ""

    @property
    def exit_code(self) -> int:
        """3 where none passes."""
        return 0 if self.models else EXIT_INFEASIBLE

    def as_json(self) -> str:
        """One object: the models with all facts and costs, what was asked, and how the costs were foretold."""
        return json.dumps(
            {
                "models": [_facts(model, self.costs) for model in self.models],
                "total": self.total,
                "asked": list(self.asked),
                "nearest": self.nearest,
                "machine": _machine(self.costs),
            },
            ensure_ascii=False,
        )

    def __str__(self) -> str:
        if not self.models:
            return f"No model passes: {self.nearest}."
        width = shutil.get_terminal_size((80, 24)).columns
        kind, context = self.costs.kind, self.costs.context
        told = (
            f"{amount(len(self.models), 'model')} of {self.total} known. Memory: weights in {kind} and a cache of "
            f"{context:,} tokens, without the program itself (+: the cache is not known). Tokens/s: the most that "
            f"memory read at {self.costs.bandwidth / 1e9:.1f} GB/s allows. Licence: * commercial use with conditions, "
            "! not for commercial use, ? unknown."
        )
        head = ("model", "params", "memory", "tok/s", "context", "licence", "tasks", "languages")
        rows = [head, *(_row(model, self.costs) for model in self.models)]
        sizes = [max(len(row[at]) for row in rows) for at in range(len(head))]
        lines = []
        for row in rows:
            cells = [row[0].ljust(sizes[0]), *(row[at].rjust(sizes[at]) for at in range(1, 5))]
            if width >= _WIDE:
                line = "  ".join([*cells, *(row[at].ljust(sizes[at]) for at in (5, 6)), row[7]]).rstrip()
                lines.append(line if len(line) <= width else f"{line[: width - 1].rstrip()}…")
            else:
                about = "; ".join(row[5:])
                lines += [" ".join(cells), *textwrap.wrap(about, width, initial_indent="  ", subsequent_indent="  ")]
        nexts = ["", "next:", "  halfpint models NAME    all that is known of one, and where it is from"]
        return "\n".join([*textwrap.wrap(told, width), "", *lines, *nexts])


@dataclass(frozen=True)
class OneModel(Result):
    """All that is known of one model.

    Attributes:
        model: the model, as `halfpint.models.known` has it.
        costs: what it costs on this machine.
    """

    model: Known
    costs: Costs

    def as_json(self) -> str:
        """One object with all facts and costs."""
        return json.dumps({**_facts(self.model, self.costs), "machine": _machine(self.costs)}, ensure_ascii=False)

    def __str__(self) -> str:
        from halfpint.bundle import Kind

        model, told = self.model, self.model.as_dict()
        where = told["sources"]
        exactly = "" if model.exact else " (of its family, or rounded)"
        shape = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in model.shape.items())
        rows = [
            ("what it is", model.note, ""),
            ("kind", f"{model.kind}, {model.family}, architecture {model.model_type}", ""),
            ("parameters", f"{model.parameters:,}{exactly}", where.get("parameters", "")),
            ("shape", shape or "unknown", where.get("shape", "")),
            ("licence", f"{model.licence}; commercial use: {_COMMERCIAL[model.commercial]}", where.get("licence", "")),
            ("context", f"{model.context:,} tokens" if model.context else "unknown", where.get("context", "")),
            ("languages", _languages(model, every=True), where.get("languages", "")),
            ("tasks", ", ".join(model.tasks), where.get("tasks", "")),
        ]
        rows += [("score", f"{one['name']}: {one['value']:g}", one["source"]) for one in told["scores"]]
        rows += [] if told["scores"] else [("scores", "unknown", "")]
        rows += [(place, getattr(model, key), where.get(key, "")) for key, place in _PLACES.items()]
        rows += [
            (f"in {kind}", f"{_bytes(one['memory_bytes'])} of memory{_speed(one)}", "foretold from its shape")
            for kind, one in _costs(model, self.costs).items()
        ]
        width = shutil.get_terminal_size((80, 24)).columns
        lines = [model.name]
        for name, value, source in rows:
            text = f"{value}  [{source}]" if source else value
            lines += textwrap.wrap(text, width, initial_indent=f"  {name:<20}", subsequent_indent=" " * 22)
        if model.refusal:
            return "\n".join([*lines, "", f"halfpint cannot take it from the Hub by itself: {model.refusal}."])
        steps = [f"halfpint pull {model.name}"]
        steps += [f"halfpint plan {model.name}"] if "plan" in command_names() else []
        if model.kind == Kind.LANGUAGE:
            steps += [f"halfpint finetune {model.name} DATA"]
        else:
            steps += [f"halfpint fit DATA --base {model.name}"]
        return "\n".join([*lines, "", "next:", *(f"  {step}" for step in steps)])


_COMMERCIAL = {"yes": "yes", "conditions": "with conditions", "no": "no", "unknown": "unknown"}
_MARKS = {"yes": "", "conditions": " *", "no": " !", "unknown": " ?"}


@dataclass(frozen=True, kw_only=True)
class ListModels(Command):
    """List small models that are known by name and what each costs on this machine; with a name: all about one.

    Nothing is downloaded. Each fact is from a published source, which `halfpint models NAME` and --json say; what no
    source says is unknown. Memory and speed are foretold from the number of parameters, the shape and the rate at which
    this machine reads memory. The exit code is 3 when no model passes the filters.

    Args:
        name: Model by its name here or on the Hub; none lists all that pass the filters.
        task: Only models made for this task, such as chat, code, embed, translate or guard.
        max_ram: Only models that need at most this much memory served, such as 2GB.
        min_tokens_per_s: Only models that can write this many tokens a second here.
        licence: Only models with this licence (SPDX name); "commercial" for all that allow commercial use.
        language: Only models whose sources list this language, by its code, such as de.
        type: Type of the weights that memory and speed are for: 16-bit, 8-bit or 4-bit.
        context: Tokens of text that the memory is for.
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.MOVE
    synonyms: ClassVar[tuple[str, ...]] = ("catalogue", "catalog", "list", "ls", "search")

    name: str = positional("", metavar="NAME")
    task: str = ""
    max_ram: str = option("", metavar="SIZE")
    min_tokens_per_s: float | None = option(None, least=0)
    licence: str = ""
    language: str = option("", metavar="CODE")
    type: str = option("8-bit", metavar="TYPE")
    context: int = option(4096, least=1)
    json: bool = False

    def run(self, log: Log) -> Models | OneModel:
        """Look, and measure how fast memory is read."""
        from halfpint.commands._choosing import Costs, kept
        from halfpint.machine_speed import read_rate
        from halfpint.models.known import check_type, find_known, known_models

        kind = check_type(self.type)
        if self.name:
            model = find_known(self.name)
            filters = (one.name for one in settings_of(type(self)) if one.name not in _COSTING)
            self.refuse(*filters, wanted="a list of models", got=f"one, {self.name!r}", todo="Leave the name out.")
            return OneModel(model, Costs(kind, self.context, read_rate()))
        models = tuple(known_models().values())
        self._filters(models, Costs(kind, self.context, 1.0))  # a value that cannot be is told before time is spent
        costs = Costs(kind, self.context, read_rate())
        asked = self._filters(models, costs)
        left, missed = kept(models, asked)
        ordered = tuple(sorted(left, key=lambda one: (one.parameters, one.name)))
        return Models(ordered, len(models), costs, tuple(one.flag for one in asked), missed)

    def _filters(self, models: tuple[Known, ...], costs: Costs) -> list[Filter]:
        from halfpint.commands import _choosing
        from halfpint.search.limits import parse_size

        found = []
        if self.task:
            found.append(_choosing.by_task(self.task, models))
        if self.licence:
            found.append(_choosing.by_licence(self.licence, models))
        if self.language:
            found.append(_choosing.by_language(self.language, models))
        if self.max_ram:
            found.append(_choosing.by_memory(parse_size(self.max_ram, "--max-ram"), self.max_ram, costs))
        if self.min_tokens_per_s is not None:
            found.append(_choosing.by_speed(self.min_tokens_per_s, costs))
        return found


def _row(model: Known, costs: Costs) -> tuple[str, ...]:
    from halfpint.models.known_shape import served

    speed = costs.speed(model)
    plus = "+" if served(model, costs.kind, costs.context).cache is None else ""
    about = "" if model.exact else "~"
    return (
        model.name, about + _short(model.parameters), _bytes(costs.memory(model)) + plus,
        "-" if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}",
        f"{model.context:,}" if model.context else "?", model.licence + _MARKS[model.commercial],
        ", ".join(model.tasks), _languages(model),
    )  # fmt: skip


def _facts(model: Known, costs: Costs) -> dict[str, Any]:
    return {**model.as_dict(), "served": _costs(model, costs)}


def _costs(model: Known, costs: Costs) -> dict[str, dict[str, Any]]:
    """Type -> memory and speed; the cache is null where the shape does not tell it."""
    from halfpint.commands._choosing import Costs
    from halfpint.models.known import BITS
    from halfpint.models.known_shape import served

    found = {}
    for kind in BITS:
        one = Costs(kind, costs.context, costs.bandwidth)
        speed = one.speed(model)
        found[kind] = {
            "memory_bytes": one.memory(model),
            "weight_bytes": served(model, kind, costs.context).weights,
            "cache_bytes": served(model, kind, costs.context).cache,
            "tokens_per_s": None if speed is None else round(speed, 2),
        }
    return found


def _machine(costs: Costs) -> dict[str, Any]:
    return {"type": costs.kind, "context": costs.context, "memory_bytes_per_s": round(costs.bandwidth)}


def _languages(model: Known, *, every: bool = False) -> str:
    count = model.languages_in_all or len(model.languages)
    if not count:
        return "languages unknown"
    if every and model.languages:
        listed = ", ".join(model.languages)
        return listed if count == len(model.languages) else f"{count}, among them {listed}"
    return ", ".join(model.languages) if 0 < len(model.languages) <= _SHOWN_LANGUAGES else f"{count} languages"


def _speed(one: dict[str, Any]) -> str:
    return "" if one["tokens_per_s"] is None else f", at most {one['tokens_per_s']:,.1f} tokens/s"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
