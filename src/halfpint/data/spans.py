"""Texts with labelled spans: examples, the settings of [data], and from files to what training takes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from halfpint.data.examples import Example
from halfpint.data.prepare import findings_told, sources
from halfpint.data.split import split
from halfpint.errors import HalfpintError, SettingError, damaged_gzip, no_rows, unreadable
from halfpint.outputs import Ints
from halfpint.progress import Log
from halfpint.task import Finding, Split
from halfpint.terminal import amount

_SMALL = 300
_DOCUMENTS = 30  # with fewer, a side might get one that is like no other


class Span(NamedTuple):
    """A part of a text with a label: characters from `start` up to but without `end`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class TagExample:
    """One text and its spans in order, none of which overlap.

    Attributes:
        spans: None where nobody has labelled the text, () where there is nothing in it.
        row: the line of the file that it starts on, from 1.
        document: the number of its document in the file, from 1; 0 where the file does not tell documents apart.
    """

    text: str
    spans: tuple[Span, ...] | None
    row: int = 0
    document: int = 0


@dataclass(frozen=True, kw_only=True)
class TagData:
    """The [data] table of a recipe.

    Args:
        source: CoNLL columns (a word per line, an empty line between sentences) or JSONL with spans, each also .gz.
        test: labelled texts for the final test; empty takes them out of `source`.
        validation: labelled texts that choices are made on; empty takes them out of `source`.
        text: the column of the words (a number from 1), or the field of the text; empty finds it and says so.
        label: the column of the tags (a number from 1; -1 is the last), or the field of the spans; empty finds it.
        scheme: iob1, iob2, bioes or plain (a label for each word); empty finds it.
        validation_share: share of the texts that choices are made on when no file is given.
        test_share: share for the final test when no file is given.
        seed: of the split.
    """

    source: str
    test: str = ""
    validation: str = ""
    text: str = ""
    label: str = ""
    scheme: str = ""
    validation_share: float = 0.15
    test_share: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        schemes = ("", "iob1", "iob2", "bioes", "plain")
        if self.scheme not in schemes:
            raise SettingError(
                "data.scheme", wanted=f"one of {', '.join(schemes[1:])}, or nothing", got=repr(self.scheme)
            )
        if self.seed < 0:
            raise SettingError("data.seed", wanted="0 or more", got=str(self.seed))
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 0.9:
                raise SettingError(f"data.{name}", wanted="a share between 0 and 0.9", got=str(getattr(self, name)))


def span_labels(examples: Sequence[TagExample]) -> Counter[str]:
    """How many spans of each label there are, in the order of the labels."""
    found = Counter(span.label for example in examples for span in example.spans or ())
    return Counter(dict(sorted(found.items())))


def fingerprint(examples: Sequence[TagExample]) -> str:
    """SHA-256 (hex) over texts and spans in their order; row numbers do not count."""
    digest = hashlib.sha256()
    for example in examples:
        spans = "?" if example.spans is None else "".join(f"{s.start},{s.end},{s.label};" for s in example.spans)
        for part in (example.text, spans):
            content = part.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def prepare_spans(settings: TagData, log: Log) -> Split[TagExample]:
    """Read, check, clean and split, each step said.

    Raises:
        HalfpintError: the data cannot be read or cannot be learned from.
    """
    from halfpint.data.span_faults import cleaned, find_faults, raise_if_unusable
    from halfpint.data.span_files import read_spans

    given = read_spans(settings.source, settings)
    others = {
        side: read_spans(path, settings) for side in ("validation", "test") if (path := getattr(settings, side))
    }  # fmt: skip
    log.say(f"{settings.source}: {amount(len(given.examples), 'text')}; {given.said}", kind="data")
    for note in given.notes:
        log.say(f"  {note}", kind="data")
    findings = find_faults(given, others)
    raise_if_unusable(findings, settings.source)
    for finding in findings:
        word = "dropped" if finding.drop else finding.severity
        log.say(f"  {word}: {finding.message}", kind="dropped" if finding.drop else "finding")
    kept = cleaned(given, findings)
    held = {side: _labelled(side, cleaned(one), settings) for side, one in others.items()}
    parts = _parts(kept, held, settings)
    train, validation, test = parts
    whole = " (whole documents)" if len(others) < 2 and _documents(kept) is not None else ""
    log.say(f"  {len(train):,} train, {len(validation):,} validation, {len(test):,} test{whole}")
    if len(validation) < _SMALL:
        log.say("  few validation texts: expect wide intervals", kind="finding")
    key = hashlib.sha256(f"{fingerprint(train)} {fingerprint(validation)}".encode()).hexdigest()
    sides = {"train": train, "validation": validation, "test": test}
    facts = {
        **sources(settings, sides), "labels": dict(span_labels(train)), "labels_of": "spans",
        "columns": dict(given.columns),
        **findings_told(given.notes, findings, [one for one in findings if one.drop]), "fingerprint": key,
    }  # fmt: skip
    return Split(train=train, validation=validation, test=test, key=key, proof=fingerprint(test), facts=facts)


def _labelled(side: str, examples: Sequence[TagExample], settings: TagData) -> list[TagExample]:
    """The examples of a file that is judged on.

    Raises:
        HalfpintError: some have no labels, or there is none.
    """
    path = getattr(settings, side)
    bare = [example.row for example in examples if example.spans is None]
    if bare or not examples:
        raise HalfpintError(
            path, wanted=f"labelled texts for {side}",
            got=f"{len(bare)} without (lines {', '.join(map(str, bare[:8]))})" if bare else "none",
            todo="Complete or remove them.",
        )  # fmt: skip
    return list(examples)


def _parts(
    kept: Sequence[TagExample], held: dict[str, list[TagExample]], settings: TagData
) -> tuple[list[TagExample], list[TagExample], list[TagExample]]:
    """Train, validation and test: labels in proportion, the rarest in a text counting; whole documents on one side
    where the file tells them apart, else near duplicates: a text is easier beside its neighbours than a new one is.
    """
    shares = {side: 0.0 if side in held else getattr(settings, f"{side}_share") for side in ("validation", "test")}
    if not any(shares.values()):
        return list(kept), held["validation"], held["test"]
    counts = span_labels(kept)
    stand_ins = []
    for number, example in enumerate(kept):
        rarest = min({span.label for span in example.spans or ()}, key=lambda label: (counts[label], label), default="")
        stand_ins.append(Example(example.text, rarest, number))
    fractions = (1 - shares["validation"] - shares["test"], shares["validation"], shares["test"])
    found = split(stand_ins, fractions=fractions, seed=settings.seed, groups=_documents(kept))
    train, validation, test = (
        [kept[one.row] for one in side] for side in (found.train, found.validation, found.test)
    )  # fmt: skip
    rare = _learn_all(train, (validation, test))
    validation, test = held.get("validation", validation), held.get("test", test)
    if not train or not validation or not test:
        labels = f"; texts with {', '.join(sorted(rare)[:8])} are needed for training" if rare else ""
        raise HalfpintError(
            settings.source, wanted="enough texts to keep some for validation and test",
            got=f"{len(kept)} texts{labels}", todo="Give more texts, or a test file with --test.",
            said=f"{settings.source} has too few texts to keep some for validation and test: "
            f"{amount(len(kept), 'text')}{labels}.",
        )  # fmt: skip
    return train, validation, test


def _learn_all(train: list[TagExample], sides: tuple[list[TagExample], ...]) -> set[str]:
    """Move to `train` the texts with labels that it does not have, with their documents; gives these labels."""
    known, moved = set(span_labels(train)), set()
    for side in sides:
        new = [one for one in side if not known.issuperset(span.label for span in one.spans or ())]
        moved |= {span.label for one in new for span in one.spans or ()} - known
        whole = {one.document for one in new} - {0}
        rows = {one.row for one in new}
        train += [one for one in side if one.document in whole or one.row in rows]
        side[:] = [one for one in side if one.document not in whole and one.row not in rows]
    return moved


def _documents(examples: Sequence[TagExample]) -> Ints | None:
    """The document of each example, where all have one and there are enough of them to split by."""
    numbers = np.array([example.document for example in examples], dtype=np.int64)
    return numbers if numbers.all() and len(np.unique(numbers)) >= _DOCUMENTS else None


@dataclass(frozen=True)
class Read:
    """What a reader gives.

    Attributes:
        examples: the texts; those with faults that make their spans doubtful are among them (see `findings`).
        findings: what was wrong while reading, each with the rows of its texts.
        said: how the file was read, in one line; notes: what else was found out.
        columns: the columns or fields, by "text" and "label".
    """

    source: str
    examples: Sequence[TagExample]
    findings: Sequence[Finding]
    said: str
    notes: Sequence[str]
    columns: dict[str, str]


def text_of_file(source: str, *, most_bytes: int = 0) -> tuple[str, str]:
    """The text of a file, unpacked where it is gzipped, and a note with its encoding.

    Args:
        most_bytes: of the unpacked file to read; 0 reads all.

    Raises:
        HalfpintError: no such file, an empty one, or not text.
    """
    import codecs
    import gzip
    import zlib

    from halfpint.data.encoding import decode
    from halfpint.data.rows import opened

    path = Path(source).expanduser()
    try:
        with opened(path) as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            reader = gzip.GzipFile(fileobj=file) if packed else file
            data = reader.read(most_bytes) if most_bytes else reader.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged_gzip(source, error) from None
    except OSError as error:
        raise unreadable(source, str(error.strerror or error).lower()) from None
    if not data.strip():
        raise no_rows(source, "is empty")
    if most_bytes and len(data) == most_bytes:  # the last line is not whole, nor may its last character be
        wide = {codecs.BOM_UTF16_LE: b"\n\0", codecs.BOM_UTF16_BE: b"\0\n"}.get(data[:2], b"\n")
        data = data[: data.rfind(wide) + len(wide)] or data
    return decode(data, source)
