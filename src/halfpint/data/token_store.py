"""Tokens of a corpus on disk, larger than memory: one flat array, and where each document begins."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfpint.bundle import read_json, write_json
from halfpint.data.documents import END_OF_TEXT
from halfpint.errors import DamagedError, HalfpintError, SettingError
from halfpint.files import new_folder
from halfpint.progress import Log

_META = "meta.json"
_TOKENS = "tokens.bin"
_OFFSETS = "documents.npy"
_FORMAT = 1
_BATCH_CHARS = 1 << 22  # encoded at once, on all threads that `tokenizers` takes
_BATCH_TEXTS = 8192


class TokenStore:
    """The tokens in `folder`: tokens.bin (uint16 or uint32, little-endian), documents.npy (int64), meta.json.

    Raises:
        HalfpintError: there is no store, or its files do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = read_json(folder / _META)
        try:
            self.offsets: NDArray[np.int64] = np.load(folder / _OFFSETS, allow_pickle=False)
            size = (folder / _TOKENS).stat().st_size
        except (OSError, ValueError) as error:
            raise DamagedError(str(folder), wanted="a token store", got=str(error), todo="Make it again.") from error
        wanted = int(self.meta["tokens"]) * self.dtype.itemsize
        if size != wanted or len(self.offsets) != self.meta["documents"] + 1 or self.offsets[-1] != self.meta["tokens"]:
            raise DamagedError(
                str(folder / _TOKENS), wanted=f"{wanted:,} bytes, as {_META} says", got=f"{size:,}",
                todo="Make the tokens again: the store is damaged.",
            )  # fmt: skip

    @property
    def key(self) -> str:
        """The hash of the tokenizer and of the documents' key."""
        return str(self.meta["key"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 where the vocabulary has at most 65,536 tokens, else uint32."""
        found: np.dtype[Any] = np.dtype(str(self.meta["dtype"]))
        return found

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary, special ones too."""
        return int(self.meta["vocab_size"])

    @property
    def text_bytes(self) -> int:
        """Bytes of the documents in UTF-8: what bits per byte are counted by."""
        return int(self.meta["text_bytes"])

    @property
    def words(self) -> int:
        """Words of the documents, as white space divides them: what perplexity per word is counted by."""
        return int(self.meta["words"])

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """All tokens, shape (tokens,), mapped into memory for reading alone."""
        if not self.meta["tokens"]:
            return np.empty(0, dtype=self.dtype)  # an empty file cannot be mapped
        mapped: NDArray[Any] = np.memmap(self.folder / _TOKENS, dtype=self.dtype, mode="r")
        return mapped.view(np.ndarray)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "tokens"}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> NDArray[Any]:
        """The tokens of one document, its end token included; shape (tokens of it,)."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def token_key(tokenizer: Any, key: str, end: int | None) -> str:
    """The hash that names the tokens which `tokenizer` makes of the documents named `key`."""
    digest = sha256(f"{_FORMAT} {end} {key}\n".encode())
    digest.update(tokenizer.to_str().encode("utf-8"))
    return digest.hexdigest()


def write_tokens(
    documents: Iterable[str], tokenizer: Any, folder: Path, key: str, log: Log, *, end: int | None = None
) -> TokenStore:
    """The tokens of `documents` in `folder`; where they are there already under the same key they are not made again.

    Text is text: a special token's name in a document is encoded by its letters and is no special token. What the
    tokenizer's post-processor adds around a text (such as [CLS] and [SEP]) is added around each document.

    Args:
        documents: in order; they are read once, a few megabytes at a time.
        tokenizer: a `tokenizers.Tokenizer`; it is left as it is.
        folder: the store's own folder; another store there is replaced once this one is whole.
        key: names the documents, such as `corpus.train.key`.
        end: token put after each document; None takes `<|endoftext|>` where the vocabulary has it.

    Raises:
        HalfpintError: no documents, or an end token that the vocabulary does not have.
    """
    from tokenizers import Tokenizer

    size = tokenizer.get_vocab_size(with_added_tokens=True)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    size = max(size, largest)  # a vocabulary may have gaps
    end = tokenizer.token_to_id(END_OF_TEXT) if end is None else end
    if end is not None and not 0 <= end < size:
        raise SettingError("end token", wanted=f"a token below {size}", got=str(end))
    name = token_key(tokenizer, key, end)
    if (folder / _META).is_file():
        with suppress(DamagedError):  # it is made again
            store = TokenStore(folder)
            if store.key == name:
                return store
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    plain.encode_special_tokens = True
    dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
    with new_folder(folder) as made:
        total = len(documents) if isinstance(documents, Sized) else 0
        offsets, text_bytes, words = array("q", [0]), 0, 0
        with (made / _TOKENS).open("wb", buffering=1 << 20) as file, log.bar("tokens", total) as bar:
            for batch in _batches(documents):
                for encoding in plain.encode_batch_fast(batch):
                    ids = encoding.ids
                    if end is not None:
                        ids.append(end)
                    file.write(np.array(ids, dtype=dtype).tobytes())
                    offsets.append(offsets[-1] + len(ids))
                text_bytes += sum(len(text.encode("utf-8")) for text in batch)
                words += sum(len(text.split()) for text in batch)
                bar.advance(len(batch), f"{offsets[-1]:,} tokens")
        if len(offsets) == 1:
            raise HalfpintError("documents", wanted="at least one to encode", got="none")
        np.save(made / _OFFSETS, np.frombuffer(offsets, dtype=np.int64))
        meta = {
            "format": _FORMAT, "key": name, "documents_key": key, "dtype": dtype.str, "documents": len(offsets) - 1,
            "tokens": offsets[-1], "text_bytes": text_bytes, "words": words, "vocab_size": size, "end": end,
        }  # fmt: skip
        write_json(made / _META, meta)
    log.event("tokens", folder=folder, **meta)
    return TokenStore(folder)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    chars = 0
    for text in documents:
        batch.append(text)
        chars += len(text)
        if chars >= _BATCH_CHARS or len(batch) >= _BATCH_TEXTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
