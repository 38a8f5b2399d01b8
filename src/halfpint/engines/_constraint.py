"""Writing that keeps to a JSON schema: which tokens may come next, by llguidance.

llguidance reads what was written as a grammar made of the schema, and tells at each step the tokens with which it can
still become a whole value of it. What is written then parses and fits, however small the model is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.engines._schema import checked, first_line, unfit
from halfpint.errors import HalfpintError, need

_SPACE = r"( |\n {0,24})?"  # between the parts of a value; without an end to it a weak model writes nothing else
_MOST_HELD = 16  # grammars kept ready


class Constraint:
    """One text that is written by a grammar: what may come next, and what came."""

    def __init__(self, matcher: Any, end: int) -> None:
        self._matcher, self._end = matcher, end

    def mask(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A copy of `logits`, float32 of shape (vocabulary,), with minus infinity where a token may not come.

        Raises:
            HalfpintError: the grammar is too large to be followed.
        """
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        self._check()
        allowed = np.zeros(len(logits), dtype=bool)
        size = min(len(bits), len(logits))
        allowed[:size] = bits[:size] != 0
        found: npt.NDArray[np.float32] = np.where(allowed, logits, np.float32(-np.inf))
        return found

    def take(self, token: int) -> None:
        """Go on by `token`, which `mask` left."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def ended(self) -> bool:
        """Whether the value is whole and nothing can follow it."""
        return bool(self._matcher.is_stopped())

    def copy(self) -> Constraint:
        """The same place in the same grammar, to go on from in another way."""
        return Constraint(self._matcher.deep_copy(), self._end)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise HalfpintError(
                "schema", wanted="one that can be followed token by token", got=first_line(self._matcher.get_error()),
                todo="Make it simpler.",
            )  # fmt: skip


class Grammars:
    """Makes constraints for a vocabulary; several threads may ask for them.

    Args:
        tokens: the bytes that each id stands for, by id.
        control: ids that are never text.
        ends: ids that end a text.
        encode: gives the ids of bytes.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        control: Collection[int],
        ends: Collection[int],
        encode: Callable[[bytes], list[int]],
    ) -> None:
        self._library = need("llguidance", "output by a JSON schema")
        # Without an id that ends a text there is one more, which the model cannot write.
        self._end = min(ends, default=len(tokens))
        listed = [*tokens, *([b""] if not ends else [])]
        special = sorted({*control, *ends, *([self._end] if not ends else [])})
        vocabulary = _Vocabulary(listed, special, self._end, encode)
        self._tokenizer = self._library.LLTokenizer(
            self._library.TokenizerWrapper(vocabulary), eos_token=sorted(ends) or [self._end]
        )
        self._held: dict[str, Any] = {}
        self._changing = threading.Lock()

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """A text that is to become a value of `schema`; {} stands for any object.

        Raises:
            HalfpintError: it is no schema, or one that cannot be kept to; with the place in it.
        """
        made = checked(schema)
        key = json.dumps(made)
        found = self._held.get(key)
        if found is None:
            found = self._made(made)
            with self._changing:
                while len(self._held) >= _MOST_HELD:
                    self._held.pop(next(iter(self._held)))
                self._held[key] = found
        return Constraint(found.deep_copy(), self._end)

    def _made(self, schema: dict[str, Any]) -> Any:
        matcher = self._matcher(schema)
        if fault := _fault(matcher):
            raise unfit(fault, *self._place(schema, fault))
        return matcher

    def _matcher(self, schema: Any) -> Any:
        kind = self._library.LLMatcher
        grammar = kind.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_pattern": _SPACE})
        return kind(self._tokenizer, grammar, log_level=0)

    def _place(self, schema: Any, fault: str) -> list[str]:
        """The way to the smallest part of `schema` that has the same fault by itself."""
        for way, part in _parts(schema):
            if _fault(self._matcher(part)) == fault:
                return [*way, *self._place(part, fault)]
        return []


def _fault(matcher: Any) -> str:
    """What is wrong with a grammar; some of it shows only once a text begins."""
    begun = matcher if matcher.is_error() else matcher.deep_copy()
    if not begun.is_error():
        begun.compute_bitmask()
    return begun.get_error() if begun.is_error() else ""


class _Vocabulary:
    """A tokenizer as `llguidance.TokenizerWrapper` takes it."""

    bos_token_id = None

    def __init__(
        self, tokens: Sequence[bytes], special: Sequence[int], end: int, encode: Callable[[bytes], list[int]]
    ) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = list(tokens), list(special), end
        self._encode = encode

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text)


def _parts(schema: Any) -> Iterator[tuple[list[str], Any]]:
    """Schemas right inside a schema, each with the names on the way to it."""
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"):
            yield from (([name, key], part) for key, part in (value.items() if isinstance(value, dict) else ()))
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems"):
            listed = enumerate(value) if isinstance(value, list) else ()
            yield from (([name, str(place)], part) for place, part in listed)
        elif name in ("items", "additionalProperties", "not", "if", "then", "else", "contains"):
            yield [name], value
