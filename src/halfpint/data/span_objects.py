"""Texts with spans in JSON: one object per line, as annotation tools export them.

Forms: {"text", "spans" or "entities": [{"start", "end", "label"}]}, doccano's "label": [[start, end, label]], spaCy's
[text, {"entities": [[start, end, label]]}], and {"tokens": [...], "tags": [...]}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from halfpint.data.encoding import whole_characters
from halfpint.data.names import TEXT_NAMES, listed
from halfpint.data.span_columns import Sentence, TagReader, mark_of, scheme_of, sentence_example, shown
from halfpint.data.spans import Read, Span, TagData, TagExample
from halfpint.errors import HalfpintError, nearest
from halfpint.task import Finding
from halfpint.terminal import amount

_SPANS = ("spans", "entities", "label", "labels", "annotations", "ents")
_SURE = ("spans", "entities", "ents")
_GUESSED_BY = 1000  # rows
_TOKENS, _TAGS = ("tokens", "words"), ("tags", "ner_tags", "labels", "pos_tags", "ner")
_STARTS, _ENDS = ("start", "start_offset", "begin", "start_char"), ("end", "end_offset", "stop", "end_char")
_LABELS = listed("label type tag entity entity_group category labels")


def looks_like_objects(text: str) -> float:
    """How surely the beginning of a file is JSON with spans, from 0 to 1."""
    rows = [_as_mapping(row) for _, row in islice(_rows_until_broken(text), _GUESSED_BY)]
    if not all(row is not None for row in rows):
        return 0.0
    given = [row for row in rows if row]
    if any((_field(row, "", TEXT_NAMES) and _spans_field(row)) or _tokens(row) for row in given):
        return 0.9
    unmarked = any(_field(row, "", TEXT_NAMES) and any(row.get(name) == [] for name in _SURE) for row in given)
    return 0.6 if unmarked else 0.0


def read_objects(text: str, source: str, settings: TagData) -> Read:
    """The texts of a file of JSON objects, one per line, or of one JSON array.

    Raises:
        HalfpintError: a line that is not JSON, or objects without a text or without spans.
    """
    rows = [(number, _as_mapping(row)) for number, row in _rows(text, source)]
    given = [row for _, row in rows if row]
    first = next((row for row in given if _field(row, settings.text, TEXT_NAMES)), given[0] if given else {})
    spans = settings.label or any(map(_spans_field, given))
    if (not spans or not _field(first, settings.text, TEXT_NAMES)) and any(map(_tokens, given)):
        return _read_tokens(rows, source, settings)
    text_field = _found(first, settings.text, TEXT_NAMES, f"{source}: data.text", "a text")
    named = settings.label or next((name for row in given if (name := _spans_field(row))), "")
    if not named or (settings.label and not any(settings.label in row for row in given)):
        raise HalfpintError(
            f"{source}: data.label", wanted="a field with spans, such as spans or entities",
            got=repr(settings.label) if settings.label else f"the fields {', '.join(map(repr, first))}",
            todo=nearest(settings.label, first) if settings.label else 'Give {"text": …, "spans": [{"start": 0, …}]}.',
        )  # fmt: skip
    examples, broken = [], []
    for number, row in rows:
        example = None if row is None else _example(row, text_field, named, number)
        if example is None:
            broken.append(number)
        else:
            examples.append(example)
    findings = []
    if broken:
        message = (
            f"{amount(len(broken), 'row')} without a text, or with spans of no known form ({shown(broken)}): left out"
        )
        findings.append(Finding(kind="unreadable_row", severity="error", message=message, rows=tuple(broken)))
    said = f"texts from {text_field!r}, spans from {named!r}"
    return Read(source, examples, findings, said, (), {"text": text_field, "label": named})


def _rows(text: str, source: str) -> Iterator[tuple[int, Any]]:
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            pass  # lines that are arrays, as spaCy's are
        else:
            # An array on one line may be the only row of a file.
            single = len(whole) == 2 and isinstance(whole[0], str)
            yield from enumerate([whole] if single else whole, start=1)
            return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise HalfpintError(
                    f"{source}, line {number}", wanted="one JSON value per line", got=f"what is not JSON ({error})",
                    todo="Repair that line.",
                ) from None  # fmt: skip


def _rows_until_broken(text: str) -> Iterator[tuple[int, Any]]:
    """Rows of the beginning of a file, which may end in the middle of one."""
    try:
        yield from _rows(text, "")
    except HalfpintError:
        if text.lstrip().startswith("[") and not text.lstrip().startswith('["'):
            decoder, at = json.JSONDecoder(), text.index("[") + 1
            number = 0
            while True:
                while at < len(text) and text[at] in " \t\r\n,":
                    at += 1
                try:
                    value, at = decoder.raw_decode(text, at)
                except (ValueError, RecursionError):
                    return
                number += 1
                yield number, value


def _as_mapping(row: Any) -> Mapping[str, Any] | None:
    """A row as an object; None where it is neither that nor in spaCy's form."""
    if isinstance(row, Mapping):
        return row
    if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], Mapping):
        return {"text": row[0], **row[1]}
    return None


def _field(row: Mapping[str, Any], given: str, names: Sequence[str]) -> str:
    for name in (given,) if given else names:
        if isinstance(row.get(name), str):
            return name
    return ""


def _found(row: Mapping[str, Any], given: str, names: Sequence[str], place: str, what: str) -> str:
    name = _field(row, given, names)
    if not name:
        got = repr(given) if given else f"the fields {', '.join(map(repr, row))}"
        todo = nearest(given, row) if given else "Name it with --text."
        raise HalfpintError(place, wanted=f"a field with {what}", got=got, todo=todo)
    return name


def _spans_field(row: Mapping[str, Any]) -> str:
    for name in _SPANS:
        value = row.get(name)
        if isinstance(value, list) and value and all(_span(one) is not None for one in value):
            return name
    return ""


def _tokens(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The fields of a list of words and of a list of as many tags."""
    words = next((name for name in _TOKENS if isinstance(row.get(name), list)), None)
    tags = next((name for name in _TAGS if isinstance(row.get(name), list)), None)
    if words is None or tags is None or len(row[words]) != len(row[tags]):
        return None
    return words, tags


def _span(value: Any) -> Span | None:
    if isinstance(value, Mapping):
        start, end, label = (_first(value, names) for names in (_STARTS, _ENDS, _LABELS))
    elif isinstance(value, list) and len(value) == 3:
        start, end, label = value
    else:
        return None
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    whole = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
    if not whole or not isinstance(label, str) or not label.strip():
        return None
    return Span(start, end, label.strip())


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if name in value), None)


def _example(row: Mapping[str, Any], text_field: str, spans_field: str, number: int) -> TagExample | None:
    text, given = row.get(text_field), row.get(spans_field)
    if not isinstance(text, str) or not text.strip():
        return None
    text = whole_characters(text)
    if given is None:
        return TagExample(text, None, number)
    spans = [_span(one) for one in given] if isinstance(given, list) else [None]
    if any(span is None for span in spans):
        return None
    return TagExample(text, tuple(sorted(span for span in spans if span is not None)), number)


def _read_tokens(rows: Sequence[tuple[int, Mapping[str, Any] | None]], source: str, settings: TagData) -> Read:
    """Rows of words with a tag for each."""
    sentences, broken = [], []
    names = next(found for _, row in rows if row and (found := _tokens(row)))
    for number, row in rows:
        words, tags = (row or {}).get(names[0]), (row or {}).get(names[1])
        good = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags) and bool(words)
        if not good or not all(isinstance(one, str) and one.strip() for one in [*(words or ()), *(tags or ())]):
            broken.append(number)
        else:
            named = [whole_characters(word) for word in words or ()]
            sentences.append(Sentence([number] * len(named), named, list(tags or ())))
    if not sentences:
        raise HalfpintError(
            source, wanted=f"texts in {names[1]!r}, a tag for each of {names[0]!r}", got="numbers, or nothing",
            todo="Write the names of the tags, such as B-LOC.",
        )  # fmt: skip
    mark = mark_of(sentences)
    reader = TagReader(settings.scheme or scheme_of(sentences, mark), mark, any("O" in one.tags for one in sentences))
    examples = [sentence_example(sentence, reader) for sentence in sentences]
    findings = reader.findings()
    if broken:
        message = f"{amount(len(broken), 'row')} without as many tags as words ({shown(broken)}): left out"
        findings.append(Finding(kind="unreadable_row", severity="error", message=message, rows=tuple(broken)))
    said = f"words from {names[0]!r}, tags from {names[1]!r}, read as {reader.name}"
    return Read(source, examples, findings, said, (), {"text": names[0], "label": names[1]})
