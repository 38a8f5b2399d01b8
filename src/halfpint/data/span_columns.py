"""Sentences in columns, as CoNLL's shared tasks have them: a word and its tags per line, empty lines between sentences.

Source of the schemes: Ramshaw & Marcus 1995 (IOB1), Tjong Kim Sang & Veenstra 1999 (IOB2), Ratinov & Roth 2009 (BILOU,
which is BIOES with other letters).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from halfpint.data.spans import Read, Span, TagData, TagExample
from halfpint.data.table import shown as first_of
from halfpint.errors import HalfpintError
from halfpint.task import Finding

_BLANK = " \t\r\f\v"
_PREFIXED = re.compile(r"([BIOELSUM])([-_])(.+)")
_COMMENT = re.compile(r"#(?: |begin|end|\s*$)", re.MULTILINE)  # or a word that is this sign: then it has a tag
_NOTHING = frozenset({"O", "o", "_"})
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]+)?:")
_NAMES = {"iob1": "IOB1", "iob2": "IOB2 (BIO)", "bioes": "BIOES (BILOU)", "plain": "a label for each word"}


@dataclass(frozen=True)
class Sentence:
    """One sentence: the lines of its words, the words, their tags, and the number of its document (0: unknown)."""

    lines: list[int]
    words: list[str]
    tags: list[str]
    document: int = 0


def shown(numbers: Sequence[int]) -> str:
    """The first of some line numbers in words."""
    return f"line{'s' if len(numbers) > 1 else ''} {first_of(numbers)}"


def looks_like_columns(text: str) -> float:
    """How surely the beginning of a file is CoNLL columns, from 0 to 1."""
    lines = [line.strip(_BLANK) for line in text.split("\n")]
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines if line]
    rows = [row for row in rows if not row[0].startswith(("-DOCSTART-", "#"))]
    widths = Counter(map(len, rows))
    if len(rows) < 3 or widths.most_common(1)[0][0] < 2:
        return 0.0
    width, regular = widths.most_common(1)[0]
    tags = [row[-1].strip() for row in rows if len(row) == width]
    tagged = sum(tag == "O" or bool(_PREFIXED.fullmatch(tag)) for tag in tags)
    some = any(_PREFIXED.fullmatch(tag) for tag in tags)
    if regular >= 0.8 * len(rows) and some and tagged >= 0.9 * len(tags):
        return 0.9
    # Plain labels: words without a space in them, few labels, and sentences that end.
    breaks = sum(not line for line in lines[:-1])
    single = sum(" " not in row[0].strip() for row in rows)
    few = len(set(tags)) <= max(3, min(100, len(tags) // 4))
    if regular == len(rows) == single and few and breaks and "," not in "".join(lines[:1]):
        return 0.6
    return 0.0


def read_columns(text: str, source: str, settings: TagData) -> Read:
    """The sentences of a file in columns; their text is the words joined by one space.

    Raises:
        HalfpintError: no columns, or not the ones that `settings` names.
    """
    notes: list[str] = []
    split, width = _layout(text, source)
    universal = width == 10 and settings.label in ("", "4")
    text_at = _column(settings.text, 2 if universal else 1, width, f"{source}: data.text")
    tags_at = _column(settings.label, 4 if universal else width, width, f"{source}: data.label")
    sentences, irregular, comments = _sentences(text, split, width, text_at, tags_at)
    findings = _irregular(irregular, width)
    if comments:
        notes.append(f"{comments:,} comment lines (#) left out")
    if prefix := _language_of(sentences):
        notes.append(f"the words begin with {prefix!r}, which is left out")
        for sentence in sentences:
            sentence.words[:] = [word.removeprefix(prefix) for word in sentence.words]
    tags = Counter(tag for sentence in sentences for tag in sentence.tags)
    if not tags:
        raise HalfpintError(source, wanted="sentences in columns", got="none", todo="Give a word and its tag per line.")
    mark = mark_of(sentences)
    scheme = settings.scheme or scheme_of(sentences, mark)
    reader = TagReader(scheme, mark, "O" in tags or "o" in tags)
    examples = [sentence_example(sentence, reader) for sentence in sentences]
    findings += reader.findings()
    common = ", ".join(tag for tag, _ in tags.most_common(4))
    said = f"words from column {text_at}, tags from column {tags_at} of {width} ({common}, …), read as {reader.name}"
    columns = {"text": str(text_at), "label": str(tags_at)}
    return Read(source, examples, findings, said, notes, columns)


def _layout(text: str, source: str) -> tuple[str | None, int]:
    """What parts columns (a tab, or any spaces) and how many there are, by most of the lines."""
    lines = [line.strip("\r") for line in text.split("\n") if line.strip(_BLANK)]
    tabs = sum("\t" in line.strip(_BLANK) for line in lines)
    split = "\t" if 2 * tabs > len(lines) else None
    widths = Counter(len(_cells(line, split)) for line in lines)
    width = widths.most_common(1)[0][0] if widths else 0
    if width < 2:
        raise HalfpintError(
            source, wanted="columns: a word and its tag per line", got=f"lines of {width} column",
            todo="Give CoNLL columns, or JSONL with a text and its spans.",
        )  # fmt: skip
    return split, width


def _cells(line: str, split: str | None) -> list[str]:
    return line.rstrip("\r").split("\t") if split else line.split()


def _column(given: str, otherwise: int, width: int, place: str) -> int:
    """The number of a column, from 1."""
    if not given:
        return otherwise
    try:
        number = int(given)
    except ValueError:
        number = 0
    number = width + 1 + number if number < 0 else number
    if not 1 <= number <= width:
        raise HalfpintError(
            place, wanted=f"the number of a column, from 1 to {width} (-1 is the last)", got=repr(given)
        )
    return number


def _sentences(
    text: str, split: str | None, width: int, text_at: int, tags_at: int
) -> tuple[list[Sentence], dict[int, int], int]:
    """The sentences; the lines with another number of columns, each with the first line of its sentence; comments."""
    lines = text.split("\n")
    rows = (_cells(line, split) for line in lines if not _COMMENT.match(line)) if _COMMENT.search(text) else ()
    words_tags = _NOTHING | {row[tags_at - 1].strip(_BLANK) for row in rows if len(row) == width}
    found: list[Sentence] = []
    irregular: dict[int, int] = {}
    comments = document = 0
    now = Sentence([], [], [])
    bad: list[int] = []

    def end() -> None:
        nonlocal now, bad
        if now.lines:
            found.append(now)
        first = now.lines[0] if now.lines else bad[0] if bad else 0
        irregular.update(dict.fromkeys(bad, first))
        now, bad = Sentence([], [], [], document), []

    for number, line in enumerate(lines, start=1):
        if not line.strip(_BLANK) or line.startswith("-DOCSTART-"):
            document += line.startswith("-DOCSTART-")
            end()
            continue
        cells = _cells(line, split)
        tag = cells[tags_at - 1].strip(_BLANK) if len(cells) == width else ""
        if _COMMENT.match(line) and tag not in words_tags:
            comments += 1
            continue
        if not tag or not cells[text_at - 1].strip(_BLANK):
            bad.append(number)
            continue
        if width == 10 and not cells[0].isdecimal() and cells[0][:1].isdecimal():
            continue  # CoNLL-U's lines for several words at once (3-4) and for unwritten ones (5.1)
        now.lines.append(number)
        now.words.append(cells[text_at - 1].strip(_BLANK))
        now.tags.append(tag)
    end()
    return found, irregular, comments


def _irregular(lines: dict[int, int], width: int) -> list[Finding]:
    if not lines:
        return []
    one = len(lines) == 1
    what = f"without a word, without a tag or with another number of columns than {width} ({shown(list(lines))})"
    left = "its sentence is" if one else "their sentences are"
    message = f"{len(lines):,} {'line' if one else 'lines'} {what}: {left} left out"
    rows = tuple(dict.fromkeys(lines.values()))
    return [Finding(kind="irregular_line", severity="error", message=message, rows=rows, drop=True)]


def _language_of(sentences: Sequence[Sentence]) -> str:
    """The prefix of a language, such as "en:", that all words have; nothing where they have none."""
    first = next((word for sentence in sentences for word in sentence.words), "")
    match = _LANGUAGE.match(first)
    if match is None:
        return ""
    prefix = match.group()
    return prefix if all(word.startswith(prefix) for sentence in sentences for word in sentence.words) else ""


def mark_of(sentences: Sequence[Sentence]) -> str:
    """What parts a tag's letter from its label: "-" or "_", or nothing where tags have no letter."""
    tags = Counter(tag for sentence in sentences for tag in sentence.tags)
    for mark in "-_":
        fitting = total = 0
        for tag, count in tags.items():
            if tag not in _NOTHING:
                match = _PREFIXED.fullmatch(tag)
                total += count
                fitting += count * (match is not None and match[2] == mark)
        if total and fitting > 0.5 * total:
            return mark
    return ""


def _parsed(tags: Sequence[str], mark: str) -> Iterator[tuple[str, str]]:
    """The letter (B, I, E, S or O; "?" for a tag of another form) and the label of each tag."""
    for tag in tags:
        letter, found, label = tag.partition(mark)
        if tag in _NOTHING or (found and letter == "O"):
            yield "O", ""
        elif found and label and letter in "BIELSUM" and len(letter) == 1:
            yield {"L": "E", "U": "S", "M": "I"}.get(letter, letter), label
        else:
            yield "?", tag


def scheme_of(sentences: Sequence[Sentence], mark: str) -> str:
    """The scheme that the tags follow; of IOB1 and IOB2 the one with fewer impossible tags."""
    if not mark:
        return "plain"
    opened_by_i = opened_by_b = ends = 0
    for sentence in sentences:
        before = ("O", "")
        for letter, label in _parsed(sentence.tags, mark):
            ends += letter in "ES"
            opened_by_i += letter == "I" and (before[0] in "O?" or before[1] != label)
            opened_by_b += letter == "B" and (before[0] in "O?" or before[1] != label)
            before = (letter, label)
    if ends:
        return "bioes"
    return "iob1" if opened_by_i > opened_by_b else "iob2"


class TagReader:
    """Reads tags as a scheme says and notes where they do not follow it; these are repaired as conlleval does.

    Args:
        scheme: iob1, iob2, bioes or plain; mark: what parts letter and label; outside: whether some word has no label.
    """

    def __init__(self, scheme: str, mark: str, outside: bool) -> None:
        self.scheme, self.mark, self.outside = scheme, mark or "-", outside
        self.name = _NAMES[scheme]
        self.impossible: dict[int, tuple[int, str]] = {}
        self.foreign: dict[int, tuple[int, str]] = {}

    def spans(self, sentence: Sentence) -> list[tuple[int, int, str]]:
        """First word, word after the last, and label of each span."""
        if self.scheme == "plain":
            return self._plain(sentence.tags)
        found: list[tuple[int, int, str]] = []
        start, open_label, before = -1, "", ("O", "")
        parsed = [*_parsed(sentence.tags, self.mark), ("O", "")]
        for at, (letter, label) in enumerate(parsed):
            last = at == len(sentence.tags)
            if letter == "?":
                self.foreign[sentence.lines[at]] = (sentence.lines[0], label)
                letter, label = "O", ""  # noqa: PLW2901
            goes_on = start >= 0 and letter in "IE" and label == open_label
            if not self._possible(before, letter, label, start >= 0):
                number = sentence.lines[at if not last else at - 1]
                now, then = "the end" if last else sentence.tags[at], sentence.tags[at - 1] if at else "the beginning"
                self.impossible[number] = (sentence.lines[0], f"{now} after {then}")
            if start >= 0 and not goes_on:
                found.append((start, at, open_label))
                start = -1
            if letter != "O" and not goes_on:
                start, open_label = at, label
            if letter in "ES" and start >= 0 and self.scheme == "bioes":
                found.append((start, at + 1, open_label))
                start = -1
            before = (letter, label)
        return found

    def _possible(self, before: tuple[str, str], letter: str, label: str, is_open: bool) -> bool:
        """Whether the scheme lets a tag follow another."""
        same = before[0] != "O" and before[1] == label
        if self.scheme == "bioes":
            return (is_open and same) if letter in "IE" else not is_open
        if letter in "ES":
            return False
        if self.scheme == "iob1":
            return letter != "B" or same
        return letter != "I" or same

    def _plain(self, tags: Sequence[str]) -> list[tuple[int, int, str]]:
        found: list[tuple[int, int, str]] = []
        for at, tag in enumerate(tags):
            if tag in _NOTHING:
                continue
            if self.outside and found and found[-1][1:] == (at, tag):
                found[-1] = (found[-1][0], at + 1, tag)  # words of one label side by side are one span
            else:
                found.append((at, at + 1, tag))
        return found

    def findings(self) -> list[Finding]:
        """What did not follow the scheme."""
        found = []
        for kind, places, words, drop in (
            ("impossible_tag", self.impossible, "tags that cannot follow the one before them", False),
            ("foreign_tag", self.foreign, "tags of another form than the rest", True),
        ):
            if not places:
                continue
            lines = list(places)
            what = "their sentences are left out" if drop else "a span was begun or ended there, as conlleval does"
            message = f"{len(lines):,} {words} in {self.name}, such as {places[lines[0]][1]!r}"
            rows = tuple(dict.fromkeys(row for row, _ in places.values()))
            found.append(
                Finding(
                    kind=kind, severity="error" if drop else "warning", message=f"{message} ({shown(lines)}): {what}",
                    rows=rows, drop=drop,
                )
            )  # fmt: skip
        return found


def sentence_example(sentence: Sentence, reader: TagReader) -> TagExample:
    """The words joined by one space, with the spans that their tags mark."""
    starts, at = [], 0
    for word in sentence.words:
        starts.append(at)
        at += len(word) + 1
    spans = tuple(
        Span(starts[first], starts[last - 1] + len(sentence.words[last - 1]), label)
        for first, last, label in reader.spans(sentence)
    )
    return TagExample(" ".join(sentence.words), spans, sentence.lines[0], sentence.document)
