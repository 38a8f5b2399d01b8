"""Bytes of a text file -> text, with what was found out about the encoding."""

from __future__ import annotations

import codecs
import re

from halfpint.errors import HalfpintError

_SHOWN = 8
_HALF = re.compile(r"[\ud800-\udfff]")

# first bytes -> what the file is, what to do
_NOT_TEXT = {
    b"PAR1": ("a Parquet file", "Give it the ending .parquet."),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "Unpack it, or save the sheet as 'CSV UTF-8'."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save the sheet as 'CSV UTF-8'."),
    b"%PDF": ("a PDF document", "Export its text to a table first."),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "Unpack it first: zstd -d"),
    b"BZh": ("a bzip2 archive", "Unpack it first: bunzip2"),
    b"\xfd7zXZ\x00": ("an xz archive", "Unpack it first: xz -d"),
    b"SQLite format 3\x00": ("an SQLite database", "Export the table to CSV first."),
}


def decode(data: bytes, place: str) -> tuple[str, str]:
    """The text in `data` and a note with its encoding.

    UTF-8 with or without a byte-order mark, UTF-16 with one; anything else is read as Windows-1252, or as Latin-1 where
    that has no character for a byte.

    Raises:
        HalfpintError: the bytes are not text, or some lines are UTF-8 and some are not.
    """
    for magic, (what, todo) in _NOT_TEXT.items():
        if data.startswith(magic):
            raise HalfpintError(place, wanted="a text file", got=what, todo=todo)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _decode_utf16(data, place), "encoding UTF-16"
    if b"\x00" in data:
        line = data.count(b"\n", 0, data.index(b"\x00")) + 1
        raise HalfpintError(
            place,
            wanted="a text file",
            got=f"a binary file (a NUL byte on line {line})",
            todo="Save it as CSV, TSV or JSONL in UTF-8.",
        )
    marked = data.startswith(codecs.BOM_UTF8)
    body = data[len(codecs.BOM_UTF8) :] if marked else data
    try:
        return body.decode("utf-8"), "encoding UTF-8" + (" with byte-order mark" if marked else "")
    except UnicodeDecodeError:
        _refuse_mixed(body, place, marked)
    try:
        return body.decode("cp1252"), "encoding Windows-1252 (it is not UTF-8)"
    except UnicodeDecodeError:
        return body.decode("latin-1"), "encoding Latin-1 (it is neither UTF-8 nor Windows-1252)"


def whole_characters(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs: JSON can hold them, UTF-8 and tokenizers cannot."""
    return _HALF.sub("\ufffd", text)


def _decode_utf16(data: bytes, place: str) -> str:
    try:
        text = data.decode("utf-16")
    except UnicodeDecodeError as error:
        text, got = (
            "\x00",
            f"bytes that are not UTF-16 after its byte-order mark ({error.reason} at byte {error.start})",
        )
    else:
        got = "NUL characters after a UTF-16 byte-order mark (UTF-32, or a binary file)"
    if "\x00" in text:
        raise HalfpintError(place, wanted="a text file", got=got, todo="Save it again as UTF-8.")
    return text


def _refuse_mixed(body: bytes, place: str, marked: bool) -> None:
    good, bad = 0, []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            good += 1
        except UnicodeDecodeError:
            bad.append(number)
    # A line of a single-byte encoding is valid UTF-8 only by chance: fewer than one in twenty is such chance.
    if not marked and good * 20 < len(bad):
        return
    shown = ", ".join(map(str, bad[:_SHOWN])) + (", …" if len(bad) > _SHOWN else "")
    raise HalfpintError(
        f"{place}, line{'s' if len(bad) > 1 else ''} {shown}",
        wanted="one encoding in the whole file",
        got=f"mixed encodings: {good} lines with UTF-8 characters and {len(bad)} that are not UTF-8",
        todo="Save those lines again as UTF-8 (they are often Windows-1252 pasted into a UTF-8 file), or remove them.",
    )
