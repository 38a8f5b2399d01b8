"""The engine of language models as they left training: PyTorch, through transformers.

Causal models score text, predict words and write on; masked models score text and fill gaps.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.engines._constraint import Grammars
from halfpint.engines._prefix_cache import PrefixCache, states_of
from halfpint.engines._reading import Reading, checked, longest, remembers, windows
from halfpint.engines._scored import Done, ScoredText, unsaid
from halfpint.engines._segments import score_segments
from halfpint.engines._writing import Writer
from halfpint.errors import HalfpintError, SettingError, need
from halfpint.models.architectures import need_transformers
from halfpint.models.sizes import CAUSAL, MASKED, resolve
from halfpint.models.weights import open_whole
from halfpint.tokenizers.batching import length_batches, pad
from halfpint.tokenizers.load import open_tokenizer
from halfpint.tokenizers.token_bytes import token_bytes

MASK = "[MASK]"
"""What stands for a gap in the texts of `fill`, whatever the model's own token is called."""

_MOST_LOGITS = 1 << 25  # values at once
_TEXTS_AT_ONCE, _TEXTS_WITH_STATES = 512, 16


def load_model(folder: Path, objective: str) -> Any:
    """The language model in `folder` in evaluation mode, fp32, on the CPU.

    Raises:
        HalfpintError: its weights are not those that its configuration describes.
    """
    transformers = need_transformers("a language model that was not exported yet")
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoModelForMaskedLM if objective == MASKED else transformers.AutoModelForCausalLM
    from halfpint.models.compressed_tensors import is_compressed, open_compressed
    from halfpint.models.sparse_weights import SPARSE_FILE, open_sparse

    if (folder / SPARSE_FILE).is_file():
        return open_sparse(folder, kind)
    if is_compressed(folder):
        return open_compressed(folder, kind)
    return open_whole(kind, folder)


def empty_model(folder: Path) -> Any:
    """The causal language model in `folder` without its weights: shapes alone, which takes no memory."""
    torch = need("torch", "a language model that was not exported yet")
    transformers = need_transformers("a language model that was not exported yet")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


class TorchLanguageEngine(Writer):
    """A language model in PyTorch.

    Attributes:
        objective: "causal" or "masked".
        context: tokens that it sees at once.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        _, self.objective = resolve(str(bundle.config.get("model_type")))
        self._model = load_model(bundle.path, self.objective)
        if threads:
            import torch

            torch.set_num_threads(threads)
        self._folder, self._tokenizer = bundle.path, open_tokenizer(bundle.path)
        self._encoding = threading.Lock()  # encode_special_tokens is a switch of the whole tokenizer
        config = self._model.config
        self._reading = checked(Reading(), config)
        self.context = longest(config) + (self._reading.mem_length or 0)
        first = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        self._first = first[0] if isinstance(first, list) else first
        self.ends = _ends(config) | _ends(getattr(self._model, "generation_config", None))
        self._read = PrefixCache(self._model)
        self._pieces: list[bytes] | None = None
        self._mask_id = _mask_id(bundle.path, self._tokenizer) if self.objective == MASKED else None

    def score(self, texts: Sequence[str], done: Done = unsaid) -> list[ScoredText]:
        """Each text's log-probabilities, token by token.

        Causal: of each token given all before it and the start of a document. A text longer than the context is read
        in windows that overlap by half, so that each token but the first ones has at least half a context before it; by
        a model with a memory in segments, each with the memory of those before. `read_by` changes how.
        Masked: of each token when it alone is masked, given all others in its window (the pseudo-log-likelihood of
        Salazar et al. 2020, "Masked Language Model Scoring", section 2): no likelihood of the text, so its perplexity
        compares masked models with each other alone.
        """
        found: list[ScoredText] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[start : start + _TEXTS_AT_ONCE]
            rows = [
                encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(some), add_special_tokens=False)
            ]
            part = partial(_part_done, done, len(some) / len(texts))
            if self.objective == CAUSAL:
                logs = self._causal_scores(self._from_start(rows), done=part)
            else:
                logs = [self._masked_scores(ids, partial(_part_done, part, 1 / len(rows))) for ids in rows]
            found += [ScoredText.of(text, scores) for text, scores in zip(some, logs, strict=True)]
        return found

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self._model.config

    def read_by(self, reading: Reading) -> Reading:
        """Have `score` and `score_ids` read long texts as `reading` says; gives it with the numbers it left open.

        Raises:
            SettingError: the model cannot.
        """
        self._must_be(CAUSAL, "reading by windows or with a memory")
        self._reading = checked(reading, self._model.config)
        if remembers(self._model.config):
            self._model.config.mem_length = self._reading.mem_length
        return self._reading

    def score_ids(self, rows: Sequence[list[int]], done: Done = unsaid) -> list[npt.NDArray[np.float32]]:
        """Log-probabilities (nats) of each of a row's ids but the first, given those before it."""
        self._must_be(CAUSAL, "score_ids")
        return self._causal_scores(rows, done=done)

    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each [MASK] in `text`, the likeliest tokens with their probabilities, likeliest first.

        Raises:
            HalfpintError: there is no [MASK] in it, or it is longer than the context.
        """
        self._must_be(MASKED, "fill")
        torch = need("torch", "a language model")
        own = self._tokenizer.id_to_token(self._mask_id)
        ids = self._tokenizer.encode(text.replace(MASK, own)).ids
        places = [place for place, token in enumerate(ids) if token == self._mask_id]
        if not places:
            raise SettingError(
                "text", wanted=f"a text with {MASK}", got=repr(text[:80]),
                todo=f'Write it where a word is missing, such as "the {MASK} of".',
                said=f"There is no {MASK} in the text {text[:80]!r}.",
            )  # fmt: skip
        if len(ids) > self.context:
            raise SettingError("text", wanted=f"at most {self.context} tokens", got=str(len(ids)), todo="Shorten it.")
        with torch.inference_mode():
            chances = torch.softmax(self._model(input_ids=torch.tensor([ids])).logits[0, places].float(), -1)
            found = chances.topk(min(top, chances.shape[-1]))
        return [
            [(self._tokenizer.decode([token]), probability) for token, probability in zip(tokens, values, strict=True)]
            for tokens, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

    def start(self, text: str) -> list[int]:
        """The ids to go on from after `text`: those of the start of a document, then its own.

        Where the text begins with the name of the start token, as those of chat templates do, there is no second one.
        """
        ids = self.encode(text)
        before = [] if self._first is None or ids[:1] == [self._first] else [int(self._first)]
        return [*before, *ids][-self.context :] or [0]

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text` alone; with `special`, names of special tokens in it are those tokens."""
        whole = text.encode("utf-8", "replace").decode("utf-8")  # halves of characters are no text
        with self._encoding:
            self._tokenizer.encode_special_tokens = not special
            ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
            self._tokenizer.encode_special_tokens = False
        return ids

    def after(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of the token after `ids`; of a beginning that was read before, what is new alone is read."""
        return self.read(ids)[0]

    def read(self, ids: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `after`, and the states after each of `ids` that the output layer is given: float32 (ids, width)."""
        return self._read.read(ids)

    def score_states(self, texts: Sequence[str]) -> Iterator[tuple[list[int], npt.NDArray[np.float32], Any]]:
        """Of each text, one after the other: its scored ids, their log-probabilities as `score` has them, and the
        states they were predicted from, float32 (tokens, width)."""
        self._must_be(CAUSAL, "score_states")
        for start in range(0, len(texts), _TEXTS_WITH_STATES):
            some = list(texts[start : start + _TEXTS_WITH_STATES])
            rows = [one.ids for one in self._tokenizer.encode_batch_fast(some, add_special_tokens=False)]
            states: list[Any] = []
            scores = self._causal_scores(self._from_start(rows), states)
            states = states or [np.zeros((0, 1), dtype=np.float32)] * len(rows)
            for ids, logs, before in zip(rows, scores, states, strict=True):
                yield ids[len(ids) - len(logs) :], logs, before

    def token(self, number: int) -> bytes:
        """The bytes that a token stands for; of a special one its name's."""
        if self._pieces is None:
            named = [self._tokenizer.id_to_token(other) or "" for other in range(self._tokenizer.get_vocab_size())]
            self._pieces = token_bytes(self._folder) or [name.encode("utf-8", "replace") for name in named]
        return self._pieces[number] if number < len(self._pieces) else b""

    def grammars(self) -> Grammars:
        """What makes constraints over the tokenizer's vocabulary."""
        pieces = token_bytes(self._folder)
        if pieces is None:
            raise HalfpintError(
                "schema", wanted="a model whose tokens stand for bytes", got="one whose tokenizer gives no text back",
                todo="Train one with a tokenizer of the kind bpe.",
            )  # fmt: skip
        added = self._tokenizer.get_added_tokens_decoder()
        control = [number for number, token in added.items() if token.special]
        return Grammars(pieces, control, self.ends, lambda raw: self.encode(raw.decode("utf-8", "replace"), False))

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        text: str = self._tokenizer.decode(ids)
        return text

    def check_writes(self, what: str) -> None:
        """Refuse `what` with a masked model."""
        self._must_be(CAUSAL, what)

    def _must_be(self, objective: str, what: str) -> None:
        if self.objective != objective:
            raise HalfpintError(
                what, wanted=f"a {objective} language model", got=f"a {self.objective} one",
                todo='It fills gaps: halfpint fill BUNDLE "the [MASK] of".' if self.objective == MASKED
                else "It continues texts: halfpint generate BUNDLE TEXT.",
                said=f"{what} needs a {objective} language model, and this is a {self.objective} one.",
            )  # fmt: skip

    def _from_start(self, rows: Sequence[list[int]]) -> list[list[int]]:
        """Tokenised texts after a start token; without one a text's first token has no condition and is left out."""
        return [[*([] if self._first is None else [int(self._first)]), *ids] for ids in rows]

    def _causal_scores(
        self, whole: Sequence[list[int]], states: list[npt.NDArray[np.float32]] | None = None, done: Done = unsaid
    ) -> list[npt.NDArray[np.float32]]:
        """Scores of rows of tokens, of each but the first; their states are added to `states` where it is given."""
        import torch

        if remembers(self._model.config):
            return score_segments(self._model, whole, self._reading, states, done)
        out = [np.zeros(max(len(ids) - 1, 0), dtype=np.float32) for ids in whole]
        parts = [(row, *window) for row, ids in enumerate(whole) for window in windows(len(ids), self._reading)]
        most = max(self._reading.context, _MOST_LOGITS // self._model.config.vocab_size)
        with torch.inference_mode(), states_of(self._model.get_output_embeddings()) as caught:
            for batch in length_batches([end - start for _, start, end, _ in parts], most):
                some = [parts[index] for index in batch]
                ids, _ = pad([whole[row][start:end] for row, start, end, _ in some], 0)  # what is behind is not seen
                logits = self._model(input_ids=torch.from_numpy(ids)).logits
                for place, (row, start, end, first) in enumerate(some):
                    part = logits[place, first - start - 1 : end - start - 1].float()
                    wanted = torch.from_numpy(ids[place, first - start : end - start, None])
                    scores = part.gather(1, wanted)[:, 0] - part.logsumexp(-1)
                    out[row][first - 1 : end - 1] = scores.numpy()
                    if states is not None:
                        if not states:
                            states += [np.zeros((len(one), caught[-1].shape[-1]), dtype=np.float32) for one in out]
                        before_each = caught[-1][place, first - start - 1 : end - start - 1]
                        states[row][first - 1 : end - 1] = before_each.float().numpy()
                caught.clear()
                done(len(batch) / len(parts))
        return out

    def _masked_scores(self, ids: list[int], done: Done) -> npt.NDArray[np.float32]:
        import torch

        out = np.zeros(len(ids), dtype=np.float32)
        frame = self._tokenizer.post_processor
        around = self._tokenizer.encode("").ids if frame is not None else []
        before, after = around[: len(around) // 2], around[len(around) // 2 :]
        room = self.context - len(around)
        with torch.inference_mode():
            for start in range(0, len(ids), room):
                part = ids[start : start + room]
                whole = torch.tensor([*before, *part, *after])
                places = torch.arange(len(part)) + len(before)
                rows = max(1, _MOST_LOGITS // (len(whole) * self._model.config.vocab_size))
                for low in range(0, len(part), rows):
                    chosen = places[low : low + rows]
                    copies = whole.repeat(len(chosen), 1)
                    each = torch.arange(len(chosen))
                    copies[each, chosen] = int(self._mask_id or 0)
                    logits = self._model(input_ids=copies).logits[each, chosen].float()
                    logs = torch.log_softmax(logits, -1)[each, whole[chosen]]
                    out[start + low : start + low + len(chosen)] = logs.numpy()
                    done(len(chosen) / len(ids))
        return out


def load(bundle: Bundle, threads: int | None = None) -> TorchLanguageEngine:
    """Load a language model."""
    return TorchLanguageEngine(bundle, threads)


def _ends(config: Any) -> set[int]:
    """Ids that end a text, of a configuration; it has none, one or several."""
    held = getattr(config, "eos_token_id", None)
    return set(held if isinstance(held, list) else [] if held is None else [held])


def _part_done(done: Done, part: float, share: float) -> None:
    """Tell a share of a part of the work."""
    done(part * share)


def _mask_id(folder: Path, tokenizer: Any) -> int:
    path = folder / "tokenizer_config.json"
    held = json.loads(path.read_text(encoding="utf-8")).get("mask_token") if path.is_file() else None
    name = held.get("content") if isinstance(held, dict) else held
    found = tokenizer.token_to_id(name or MASK)
    if found is None:
        raise HalfpintError(str(folder), wanted="a tokenizer with a mask token", got="none", todo="Make it again.")
    return int(found)
