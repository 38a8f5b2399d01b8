"""Serving tagging: POST /v1/tag finds the entities of each text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from halfpint.serve._labels_app import Answer, Asked, Part, Route, build_labels_app
from halfpint.serve._labels_app import how_to_call as call_of
from halfpint.task import LabelTask


class TagRequest(Asked):
    """Exactly one of `text` and `texts`."""

    redact: bool = False
    """Whether to give each text with [LABEL] in the place of its entities too."""


class Entity(Part):
    """A part of a text with a label."""

    start: int
    """Its first character, counted from 0 in Unicode code points."""
    end: int
    """The character after its last one."""
    label: str
    """What it is."""
    text: str
    """The characters themselves."""
    probability: float
    """From 0 to 1."""


class Found(Part):
    """What was found in one text."""

    entities: list[Entity]
    """In their order; they do not overlap."""
    redacted: str | None = None
    """The text with [LABEL] in the place of each entity, if that was asked for."""


class TagAnswer(Answer):
    """The results, in the order of the texts."""

    results: list[Found]


def _finish(
    task: LabelTask[Any], asked: TagRequest, texts: Sequence[str], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    if not asked.redact:
        return rows
    return [{**row, "redacted": task.redacted(text, row)} for text, row in zip(texts, rows, strict=True)]


ROUTE = Route(
    module=__name__,
    about="Finds entities in texts.",
    does="The entities of one text or of several: where they are, what they are, and how sure that is.",
    gives="the entities",
    example={"texts": ["Please send it to Lena Okafor in Porto.", "My order number is A-1042."], "redact": True},
    call={"text": "Please send it to Lena Okafor in Porto."},
    asked=TagRequest,
    answer=TagAnswer,
    finish=_finish,
)
build_app = partial(build_labels_app, ROUTE)
how_to_call = partial(call_of, ROUTE)
