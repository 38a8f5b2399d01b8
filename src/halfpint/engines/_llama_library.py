"""llama.cpp's C interface, from the shared library inside the package xllamacpp, through ctypes.

xllamacpp's own Python interface is that of a server: it writes text, and tells log-probabilities of tokens that it
chose itself, but not those of tokens that are given. The library beneath exports llama.h, which has both.

Settings travel in structures whose later fields differ between versions. Only those at the front are touched (context,
batch), after a check that the library's own defaults stand there; the rest stays as the library filled it in.

Source: llama.h of llama.cpp (github.com/ggml-org/llama.cpp, include/llama.h).
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.errors import HalfpintError, need

_DEFAULTS = (512, 2048, 512, 1)  # n_ctx, n_batch, n_ubatch, n_seq_max
_UNITS = 64  # eight-byte units: more than any version's structure has; what is behind it is not read
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_FEWEST_BATCH, _MOST_BATCH = 32, 512
_MOST_LOGITS = 1 << 25  # values at once


class _Settings(ctypes.Structure):
    """Room for a structure of settings; `words` are its four-byte fields from the front."""

    _fields_ = (("units", ctypes.c_uint64 * _UNITS),)

    @property
    def words(self) -> Any:
        return (ctypes.c_uint32 * (2 * _UNITS)).from_buffer(self)


class _Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


@cache
def library() -> Any:
    """The loaded library, its functions typed and its messages off.

    Raises:
        HalfpintError: xllamacpp is missing, or a version of it whose library does not export llama.h as known here.
    """
    package = need("xllamacpp", "running a GGUF file")
    path = package.xllamacpp.__file__
    found = ctypes.CDLL(path)
    pointer, number, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
    types: dict[str, tuple[Any, list[Any]]] = {
        "llama_model_default_params": (_Settings, []),
        "llama_context_default_params": (_Settings, []),
        "llama_model_load_from_file": (pointer, [text, _Settings]),
        "llama_model_free": (None, [pointer]),
        "llama_model_get_vocab": (pointer, [pointer]),
        "llama_model_n_ctx_train": (number, [pointer]),
        "llama_init_from_model": (pointer, [pointer, _Settings]),
        "llama_free": (None, [pointer]),
        "llama_set_n_threads": (None, [pointer, number, number]),
        "llama_get_memory": (pointer, [pointer]),
        "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
        "llama_memory_seq_rm": (ctypes.c_bool, [pointer, number, number, number]),
        "llama_batch_init": (_Batch, [number, number, number]),
        "llama_batch_free": (None, [_Batch]),
        "llama_decode": (number, [pointer, _Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [pointer]),
        "llama_vocab_n_tokens": (number, [pointer]),
        "llama_vocab_bos": (number, [pointer]),
        "llama_vocab_get_add_bos": (ctypes.c_bool, [pointer]),
        "llama_vocab_is_eog": (ctypes.c_bool, [pointer, number]),
        "llama_vocab_is_control": (ctypes.c_bool, [pointer, number]),
        "llama_tokenize": (
            number,
            [pointer, text, number, ctypes.POINTER(number), number, ctypes.c_bool, ctypes.c_bool],
        ),
        "llama_token_to_piece": (number, [pointer, number, text, number, number, ctypes.c_bool]),
        "llama_log_set": (None, [_LOG, pointer]),
        "llama_backend_init": (None, []),
    }
    try:
        for name, (gives, takes) in types.items():
            function = getattr(found, name)
            function.restype, function.argtypes = gives, takes
    except AttributeError as error:
        raise _unknown(f"one that does not export it ({error})") from None
    if tuple(found.llama_context_default_params().words[:4]) != _DEFAULTS:
        raise _unknown("one with other settings")
    found.llama_log_set(_silence, None)
    found.llama_backend_init()
    return found


def _drop(level: int, message: bytes, held: int) -> None:
    """Takes llama.cpp's messages, of which it has hundreds a model."""


_silence = _LOG(_drop)  # kept, as the library calls it later


def _unknown(got: str) -> HalfpintError:
    return HalfpintError(
        "xllamacpp", wanted="a version with llama.cpp's C interface as known here", got=got,
        todo="Install the version that halfpint was tested with: pip install xllamacpp==2026.10.11549",
    )  # fmt: skip


class Model:
    """A GGUF file, loaded, with one sequence of tokens in memory.

    Attributes:
        vocabulary: tokens that it knows.
        context: tokens that it sees at once.
        batch: tokens that it runs at a time.
        start: the id that begins a text, or None.
        adds_start: whether llama.cpp puts it before each text by itself.
        ends: the ids that end a text.

    Args:
        path: the file.
        threads: of the processor.
        most_context: the context is what the model was trained with, but no more than this.

    Raises:
        HalfpintError: llama.cpp does not read the file.
    """

    def __init__(self, path: Path, threads: int, most_context: int) -> None:
        self._library = library()
        self._model = self._library.llama_model_load_from_file(
            os.fsencode(path), self._library.llama_model_default_params()
        )
        self._context: Any = None
        self._batch: Any = None
        if not self._model:
            raise HalfpintError(
                str(path), wanted="a GGUF file that llama.cpp reads", got="one that it refuses", todo="Export it again."
            )
        self._vocab = self._library.llama_model_get_vocab(self._model)
        self.vocabulary = int(self._library.llama_vocab_n_tokens(self._vocab))
        self.context = min(int(self._library.llama_model_n_ctx_train(self._model)), most_context)
        self.batch = min(_MOST_BATCH, max(_FEWEST_BATCH, _MOST_LOGITS // self.vocabulary))
        settings = self._library.llama_context_default_params()
        settings.words[0] = self.context
        settings.words[1] = settings.words[2] = self.batch
        self._context = self._library.llama_init_from_model(self._model, settings)
        if not self._context:
            raise HalfpintError(str(path), wanted=f"memory for {self.context} tokens", got="less", todo="Free some.")
        self._library.llama_set_n_threads(self._context, threads, threads)
        self._memory = self._library.llama_get_memory(self._context)
        self._batch = self._library.llama_batch_init(self.batch, 0, 1)
        self._held: list[int] = []
        first = int(self._library.llama_vocab_bos(self._vocab))
        self.start = first if first >= 0 else None
        self.adds_start = bool(self._library.llama_vocab_get_add_bos(self._vocab))
        every = range(self.vocabulary)
        self.ends = frozenset(token for token in every if self._library.llama_vocab_is_eog(self._vocab, token))

    def __del__(self) -> None:
        """Give the memory back."""
        if getattr(self, "_batch", None) is not None:
            self._library.llama_batch_free(self._batch)
        if getattr(self, "_context", None):
            self._library.llama_free(self._context)
        if getattr(self, "_model", None):
            self._library.llama_model_free(self._model)

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """The ids of `text`; names of special tokens in it are those tokens."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 4
        out = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(self._vocab, raw, len(raw), out, room, add_special, True)
        if count < 0:
            room = -count
            out = (ctypes.c_int32 * room)()
            count = self._library.llama_tokenize(self._vocab, raw, len(raw), out, room, add_special, True)
        return out[:count]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that `token` stands for; with `special` also the names of control tokens."""
        room = 64
        while True:
            out = ctypes.create_string_buffer(room)
            count = int(self._library.llama_token_to_piece(self._vocab, token, out, room, 0, special))
            if count >= 0:
                return out.raw[:count]
            room = -count

    def is_control(self, token: int) -> bool:
        """Whether `token` is one that is never text."""
        return bool(self._library.llama_vocab_is_control(self._vocab, token))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, control tokens left out; an unfinished character reads U+FFFD."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def logits(self, ids: list[int], first: int = 0) -> npt.NDArray[np.float32]:
        """Logits after each of `ids` from place `first` on: float32 of shape (len(ids) - first, vocabulary).

        What the memory holds of the beginning of `ids` is not computed again.
        """
        same = 0
        for ours, theirs in zip(self._held, ids[: max(first, 0)], strict=False):
            if ours != theirs:
                break
            same += 1
        kept = same == len(self._held) or (same and self._library.llama_memory_seq_rm(self._memory, 0, same, -1))
        if not kept:
            self._library.llama_memory_clear(self._memory, True)
            same = 0
        self._held = list(ids[:same])
        out = np.empty((len(ids) - first, self.vocabulary), dtype=np.float32)
        for start in range(same, len(ids), self.batch):
            self._run(ids, start, min(start + self.batch, len(ids)), first, out)
        self._held = list(ids)
        return out

    def _run(self, ids: list[int], start: int, end: int, first: int, out: npt.NDArray[np.float32]) -> None:
        batch, size = self._batch, end - start
        batch.n_tokens = size
        for place in range(size):
            batch.token[place], batch.pos[place] = ids[start + place], start + place
            batch.n_seq_id[place], batch.logits[place] = 1, start + place >= first
            batch.seq_id[place][0] = 0
        status = self._library.llama_decode(self._context, batch)
        if status:
            self._held = []
            self._library.llama_memory_clear(self._memory, True)
            raise HalfpintError("llama.cpp", wanted=f"to run {size} tokens", got=f"its error {status}")
        wanted = end - max(start, first)
        if wanted > 0:
            found = np.ctypeslib.as_array(self._library.llama_get_logits(self._context), (wanted, self.vocabulary))
            out[max(start, first) - first : end - first] = found
