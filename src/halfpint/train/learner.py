"""A language model and its loss on packed rows: inputs, masks between documents, and a look at how it does."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.data.packing import ALONE, IGNORED, PADDING
from halfpint.errors import HalfpintError
from halfpint.models.sizes import MASKED
from halfpint.progress import Log

Batch = Mapping[str, npt.NDArray[Any]]

_SAME = 2e-3  # nats by which two ways to the same loss may differ in fp32
_ROUNDING = 1e-4  # of the largest output: a new model's short convolution lets through less than 1 % (LFM2)
_SAMPLE_TOKENS = 48


class Learner:
    """A language model and how its loss is got from packed rows.

    A packed row holds several documents, each with positions from 0 and numbered in `sequence_ids`; none sees another.
    Where the model allows it, the loss is got without holding all logits.

    Attributes:
        alone: rows hold one document each, with padding behind it: for models that cannot keep several apart.
    """

    def __init__(self, model: Any, objective: str, device: Any) -> None:
        self.model, self.objective, self.device = model, objective, device
        config = model.config
        self._head = model.get_output_embeddings()
        self._first = int(config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
        accepted = inspect.signature(model.forward).parameters
        self._positions, self._sequences = "position_ids" in accepted, "sequence_ids" in accepted
        self._memory: dict[tuple[bool, bytes], tuple[int, Any]] = {}  # by row: the segment read last, and its memory
        self._cache = {"use_cache": False} if "use_cache" in accepted and objective != MASKED else {}
        self._window = _sliding_window(config) if objective == MASKED else None
        self.alone = False
        self._explicit = objective == MASKED  # decoders mostly see from the positions where a document begins
        self.chunked = True
        self.chunked = self._chunks_agree()

    def loss(self, batch: Batch, reduction: str = "mean") -> Any:
        """Cross-entropy of the batch's labels in nats (fp32 scalar), the mean of those that count, or their sum.

        A label stands at the place of its own token, as in `transformers`; -100 counts for nothing.
        """
        import torch

        labels = torch.from_numpy(np.asarray(batch["labels"], dtype=np.int64)).to(self.device)
        adaptive = getattr(self._head, "loss", None)  # of an output layer that need not compute all logits
        states = self._before_head(batch) if self.chunked or adaptive else self._run(batch).logits.float()
        if self.objective != MASKED and "segment" not in batch:  # each place predicts the next one
            states, labels = states[:, :-1], labels[:, 1:]
        if adaptive:
            return adaptive(states.flatten(0, 1), labels.flatten(), reduction)
        if self.chunked:
            from halfpint.train._cross_entropy import chunked_cross_entropy

            return chunked_cross_entropy(states, self._head.weight, self._head.bias, labels, reduction=reduction)
        return torch.nn.functional.cross_entropy(
            states.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction=reduction
        )

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Arguments of the model for packed rows, on the device."""
        import torch

        found: dict[str, Any] = {"input_ids": np.asarray(batch["input_ids"], dtype=np.int64)}
        if self._positions and not self.alone:  # what a model counts itself is right for a row with one document
            found["position_ids"] = np.asarray(batch["position_ids"], dtype=np.int64) + self._first
        if self._sequences:
            found["sequence_ids"] = np.asarray(batch["sequence_ids"], dtype=np.int64)
        found = {name: torch.from_numpy(array).to(self.device) for name, array in found.items()}
        if self.alone and self.objective == MASKED:  # padding stands behind what a causal model has seen
            own = np.asarray(batch["sequence_ids"]) != PADDING
            if not own.all():
                found["attention_mask"] = torch.from_numpy(own.astype(np.int64)).to(self.device)
        elif self._explicit and not self.alone:
            found["attention_mask"] = self._mask(np.asarray(batch["sequence_ids"]))
        return {**found, **self._cache}

    def _mask(self, sequences: npt.NDArray[Any]) -> Any:
        """Which token sees which: None where each row is one document, else bool (rows, 1, length, length)."""
        import torch

        if (sequences == sequences[:, :1]).all():
            return None
        numbers = torch.from_numpy(np.ascontiguousarray(sequences)).to(self.device)
        mask = (numbers[:, None, :, None] == numbers[:, None, None, :]).contiguous()
        if self.objective != MASKED:
            return mask.tril()
        if self._window is None:
            return mask
        places = torch.arange(mask.shape[-1], device=self.device)
        near = (places[:, None] - places[None, :]).abs() <= self._window
        return {"full_attention": mask, "sliding_attention": mask & near}

    def _before_head(self, batch: Batch) -> Any:
        """What the output layer would be given, shape (rows, length, width)."""
        found: list[Any] = []

        def keep(states: Any) -> Any:
            found.append(states)
            return states

        self._head.forward = keep
        try:
            self._run(batch)
        finally:
            del self._head.forward
        return found[-1]

    def _run(self, batch: Batch) -> Any:
        """What the model gives; of rows that go on, with the memory of the segment before, if it was the last one read.

        Where it was not (training begins, or goes on after an interruption), the memory is empty.
        """
        if "segment" not in batch:
            return self.model(**self.inputs(batch))
        segment, key = int(batch["segment"][0]), (self.model.training, np.asarray(batch["row"]).tobytes())
        last, memory = self._memory.get(key, (-1, None))
        found = self.model(**self.inputs(batch), memory=memory if last == segment - 1 else None)
        self._memory[key] = segment, found.memory
        return found

    def _chunks_agree(self) -> bool:
        """Whether nothing after the output layer (such as a cap) changes the loss; where it does, it is got plainly."""
        import torch

        if type(self._head) is not torch.nn.Linear:
            return False
        batch = _random_rows(self.model.config.vocab_size, (11,))
        with torch.no_grad(), _Quiet(self.model):
            quick = float(self.loss(batch))
            self.chunked = False
            plain = float(self.loss(batch))
        return abs(quick - plain) <= _SAME

    def check_apart(self, place: str) -> None:
        """See to it that a document's outputs do not depend on the others in its row.

        Raises:
            HalfpintError: they do, with a mask of its own too.
        """
        if not self._keeps_apart():
            raise HalfpintError(
                f"{place}: arch", wanted="an architecture that can keep the documents of a row apart",
                got=f"{self.model.config.model_type!r}, where each document sees the one before it",
                todo="Take one with plain attention, such as llama, qwen3, gpt2, bert or modernbert.",
            )  # fmt: skip

    def settled(self, packing: str, place: str, log: Log) -> str:
        """The packing to train with: what was asked for, or a row for each document where the model needs that.

        Raises:
            HalfpintError: its outputs depend on the padding behind a document too.
        """
        if packing != ALONE:
            if self._keeps_apart():
                return packing
            log.say(
                f"  {self.model.config.model_type} cannot keep the documents of a row apart: each piece of a document "
                "gets a row of its own (packing alone)", kind="packing", packing=ALONE,
            )  # fmt: skip
        self.alone = True
        if not self._ignores_padding():
            raise HalfpintError(
                f"{place}: arch", wanted="an architecture that can tell a document from the padding behind it",
                got=f"{self.model.config.model_type!r}, whose outputs change with it",
                todo="Take one with plain attention, such as llama, qwen3, gpt2, bert or modernbert.",
            )  # fmt: skip
        return ALONE

    def _keeps_apart(self) -> bool:
        """Whether a document's outputs do not depend on the others in its row, with a mask of its own if need be."""
        was = self._explicit
        for self._explicit in dict.fromkeys((was, True)):
            try:
                if self._apart():
                    return True
            except (TypeError, ValueError, RuntimeError):  # it takes no such mask
                continue
        self._explicit = was
        return False

    def _ignores_padding(self) -> bool:
        """Whether a document gives the same outputs with padding behind it as without."""
        import torch

        row = _random_rows(self.model.config.vocab_size, (6,))
        padded = {name: np.pad(array, ((0, 0), (0, 5)), constant_values=value) for (name, array), value in zip(
            row.items(), (0, IGNORED, 0, PADDING), strict=True)}  # fmt: skip
        with torch.no_grad(), _Quiet(self.model):
            alone = self.model(**self.inputs(row)).logits.float()
            together = self.model(**self.inputs(padded)).logits[:, :6].float()
            return float((together - alone).abs().max()) <= _ROUNDING * float(alone.abs().max())

    def _apart(self) -> bool:
        """Whether a document gives the same outputs alone and behind another."""
        import torch

        packed = _random_rows(self.model.config.vocab_size, (6, 5))
        second = {name: array[:, 6:] for name, array in packed.items()}
        with torch.no_grad(), _Quiet(self.model):
            together = self.model(**self.inputs(packed)).logits[:, 6:].float()
            alone = self.model(**self.inputs(second)).logits.float()
            return float((together - alone).abs().max()) <= _ROUNDING * float(alone.abs().max())

    def held_out(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Summed loss in nats over the batches' labels, and how many there are."""
        import torch

        nats, count = 0.0, 0
        with torch.inference_mode(), _Quiet(self.model):
            for batch in batches:
                nats += float(self.loss(batch, "sum"))
                count += int((batch["labels"] != IGNORED).sum())
        return nats, count

    def sample(self, tokenizer: Any, prompt: str = "", seed: int = 0) -> str:
        """A short text that a causal model writes on after `prompt`; no state of training is touched."""
        import torch

        config = self.model.config
        start = tokenizer.encode(prompt, add_special_tokens=False).ids if prompt else []
        start = start or [int(config.bos_token_id if config.bos_token_id is not None else config.eos_token_id or 0)]
        most = int(getattr(config, "max_position_embeddings", None) or 2 * _SAMPLE_TOKENS)
        ids = torch.tensor([start[-most // 2 :]], device=self.device)
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), _Quiet(self.model):
            torch.manual_seed(seed)
            made = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=40, temperature=0.8,
                max_new_tokens=min(_SAMPLE_TOKENS, most - ids.shape[1]), pad_token_id=config.pad_token_id or 0,
            )  # fmt: skip
        return str(tokenizer.decode(made[0].tolist(), skip_special_tokens=True))


class _Quiet:
    """The model in evaluation mode, and back as it was."""

    def __init__(self, model: Any) -> None:
        self._model, self._was = model, model.training

    def __enter__(self) -> None:
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        self._model.train(self._was)


def bits_per_byte(nats: float, tokens: int, tokens_per_byte: float) -> float:
    """Bits per byte of text from the summed loss over so many of its tokens."""
    return nats / max(tokens, 1) / math.log(2) * tokens_per_byte


def _random_rows(vocabulary: int, lengths: tuple[int, ...]) -> dict[str, npt.NDArray[Any]]:
    """One row that holds random documents of these lengths."""
    random = np.random.default_rng(0)
    ids = random.integers(min(8, vocabulary - 1), vocabulary, size=(1, sum(lengths)))
    labels = ids.copy()
    labels[:, np.cumsum((0, *lengths[:-1]))] = IGNORED
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": np.concatenate([np.arange(length) for length in lengths])[None],
        "sequence_ids": np.concatenate([np.full(length, number) for number, length in enumerate(lengths)])[None],
    }


def _sliding_window(config: Any) -> int | None:
    """Tokens to each side that the local layers of an encoder see; None where all layers see all."""
    local = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return int(config.sliding_window) if local else None
