"""Serving classification: POST /v1/classify gives each text its likeliest labels."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from halfpint.serve._labels_app import Answer, Asked, Part, Route, build_labels_app
from halfpint.serve._labels_app import how_to_call as call_of


class ClassifyRequest(Asked):
    """Exactly one of `text` and `texts`."""

    top: int = Field(5, ge=1, description="How many labels to give for each text; 5 if not given.")


class Score(Part):
    """A label and its probability."""

    label: str
    probability: float = Field(description="From 0 to 1.")


class Result(Score):
    """The likeliest label of one text."""

    scores: list[Score] = Field(description="The likeliest labels, the best first.")


class ClassifyAnswer(Answer):
    """The results, in the order of the texts."""

    results: list[Result]


ROUTE = Route(
    module=__name__,
    about="Classifies texts.",
    does="Labels for one text or for several, with their probabilities.",
    gives="the labels",
    example={"texts": ["My card has not arrived.", "How do I change my PIN?"], "top": 3},
    call={"text": "What is this about?"},
    asked=ClassifyRequest,
    answer=ClassifyAnswer,
)
build_app = partial(build_labels_app, ROUTE)
how_to_call = partial(call_of, ROUTE)
