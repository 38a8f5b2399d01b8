"""Bytes of a text file -> text, with what was found out about the encoding."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from halfpint.data.table import shown
from halfpint.errors import HalfpintError, SettingError
from halfpint.terminal import amount

BLOCK = 1 << 18
_HALF = re.compile(r"[\ud800-\udfff]")

# first bytes -> what the file is, what to do
_NOT_TEXT = {
    b"PAR1": ("a Parquet file", "Give it the ending .parquet."),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "Unpack it, or give a workbook the ending .xlsx."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save it as .xlsx, or the sheet as 'CSV UTF-8'."),
    b"%PDF": ("a PDF document", "Export its text to a table first."),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "Unpack it first: zstd -d"),
    b"BZh": ("a bzip2 archive", "Unpack it first: bunzip2"),
    b"\xfd7zXZ\x00": ("an xz archive", "Unpack it first: xz -d"),
    b"SQLite format 3\x00": ("an SQLite database", "Export the table to CSV first."),
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NOT_1252 = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")


@dataclass(frozen=True)
class Encoding:
    """What a file is encoded in: a name for `open`, a sentence, and where the first quotation mark stands.

    Attributes:
        mark, escape: bytes before the first quotation mark, and before the first one with a backslash; -1: none.
        size: bytes of the file, unpacked.
    """

    name: str
    note: str
    mark: int = -1
    escape: int = -1
    size: int = 0


def decode(data: bytes, place: str) -> tuple[str, str]:
    """The text in `data` and a note with its encoding.

    UTF-8 with or without a byte-order mark, UTF-16 with one; anything else is read as Windows-1252, or as Latin-1 where
    that has no character for a byte.

    Raises:
        HalfpintError: the bytes are not text, or some lines are UTF-8 and some are not.
    """
    found = find_encoding(lambda: io.BytesIO(data), place)
    return data.decode(found.name), found.note


def find_encoding(
    reopened: Callable[[], BinaryIO], place: str, *, named: str = "", passed: Callable[[int], None] = lambda size: None
) -> Encoding:
    """The encoding of a file, which is read whole, a block at a time.

    Args:
        reopened: gives the file from its start on.
        place: its name for people.
        named: an encoding that a person named; it is checked.
        passed: called with the bytes read so far; it may raise.

    Raises:
        HalfpintError: it is not text, some lines are UTF-8 and some are not, or it is not in the encoding `named`.
    """
    start = reopened().read(16)
    for magic, (what, todo) in _NOT_TEXT.items():
        if start.startswith(magic):
            raise HalfpintError(
                place, wanted="a text file", got=what, todo=todo, said=f"{place} is {what}, not a text file."
            )
    if named:
        return _checked(reopened, place, _known(named), f"encoding {named} (as named)", passed)
    if start.startswith(_UTF16):
        return _checked(reopened, place, "utf-16", "encoding UTF-16", passed)
    marked = start.startswith(codecs.BOM_UTF8)
    decoder = codecs.getincrementaldecoder("utf-8")()
    size, mark, escape, valid, odd, before = 0, -1, -1, True, False, b""
    for block in _blocks(reopened()):
        if b"\0" in block:
            _refuse_binary(reopened(), place)
        if mark < 0 and b'"' in block:
            mark = size + block.index(b'"')
        # Most files have no backslash at all, which is known at once; two characters are looked for slowly.
        if escape < 0 and mark >= 0 and (b"\\" in block or before == b"\\") and b'\\"' in (around := before + block):
            escape = size - len(before) + around.index(b'\\"')
        before, size = block[-1:], size + len(block)
        passed(size)
        if valid and not (block.isascii() and not decoder.getstate()[0]):
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                valid = False
        odd = odd or (not valid and any(byte in block for byte in _NOT_1252))
    if valid:
        try:
            decoder.decode(b"", True)
        except UnicodeDecodeError:
            valid = False
    if valid:
        name = "utf-8-sig" if marked else "utf-8"
        return Encoding(name, "encoding UTF-8" + (" with byte-order mark" if marked else ""), mark, escape, size)
    _refuse_mixed(reopened(), place, marked)
    if not odd and not any(byte in block for block in _blocks(reopened()) for byte in _NOT_1252):
        return Encoding("cp1252", "encoding Windows-1252 (it is not UTF-8)", mark, escape, size)
    return Encoding("latin-1", "encoding Latin-1 (it is neither UTF-8 nor Windows-1252)", mark, escape, size)


def utf8_blocks(file: BinaryIO, encoding: str, size: int = BLOCK) -> Iterator[bytes]:
    """A file's text in UTF-8 without a byte-order mark, a block at a time (a character may be cut in two)."""
    if encoding in ("utf-8", "utf-8-sig"):
        first = file.read(size).removeprefix(codecs.BOM_UTF8)
        if first:
            yield first
            yield from _blocks(file, size)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    for block in _blocks(file, size):
        yield decoder.decode(block).encode("utf-8", "replace")
    yield decoder.decode(b"", True).encode("utf-8", "replace")


def _blocks(file: BinaryIO, size: int = BLOCK) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def _known(named: str) -> str:
    try:
        found = codecs.lookup(named)
        if not found._is_text_encoding:
            raise LookupError
    except LookupError:
        raise SettingError(
            "encoding",
            wanted="an encoding that Python knows",
            got=repr(named),
            todo="For example utf-8, cp1252, gb18030.",
        ) from None
    return "utf-8-sig" if found.name == "utf-8" else found.name


def _checked(
    reopened: Callable[[], BinaryIO], place: str, name: str, note: str, passed: Callable[[int], None]
) -> Encoding:
    """The encoding `name`, if all of the file is in it."""
    decoder = codecs.getincrementaldecoder(name)()
    size, chars, mark, escape = 0, 0, -1, -1
    try:
        for block in _blocks(reopened()):
            text = decoder.decode(block)
            mark = chars + text.index('"') if mark < 0 and '"' in text else mark
            escape = chars + text.index('\\"') if escape < 0 and '\\"' in text else escape
            if "\0" in text:
                got = "NUL characters (UTF-32, or a binary file)"
                raise HalfpintError(place, wanted=f"text in {name}", got=got, todo="Save it again as UTF-8.")
            size, chars = size + len(block), chars + len(text)
            passed(size)
        decoder.decode(b"", True)
    except UnicodeError as error:
        why = f"{error.reason} at byte {size + error.start:,}" if isinstance(error, UnicodeDecodeError) else str(error)
        wanted = "UTF-16, as its byte-order mark says" if note == "encoding UTF-16" else f"text in {name}"
        raise HalfpintError(
            place, wanted=wanted, got=f"bytes that are not {'UTF-16' if name == 'utf-16' else name} ({why})",
            todo="Save it again as UTF-8.",
        ) from None  # fmt: skip
    return Encoding("utf-8-sig" if name == "utf-8-sig" else name, note, mark, escape, size)


def whole_characters(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs: JSON can hold them, UTF-8 and tokenizers cannot."""
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def _refuse_binary(file: BinaryIO, place: str) -> None:
    line = 1
    for block in _blocks(file):
        if b"\0" in block:
            line += block.count(b"\n", 0, block.index(b"\0"))
            break
        line += block.count(b"\n")
    raise HalfpintError(
        place, wanted="a text file", got=f"a binary file (a NUL byte on line {line})",
        todo="Save it as CSV, TSV or JSONL in UTF-8.",
        said=f"{place} is a binary file, not text (a NUL byte on line {line}).",
    )  # fmt: skip


def _refuse_mixed(file: BinaryIO, place: str, marked: bool) -> None:
    good, bad = 0, []
    for number, line in enumerate(io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file, start=1):
        if line.isascii():
            continue
        try:
            line.decode("utf-8-sig")
            good += 1
        except UnicodeDecodeError:
            bad.append(number)
    # A line of a single-byte encoding is valid UTF-8 only by chance: fewer than one in twenty is such chance.
    if not marked and good * 20 < len(bad):
        return
    raise HalfpintError(
        f"{place}, line{'s' if len(bad) > 1 else ''} {shown(bad)}",
        wanted="one encoding in the whole file",
        got=f"mixed encodings: {good} lines with UTF-8 characters and {len(bad)} that are not UTF-8",
        todo="Save those lines again as UTF-8 (they are often Windows-1252 pasted into a UTF-8 file), or remove them.",
        said=f"{place} mixes encodings: {amount(good, 'line')} with UTF-8 characters, and {len(bad)} not in UTF-8 "
        f"(line{'s' if len(bad) > 1 else ''} {shown(bad)}).",
    )
