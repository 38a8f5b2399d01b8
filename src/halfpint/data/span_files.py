"""From a file with labelled spans to examples: which form it has is seen from its content, not from its name."""

from __future__ import annotations

from halfpint.data.span_columns import looks_like_columns, read_columns
from halfpint.data.span_objects import looks_like_objects, read_objects
from halfpint.data.spans import Read, TagData, text_of_file
from halfpint.errors import HalfpintError

_GLANCE = 1 << 18


def looks_like_spans(source: str) -> float:
    """How surely `source` is a file with labelled spans, from 0 to 1, by its first 256 kB."""
    try:
        text, _ = text_of_file(source, most_bytes=_GLANCE)
        if "\n" not in text:  # the first row is longer, or the only one
            text, _ = text_of_file(source, most_bytes=64 * _GLANCE)
    except (HalfpintError, ValueError):  # a name that no file can have is a ValueError
        return 0.0
    return looks_like_objects(text) if text.lstrip()[:1] in ("{", "[") else looks_like_columns(text)


def read_spans(source: str, settings: TagData) -> Read:
    """The examples of a file.

    Raises:
        HalfpintError: it cannot be read, or has neither columns nor spans.
    """
    text, note = text_of_file(source)
    read = read_objects if text.lstrip()[:1] in ("{", "[") and _is_json(text) else read_columns
    found = read(text, source, settings)
    if not found.examples:
        raise HalfpintError(source, wanted="texts with labelled spans", got="none", todo=_first_finding(found))
    notes = (note, *found.notes)
    return Read(source, found.examples, found.findings, found.said, notes, found.columns)


def _is_json(text: str) -> bool:
    """Whether a text that begins with a bracket is JSON and not columns whose first word is one."""
    return looks_like_columns(text[:_GLANCE]) < 0.9


def _first_finding(found: Read) -> str:
    return found.findings[0].message if found.findings else ""
