"""Rendered conversations as the rows that a chat model learns from and is judged on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfpint.data.packing import IGNORED, PADDING, Packed
from halfpint.progress import Log
from halfpint.terminal import amount
from halfpint.train._chat_tokens import Rendered
from halfpint.train.batches import epoch_batches
from halfpint.train.rows import HeldOut, Part, part_rows

if TYPE_CHECKING:
    from halfpint.train.chat import Chat

_SHOWN_ROWS = 8
_SHOWN_CHARS = 80
_EPOCHS_HELD = 2

Arrays = dict[str, npt.NDArray[np.int64]]


def within(rendered: Sequence[Rendered], context: int, what: str, log: Log) -> list[Rendered]:
    """Those that fit into `context` tokens; a longer one is cut behind its last answer that fits, or dropped."""
    kept: list[Rendered] = []
    cut, dropped = [], []
    for one in rendered:
        if len(one.ids) <= context:
            kept.append(one)
            continue
        ends = np.flatnonzero(one.counted & ~np.append(one.counted[1:], False)) + 1
        ends = ends[ends <= context]
        if not len(ends):
            dropped.append(one.row)
            continue
        cut.append(one.row)
        kept.append(Rendered(one.ids[: ends[-1]], one.counted[: ends[-1]], one.row))
    for rows, done in ((cut, "cut behind the last answer that fits"), (dropped, "dropped, as no whole answer fits")):
        if rows:
            shown = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", …" if len(rows) > _SHOWN_ROWS else "")
            log.say(
                f"  {what}: {amount(len(rows), 'conversation')} longer than {context:,} tokens: {done} "
                f"(row{'s' if len(rows) > 1 else ''} {shown})", kind="dropped", count=len(rows), rows=rows[:20],
            )  # fmt: skip
    return kept


class ChatRows:
    """Conversations in batches: packed into sequences of the context, or one a row and padded.

    Packed conversations do not see each other; each has positions from 0. Of the labels those are kept that count.
    """

    def __init__(self, stage: Chat, rendered: Sequence[Rendered], context: int, pad: int, *, shuffle: bool) -> None:
        self._stage, self._shuffle, self._pad = stage, shuffle, pad
        # The mark rides in the lowest bit, so that what packs tokens packs marks.
        self._held = [one.ids << 1 | one.counted for one in rendered]
        self.lengths = [len(one) for one in self._held]
        self.tokens, self.counted = sum(self.lengths), sum(int(one.counted.sum()) for one in rendered)
        self.rows = max(1, min(stage.batch_size, stage.batch_tokens // context))
        self._packed: Packed | None = None
        if stage.packing:
            offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
            store: Any = SimpleNamespace(tokens=np.concatenate(self._held), offsets=offsets, folder="conversations")
            self._packed = Packed(
                store, length=context, batch_size=self.rows, mode="fit", seed=stage.seed, pad=pad << 1, shuffle=shuffle
            )
        self._epoch = lru_cache(maxsize=_EPOCHS_HELD)(self._batches_of)
        self.batches_per_epoch = len(self._packed) if self._packed else len(self._epoch(0))
        self.tokens_a_step = self.tokens // self.steps_per_epoch

    def _batches_of(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        stage = self._stage
        seed, number = (stage.seed, epoch) if self._shuffle else (0, 0)
        return epoch_batches(
            self.lengths, batch_size=stage.batch_size, batch_tokens=stage.batch_tokens, seed=seed, epoch=number
        )

    def batch(self, number: int) -> Arrays:
        """The batch of a number, counted over all epochs: input_ids, labels, position_ids and sequence_ids.

        An epoch of padded batches has as many as the first one: their number changes a little with the order.
        """
        if self._packed:
            found = self._packed.batch(number)._asdict()
        else:
            epoch, within_epoch = divmod(number, self.batches_per_epoch)
            batches = self._epoch(epoch)
            found = self._padded(batches[within_epoch % len(batches)])
        held = found["input_ids"]
        counts = (held & 1 == 1) & (found["labels"] != IGNORED)
        ids = held >> 1
        return {**found, "input_ids": ids, "labels": np.where(counts, ids, IGNORED)}

    def _padded(self, chosen: npt.NDArray[np.int64]) -> Arrays:
        shape = (len(chosen), max(self.lengths[index] for index in chosen))
        ids = np.full(shape, self._pad << 1, dtype=np.int64)
        labels, sequences = np.full(shape, IGNORED, dtype=np.int64), np.full(shape, PADDING, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        for row, index in enumerate(chosen):
            held, length = self._held[index], self.lengths[index]
            ids[row, :length], labels[row, 1:length], sequences[row, :length] = held, held[1:], 0
            positions[row, :length] = np.arange(length)
        return {"input_ids": ids, "labels": labels, "position_ids": positions, "sequence_ids": sequences}

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which all conversations are seen once."""
        return max(1, self.batches_per_epoch // self._stage.accumulate)

    def step(self, step: int) -> tuple[int, list[Part]]:
        """The epoch of a step and its parts, which share its loss by the tokens that count."""
        many = self._stage.accumulate
        parts = [part for number in range(step * many, (step + 1) * many) for part in self._split(self.batch(number))]
        labels = sum(int((part["labels"] != IGNORED).sum()) for part in parts)
        share = len(parts) / max(labels, 1)  # the loop takes the mean over parts
        return step // self.steps_per_epoch, [Part(part, share) for part in parts]

    @staticmethod
    def _split(arrays: Arrays) -> list[Arrays]:
        rows, length = arrays["input_ids"].shape
        at_once = part_rows(rows, length)
        return [
            {name: array[start : start + at_once] for name, array in arrays.items()}
            for start in range(0, rows, at_once)
        ]

    @staticmethod
    def size(part: Part) -> tuple[int, int]:
        """Rows and tokens (padding left out) of a part."""
        return len(part.arrays["input_ids"]), int((part.arrays["sequence_ids"] >= 0).sum())


class ChatJudge(HeldOut):
    """The validation score as the loop asks for it: minus the nats a token of the assistant's, and an answer."""

    def __init__(self, stage: Chat, learner: Any, rows: ChatRows, tokenizer: Any, prompt: str) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        tokens_a_batch = max(1, rows.tokens // rows.batches_per_epoch)
        number = max(1, min(rows.batches_per_epoch, stage.evaluation_tokens // tokens_a_batch))
        super().__init__(learner, [rows.batch(place) for place in range(number)], "nats per assistant token")

    def __call__(self) -> tuple[float, dict[str, Any]]:
        nats, count = self.loss()
        mean = nats / max(count, 1)
        answer = self._answer()
        found: dict[str, Any] = {"nats_per_assistant_token": mean, "sample": answer}
        shown = json.dumps(answer[:_SHOWN_CHARS], ensure_ascii=False)
        found["said"] = f"validation {mean:.4f} {self.of} (perplexity {math.exp(mean):.4g}): {shown}"
        return -mean, found

    def _answer(self) -> str:
        """The beginning of what the model says to the first validation question."""
        ids = self._tokenizer.encode(self._prompt, add_special_tokens=False).ids
        asked = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        return str(self._learner.sample(self._tokenizer, self._prompt)).removeprefix(asked)
