"""Texts and tokens on disk: what was written comes back, made once, nothing half after a kill, text stays text."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from halfpint.data import token_store
from halfpint.data.text_store import TextStore, TextWriter
from halfpint.data.token_store import TokenStore, token_key, write_tokens
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT

TEXTS = ["the cat sat", "", "a dog <|endoftext|> ran", "ü" * 5, "the the the"] * 7


def byte_tokenizer(more: int = 0) -> Tokenizer:
    """A token for each byte, and `<|endoftext|>`; `more` tokens that nothing becomes."""
    names = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"more{n}" for n in range(more))]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("more", "dtype"), [(0, "<u2"), (65_279, "<u2"), (65_280, "<u4")])
def test_what_was_written_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int, dtype: str) -> None:
    monkeypatch.setattr(token_store, "_BATCH_CHARS", 40)
    tokenizer = byte_tokenizer(more)
    store = write_tokens(iter(TEXTS), tokenizer, tmp_path / "store", "key", SILENT)
    assert (len(store), store.dtype.str, store.vocab_size) == (len(TEXTS), dtype, 257 + more)
    assert store.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert store.words == sum(len(text.split()) for text in TEXTS)
    assert store.tokens.dtype == store.dtype and len(store.tokens) == store.offsets[-1] == store.text_bytes + len(TEXTS)
    tokenizer.encode_special_tokens = True
    for index, text in enumerate(TEXTS):
        ids = store.document(index)
        assert ids.tolist() == [*tokenizer.encode(text).ids, 0]
        assert (ids[:-1] != 0).all()  # the name of the end token in a text is text
    with pytest.raises(ValueError):
        store.tokens[0] = 1
    with pytest.raises(IndexError):
        store.document(len(TEXTS))
    assert entries(tmp_path) == ["store"]
    assert entries(tmp_path / "store") == ["documents.npy", "meta.json", "tokens.bin"]


def test_made_once_for_each_tokenizer_key_and_end(tmp_path: Path) -> None:
    class Once(list[str]):
        read = 0

        def __iter__(self) -> Iterator[str]:
            self.read += 1
            return super().__iter__()

    texts, tokenizer, folder = Once(TEXTS), byte_tokenizer(), tmp_path / "store"
    first = write_tokens(texts, tokenizer, folder, "key", SILENT)
    assert write_tokens(texts, tokenizer, folder, "key", SILENT).key == first.key == token_key(tokenizer, "key", 0)
    assert texts.read == 1
    keys = {first.key}
    for other, key, end in ((byte_tokenizer(1), "key", None), (tokenizer, "other", None), (tokenizer, "key", 5)):
        store = write_tokens(texts, other, folder, key, SILENT, end=end)
        assert store.document(1).tolist() == [end or 0]
        keys.add(store.key)
    assert (len(keys), texts.read) == (4, 4)


def test_what_the_tokenizer_puts_around_a_text_is_there(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    store = write_tokens(["a"], tokenizer, tmp_path / "store", "key", SILENT)
    assert store.document(0).tolist() == [0, tokenizer.token_to_id("a"), 0]


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "text"
        raise RuntimeError("no more")

    for before in ([], ["store"]):
        with pytest.raises(RuntimeError):
            write_tokens(broken(), byte_tokenizer(), tmp_path / "store", "other", SILENT)
        assert entries(tmp_path) == before
        write_tokens(TEXTS, byte_tokenizer(), tmp_path / "store", "key", SILENT)
    assert len(TokenStore(tmp_path / "store")) == len(TEXTS)


def test_a_killed_write_leaves_no_store(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tokenizers import Tokenizer\n"
        "from halfpint.data.token_store import write_tokens\nfrom halfpint.progress import SILENT\n"
        "def texts():\n    for _ in range(20_000): yield 'a text'\n"
        "    print('written', flush=True)\n    time.sleep(600)\n"
        "write_tokens(texts(), Tokenizer.from_file(sys.argv[1]), Path(sys.argv[2]), 'key', SILENT)\n"
    )
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    target = tmp_path / "stores" / "store"
    command = [sys.executable, "-c", code, str(tmp_path / "tokenizer.json"), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait(300)
    assert any((target.parent).glob(".halfpint-*/tokens.bin"))  # it was at work
    assert not target.exists()
    started = time.time()
    store = write_tokens(["a text"] * 3, byte_tokenizer(), target, "key", SILENT)
    assert len(store) == 3 and (target / "meta.json").stat().st_mtime > started - 1


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match="at least one to encode"):
        write_tokens([], byte_tokenizer(), tmp_path / "a", "key", SILENT)
    with pytest.raises(HalfpintError, match="a token below 257"):
        write_tokens(TEXTS, byte_tokenizer(), tmp_path / "a", "key", SILENT, end=257)
    with pytest.raises(HalfpintError, match=r"meta\.json"):
        TokenStore(tmp_path)
    assert entries(tmp_path) == []
    store = write_tokens(TEXTS, byte_tokenizer(), tmp_path / "a", "key", SILENT)
    np.asarray(store.tokens)[:-3].tofile(tmp_path / "cut")
    (tmp_path / "cut").replace(tmp_path / "a" / "tokens.bin")
    with pytest.raises(HalfpintError, match="damaged"):
        TokenStore(tmp_path / "a")


def test_text_store(tmp_path: Path) -> None:
    texts = ["one", "", "zwei ü", "三\n"] * 3000
    writer = TextWriter(tmp_path, "some")
    for text in texts:
        writer.add(text.encode())
    store = writer.store("key")
    assert (len(store), store.key, store.size_bytes) == (len(texts), "key", sum(len(text.encode()) for text in texts))
    assert list(store) == list(store) == texts
    assert (store[2], store[-1], store[1:4]) == ("zwei ü", "三\n", texts[1:4])
    with pytest.raises(IndexError):
        store[len(texts)]
    empty = TextWriter(tmp_path, "none").store()
    assert (len(empty), list(empty)) == (0, [])
    with pytest.raises(HalfpintError, match="Make them again"):
        TextStore(tmp_path, "absent")
