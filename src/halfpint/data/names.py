"""Column names that people give to texts and labels, the likeliest first."""

from __future__ import annotations

TEXT_NAMES = (
    "text",
    "sentence",
    "message",
    "review",
    "tweet",
    "question",
    "utterance",
    "body",
    "sms",
    "content",
    "description",
    "comment",
    "query",
    "document",
    "article",
    "post",
    "email",
    "ticket",
    "request",
    "feedback",
    "prompt",
    "input",
    "headline",
    "summary",
    "subject",
    "title",
)


def listed(words: str) -> tuple[str, ...]:
    """The words of a text, apart."""
    return tuple(words.split())


LABEL_NAMES = listed(
    "label category class intent sentiment target topic tag labels emotion polarity genre department queue priority "
    "type rating stars y"
)

# Not texts and not labels, but signs that a first line is a header.
OTHER_NAMES = listed("id index idx date time user author language lang source score name")
