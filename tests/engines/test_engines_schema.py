"""Hostile JSON schemas: refused before anything is compiled, or while a text is followed by one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from halfpint.engines import TextBySchema, checked_schema
from halfpint.errors import HalfpintError


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def numbers(count: int) -> dict[str, Any]:
    return {f"p{number}": {"type": "integer"} for number in range(count)}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "multiple": ({"type": "integer", "multipleOf": 4000037}, "common multiple of all multipleOf, got 4,000,037"),
    "multiples": ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, r"schema/allOf/\d.*multipleOf, got 988,027"),
    "huge multiple": ({"multipleOf": 10**5000}, "multipleOf"),
    "items": ({"type": "array", "items": {}, "maxItems": 3_000_000}, "at most 10,000 maxItems, got 3,000,000"),
    "huge items": ({"maxItems": 10**5000}, "maxItems"),
    "length": ({"type": "string", "minLength": 1e9}, "minLength"),
    "properties": ({"type": "object", "properties": numbers(12_000)}, "at most 1,000 properties, got 12,000"),
    "alternatives": ({"anyOf": [{"properties": numbers(1)}] * 3000}, "alternatives, got 3,000"),
    "bytes": ({"enum": ["word" * 10] * 3000}, "at most 65,536 bytes"),
    "levels": (nested(90), "at most 100 levels"),
    "patterns": ({"patternProperties": {f"^a{n}.*b{n}$": {} for n in range(200)}}, "at most 50 patterns"),
    "pattern": ({"type": "string", "pattern": "(a|b)" * 300}, "characters in a pattern"),
    "hidden": ({"$ref": "#/const", "const": {"type": "integer", "multipleOf": 4000037}}, "schema/const.*multipleOf"),
    "least number": ({"enum": [-(2**63), "b"]}, "a number of more than 18 digits"),
    "no JSON": ({"minimum": math.nan}, "expected a JSON schema"),
}


@pytest.mark.parametrize(("schema", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_too_much_work_is_refused_unread(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(HalfpintError, match=said):
        checked_schema(schema)


def test_what_people_use_is_taken_as_it_is() -> None:
    price = {"type": "number", "multipleOf": 0.01, "minimum": 0}
    thousands = {"type": "integer", "multipleOf": 1_000_000}
    schema = {"type": "object", "properties": {"price": price, "sum": thousands, **numbers(300)}}
    assert checked_schema(schema) == schema
    assert checked_schema({}) == {"type": "object"}
    assert "x-guidance" not in checked_schema({"x-guidance": {"lenient": True}, "type": "integer"})


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}],
    ids=["itself", "a loop"],
)
def test_references_that_lead_nowhere(schema: dict[str, Any]) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(HalfpintError, match="references that only lead on"):
        TextBySchema(checked_schema(schema))


@pytest.mark.parametrize(
    ("pieces", "whole"), [(['{"a"', ": 1", "2}"], True), (['{"a": 1'], False)], ids=["whole", "begun"]
)
def test_a_text_is_followed(pieces: list[str], whole: bool) -> None:
    pytest.importorskip("llguidance")
    followed = TextBySchema({"type": "object", "properties": {"a": {"type": "integer"}}})
    for piece in pieces:
        followed.take(piece)
    if whole:
        followed.end()
        assert json.loads("".join(pieces))
    else:
        with pytest.raises(HalfpintError, match="gave up on while writing"):
            followed.end()
    with pytest.raises(HalfpintError, match="gave up on while writing"):
        followed.take("größe")
