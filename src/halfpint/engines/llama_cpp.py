"""The engine of GGUF exports: llama.cpp on the processor, with the tokenizer that the file holds."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines._constraint import Grammars
from halfpint.engines._llama_library import Model, library
from halfpint.engines._prefix_cache import common_length
from halfpint.engines._scored import Done, ScoredText, unsaid
from halfpint.engines._writing import Writer
from halfpint.machine import cores
from halfpint.models.packed_gguf import opened_gguf

_MOST_CONTEXT = 8192  # tokens: what models were made for may be more than memory holds
_WORTH_KEEPING = 8  # tokens: fewer are read again sooner than their keys and values are copied
_MOST_TEXTS = 16  # put aside
_MOST_BYTES = 1 << 29  # of their keys and values


class Sequences(Model):
    """A loaded file that goes on with several texts in turn.

    llama.cpp has one of them in memory; the keys and values of the others are kept as it gives them out, so that a text
    that is taken up again is not read again.
    """

    def __init__(self, path: Path, threads: int, most_context: int) -> None:
        super().__init__(path, threads, most_context)
        pointer, number, size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t
        found = library()
        for name, takes in (
            ("llama_state_seq_get_size", [pointer, number]),
            ("llama_state_seq_get_data", [pointer, pointer, size, number]),
            ("llama_state_seq_set_data", [pointer, pointer, size, number]),
        ):
            function = getattr(found, name)
            function.restype, function.argtypes = size, takes
        self._others: list[tuple[list[int], Any]] = []  # the latest last

    def turn_to(self, ids: list[int]) -> None:
        """Have in memory what is known of the beginning of `ids`, and put aside what that would drive out."""
        known = ids[:-1]
        ours = common_length(self._held, known)
        lost = len(self._held) - ours
        theirs = [common_length(held, known) for held, _ in self._others]
        best = int(np.argmax(theirs)) if theirs else -1
        found = self._others.pop(best) if best >= 0 and theirs[best] >= ours + _WORTH_KEEPING else None
        if lost >= _WORTH_KEEPING:
            self._put_aside()
        if found is not None:
            self._take_up(*found)

    def logits(self, ids: list[int], first: int = 0) -> npt.NDArray[np.float32]:
        """Logits after each of `ids` from place `first` on: float32 of shape (len(ids) - first, vocabulary)."""
        try:
            return super().logits(ids, first)
        except BaseException:  # such as Ctrl-C: what is in memory is not what is known of it
            self._held = []
            library().llama_memory_clear(self._memory, True)
            raise

    def encode_plain(self, text: str) -> list[int]:
        """The ids of `text`, where names of special tokens are text like any other."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 4
        out = (ctypes.c_int32 * room)()
        count = library().llama_tokenize(self._vocab, raw, len(raw), out, room, False, False)
        if count < 0:
            out = (ctypes.c_int32 * -count)()
            count = library().llama_tokenize(self._vocab, raw, len(raw), out, -count, False, False)
        return out[:count]

    def _put_aside(self) -> None:
        """Keep what is in memory: its ids, and its keys and values."""
        size = int(library().llama_state_seq_get_size(self._context, 0))
        state = np.empty(size, dtype=np.uint8)
        if int(library().llama_state_seq_get_data(self._context, state.ctypes.data, size, 0)) != size:
            return
        self._others.append((list(self._held), state))
        while len(self._others) > 1 and (
            len(self._others) > _MOST_TEXTS or sum(held.nbytes for _, held in self._others) > _MOST_BYTES
        ):
            self._others.pop(0)

    def _take_up(self, ids: list[int], state: npt.NDArray[np.uint8]) -> None:
        """Have in memory what was put aside."""
        library().llama_memory_clear(self._memory, True)
        taken = int(library().llama_state_seq_set_data(self._context, state.ctypes.data, state.nbytes, 0))
        if not taken:
            library().llama_memory_clear(self._memory, True)
        self._held = ids if taken else []


class LlamaCppEngine(Writer):
    """A language model in a GGUF file.

    Attributes:
        objective: always "causal".
        context: tokens that it sees at once.
        model: the loaded file, with its tokenizer and logits.
    """

    objective = "causal"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.model = Sequences(path, threads or cores(), most_context=_MOST_CONTEXT)
        self.context, self.ends = self.model.context, self.model.ends

    def score(self, texts: Sequence[str], done: Done = unsaid) -> list[ScoredText]:
        """Each text's log-probabilities, token by token, each given all before it and the start of a document.

        A text longer than the context is read in windows that overlap by half, as the engine of PyTorch does it.
        """
        rows = [[*self._before(), *self.model.encode(text)] for text in texts]
        return [ScoredText.of(text, logs) for text, logs in zip(texts, self.score_ids(rows, done), strict=True)]

    def score_ids(self, rows: Sequence[list[int]], done: Done = unsaid) -> list[npt.NDArray[np.float32]]:
        """Log-probabilities (nats) of each of a row's ids but the first, given those before it."""
        tokens = max(1, sum(map(len, rows)))
        return [self._scores(ids, lambda read: done(read / tokens)) for ids in rows]

    def _scores(self, ids: list[int], done: Callable[[int], None]) -> npt.NDArray[np.float32]:
        """Of one row: float32 of shape (len(ids) - 1,); `done` is told how many were scored."""
        out = np.zeros(max(len(ids) - 1, 0), dtype=np.float32)
        stride = max(1, self.context // 2)
        end, first = min(self.context, len(ids)), 1
        while first < end:
            start = max(0, end - self.context)
            # A part at a time, going on from what is in memory: logits of a whole context may not fit in it.
            for low in range(first, end, self.model.batch):
                high = min(low + self.model.batch, end)
                logits = self.model.logits(ids[start : high - 1], low - 1 - start)
                most = logits.max(axis=1, keepdims=True)
                sums = np.log(np.exp(logits - most).sum(axis=1)) + most[:, 0]
                out[low - 1 : high - 1] = logits[np.arange(high - low), ids[low:high]] - sums
                done(high - low)
            end, first = min(end + stride, len(ids)), end
        return out

    def _before(self) -> list[int]:
        return [] if self.model.start is None else [self.model.start]

    def start(self, text: str) -> list[int]:
        """The ids to go on from after `text`; a start token that it begins with by name is not put there again."""
        ids = self.model.encode(text)
        before = [] if ids[:1] == self._before() else self._before()
        return [*before, *ids][-self.context :] or [0]

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone; with `special`, names of special tokens in it are those tokens."""
        return self.model.encode(text) if special else self.model.encode_plain(text)

    def token(self, number: int) -> bytes:
        """The bytes that a token stands for; of a special one its name's."""
        return self.model.piece(number, special=True)

    def grammars(self) -> Grammars:
        """What makes constraints over the file's vocabulary."""
        every = range(self.model.vocabulary)
        pieces = [self.model.piece(number, special=True) for number in every]
        control = [number for number in every if self.model.is_control(number)]
        return Grammars(pieces, control, self.ends, lambda raw: self.model.encode_plain(raw.decode("utf-8", "replace")))

    def after(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of the token after `ids`; of a beginning that was read before, what is new alone is read."""
        self.model.turn_to(ids)
        last: npt.NDArray[np.float32] = self.model.logits(ids, len(ids) - 1)[0]
        return last

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        return self.model.decode(ids)


def load(bundle: Bundle, threads: int | None = None) -> LlamaCppEngine:
    """Load a language model from its GGUF file."""
    with opened_gguf(bundle.path) as path:
        return LlamaCppEngine(path, threads)
