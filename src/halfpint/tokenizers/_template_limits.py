"""Limits of what a chat template does: steps, time, and the length of its texts.

Jinja's sandbox keeps a template from files and from Python, but not from counting to ten thousand millions. Loops and
calls are counted here, and texts measured where Jinja joins, repeats or pads them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

from halfpint.errors import need

MOST_STEPS = 250_000  # turns of loops, and calls
MOST_SECONDS = 5.0
MOST_CHARACTERS = 1 << 24
MOST_NUMBER = 1_000_000  # as an argument: a width, a count
_OFTEN = 256  # steps between looks at the clock
_TURNS = "turns of a loop"  # a filter that no template can name
_WIDE = re.compile(r"\d{6}|\*")

_left: ContextVar[list[float]] = ContextVar("_left")


class TooMuchError(Exception):
    """A template does more than any conversation needs."""


def bounded(render: Callable[[], str]) -> str:
    """What `render` gives, within the limits.

    Raises:
        TooMuchError: it goes beyond one of them.
    """
    before = _left.set([MOST_STEPS, time.monotonic() + MOST_SECONDS])
    try:
        return render()
    finally:
        _left.reset(before)


def environment(**settings: Any) -> Any:
    """A sandbox whose templates are counted, for `bounded` alone."""
    jinja2 = need("jinja2", "a chat template")
    sandbox = need("jinja2.sandbox", "a chat template")

    class Environment(sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc, name-defined]
        intercepted_binops = frozenset(["+", "*", "**", "%"])

        def _parse(self, *source: Any) -> Any:
            tree = super()._parse(*source)
            for loop in list(tree.find_all(jinja2.nodes.For)):
                loop.iter = jinja2.nodes.Filter(loop.iter, _TURNS, [], [], None, None, lineno=loop.lineno)
            return tree

        def from_string(self, source: Any, *more: Any) -> Any:
            made = super().from_string(source, *more)
            # What the template's code has imported to put texts together.
            own = made.root_render_func.__globals__
            own.update(concat=_joined, str_join=_joined, markup_join=_joined)
            return made

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, what: Any, *values: Any, **named: Any) -> Any:  # type: ignore[override]
            _step()
            _check_call(what, (*values, *named.values()))
            return super().call(context, what, *values, **named)

    made = Environment(optimized=False, **settings)  # else parts are computed ahead, and not counted
    made.filters = {name: _counted(one) for name, one in made.filters.items()}
    made.filters[_TURNS] = _turns
    made.concat = _joined
    return made


def _step(number: int = 1) -> None:
    left = _left.get()
    before = left[0]
    left[0] -= number
    if left[0] < 0:
        raise TooMuchError(f"more than {MOST_STEPS:,} steps")
    if before // _OFTEN != left[0] // _OFTEN and time.monotonic() > left[1]:
        raise TooMuchError(f"more than {MOST_SECONDS:g} seconds")


def _turns(values: Any) -> Any:
    """The items of a loop, each counted; what has a length keeps it."""
    return _Turns(values) if hasattr(values, "__len__") else _each(values)


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for one in values:
        _step()
        yield one


class _Turns:
    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return _each(self._values)


def _joined(parts: Iterable[Any]) -> str:
    found, size = [], 0
    for part in parts:
        text = str(part)
        size += len(text)
        _check_size(size)
        found.append(text)
    _step(size >> 10)
    return "".join(found)


def _counted(filter_: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(filter_)
    def counted(*values: Any, **named: Any) -> Any:
        _step()
        _check_call(filter_, (*values[1:], *named.values()), *values[:1])
        return filter_(*values, **named)

    return counted


def _check_operation(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        _check_form(left)
    elif operator == "+":
        _check_size(_length(left) + _length(right))
    elif operator in ("*", "**"):
        for one, other in ((left, right), (right, left)):
            if isinstance(one, int) and not isinstance(other, int | float):
                _check_size(one * _length(other))
            elif isinstance(one, int) and abs(one) > MOST_NUMBER:
                raise TooMuchError("numbers that are too large")
        if operator == "**" and isinstance(right, int) and right > 64:
            raise TooMuchError("numbers that are too large")
    _step((_length(left) + _length(right)) >> 10)


def _check_call(what: Any, values: tuple[Any, ...], *own: Any) -> None:
    """Refuse calls whose result may be very much longer than what they are given."""
    what = getattr(what, "__wrapped__", what)  # the sandbox has format methods of its own
    mine = getattr(what, "__self__", *(own or (None,)))
    for one in values:
        if isinstance(one, int) and one > MOST_NUMBER:
            raise TooMuchError("numbers that are too large")
    if isinstance(mine, str):
        if getattr(what, "__name__", "") in ("format", "format_map"):
            _check_form(mine)
        longest = max(map(_length, values), default=0)
        _check_size((len(mine) * longest) >> 8)
        _step(len(mine) >> 10)


def _check_form(form: str) -> None:
    if _WIDE.search(form):
        raise TooMuchError("texts that are too wide")


def _check_size(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise TooMuchError(f"more than {MOST_CHARACTERS:,} characters")


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0
