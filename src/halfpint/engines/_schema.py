"""Bounds of JSON schemas, and following a text by one.

A schema comes from whoever asks, and a short one can be a great deal of work: a multiple of a large prime is an
automaton of as many states. What is refused here is refused in every engine, before anything is compiled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from halfpint.errors import HalfpintError, SettingError, need

MOST_BYTES = 1 << 16
MOST_DEPTH = 100
MOST_PROPERTIES = 1000
MOST_ALTERNATIVES = 500
MOST_PATTERNS = 50
MOST_PATTERN = 1000  # characters
MOST_COUNT = 10_000
MOST_LENGTH = 100_000
MOST_MULTIPLE = 10_000
MOST_DIGITS = 18

_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")
_LENGTHS = ("minLength", "maxLength")
_ALTERNATIVES = ("anyOf", "oneOf", "allOf", "prefixItems")
_ENDLESS = 10**18  # a number that is larger counts as this
_SHOWN = 300  # characters
_TODO = "Make it simpler."


def checked(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as it is compiled; {} stands for any object, and settings of the compiler are left out.

    Every object inside counts as a part of the schema, since a reference may lead to any of them.

    Raises:
        HalfpintError: it is not JSON, or larger or more work than any use of it needs; with the place in it.
    """
    made = {name: value for name, value in schema.items() if name != "x-guidance"} or {"type": "object"}
    properties = alternatives = patterns = 0
    multiple = 1
    for place, part in _objects(made):
        properties += _size(part.get("properties"))
        alternatives += sum(_size(part.get(name)) for name in _ALTERNATIVES)
        named = part.get("patternProperties")
        own = [one for one in (part.get("pattern"), *(named if isinstance(named, dict) else ())) if one]
        patterns += len(own)
        longest = max((len(one) for one in own if isinstance(one, str)), default=0)
        multiple = math.lcm(multiple, _whole(part.get("multipleOf")))
        for what, got, most in (
            ("properties", properties, MOST_PROPERTIES),
            ("alternatives", alternatives, MOST_ALTERNATIVES),
            ("patterns", patterns, MOST_PATTERNS),
            ("characters in a pattern", longest, MOST_PATTERN),
            *((name, _number(part.get(name)), MOST_COUNT) for name in _COUNTS),
            *((name, _number(part.get(name)), MOST_LENGTH) for name in _LENGTHS),
            ("as the common multiple of all multipleOf", multiple, MOST_MULTIPLE),
        ):
            if got > most:
                raise HalfpintError(
                    "/".join(["schema", *place]), wanted=f"at most {most:,} {what}", got=f"{got:,}"[:40], todo=_TODO
                )
    try:
        text = json.dumps(made, allow_nan=False)
        json.loads(text, parse_int=_known_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise HalfpintError("schema", wanted="a JSON schema", got=str(error)[:_SHOWN]) from None
    if len(text) > MOST_BYTES:
        raise SettingError("schema", wanted=f"at most {MOST_BYTES:,} bytes", got=f"{len(text):,}", todo=_TODO)
    return made


def _known_number(digits: str) -> int:
    """A whole number that engines can hold: at the ends of 64 bits llama.cpp ends the process.

    Raises:
        ValueError: it is larger.
    """
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"a number of more than {MOST_DIGITS} digits ({digits[:24]}…)")
    return int(digits)


class Follower:
    """Follows a text that somebody else writes, to tell whether it keeps to a schema.

    Args:
        schema: what `checked` gave, with settings of the compiler if the writer has any.

    Raises:
        HalfpintError: nothing can keep to it, such as a reference to itself.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        kind = need("llguidance", "output by a JSON schema").LLMatcher
        self._matcher = kind(_bytes(), kind.grammar_from_json_schema(json.dumps(schema)), log_level=0)
        if not self._matcher.is_error():
            self._matcher.compute_bitmask()  # what is wrong may show only once a text begins
        if self._matcher.is_error():
            raise unfit(self._matcher.get_error())

    def take(self, text: str) -> None:
        """Go on by what was written.

        Raises:
            HalfpintError: with it the text no longer keeps to the schema.
        """
        raw = text.encode("utf-8", "surrogateescape")
        if self._matcher.try_consume_tokens(list(raw)) < len(raw):
            raise _left()

    def end(self) -> None:
        """Tell that nothing follows.

        Raises:
            HalfpintError: the value is not whole.
        """
        if not self._matcher.is_accepting():
            raise _left()


def unfit(fault: str, *place: str) -> HalfpintError:
    """The refusal of a schema that cannot be compiled, or of a part of it."""
    got = "references that only lead on to each other" if "NoExtension" in fault else f"this: {first_line(fault)}"
    return HalfpintError("/".join(["schema", *place]), wanted="a JSON schema that writing can keep to", got=got)


def first_line(fault: str) -> str:
    """What llguidance says of a fault, without the state of its parser or its stack."""
    return fault.strip().partition("\n")[0][:_SHOWN].strip() or "an unknown fault"


def _left() -> HalfpintError:
    return HalfpintError(
        "schema", wanted="a schema that the model's engine can follow to the end",
        got="one that it gave up on while writing", todo=_TODO,
    )  # fmt: skip


@cache
def _bytes() -> Any:
    """A vocabulary of bytes."""
    return need("llguidance", "output by a JSON schema").LLTokenizer("byte")


def _objects(schema: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Every object in a schema with the way to it.

    Raises:
        HalfpintError: it is nested too deeply.
    """
    waiting: list[tuple[list[str], Any]] = [([], schema)]
    while waiting:
        place, value = waiting.pop()
        if len(place) > MOST_DEPTH:
            raise HalfpintError("schema", wanted=f"at most {MOST_DEPTH} levels", got="more", todo=_TODO)
        if isinstance(value, dict):
            yield place, value
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [([*place, str(name)[:40]], one) for name, one in inner if isinstance(one, dict | list)]


def _size(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0


def _number(value: Any) -> float:
    return min(value, _ENDLESS) if isinstance(value, int | float) else 0


def _whole(value: Any) -> int:
    """What a multiple has besides powers of ten, which are no work: 0.05 counts as 5, and 700 as 7."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _ENDLESS:
        return 1 if _number(value) < _ENDLESS else _ENDLESS
    exact = Fraction(str(value))
    while exact.denominator > 1:
        exact *= 10
    found = exact.numerator
    while found % 10 == 0:
        found //= 10
    return found
