"""Sources that are read in parts: files larger than a block, and datasets of the Hub."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from halfpint.data import corpus_read
from halfpint.data.corpus_read import find_source, fingerprint, read_source
from halfpint.errors import HalfpintError


def texts_of(name: str, **changes: Any) -> list[str]:
    return [document.text for document, _ in read_source(find_source(name), changes.get("text", ""), Counter())]


@pytest.mark.parametrize("block", [16, 37, 64, 1000])
@pytest.mark.parametrize("ending", ["\n", ""])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_larger_than_a_block_is_the_same_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, ending: str, zipped: bool
) -> None:
    text = "short\n" + "a line that is longer than one block: é文🙂 " * 5 + "\n\n" + "ünd\r\n" * 40 + "last" + ending
    data = b"\xef\xbb\xbf" + text.encode()
    path = tmp_path / ("a.txt.gz" if zipped else "a.txt")
    path.write_bytes(gzip.compress(data) if zipped else data)
    monkeypatch.setattr(corpus_read, "_BLOCK", block)
    assert "".join(texts_of(str(path))) == text


def test_a_large_file_in_another_encoding_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_read, "_BLOCK", 32)
    path = tmp_path / "a.txt"
    path.write_bytes(b"plain text\n" * 9 + "caf\xe9\n".encode("latin-1"))
    with pytest.raises(HalfpintError, match="byte 102: expected UTF-8 in a file this large"):
        texts_of(str(path))
    path.write_bytes("plain text\n".encode("utf-16") * 9)
    with pytest.raises(HalfpintError, match="got UTF-16"):
        texts_of(str(path))
    path.write_bytes(b"plain\x00text\n" * 9)
    with pytest.raises(HalfpintError, match="a binary file"):
        texts_of(str(path))


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, config: str | None) -> Any:
        asked.append((name, config))
        if name == "some/gone":
            raise ConnectionError("no network here\nand more")
        rows = {"title": ["t"] * 2500, "text": [f"text number {n} of many" for n in range(2500)]}
        parts = ["train", "test"] if config else ["all"]
        return datasets.DatasetDict({part: datasets.Dataset.from_dict(rows) for part in parts})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    wanted = [f"text number {n} of many" for n in range(2500)]
    assert texts_of("some/name") == texts_of("some/name:config") == wanted
    assert asked == [("some/name", None), ("some/name", "config")]
    one, other = find_source("some/name"), find_source("some/name:config")
    assert fingerprint(one, {}) == fingerprint(other, {})
    with pytest.raises(HalfpintError, match="ConnectionError: no network here"):
        find_source("some/gone")
    with pytest.raises(HalfpintError, match="no file or folder some/file"):
        find_source("some/file.txt")
